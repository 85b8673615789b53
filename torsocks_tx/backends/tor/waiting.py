"""Waiting for tor: many for one thing, with a deadline, and between tries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from torsocks_tx.relay.timeouts import turns_of

LATE = 0.1
"""Seconds by which a timer must be late to show that this process was stopped meanwhile."""

MOST_EXTENSIONS = 10
"""How often a deadline is extended because this process was stopped."""

_T = TypeVar("_T")


class Waiters(Generic[_T]):
    """Hands out Deferreds and fires all that are still waiting.

    ``clock``: the reactor, where so many may wait that firing all in one turn would take too long.
    """

    def __init__(self, clock: IReactorTime | None = None) -> None:
        self._turns = None if clock is None else turns_of(clock)
        self._waiting: dict[Deferred[_T], None] = {}
        self._settled: Callable[[Deferred[_T]], None] | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nobody has to wait any more."""
        return self._settled is not None

    def wait(self) -> Deferred[_T]:
        """Return a Deferred for the next ``fire`` or ``fail``; cancelling it ends this waiting."""
        waiting: Deferred[_T] = Deferred(self._give_up)
        self._waiting[waiting] = None
        if self._settled is not None:
            self._fire_all(self._settled)
        return waiting

    def settle(self, result: _T | Failure) -> None:
        """Give ``result`` to all that wait now, and to whoever comes later."""
        self._settled = lambda waiting: waiting.callback(result)
        self._fire_all(self._settled)

    def fire(self, value: _T) -> None:
        """Give ``value`` to all that wait now."""
        self._fire_all(lambda waiting: waiting.callback(value))

    def fail(self, make_error: Callable[[], Exception]) -> None:
        """Give an error to all that wait now, each its own."""
        self._fire_all(lambda waiting: waiting.errback(make_error()))

    def _give_up(self, waiting: Deferred[_T]) -> None:
        self._waiting.pop(waiting, None)  # gone already while all are fired

    def _fire_all(self, tell: Callable[[Deferred[_T]], None]) -> None:
        taken, self._waiting = self._waiting, {}
        # Those that one of the others has cancelled are skipped.
        left = (waiting for waiting in taken if not waiting.called)
        if self._turns is not None:
            self._turns.each(left, tell)
        else:
            for waiting in left:
                tell(waiting)


def limit(waiting: Deferred[_T], seconds: float, clock: IReactorTime) -> Deferred[_T]:
    """Cancel ``waiting`` after so many seconds; it then fails with ``TimeoutError``.

    Time for which this process itself was stopped does not count.
    """
    timer: IDelayedCall | None

    def start(extensions: int) -> None:
        nonlocal timer
        timer = clock.callLater(seconds, expire, clock.seconds() + seconds, extensions)

    def expire(due: float, extensions: int) -> None:
        nonlocal timer
        timer = None
        if clock.seconds() - due > LATE and extensions:
            start(extensions - 1)
        else:
            waiting.cancel()

    def end(result: _T | Failure) -> _T | Failure:
        if timer is not None:
            timer.cancel()
        elif isinstance(result, Failure):
            raise TimeoutError(seconds, "Deferred")
        return result

    start(MOST_EXTENSIONS)
    return waiting.addBoth(end)


RetryDelay = Callable[[int], float]
"""The number of failures in a row, from 0, to the seconds to wait."""

retry_delay: RetryDelay = backoffPolicy(initialDelay=0.5, maxDelay=29.0, factor=1.5)
"""Delays that grow by half each time, with up to a second of jitter. A restart of tor takes about a
second; one that is back is noticed within half a minute."""
