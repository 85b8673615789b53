"""Waiting for tor: many for one thing, and for an answer with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

SLICE = 0.005
"""Seconds of one turn of the reactor that are spent on those who wait; the rest go on in the next
turn, so that other clients are served meanwhile."""

LATE = 0.1
"""Seconds by which a timer must be late for the process to have stood still."""

MOST_EXTENSIONS = 10

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


class _Limit:
    """A timeout in which the time that this process itself stood still does not count."""

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
