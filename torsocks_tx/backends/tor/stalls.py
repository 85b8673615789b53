"""A timeout in which the time that this process itself stood still does not count.

When thousands of streams fail at once, a second goes by before the first answer of tor is read,
though it has been there all along.
"""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

LATE = 0.1
"""Seconds by which a timer must be late for the process to have stood still."""

MOST_EXTENSIONS = 10

_T = TypeVar("_T")


class _Limit:
    """One timeout that may be extended."""

    def __init__(self, waiting: Deferred[_T], seconds: float, clock: IReactorTime) -> None:
        self._waiting = waiting
        self._seconds = seconds
        self._clock = clock
        self._extensions = 0
        self._call: IDelayedCall | None = None
        self._start()

    def _start(self) -> None:
        due = self._clock.seconds() + self._seconds
        self._call = self._clock.callLater(self._seconds, self._expire, due)

    def _expire(self, due: float) -> None:
        self._call = None
        if self._clock.seconds() - due > LATE and self._extensions < MOST_EXTENSIONS:
            self._extensions += 1
            self._start()
        else:
            self._waiting.cancel()

    def convert(self, failure: Failure) -> Failure:
        """Make a ``TimeoutError`` of whatever comes of our own cancelling."""
        if self._call is None:
            raise TimeoutError(self._seconds, "Deferred")
        return failure

    def stop(self, result: _T) -> _T:
        """It is over, in time or not."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        return result


def limit(waiting: Deferred[_T], seconds: float, clock: IReactorTime) -> Deferred[_T]:
    """Cancel ``waiting`` after so many seconds; it then fails with ``TimeoutError``."""
    timer = _Limit(waiting, seconds, clock)
    waiting.addErrback(timer.convert)
    waiting.addBoth(timer.stop)
    return waiting
