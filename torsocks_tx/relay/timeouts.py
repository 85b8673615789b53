"""How long things may take: a turn of the reactor, and what a connection waits for.

Each connection has one deadline, and an open stream is watched for its silence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary, ref

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from torsocks_tx.limits import Limits

WORK = 0.0015
"""Seconds of one turn in which ``Turns`` has time: requests are begun, those who wait are told."""

_ROUNDING = 1e-6


class Turns:
    """Tells whether a turn of the reactor has time for more, and calls the others in the next."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: deque[Callable[[], object]] = deque()
        self._began = self._last = 0.0
        self._call: IDelayedCall | None = None

    def has_time(self) -> bool:
        """Whether there is time for one thing more in this turn."""
        now = self._clock.seconds()
        if self._call is None and now - self._last > WORK:
            # After so long without anything to do, the reactor has turned.
            self._began = now
        self._last = now
        return now - self._began < WORK

    def later(self, function: Callable[[], object]) -> None:
        """Call a function in a later turn, after those that wait already."""
        self._waiting.append(function)
        # trial cancels what a test has left in the reactor.
        if self._call is None or not self._call.active():
            self._call = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._began = self._clock.seconds()
        # First of all, for whatever follows might raise.
        self._call = self._clock.callLater(0, self._turn) if self._waiting else None
        while self._waiting:
            self._waiting.popleft()()
            if not self.has_time():
                return


# Both are weak, since each of them leads to the other.
_turns: WeakKeyDictionary[IReactorTime, ref[Turns]] = WeakKeyDictionary()


def turns_of(clock: IReactorTime) -> Turns:
    """The one ``Turns`` of a reactor."""
    known = _turns.get(clock)
    turns = None if known is None else known()
    if turns is None:
        turns = Turns(clock)
        _turns[clock] = ref(turns)
    return turns


class Deadline:
    """The one timer of a connection: starting it again replaces what it waited for.

    That leaves the reactor's timer alone, unless it is too late for the new deadline: when it
    fires, it waits for what is left.
    """

    __slots__ = ("_call", "_clock", "_due", "_expired")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._due = 0.0
        self._expired: Callable[[], None] | None = None

    def start(self, seconds: float | None, expired: Callable[[], None]) -> None:
        """Call ``expired`` after so many seconds; None means never."""
        if seconds is None:
            self.stop()
            return
        self._expired = expired
        self._due = self._clock.seconds() + seconds
        if self._call is not None:
            if self._call.getTime() <= self._due:
                return
            self._call.cancel()
        self._call = self._clock.callLater(seconds, self._expire)

    def stop(self) -> None:
        """Wait for nothing."""
        self._expired = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    @property
    def is_waiting(self) -> bool:
        """Whether something will be called."""
        return self._expired is not None

    def _expire(self) -> None:
        self._call = None
        left = self._due - self._clock.seconds()
        turns = turns_of(self._clock)
        if left > _ROUNDING:
            self._call = self._clock.callLater(left, self._expire)
        elif not turns.has_time():
            turns.later(self._expire_late)
        else:
            expired, self._expired = self._expired, None
            if expired is not None:
                expired()

    def _expire_late(self) -> None:
        # Else it was started again meanwhile.
        if self._call is None:
            self._expire()


class WatchedStream(Protocol):
    """What the timeouts ask of an open stream. ``last_activity``: the time of its last bytes."""

    last_activity: float

    @property
    def is_blocked(self) -> bool:
        """Whether one side is not read, since the other takes no more."""

    @property
    def is_sending(self) -> bool:
        """Whether the remote has not taken everything yet that was sent to it."""

    def give_up(self, complete: bool) -> None:
        """End the stream, which was silent for too long; not ``complete`` if bytes still come."""


class StreamTimeouts:
    """Watches the silence of one stream until its deadline is used for something else."""

    __slots__ = ("_clock", "_deadline", "_limits", "_linger_end", "_stream")

    def __init__(
        self, clock: IReactorTime, deadline: Deadline, limits: Limits, stream: WatchedStream
    ) -> None:
        self._clock = clock
        self._deadline = deadline
        self._limits = limits
        self._stream = stream
        self._linger_end = 0.0

    def both_open(self, period: float) -> None:
        """Both sides are open: together they may be silent for this ``idle_timeout``."""
        self._wait(self._remaining(period), partial(self.both_open, period))

    def client_done(self) -> None:
        """The client has closed its side: the remote may be silent for ``linger_timeout``."""
        self._linger_end = self._clock.seconds() + self._limits.linger_limit
        self._deadline.start(self._limits.linger_timeout, self._linger_expired)

    def remote_done(self) -> None:
        """The remote has closed its side: the client may be silent for ``linger_limit``."""
        limits = self._limits
        period = min(limits.idle_timeout or limits.linger_limit, limits.linger_limit)
        self._wait(self._remaining(period), self.remote_done)

    def _linger_expired(self) -> None:
        period, stream = self._limits.linger_timeout, self._stream
        # A side that is not read from because the other takes no more is not silent, nor is a
        # remote that has not taken everything yet.
        is_busy = stream.is_blocked or stream.is_sending
        silence = period if is_busy else self._remaining(period)
        left = min(silence, self._linger_end - self._clock.seconds())
        self._wait(left, self._linger_expired, is_silent=silence <= 0)

    def _wait(self, left: float, again: Callable[[], None], *, is_silent: bool = True) -> None:
        """Call ``again`` after these seconds; end the stream if none are left."""
        if left > 0:
            self._deadline.start(left, again)
        else:
            self._stream.give_up(is_silent and not self._stream.is_blocked)

    def _remaining(self, period: float) -> float:
        return self._stream.last_activity + period - self._clock.seconds()
