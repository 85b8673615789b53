"""One client's connection: bytes -> handshake -> turn to be served -> request handler.

From every state to CLOSING, where the client can still read everything that was written to it:
flush, shut our sending side down, take and drop what still comes for a bounded time, close. (To
close with unread bytes would be a reset, which destroys what the client has not read yet.)
A fault of ours is logged, and the client gets a general failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, ClassVar
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.errors import Internal, SOCKSError, TimedOut, without_text
from torsocks_tx.http.server import HTTPServerHandshake
from torsocks_tx.interfaces import IBackend
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.relay.poller import Paused
from torsocks_tx.relay.sockets import abort, can_half_close, prepare, send, shut, was_reset
from torsocks_tx.relay.timeouts import Deadline
from torsocks_tx.server.connections import ConnectionLimiter, client_network
from torsocks_tx.server.proxy_header import Announced, ProxyHandshake, ProxyHeaders
from torsocks_tx.server.request import RequestHandler
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Credentials, Request
from torsocks_tx.socks.server import (
    BOTH_VERSIONS,
    Authenticate,
    Rejected,
    Requested,
    Send,
    ServerHandshake,
    Step,
)


class ConnectionOwner(Interface):
    """What a connection needs of the factory that made it."""

    backend: IBackend
    limiter: ConnectionLimiter
    limits: Limits
    clock: IReactorTime
    debugging: bool
    proxy_headers: ProxyHeaders | None  # None where connections begin with no PROXY header

    def handshake(self, first: bytes) -> ServerHandshake | HTTPServerHandshake:
        """Return what takes the bytes of a client that begins with these."""

    def authenticate(self, credentials: Credentials, client: IAddress) -> Deferred[bytes | None]:
        """Fire with the user's name, or None for a refusal."""

    def admit(self, request: Request, peer: IAddress) -> Isolation:
        """Check a request; raises ``SOCKSError``."""

    def request_handler(self, client: SOCKSProtocol, request: Request) -> RequestHandler:
        """Return what carries a request out."""

    def connected(self, protocol: SOCKSProtocol) -> None:
        """Count a connection."""

    def disconnected(self, protocol: SOCKSProtocol, *, asked: bool) -> None:
        """Count it no more; ``asked``: its request was begun."""


Handshake = ServerHandshake | HTTPServerHandshake | ProxyHandshake


class State(Enum):
    """How far a client's connection is.

    WAITING: its request is begun in a later turn of the reactor. CLIENT_EOF: busy, and the client
    will send no more.
    """

    HANDSHAKE = auto()
    AUTHENTICATING = auto()
    WAITING = auto()
    BUSY = auto()
    CLIENT_EOF = auto()
    CLOSING = auto()
    CLOSED = auto()


_UNSERVED = (State.HANDSHAKE, State.AUTHENTICATING)


def _is_look_up(step: Step | Announced) -> bool:
    """Whether it is a look-up; one that came with the greeting is answered in the same segment.

    Electrum finds out that a port is tor's by looking up an IP address so, and reads once.
    """
    return isinstance(step, Requested) and step.request.command is Command.RESOLVE


