"""Many who wait for one thing: each has a Deferred of its own and may cancel it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

SLICE = 0.005
"""Seconds of one turn of the reactor that are spent on those who wait; the rest go on in the next
turn, so that other clients are served meanwhile."""

_T = TypeVar("_T")


class Waiters(Generic[_T]):
    """Hands out Deferreds and fires all that are still waiting.

    ``clock``: the reactor, where so many may wait that firing all in one turn would take too long.
    """

    def __init__(self, clock: IReactorTime | None = None) -> None:
        self._clock = clock
        self._waiting: dict[Deferred[_T], None] = {}

    def wait(self) -> Deferred[_T]:
        """Return a Deferred for the next ``fire`` or ``fail``; cancelling it ends this waiting."""
        waiting: Deferred[_T] = Deferred(self._give_up)
        self._waiting[waiting] = None
        return waiting

    def fire(self, value: _T) -> None:
        """Give ``value`` to all that wait now."""
        self._tell_all(lambda waiting: waiting.callback(value))

    def fail(self, make_error: Callable[[], Exception]) -> None:
        """Give an error to all that wait now, each its own."""
        self._tell_all(lambda waiting: waiting.errback(make_error()))

    def _give_up(self, waiting: Deferred[_T]) -> None:
        self._waiting.pop(waiting, None)  # it is not there any more while all are told

    def _tell_all(self, tell: Callable[[Deferred[_T]], None]) -> None:
        taken, self._waiting = self._waiting, {}
        self._tell_some(iter(taken), tell)

    def _tell_some(
        self, taken: Iterator[Deferred[_T]], tell: Callable[[Deferred[_T]], None]
    ) -> None:
        clock = self._clock
        end = clock.seconds() + SLICE if clock is not None else 0.0
        for waiting in taken:
            if not waiting.called:  # cancelled by one that was told before
                tell(waiting)
            if clock is not None and clock.seconds() >= end:
                clock.callLater(0, self._tell_some, taken, tell)
                return
