"""The relay: two sides become one stream, a client's transport and an ``IOutbound``.

It begins before the reply: early data goes to the outbound at once, up to a bound, and only the way
to the client waits. Bytes go from protocol to protocol, and each side is the other's producer. A
stream that turns out to be bulk, between two plain sockets, is spliced (``splice``) until one side
ends. Half-close goes both ways. What ends the client's connection is the owner's: ``RelayOwner``.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from torsocks_tx.errors import SOCKSError, TimedOut
from torsocks_tx.interfaces import IOutbound, IReceiver
from torsocks_tx.limits import Limits
from torsocks_tx.relay.poller import Paused
from torsocks_tx.relay.sockets import can_half_close, is_sending, is_socket, send
from torsocks_tx.relay.splice import Splice
from torsocks_tx.relay.timeouts import Deadline

BULK, BULK_PAUSE = 256 * 1024, 0.05
"""A stream is bulk once so many bytes went through without such a pause, in seconds."""


class RelayOwner(Protocol):
    """What a relay tells the protocol that owns it."""

    def relay_opened(self) -> None:
        """The remote is reached: send the success reply now. Data follows."""

    def relay_refused(self, reason: SOCKSError) -> None:
        """It is not reached. The relay is over."""

    def relay_over(self, clean: bool) -> None:
        """The remote is gone: flush and close, or reset if not ``clean``. The relay is over."""

    def relay_remote_eof(self) -> None:
        """The remote will send no more: shut the sending side towards the client down."""


class State(Enum):
    """How far a stream is. The two DONE states are half-closed."""

    OPENING = auto()
    OPEN = auto()
    CLIENT_DONE = auto()
    REMOTE_DONE = auto()
    OVER = auto()


_FLOWING_OUT = frozenset({State.OPEN, State.CLIENT_DONE})


@implementer(IPushProducer)
class Throttle:
    """Lets one side of a relay be paused by the other, and by nothing else.

    Twisted calls ``stopProducing`` on the producer of a transport that is lost. For a transport
    that would mean closing: the relay decides that, so here it does nothing.
    """

    __slots__ = ("_producer", "_relay", "paused")

    def __init__(self, producer: Any, relay: Relay) -> None:
        self._producer = producer
        self._relay = relay
        self.paused = False

    def pauseProducing(self) -> None:
        """Read no more from this side."""
        self.paused = True
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on: everything that was written to the other side is out."""
        self.paused = False
        self._producer.resumeProducing()
        self._relay.splice_if_bulk()

    def stopProducing(self) -> None:
        """Do nothing."""


