"""One stream of a backend over a Twisted connection, with or without a SOCKS conversation ahead.

What is written before the stream is open is kept; with a pipelining ``Initiator`` it leaves in the
same write as the request. ``half_close`` says whether the far end may be told that no more will
come: tor may not, since it would drop the answer with the rest of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
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

from torsocks_tx.client.connect_failures import refused_by
from torsocks_tx.client.connection import Conversation
from torsocks_tx.errors import Refused
from torsocks_tx.interfaces import IOutbound, IReceiver
from torsocks_tx.relay.connector import Attempt, Target, connect_to
from torsocks_tx.relay.sockets import closes_at_once, lose, send, shut, was_reset
from torsocks_tx.relay.transports import Deadline, abort, can_half_close, prepare
from torsocks_tx.socks.messages import Reply

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
        self._meaning = meaning
        self._deadline = Deadline(clock)
        self._state = State.CONNECTING
        self._held = bytearray()
        self._conversation: Conversation | None = None
        self._pending: Deferred[Any] | Attempt | None = None

    def wait_for(self, pending: Deferred[Any]) -> None:
        """Be refused if ``pending`` fails; cancel it if the stream is given up first."""
        self._pending = pending
        pending.addErrback(self._connect_failed)

    def connect(
        self,
        endpoint: IStreamClientEndpoint,
        conversation: Conversation | None = None,
    ) -> None:
        """Connect; with a conversation of this stream's, make its request of a SOCKS server."""
        self._conversation = conversation
        if self._state is State.CONNECTING:
            # Never before this returns: early data is to leave in one write with the request.
            self._pending = connect_to(endpoint, self, self._connect_failed)
        else:
            self._end_conversation()

    def dial(self, reactor: Any, targets: Sequence[Target], **how: Any) -> None:
        """Connect to the first of these, maybe at once; ``how``: arguments of ``Attempt``."""
        if self._state is State.CONNECTING:
            attempt = Attempt(reactor, self, self._connect_failed, at_once=True, **how)
            self._pending = attempt
            attempt.begin(targets)

    def _connect_failed(self, failure: Failure) -> None:
        if self._state is State.CONNECTING:
            self.refuse(self._meaning(failure))

    def refuse(self, reason: Refused) -> None:
        """End a stream that is not open, for this reason."""
        self.hang_up()
        self._end_conversation()
        self._receiver.refused(reason)

    def _end_conversation(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.give_up()

    # IOutbound.

    def write(self, data: bytes) -> None:
        """Send, or keep until it may be sent."""
        if self._state is State.OPEN or (self._state is State.SPEAKING and self._may_pass()):
            send(self.transport, data)
        elif self._state in (State.CONNECTING, State.SPEAKING):
            self._held += data

    def _may_pass(self) -> bool:
        return self._conversation is not None and self._conversation.may_pass

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
            if not closes_at_once(self.transport):
                self._deadline.start(CLOSE_TIMEOUT, partial(abort, self.transport))
            lose(self.transport)
        elif self._state is not State.CLOSING:
            self.abort()

    def abort(self) -> None:
        """Give up at once."""
        self._state = State.OVER
        self._held.clear()
        self._end_conversation()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
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

    # IProtocol.

    def connectionMade(self) -> None:
        """Make the request, or be open."""
        self._pending = None
        if self._state is not State.CONNECTING:
            abort(self.transport)
            return
        prepare(self.transport)
        if self._conversation is None:
            self.granted(None, b"")
            return
        self._state = State.SPEAKING
        self._conversation.begin()

    def dataReceived(self, data: bytes) -> None:
        """Pass payload on, or go on with the conversation."""
        if self._state is State.OPEN:
            self._receiver.data(data)
        elif self._state is State.SPEAKING and self._conversation is not None:
            self._conversation.receive(data)

    def readConnectionLost(self) -> None:
        """The far end will send no more; where it cannot half-close, or was reset, it is gone."""
        if self._state is State.OPEN and self._half_close and not was_reset(self.transport):
            self._receiver.eof()
        elif self._state is State.OPEN:
            self.close()
            self._state = State.OVER
            self._receiver.lost(not was_reset(self.transport))
        elif self._state is State.SPEAKING and self._conversation is not None:
            self._conversation.eof()

    def writeConnectionLost(self) -> None:
        """Our sending side is shut down: nothing follows from it."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._deadline.stop()
        previous, self._state = self._state, State.OVER
        if previous is State.SPEAKING and self._conversation is not None:
            self._conversation.eof()
        elif previous in (State.OPEN, State.CLOSING):
            self._receiver.lost(isinstance(reason.value, ConnectionDone))

    # Owner of the conversation.

    def speak(self, data: bytes) -> None:
        """Say something to the server, and what was held if it may go now."""
        if self._may_pass() and self._held:
            data += self._held
            self._held.clear()
        send(self.transport, data)

    def granted(self, reply: Reply | None, rest: bytes) -> None:
        """The stream is open; ``rest`` came behind the reply."""
        self.reply = reply
        self._state = State.OPEN
        self._conversation = None
        if self._held:
            send(self.transport, bytes(self._held))
            self._held.clear()
        self._receiver.opened()
        if rest and self._state is State.OPEN:
            self._receiver.data(rest)

    def hang_up(self) -> None:
        """The connection is of no more use; why is still to be said."""
        self._state = State.OVER
        if self.transport is not None:
            abort(self.transport)
