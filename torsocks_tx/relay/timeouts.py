"""How long things may take: a turn of the reactor, and what a connection waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from twisted.internet.interfaces import IDelayedCall, IReactorTime

WORK = 0.0015
"""Seconds of one turn in which ``Turns`` has time: requests are begun, those who wait are told."""

_ROUNDING = 1e-6

_T = TypeVar("_T")
# Both are weak, since what a reactor has leads back to it.
_made: WeakKeyDictionary[object, WeakValueDictionary[object, Any]] = WeakKeyDictionary()


def one_for(reactor: object, kind: Callable[..., _T], *arguments: object) -> _T:
    """The one object of a kind that a reactor has, while anything uses it."""
    made = _made.get(reactor)
    if made is None:
        made = _made[reactor] = WeakValueDictionary()
    found = made.get((kind, arguments))
    if found is None:
        found = made[kind, arguments] = kind(reactor, *arguments)
    return found


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

    def each(self, items: Iterable[_T], tell: Callable[[_T], object]) -> None:
        """Call a function with one after the other, in as many turns as that takes."""
        left = iter(items)
        for item in left:
            tell(item)
            if not self.has_time():
                self.later(partial(self.each, left, tell))
                return

    def _turn(self) -> None:
        self._began = self._clock.seconds()
        # First of all, for whatever follows might raise.
        self._call = self._clock.callLater(0, self._turn) if self._waiting else None
        while self._waiting:
            self._waiting.popleft()()
            if not self.has_time():
                return


def turns_of(clock: IReactorTime) -> Turns:
    """The one ``Turns`` of a reactor."""
    return one_for(clock, Turns)


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
