"""Deadlines that are all equally long: whoever came first is due first, and one timer does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

_ROUNDING = 1e-6


class Waits:
    """Calls ``expired`` with each one that was added ``seconds`` ago, and not dropped since."""

    __slots__ = ("_call", "_clock", "_due", "_expired", "_seconds")

    def __init__(self, clock: IReactorTime, seconds: float, expired: Callable[[Any], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._due: dict[Any, float] = {}
        self._call: IDelayedCall | None = None

    def add(self, one: Any) -> None:
        """Begin to wait."""
        self._due[one] = self._clock.seconds() + self._seconds
        if self._call is None:
            self._call = self._clock.callLater(self._seconds, self._expire)

    def drop(self, one: Any) -> float:
        """Wait no more; the seconds that were left."""
        left = self._due.pop(one) - self._clock.seconds()
        if not self._due and self._call is not None:
            self._call.cancel()
            self._call = None
        return max(left, 0.0)

    def _expire(self) -> None:
        self._call = None
        now = self._clock.seconds()
        while self._due:
            one, due = next(iter(self._due.items()))
            if due - now > _ROUNDING:
                self._call = self._clock.callLater(due - now, self._expire)
                return
            self._expired(one)
            # Whoever forgot to drop itself would be told for ever.
            self._due.pop(one, None)
