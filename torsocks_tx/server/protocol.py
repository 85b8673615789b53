"""One client's connection: bytes -> handshake -> errand. Each SOCKS version is an ``IProtocol``.

From every state to CLOSING. A fault of ours is logged, and the client gets a general failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.errors import Fault, Refused, without_text
from torsocks_tx.relay.sockets import (
    LingeringClose,
    abort,
    is_socket,
    prepare,
    send,
    was_reset,
)
from torsocks_tx.relay.timeouts import Deadline
from torsocks_tx.server.owner import Owner
from torsocks_tx.server.request import Errand
from torsocks_tx.socks.constants import Version
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


class State(Enum):
    """How far a client's connection is. CLIENT_EOF: busy, and the client will send no more."""

    HANDSHAKE = auto()
    AUTHENTICATING = auto()
    BUSY = auto()
    CLIENT_EOF = auto()
    CLOSING = auto()
    CLOSED = auto()


@implementer(IHalfCloseableProtocol, IFileDescriptorReceiver)
class SOCKSProtocol(Protocol):
    """Speaks the version that the client's first byte announces."""

    versions: ClassVar[frozenset[Version]] = BOTH_VERSIONS
    factory: Owner
    client: IAddress | None = None
    transport: Any = None
    deadline: Deadline
    _errand: Errand
    _closing: LingeringClose
    _log = Logger()

    def __init__(self) -> None:
        self.state = State.HANDSHAKE
        self._authentication: Deferred[bytes | None] | None = None

    def connectionMade(self) -> None:
        """Start the handshake and its deadline."""
        factory = self.factory
        self._handshake = ServerHandshake(factory.handshake_options(self.versions))
        # Twisted's own name for a transport holds the client's address, and it heads log lines.
        self.transport.logstr = type(self).__name__
        prepare(self.transport)
        self.deadline = Deadline(factory.clock)
        self.deadline.start(factory.limits.handshake_timeout, self._handshake_timed_out)
        factory.connected(self)
        if is_socket(self.transport) and self.transport.protocol is self:
            # The first message is often there already. An end would be told again.
            self.transport.doRead()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.state is State.BUSY:
            try:
                self._errand.client_data(data)
            except Exception:
                self._log.failure(
                    "a fault of this server; the client is reset", without_text(Failure())
                )
                self.reset()
        elif self.state is State.CLOSING:
            self._closing.received(data)
        elif self.state is State.HANDSHAKE or self.state is State.AUTHENTICATING:
            self._converse(self._handshake.receive, data)

    def readConnectionLost(self) -> None:
        """The client will send no more. Before the reply that means that it is gone."""
        if was_reset(self.transport):
            abort(self.transport)
        elif self.state is State.BUSY:
            self.state = State.CLIENT_EOF
            self.factory.lingers(self)
            self._errand.client_eof()
        elif self.state is State.CLOSING:
            self._closing.closed()
        else:
            self.note("the client closed before its request")
            self.transport.loseConnection()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Close what a client on a unix socket passes: Twisted would log each with an address."""
        os.close(descriptor)

    def writeConnectionLost(self) -> None:
        """Everything that was written is out, and our sending side is shut down."""
        if self.state is State.CLOSING:
            self._closing.flushed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client's connection is gone: nothing of it stays behind."""
        self.state = State.CLOSED
        handshake = self.__dict__.get("_handshake")
        errand = self.__dict__.pop("_errand", None)
        try:
            self.deadline.stop()
            if handshake is not None:
                handshake.close()
            if errand is not None:
                errand.client_lost(isinstance(reason.value, ConnectionDone))
                errand.dismiss()
            if self._authentication is not None:
                self._authentication.cancel()
        finally:
            # Whatever raises above, a client that is gone is counted as gone.
            self.factory.disconnected(self)

    # The handshake's orders.

    def _converse(self, turn: Callable[[Any], list[Step]], said: bytes | None) -> None:
        try:
            steps = turn(said)
        except Exception:
            # Only the handler of a key can do that, and it may be an application's.
            text = "a fault of this server; the client is closed upon"
            self._log.failure(text, without_text(Failure()))
            self.finish(b"")
        else:
            self._carry_out(steps)

    def _carry_out(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Send(data):
                    send(self.transport, data)
                case Authenticate(credentials):
                    self._authenticate(credentials)
                case Requested(request, rest):
                    self._set_out(request, rest)
                case Rejected(data, reason):
                    self.note(reason)
                    self.finish(data)

    def _authenticate(self, credentials: Credentials) -> None:
        self.state = State.AUTHENTICATING
        self.transport.pauseProducing()
        checking = self.factory.authenticate(credentials, self.transport.getPeer())
        self._authentication = checking
        # The answer may be there already: then it is acted on from inside these calls.
        checking.addCallback(self._authenticated)
        checking.addErrback(self._authentication_failed)

    def _authenticated(self, avatar: bytes | None) -> None:
        self._authentication = None
        if self.state is State.AUTHENTICATING:
            self.state = State.HANDSHAKE
            self.transport.resumeProducing()
            self._converse(self._handshake.authenticated, avatar)

    def _authentication_failed(self, failure: Failure) -> None:
        if self.state is not State.CLOSED:
            text = "a fault while checking credentials; the client is refused"
            self._log.failure(text, without_text(failure))
            self._authenticated(None)

    def _set_out(self, request: Request, rest: bytes) -> None:
        self._errand = errand = self.factory.errand(self, request)
        self.state = State.BUSY
        self.factory.serves(self)
        del self._handshake  # an idle stream is to cost little
        try:
            isolation = self.factory.admit(request, self.transport.getPeer())
            errand.begin(self.factory.backend, isolation, rest)
        except Refused as reason:
            errand.relay_refused(reason)
        except Exception:
            text = "a fault of this server; the client gets a general failure"
            self._log.failure(text, without_text(Failure()))
            errand.client_lost(clean=False)
            errand.relay_refused(Fault("fault"))

    @property
    def is_served(self) -> bool:
        """Whether a request of this client is being carried out, or was."""
        return self.state not in (State.HANDSHAKE, State.AUTHENTICATING)

    @property
    def received(self) -> int:
        """How many bytes of an open stream have come for the client."""
        return self._errand.received

    # Ends.

    def finish(self, data: bytes) -> None:
        """Write these bytes, flush, close."""
        if self.state not in (State.CLOSING, State.CLOSED):
            has_ended = self.state is State.CLIENT_EOF
            self.state = State.CLOSING
            if data:
                send(self.transport, data)
            limits = self.factory.limits
            self._closing = LingeringClose(self.transport, self.deadline, limits)
            self._closing.begin(has_ended=has_ended)

    def reset(self) -> None:
        """Close with a reset."""
        if self.state in (State.BUSY, State.CLIENT_EOF):
            self._errand.unsplice()
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
