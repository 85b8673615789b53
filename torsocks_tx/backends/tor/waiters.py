"""Many who wait for one thing: each has a Deferred of its own and may cancel it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

_T = TypeVar("_T")


class Waiters(Generic[_T]):
    """Hands out Deferreds and fires all that are still waiting at once."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[_T]] = []

    def wait(self) -> Deferred[_T]:
        """Return a Deferred for the next ``fire`` or ``fail``; cancelling it ends this waiting."""
        waiting: Deferred[_T] = Deferred(self._give_up)
        self._waiting.append(waiting)
        return waiting

    def fire(self, value: _T) -> None:
        """Give ``value`` to all that wait now."""
        for waiting in self._take():
            waiting.callback(value)

    def fail(self, make_error: Callable[[], Exception]) -> None:
        """Give an error to all that wait now, each its own."""
        for waiting in self._take():
            waiting.errback(make_error())

    def _give_up(self, waiting: Deferred[_T]) -> None:
        if waiting in self._waiting:  # else it is about to be fired
            self._waiting.remove(waiting)

    def _take(self) -> Iterator[Deferred[_T]]:
        """Yield each that waits now, but none that an earlier one has cancelled meanwhile."""
        taken, self._waiting = self._waiting, []
        return (waiting for waiting in taken if not waiting.called)
