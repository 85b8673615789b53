"""One stream over a Twisted connection, with or without a request that is made of a proxy before.

Every request to a proxy is made here: those of the tor backend and those of the client endpoints.
What is written before the stream is open is kept. To C Tor it leaves in the same write as the
request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.client.failures import destination_failed
from torsocks_tx.errors import ProxyUnreachable, SOCKSError, TimedOut, without_text
from torsocks_tx.http.client import HTTPClientHandshake
from torsocks_tx.interfaces import IOutbound, IReceiver
from torsocks_tx.relay.connector import Attempt, OneProtocol, SocketEndpoint, Target
from torsocks_tx.relay.sockets import abort, can_half_close, prepare, send, shut, was_reset
from torsocks_tx.relay.timeouts import Deadline
from torsocks_tx.socks.client import (
    UNCONFIRMED_TIMEOUT,
    ClientHandshake,
    Failed,
    Opened,
    Step,
    Unconfirmed,
)
from torsocks_tx.socks.messages import Address
from torsocks_tx.socks.server import Send

_log = Logger()
CLOSE_TIMEOUT = 30.0
"""Seconds that written bytes may take to leave once a stream is closed."""


class FailureExplainer(Interface):
    """Watches a stream until it is open, and may know better why it is not."""

    def opened(self) -> None:
        """The stream is open."""

    def refused(self, reason: SOCKSError) -> Deferred[SOCKSError]:
        """Fire with what the client is to hear. Cancelled if nobody will hear."""

    def over(self) -> None:
        """The stream was given up before it was open."""


class Application(Interface):
    """What an application that has the transport itself hears beside what a receiver hears."""

    def requested(self) -> None:
        """The request is sent, so payload may follow."""

    def write_lost(self) -> None:
        """The sending side is shut down, as the application asked."""


class State(Enum):
    """How far a stream is."""

    CONNECTING = auto()
    HANDSHAKE = auto()
    OPEN = auto()
    CLOSING = auto()
    OVER = auto()


@implementer(IOutbound, IHalfCloseableProtocol)
class Stream(Protocol):
    """An ``IOutbound`` that is itself the protocol of its connection.

    ``half_close``: the remote may be told that no more will come; tor may not, since it would drop
    the answer with the rest of the stream. ``refusal_for`` returns what the receiver hears of a
    failed attempt to connect. ``outcome`` is what the proxy has said, while the receiver is told
    that the stream is open; ``end`` says why there is no connection.
    """

    transport: Any = None

    def __init__(
        self,
        clock: IReactorTime,
        receiver: IReceiver,
        *,
        half_close: bool,
        refusal_for: Callable[[Failure], SOCKSError] = destination_failed,
    ) -> None:
        self.outcome: Opened | None = None
        self.end: Failure | None = None
        self._deadline = Deadline(clock)
        self._receiver = receiver
        self._half_close = half_close
        self._refusal_for = refusal_for
        self._state = State.CONNECTING
        self._early = b""
        self._takes_early = False
        # A ClientHandshake or an HTTPClientHandshake, while there is something to ask.
        self._handshake: Any = None
        self._application: Application | None = None
        self._explainer: FailureExplainer | None = None
        self._pending: Deferred[Any] | Attempt | None = None

    def ask(
        self,
        handshake: ClientHandshake | HTTPClientHandshake,
        *,
        early_data: bool = False,
        explainer: FailureExplainer | None = None,
        timeout: float | None = None,
        application: Application | None = None,
    ) -> None:
        """Make a request of a proxy as soon as there is a connection.

        ``early_data``: payload may follow the request before its answer. ``timeout``: seconds up to
        the answer.
        """
        if self._state is State.CONNECTING:
            self._handshake, self._takes_early = handshake, early_data
            self._explainer, self._application = explainer, application
            if timeout is not None:
                self._deadline.start(timeout, self._timed_out)
        elif explainer is not None:
            explainer.over()

    def prepare_by(self, preparing: Deferred[Any]) -> None:
        """Be refused if ``preparing`` fails; cancel it if the stream is given up first."""
        if self._pending is None:  # it may have connected already
            self._pending = preparing
        preparing.addErrback(self._connect_failed)

    def connect(self, endpoint: IStreamClientEndpoint) -> None:
        """Connect to the proxy, or to the destination if nothing is to be asked."""
        if isinstance(endpoint, SocketEndpoint):
            self.dial(endpoint.reactor, [endpoint.target])
        elif self._state is State.CONNECTING:
            self._pending = endpoint.connect(OneProtocol(self)).addErrback(self._connect_failed)

    def dial(self, reactor: Any, targets: Sequence[Target], **how: Any) -> None:
        """Connect to the first of these that answers; ``how``: arguments of ``Attempt``."""
        if self._state is State.CONNECTING:
            self._pending = attempt = Attempt(reactor, self, self._connect_failed, **how)
            attempt.begin(targets)

    def _connect_failed(self, failure: Failure) -> None:
        self._pending = None
        if self._state is State.CONNECTING:
            self.end = failure
            self.refuse(self._refusal_for(failure))

    def refuse(self, reason: SOCKSError) -> None:
        """End a stream that is not open, for this reason."""
        self.abort()
        self._receiver.refused(reason)

    def write(self, data: bytes) -> None:
        """Send, or keep until it may be sent."""
        if self._state is State.OPEN or (self._takes_early and self._has_asked):
            send(self.transport, data)
        elif self._state in (State.CONNECTING, State.HANDSHAKE):
            self._early += data

    @property
    def _has_asked(self) -> bool:
        """Whether the request is sent, and not answered yet."""
        return self._state is State.HANDSHAKE and bool(self._handshake.requested)

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause this producer while the connection takes no more."""
        if self._state is State.OPEN:
            self.transport.registerProducer(producer, True)

    def unregister_producer(self) -> None:
        """Forget the producer."""
        if self.transport is not None:
            self.transport.unregisterProducer()

    def lose_write(self) -> None:
        """Tell the remote that no more will come, if that does no harm."""
        if self._half_close and self._state is State.OPEN and can_half_close(self.transport):
            self.transport.unregisterProducer()
            shut(self.transport)

    def close(self) -> None:
        """Send what was written, then close."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self.transport.unregisterProducer()
            self.transport.loseConnection()
            # A transport whose sending side is shut down is gone by now.
            if self._state is State.CLOSING:
                self._deadline.start(CLOSE_TIMEOUT, partial(abort, self.transport))
        elif self._state is not State.CLOSING:
            self.abort()

    def abort(self) -> None:
        """Give up at once."""
        self._state = State.OVER
        self._early = b""
        self._deadline.stop()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
        explainer, self._explainer = self._explainer, None
        if explainer is not None:
            explainer.over()
        if self.transport is not None:
            abort(self.transport)

    def pauseProducing(self) -> None:
        """Read no more."""
        if self._state is State.OPEN:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        if self._state is State.OPEN:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the relay decides when to close."""

    def connectionMade(self) -> None:
        """Make the request, or be open."""
        self._pending = None
        if self._state is not State.CONNECTING:
            abort(self.transport)
            return
        prepare(self.transport)
        if self._handshake is None:
            self._open(None)
            return
        self._state = State.HANDSHAKE
        self._follow([Send(self._handshake.start())])

    def dataReceived(self, data: bytes) -> None:
        """Pass payload on, or go on with the handshake."""
        if self._state is State.OPEN:
            self._receiver.data(data)
        elif self._state is State.HANDSHAKE:
            self._follow(self._handshake.receive(data))

    def readConnectionLost(self) -> None:
        """The remote will send no more; where it cannot half-close, or was reset, it is gone."""
        if self._state is State.OPEN and self._half_close and not was_reset(self.transport):
            self._receiver.eof()
        elif self._state is State.OPEN:
            clean = not was_reset(self.transport)
            self.close()
            if self.end is None:  # it is not gone already
                self._state = State.OVER
                self._receiver.lost(clean)
        elif self._state is State.HANDSHAKE:
            self._follow(self._handshake.eof())

    def writeConnectionLost(self) -> None:
        """Our sending side is shut down."""
        if self._application is not None:
            self._application.write_lost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._deadline.stop()
        self.end = reason
        if self._state is State.HANDSHAKE:
            self._follow(self._handshake.eof())
        previous, self._state = self._state, State.OVER
        if previous in (State.OPEN, State.CLOSING):
            self._receiver.lost(isinstance(reason.value, ConnectionDone))

    def _follow(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Send(data):
                    if self._early and self._takes_early and self._has_asked:
                        data += self._early
                        self._early = b""
                    send(self.transport, data)
                case Opened():
                    self._open(step)
                case Failed():
                    self._failed(step.reason)
                case Unconfirmed():
                    self._deadline.start(UNCONFIRMED_TIMEOUT, self._confirm)
        # Only now: a server may have said so much that there is more than one step.
        if self._application is not None and self._has_asked:
            self._application.requested()

    def _timed_out(self) -> None:
        # Until it has taken the request, the proxy is to blame, and not the destination.
        kind = TimedOut if self._handshake.requested else ProxyUnreachable
        self._follow(self._handshake.give_up(kind("the proxy did not answer in time")))

    def _confirm(self) -> None:
        self._follow(self._handshake.confirm())

    def _open(self, outcome: Opened | None) -> None:
        self._deadline.stop()
        explainer, self._explainer = self._explainer, None
        if explainer is not None:
            explainer.opened()
        self._state, self.outcome = State.OPEN, outcome
        self._handshake = None
        if self._early:
            send(self.transport, self._early)
            self._early = b""
        self._receiver.opened()
        self.outcome = None  # an idle stream is to cost little
        if outcome is not None and outcome.rest and self._state is State.OPEN:
            self._receiver.data(outcome.rest)

    def _failed(self, reason: SOCKSError) -> None:
        """The server said no; the explainer may know why."""
        explainer, self._explainer = self._explainer, None
        try:
            self.abort()
        finally:
            # Whatever a transport does, nobody waits for ever.
            if explainer is None:
                self._receiver.refused(reason)
            else:
                explaining = _explain(explainer, reason, self._receiver)
                self._pending = Deferred.fromCoroutine(explaining)


async def _explain(explainer: FailureExplainer, reason: SOCKSError, receiver: IReceiver) -> None:
    try:
        reason = await explainer.refused(reason)
    except CancelledError:
        return  # the stream was given up meanwhile
    except Exception:
        _log.failure("a fault while explaining a refusal", without_text(Failure()))
    receiver.refused(reason)


@implementer(IReceiver)
class LookUp:
    """The receiver of a stream that asks for an address and carries nothing.

    ``answer`` fires with the address of the reply; errback ``SOCKSError``.
    """

    def __init__(self) -> None:
        self.stream: Any = None
        self.answer: Deferred[Address] = Deferred(lambda _: self._give_up())

    def _give_up(self) -> None:
        # It refers to this one: leave no cycle.
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.abort()

    def opened(self) -> None:
        """The reply is there."""
        stream, self.stream = self.stream, None
        if stream is not None and stream.outcome is not None:
            stream.close()
            self.answer.callback(stream.outcome.reply.address)

    def refused(self, reason: SOCKSError) -> None:
        """There is no answer."""
        self.stream = None
        self.answer.errback(reason)

    def data(self, data: bytes) -> None:
        """Nothing follows the reply to a look-up."""

    def eof(self) -> None:
        """Nothing follows the reply to a look-up."""

    def lost(self, clean: bool) -> None:
        """Nothing follows the reply to a look-up."""