@implementer(IReceiver)
class Relay:
    """One stream; ``sent`` and ``received`` count the payload, to and from the remote.

    ``meter`` has two numbers, to which all relays with the same one add these. ``last_activity`` is
    the time of the last bytes of an open stream. ``outbound`` is the remote side, None when there
    is nothing left to do with it.
    """

    __slots__ = ("_meter", "_owner", "_paused", "_run", "_splice", "_throttles", "_transport",
                 "clock", "deadline", "last_activity", "limits", "outbound", "received", "sent",
                 "state")  # fmt: skip

    def __init__(
        self,
        owner: RelayOwner,
        transport: Any,
        clock: IReactorTime,
        deadline: Deadline,
        limits: Limits,
        meter: memoryview,
    ) -> None:
        self._owner = owner
        self._transport = transport
        self.clock = clock
        self.deadline = deadline
        self.limits = limits
        self._meter = meter
        self.outbound: IOutbound | None = None
        self.state = State.OPENING
        self._throttles: tuple[Throttle, ...] = ()
        self._splice: Splice | None = None
        self._run = 0
        self._paused: Paused | None = None
        self.last_activity = 0.0
        self.sent = 0
        self.received = 0

    @property
    def is_open(self) -> bool:
        """Whether the client was told that the remote is reached."""
        return self.state is not State.OPENING and self.outbound is not None

    # The client's side.

    def begin(self, outbound: IOutbound, early: bytes, timeout: float) -> None:
        """Take the outbound that was opened with this relay as its receiver."""
        self.outbound = outbound
        self.deadline.start(timeout, self._open_timed_out)
        if early:
            self.client_data(early)

    def client_data(self, data: bytes) -> None:
        """Bytes from the client: early data, or payload."""
        if self.outbound is None:
            return
        self.sent += len(data)
        self._meter[0] += len(data)
        self.outbound.write(data)
        if self.state is not State.OPENING:
            self._note_flow(len(data))
        elif self.sent >= self.limits.early_data and self._paused is None:
            self._paused = Paused(self._transport)

    def client_eof(self) -> None:
        """The client will send no more. While opening that means that it is gone."""
        if self.state is State.OPENING:
            self.client_lost(clean=False)
        elif self.state is State.OPEN and self.outbound is not None:
            self.state = State.CLIENT_DONE
            self.outbound.lose_write()
            StreamTimeouts(self).client_done()
        elif self.state is State.REMOTE_DONE:
            self.give_up(complete=True)

    def client_lost(self, clean: bool) -> None:
        """The client's connection is gone. What it had sent in a clean end still goes out."""
        self._end(complete=clean and self.state is not State.OPENING)

    # The remote side: IReceiver.

    def opened(self) -> None:
        """The remote is reached."""
        if self.state is not State.OPENING or self.outbound is None:
            return
        self.state = State.OPEN
        self._owner.relay_opened()
        client = Throttle(self._transport, self)
        remote = Throttle(self.outbound, self)
        self._throttles = client, remote
        self.outbound.register_producer(client)
        self._transport.registerProducer(remote, True)
        if self._paused is not None:
            self._paused.resume()
            self._paused = None
        if self.limits.idle_timeout is None:
            self.deadline.stop()
        else:
            StreamTimeouts(self).both_open(self.limits.idle_timeout)

    def refused(self, reason: SOCKSError) -> None:
        """The remote is not reached."""
        if self.state is State.OPENING:
            self._release()
            self._owner.relay_refused(reason)

    def data(self, data: bytes) -> None:
        """Bytes from the remote."""
        if self.state in _FLOWING_OUT:
            self.received += len(data)
            self._meter[1] += len(data)
            send(self._transport, data)
            self._note_flow(len(data))

    def eof(self) -> None:
        """The remote will send no more, but still listens."""
        if self.state is State.OPEN and can_half_close(self._transport):
            self.state = State.REMOTE_DONE
            # Until it is free from its producer, the transport would not shut down.
            self._transport.unregisterProducer()
            self._owner.relay_remote_eof()
            StreamTimeouts(self).remote_done()
        elif self.state in _FLOWING_OUT:
            self.give_up(complete=True)

    def lost(self, clean: bool) -> None:
        """The remote is gone."""
        if self.state is not State.OVER:
            self._release()
            self._owner.relay_over(clean)

    # Bulk.

    def _note_flow(self, count: int) -> None:
        """Note that so many bytes went through; splice the stream if it is bulk now."""
        now = self.clock.seconds()
        if now - self.last_activity > BULK_PAUSE:
            self._run = 0
        self.last_activity = now
        self._run += count
        if self._run >= BULK:
            self.splice_if_bulk()

    def splice_if_bulk(self) -> None:
        """Splice a bulk stream, if both are plain sockets to which nothing waits to be sent."""
        if self._run < BULK or self._splice is not None or self.outbound is None:
            return
        client, remote = self._transport, self.outbound.transport
        if not self.is_blocked and _is_flushed(client) and _is_flushed(remote):
            has_ended = self.state is State.CLIENT_DONE, self.state is State.REMOTE_DONE
            self._splice = Splice(self, client, remote, has_ended)
            self._splice.start()

    def spliced(self, by_client: bool, count: int) -> None:
        """Count bytes that went past the protocols."""
        if by_client:
            self.sent += count
        else:
            self.received += count
        self._meter[not by_client] += count
        self.last_activity = self.clock.seconds()

    def unspliced(self) -> None:
        """From now on bytes go by the protocols again."""
        self._splice, self._run = None, 0

    def unsplice(self) -> None:
        """Give the sockets back to their transports, which somebody wants to close."""
        if self._splice is not None:
            self._splice.stop()

    # Its end.

    @property
    def is_blocked(self) -> bool:
        """Whether one side is not read, since the other takes no more."""
        if self._splice is not None:
            return self._splice.is_blocked
        return any(throttle.paused for throttle in self._throttles)

    def give_up(self, complete: bool) -> None:
        """End the stream on both sides; as if it was cut short, if not ``complete``."""
        self._end(complete=True)
        self._owner.relay_over(complete)

    def _open_timed_out(self) -> None:
        self._end(complete=False)
        self._owner.relay_refused(TimedOut("no outcome within the connect deadline"))

    def _end(self, *, complete: bool) -> None:
        outbound = None if self.state is State.OVER else self._release()
        if outbound is None:
            return
        if complete:
            outbound.unregister_producer()
            outbound.close()
        else:
            outbound.abort()

    def _release(self) -> IOutbound | None:
        self.state = State.OVER
        self.unsplice()
        if self._paused is not None:
            self._paused.forget()
        self.deadline.stop()
        if self._throttles:
            self._transport.unregisterProducer()
            self._throttles = ()
        outbound, self.outbound = self.outbound, None
        return outbound


def _is_flushed(transport: Any) -> bool:
    """Whether a transport is a plain socket, and all that was written to it is out."""
    return is_socket(transport) and transport.connected and not transport.dataBuffer


class StreamTimeouts:
    """Watches the silence of one open stream until its deadline is used for something else."""

    __slots__ = ("_limits", "_linger_end", "_stream")

    def __init__(self, stream: Relay) -> None:
        self._stream = stream
        self._limits = stream.limits
        self._linger_end = 0.0
        stream.last_activity = stream.clock.seconds()

    def both_open(self, period: float) -> None:
        """Both sides are open: together they may be silent for this ``idle_timeout``."""
        self._wait(self._remaining(period), partial(self.both_open, period))

    def client_done(self) -> None:
        """The client has closed its side: the remote may be silent for ``linger_timeout``."""
        self._linger_end = self._stream.clock.seconds() + self._limits.linger_limit
        self._stream.deadline.start(self._limits.linger_timeout, self._linger_expired)

    def remote_done(self) -> None:
        """The remote has closed its side: the client may be silent for ``linger_limit``."""
        limits = self._limits
        period = min(limits.idle_timeout or limits.linger_limit, limits.linger_limit)
        self._wait(self._remaining(period), self.remote_done)

    def _linger_expired(self) -> None:
        period, stream = self._limits.linger_timeout, self._stream
        # A side that is not read from because the other takes no more is not silent, nor is a
        # remote that has not taken everything yet.
        is_busy = stream.is_blocked or is_sending(stream.outbound and stream.outbound.transport)
        silence = period if is_busy else self._remaining(period)
        left = min(silence, self._linger_end - stream.clock.seconds())
        self._wait(left, self._linger_expired, is_silent=silence <= 0)

    def _wait(self, left: float, again: Callable[[], None], *, is_silent: bool = True) -> None:
        """Call ``again`` after these seconds; end the stream if none are left."""
        if left > 0:
            self._stream.deadline.start(left, again)
        else:
            self._stream.give_up(is_silent and not self._stream.is_blocked)

    def _remaining(self, period: float) -> float:
        return self._stream.last_activity + period - self._stream.clock.seconds()