@implementer(IHalfCloseableProtocol, IFileDescriptorReceiver)
class SOCKSProtocol(Protocol):
    """Speaks the version that the client's first byte announces.

    ``network`` is the ``client_network`` by which the client is counted.
    """

    versions: ClassVar[frozenset[Version]] = BOTH_VERSIONS
    factory: ConnectionOwner
    network: bytes | None = None
    transport: Any = None
    deadline: Deadline
    _handler: RequestHandler
    _early: bytearray
    state = State.HANDSHAKE
    _handshake: Handshake | None = None
    _authentication: Deferred[bytes | None] | None = None
    _dropped, _held = 0, b""
    _paused: Paused | None = None
    _client: IAddress | None = None
    _log = Logger()

    def connectionMade(self) -> None:
        """Start the handshake and its deadline."""
        factory = self.factory
        # Twisted's own name for a transport holds the client's address, and it heads log lines.
        self.transport.logstr = type(self).__name__
        is_socket = prepare(self.transport)
        self.deadline = Deadline(factory.clock)
        self.deadline.start(factory.limits.handshake_timeout, self._handshake_timed_out)
        factory.connected(self)
        if is_socket and self.transport.protocol is self:
            # The first message is often there already. An end would be told again.
            self.transport.doRead()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.state is State.BUSY:
            try:
                self._handler.relay.client_data(data)
            except Exception:
                text = "a fault of this server; the client is reset"
                self._log.failure(text, without_text(Failure()))
                self.reset()
        elif self.state is State.CLOSING:
            self._dropped += len(data)
            if self._dropped > self.factory.limits.drain_bytes:
                self.transport.loseConnection()
        elif self.state is State.WAITING:
            self._early += data
            if len(self._early) >= self.factory.limits.early_data:
                self._paused = Paused(self.transport)
        elif self.state in _UNSERVED:
            if self._handshake is None:
                headers = self.factory.proxy_headers if self._client is None else None
                self._handshake = headers.handshake() if headers else self.factory.handshake(data)
            self._converse(self._handshake.receive, data)

    def readConnectionLost(self) -> None:
        """The client will send no more. Before the reply that means that it is gone."""
        if was_reset(self.transport):
            abort(self.transport)
        elif self.state is State.BUSY:
            self.state = State.CLIENT_EOF
            self.factory.limiter.linger(self)
            self._handler.client_eof()
        elif self.state is State.CLOSING:
            self.transport.loseConnection()
        else:
            self.note("the client closed before its request was begun")
            self.transport.loseConnection()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Close what a client on a unix socket passes: Twisted would log each with an address."""
        os.close(descriptor)

    def writeConnectionLost(self) -> None:
        """Everything that was written is out, and our sending side is shut down."""
        if self.state is State.CLOSING:
            self.deadline.start(self.factory.limits.drain_timeout, self.transport.loseConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client's connection is gone: nothing of it stays behind."""
        self.state = State.CLOSED
        handshake = self._handshake
        handler = self.__dict__.pop("_handler", None)
        try:
            self.deadline.stop()
            if self._paused is not None:
                self._paused.forget()
            if handshake is not None:
                handshake.close()
            if handler is not None:
                handler.client_lost(isinstance(reason.value, ConnectionDone))
                del handler.relay  # it refers to the handler: leave no cycle
            if self._authentication is not None:
                self._authentication.cancel()
        finally:
            # Whatever raises above, a client that is gone is counted as gone.
            self.factory.disconnected(self, asked=handler is not None)

    # The handshake's orders.

    def _converse(
        self, turn: Callable[[Any], Sequence[Step | Announced]], said: bytes | None
    ) -> None:
        try:
            steps = turn(said)
        except Exception:
            # Only the handler of a key can do that, and it may be an application's.
            text = "a fault of this server; the client is closed upon"
            self._log.failure(text, without_text(Failure()))
            self.finish(b"")
            return
        for step in steps:
            match step:
                case Send(data) if steps[-1] is not step and _is_look_up(steps[-1]):
                    self._held += data
                case Send(data):
                    send(self.transport, data)
                case Authenticate(credentials):
                    self._authenticate(credentials)
                case Requested(request, rest):
                    self.state, self._early = State.WAITING, bytearray(rest)
                    begin, onion = partial(self._set_out, request), request.address.is_onion
                    if not self.factory.limiter.serve(self, begin, onion=onion):
                        expired = partial(self._waited_too_long, request)
                        self.deadline.start(self.factory.limits.onion_timeout, expired)
                case Announced(client, rest):
                    self._handshake, self._client = None, client or self.transport.getPeer()
                    if not self.factory.limiter.recount(self, client_network(self._client)):
                        abort(self.transport)
                    elif rest:
                        self.dataReceived(rest)
                case Rejected(data, reason):
                    self.note(reason)
                    self.finish(data)

    def _authenticate(self, credentials: Credentials) -> None:
        self.state = State.AUTHENTICATING
        self.transport.pauseProducing()
        checking = self.factory.authenticate(credentials, self._client or self.transport.getPeer())
        self._authentication = checking
        # The answer may be there already: then it is acted on from inside these calls.
        checking.addCallback(self._authenticated)
        checking.addErrback(self._authentication_failed)

    def _authenticated(self, avatar: bytes | None) -> None:
        self._authentication = None
        if self.state is State.AUTHENTICATING:
            self.state = State.HANDSHAKE
            self.transport.resumeProducing()
            assert not isinstance(self._handshake, ProxyHandshake | None), "it has asked for this"
            self._converse(self._handshake.authenticated, avatar)

    def _authentication_failed(self, failure: Failure) -> None:
        if self.state is not State.CLOSED:
            text = "a fault while checking credentials; the client is refused"
            self._log.failure(text, without_text(failure))
            self._authenticated(None)

    def _waited_too_long(self, request: Request) -> None:
        reason = TimedOut("other onion services that this client asked for took all the time")
        self._handler = self.factory.request_handler(self, request)
        self._handler.relay_refused(reason)

    def onion_reached(self) -> None:
        """The stream to an onion service is open: others of this client may be begun."""
        self.factory.limiter.reached(self)

    def _set_out(self, request: Request) -> None:
        if self.state is not State.WAITING:
            return
        self._handler = handler = self.factory.request_handler(self, request)
        self.state = State.BUSY
        early = bytes(self._early)
        del self._early
        self._handshake = None  # an idle stream is to cost little
        if self._paused is not None:
            self._paused.resume()
        try:
            isolation = self.factory.admit(request, self._client or self.transport.getPeer())
            handler.begin(self.factory.backend, isolation, early)
        except SOCKSError as reason:
            handler.relay_refused(reason)
        except Exception:
            text = "a fault of this server; the client gets a general failure"
            self._log.failure(text, without_text(Failure()))
            handler.give_up(clean=False)
            handler.relay_refused(Internal("fault"))
        if self._held and self.state is State.BUSY:
            send(self.transport, self._held)
            self._held = b""

    @property
    def is_served(self) -> bool:
        """Whether a request of this client is being carried out, or was."""
        return self.state not in _UNSERVED

    @property
    def received(self) -> int:
        """How many bytes of an open stream have come for the client."""
        return self._handler.relay.received

    def finish(self, data: bytes) -> None:
        """Write these bytes, flush, close. A client that does not read is given up at last.

        No producer may be registered any more: Twisted would wait for it.
        """
        if self.state in (State.CLOSING, State.CLOSED):
            return
        has_ended, self.state = self.state is State.CLIENT_EOF, State.CLOSING
        if self._paused is not None:
            self._paused.forget()
        if data := self._held + data:
            send(self.transport, data)
        self.deadline.start(self.factory.limits.linger_limit, partial(abort, self.transport))
        if not has_ended and can_half_close(self.transport):
            shut(self.transport)
            self.transport.resumeProducing()
        else:
            self.transport.loseConnection()

    def reset(self) -> None:
        """Close with a reset."""
        if self.state in (State.BUSY, State.CLIENT_EOF):
            self._handler.relay.unsplice()
        abort(self.transport)

    def note(self, reason: str) -> None:
        """Write a debug line, which never holds what the client sent."""
        if self.factory.debugging:
            self._log.debug("{protocol}: {reason}", protocol=type(self).__name__, reason=reason)

    def _handshake_timed_out(self) -> None:
        self.note("no whole request within the handshake deadline")
        self.finish(b"")


class SOCKS4Protocol(SOCKSProtocol):
    """Speaks SOCKS4 and SOCKS4a only."""

    versions = frozenset({Version.SOCKS4})


class SOCKS5Protocol(SOCKSProtocol):
    """Speaks SOCKS5 only."""

    versions = frozenset({Version.SOCKS5})
