"""Two sides become one stream: a client's transport and an ``IOutbound``.

The relay stands before the reply does: early data goes to the outbound at once, up to a bound, and
only the way to the client waits. Half-close goes both ways; backpressure is Twisted's, each side
the producer of the other. What ends the client's connection (a reply, a farewell, a reset) is the
owner's: ``RelayOwner``.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from torsocks_tx.errors import Refused, TimedOut
from torsocks_tx.interfaces import IOutbound, IReceiver
from torsocks_tx.limits import Limits
from torsocks_tx.relay.flow import Flow, join
from torsocks_tx.relay.hangups import Hangup
from torsocks_tx.relay.sockets import send
from torsocks_tx.relay.timeouts import Patience
from torsocks_tx.relay.transports import Deadline, Throttle, can_half_close


class RelayOwner(Protocol):
    """What a relay tells the protocol that owns it."""

    def relay_opened(self) -> None:
        """The far end is reached: send the success reply now. Data follows."""

    def relay_refused(self, reason: Refused) -> None:
        """It is not reached. The relay is over."""

    def relay_over(self, clean: bool) -> None:
        """The far end is gone: flush and close, or reset if not ``clean``. The relay is over."""

    def relay_remote_eof(self) -> None:
        """The far end will send no more: shut the sending side towards the client down."""


class State(Enum):
    """How far a stream is. The two DONE states are half-closed."""

    OPENING = auto()
    OPENED_AT_ONCE = auto()
    OPEN = auto()
    CLIENT_DONE = auto()
    REMOTE_DONE = auto()
    OVER = auto()


_FLOWING_OUT = frozenset({State.OPEN, State.CLIENT_DONE})


@implementer(IReceiver)
class Relay:
    """One stream; ``sent`` and ``received`` count the payload, towards and from the far end.

    ``patience`` watches over its silence.
    """

    __slots__ = ("_clock", "_deadline", "_far", "_flows", "_hangup", "_limits", "_outbound",
                 "_owner", "_state", "_transport", "patience", "received", "sent")  # fmt: skip

    def __init__(
        self,
        owner: RelayOwner,
        transport: Any,
        clock: IReactorTime,
        deadline: Deadline,
        limits: Limits,
    ) -> None:
        self._owner = owner
        self._transport = transport
        self._clock = clock
        self._deadline = deadline
        self._limits = limits
        self._outbound: IOutbound | None = None
        self._state = State.OPENING
        self.patience = Patience(clock, deadline, limits, self._give_up)
        self._far: Throttle | None = None
        self._flows: tuple[Flow, ...] = ()
        self._hangup: Hangup | None = None
        self.sent = 0
        self.received = 0

    @property
    def state(self) -> State:
        """How far the stream is."""
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether the client was told that the far end is reached."""
        return self._state is not State.OPENING and self._outbound is not None

    @property
    def outbound(self) -> IOutbound | None:
        """The far side, None when there is nothing left to do with it."""
        return self._outbound

    # The client's side.

    def begin(self, outbound: IOutbound, early: bytes, timeout: float) -> None:
        """Take the outbound that was opened with this relay as its receiver."""
        if self._state not in (State.OPENING, State.OPENED_AT_ONCE):
            return
        self._outbound = outbound
        if self._state is State.OPENED_AT_ONCE:
            self._state = State.OPENING
            self.opened()
        else:
            self._deadline.start(timeout, self._open_timed_out)
        if early:
            self.client_data(early)

    def client_data(self, data: bytes) -> None:
        """Bytes from the client: early data, or payload."""
        if self._outbound is None:
            return
        self.sent += len(data)
        self.patience.last_activity = self._clock.seconds()
        self._outbound.write(data)
        if self._state is State.OPENING and self.sent >= self._limits.early_data:
            self._transport.pauseProducing()
            # Paused it would not notice that the client has gone; nor does it ask for more.
            if self._hangup is None:
                self._hangup = Hangup.watch(self._transport, self._client_hung_up)

    def _client_hung_up(self) -> None:
        self._hangup = None
        self._transport.abortConnection()

    def client_eof(self) -> None:
        """The client will send no more. While opening that means that it is gone."""
        if self._state is State.OPENING:
            self.client_lost(clean=False)
        elif self._state is State.OPEN and self._outbound is not None:
            self._state = State.CLIENT_DONE
            self._outbound.lose_write()
            self.patience.client_done()
        elif self._state is State.REMOTE_DONE:
            self._give_up(complete=True)

    def client_lost(self, clean: bool) -> None:
        """The client's connection is gone. What it had sent in a clean end still goes out."""
        if self._state is State.OPENING or not clean:
            outbound = self._release()
            if outbound is not None:
                outbound.abort()
        else:
            self._finish()

    # The far side: IReceiver.

    def opened(self) -> None:
        """The far end is reached, maybe before there is an outbound to write to."""
        if self._state is not State.OPENING:
            return
        if self._outbound is None:
            self._state = State.OPENED_AT_ONCE
            return
        self._state = State.OPEN
        self._owner.relay_opened()
        near, self._far = Throttle(self._transport), Throttle(self._outbound)
        self._outbound.register_producer(near)
        self._transport.registerProducer(self._far, True)
        if self.sent >= self._limits.early_data:
            self._stop_listening()
            self._transport.resumeProducing()
        self.patience.opened(near, self._far)
        ways = (near, self._moved_out), (self._far, self._moved_in)
        self._flows = join(self._transport, self._outbound.transport, *ways)

    def _moved_out(self, count: int) -> None:
        self.sent += count
        self.patience.last_activity = self._clock.seconds()

    def _moved_in(self, count: int) -> None:
        self.received += count
        self.patience.last_activity = self._clock.seconds()

    def refused(self, reason: Refused) -> None:
        """The far end is not reached."""
        if self._state is State.OPENING:
            self._release()
            self._owner.relay_refused(reason)

    def data(self, data: bytes) -> None:
        """Bytes from the far end."""
        if self._state in _FLOWING_OUT:
            self._moved_in(len(data))
            send(self._transport, data)

    def eof(self) -> None:
        """The far end will send no more, but still listens."""
        if self._state is State.OPEN and can_half_close(self._transport):
            self._state = State.REMOTE_DONE
            self._unregister()
            self._owner.relay_remote_eof()
            self.patience.remote_done()
        elif self._state in _FLOWING_OUT:
            self._give_up(complete=True)

    def lost(self, clean: bool) -> None:
        """The far end is gone."""
        if self._state is not State.OVER:
            self._release()
            self._owner.relay_over(clean)

    def _release(self) -> IOutbound | None:
        self._state = State.OVER
        self._stop_listening()
        self.patience.end()
        for flow in self._flows:
            flow.detach()
        self._flows = ()
        self._unregister()
        outbound, self._outbound = self._outbound, None
        return outbound

    def _stop_listening(self) -> None:
        if self._hangup is not None:
            self._hangup.stop()
            self._hangup = None

    def _unregister(self) -> None:
        """Free the client's transport from its producer: until then it would not shut down."""
        if self._far is not None:
            self._far = None
            self._transport.unregisterProducer()

    def _finish(self) -> None:
        outbound = self._release()
        if outbound is not None:
            outbound.unregister_producer()
            outbound.close()

    def _open_timed_out(self) -> None:
        outbound = self._release()
        if outbound is not None:
            outbound.abort()
        self._owner.relay_refused(TimedOut("no outcome within the connect deadline"))

    def _give_up(self, complete: bool) -> None:
        self._finish()
        self._owner.relay_over(complete)
