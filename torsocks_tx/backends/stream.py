"""One stream of a backend over a Twisted connection, with or without a SOCKS conversation ahead.

What is written before the stream is open is kept; with a pipelining ``Initiator`` it leaves in the
same write as the request. ``half_close`` says whether the far end may be told that no more will
come: tor may not, since it would drop the answer with the rest of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.backends.dialling import Attempt, Connect, Target, connect_to
from torsocks_tx.backends.failures import refused_by
from torsocks_tx.errors import Refused
from torsocks_tx.handshake import Send
from torsocks_tx.initiator import Failed, Initiator, Opened
from torsocks_tx.interfaces import IOutbound, IReceiver
from torsocks_tx.messages import Reply
from torsocks_tx.sockets import is_quiet, lose, send, shut
from torsocks_tx.transports import Deadline, can_half_close, prepare

CLOSE_TIMEOUT = 30.0
"""Seconds that written bytes may take to leave once a stream is closed."""


class State(Enum):
    """How far a stream is."""

    CONNECTING = auto()
    SPEAKING = auto()
    OPEN = auto()
    CLOSING = auto()
    OVER = auto()


@implementer(IOutbound, IHalfCloseableProtocol)
class Stream(Protocol):
    """An ``IOutbound`` that is itself the protocol of its connection.

    ``meaning`` says what a failed attempt to connect is to the client.
    """

    transport: Any = None

    def __init__(
        self,
        clock: IReactorTime,
        receiver: IReceiver,
        *,
        half_close: bool,
        meaning: Callable[[Failure], Refused] = refused_by,
    ) -> None:
        self.reply: Reply | None = None
        self._receiver = receiver
        self._half_close = half_close
        self._early_data = False
        self._meaning = meaning
        self._deadline = Deadline(clock)
        self._state = State.CONNECTING
        self._held = bytearray()
        self._initiator: Initiator | None = None
        self._pending: Deferred[Any] | Attempt | None = None

    def wait_for(self, pending: Deferred[Any]) -> None:
        """Be refused if ``pending`` fails; cancel it if the stream is given up first."""
        self._pending = pending
        pending.addErrback(self._connect_failed)

    def connect(
        self,
        endpoint: IStreamClientEndpoint,
        initiator: Initiator | None = None,
        *,
        early_data: bool = False,
    ) -> None:
        """Connect; with an initiator, make its request of a SOCKS server there.

        ``early_data``: pass data on right behind the request, before its answer.
        """
        if self._state is not State.CONNECTING:
            return
        self._initiator = initiator
        self._early_data = early_data
        # Never before this returns: early data is to leave in one write with the request.
        self._pending = connect_to(endpoint, self, self._connect_failed)

    def dial(self, reactor: Any, targets: Sequence[Target], connect: Connect) -> None:
        """Connect to the first of these that can be reached, maybe before this returns."""
        if self._state is State.CONNECTING:
            attempt = Attempt(reactor, self, self._connect_failed, connect=connect, at_once=True)
            self._pending = attempt
            attempt.begin(targets)

    def _connect_failed(self, failure: Failure) -> None:
        if self._state is State.CONNECTING:
            self._state = State.OVER
            self._receiver.refused(self._meaning(failure))

    # IOutbound.

    def write(self, data: bytes) -> None:
        """Send, or keep until it may be sent."""
        if self._state is State.OPEN or (self._state is State.SPEAKING and self._may_pass()):
            send(self.transport, data)
        elif self._state in (State.CONNECTING, State.SPEAKING):
            self._held += data

    def _may_pass(self) -> bool:
        return self._early_data and self._initiator is not None and self._initiator.requested

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause this producer while the connection takes no more."""
        if self._state is State.OPEN:
            self.transport.registerProducer(producer, True)

    def unregister_producer(self) -> None:
        """Forget the producer."""
        if self.transport is not None:
            self.transport.unregisterProducer()

    def lose_write(self) -> None:
        """Tell the far end that no more will come, if that does no harm."""
        if self._half_close and self._state is State.OPEN and can_half_close(self.transport):
            self.transport.unregisterProducer()
            shut(self.transport)

    def close(self) -> None:
        """Send what was written, then close."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self.transport.unregisterProducer()
            if not is_quiet(self.transport):
                self._deadline.start(CLOSE_TIMEOUT, self.transport.abortConnection)
            lose(self.transport)
        elif self._state is not State.CLOSING:
            self.abort()

    def abort(self) -> None:
        """Give up at once."""
        self._state = State.OVER
        self._held.clear()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
        if self.transport is not None:
            self.transport.abortConnection()

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

    # IProtocol.

    def connectionMade(self) -> None:
        """Make the request, or be open."""
        self._pending = None
        if self._state is not State.CONNECTING:
            self.transport.abortConnection()
            return
        prepare(self.transport)
        if self._initiator is None:
            self._opened(b"")
            return
        self._state = State.SPEAKING
        self._speak(self._initiator.start())

    def dataReceived(self, data: bytes) -> None:
        """Pass payload on, or go on with the conversation."""
        if self._state is State.OPEN:
            self._receiver.data(data)
        elif self._state is State.SPEAKING and self._initiator is not None:
            self._follow(self._initiator.receive(data))

    def readConnectionLost(self) -> None:
        """The far end will send no more; where it cannot half-close, it is gone."""
        if self._state is State.OPEN and self._half_close:
            self._receiver.eof()
        elif self._state is State.OPEN:
            self.close()
            self._state = State.OVER
            self._receiver.lost(True)
        elif self._state is State.SPEAKING and self._initiator is not None:
            self._follow(self._initiator.eof())

    def writeConnectionLost(self) -> None:
        """Our sending side is shut down: nothing follows from it."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._deadline.stop()
        previous, self._state = self._state, State.OVER
        if previous is State.SPEAKING and self._initiator is not None:
            self._follow(self._initiator.eof())
        elif previous in (State.OPEN, State.CLOSING):
            self._receiver.lost(isinstance(reason.value, ConnectionDone))

    def _follow(self, steps: list[Any]) -> None:
        for step in steps:
            match step:
                case Send(data):
                    self._speak(data)
                case Opened(reply, rest):
                    self.reply = reply
                    self._opened(rest)
                case Failed(reason):
                    self._state = State.OVER
                    self._receiver.refused(reason)
                    self.transport.abortConnection()

    def _speak(self, data: bytes) -> None:
        if self._may_pass() and self._held:
            data += self._held
            self._held.clear()
        send(self.transport, data)

    def _opened(self, rest: bytes) -> None:
        self._state = State.OPEN
        self._initiator = None
        if self._held:
            send(self.transport, bytes(self._held))
            self._held.clear()
        self._receiver.opened()
        if rest and self._state is State.OPEN:
            self._receiver.data(rest)
