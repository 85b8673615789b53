"""Many who wait for one thing: each has a Deferred of its own and may cancel it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

_T = TypeVar("_T")


class Waiters(Generic[_T]):
    """Hands out Deferreds and fires all that are still waiting at once."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[_T]] = []

    def wait(self) -> Deferred[_T]:
        """Return a Deferred for the next ``fire`` or ``fail``; cancelling it ends this waiting."""
        waiting: Deferred[_T] = Deferred(self._waiting.remove)
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

    def _take(self) -> list[Deferred[_T]]:
        waiting = self._waiting[:]
        self._waiting.clear()
        return waiting
