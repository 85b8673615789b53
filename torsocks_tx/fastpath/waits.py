"""Deadlines that are all equally long: whoever came first is due first, and one timer does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_ROUNDING = 1e-6


class Waits:
    """Calls ``expired`` with each one that was added ``seconds`` ago, and not dropped since."""

    __slots__ = ("_call", "_clock", "_due", "_expired", "_seconds")
    _log = Logger()

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
        # While those that are due are told, the timer is one that has fired.
        if not self._due and self._call is not None and self._call.active():
            self._call.cancel()
            self._call = None
        return max(left, 0.0)

    def _expire(self) -> None:
        now = self._clock.seconds()
        left = None
        while self._due:
            one, due = next(iter(self._due.items()))
            if due - now > _ROUNDING:
                left = due - now
                break
            try:
                self._expired(one)
            except Exception:
                self._log.failure(
                    "a fault of this server at a deadline; the others still have theirs"
                )
            # Whoever forgot to drop itself would be told for ever.
            if self._due.get(one) == due:
                del self._due[one]
        self._call = None if left is None else self._clock.callLater(left, self._expire)
