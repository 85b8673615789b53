"""Tasks that are started, watched and stopped; and how long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

FIRST_DELAY = 0.5
"""Seconds before the second try: a restart of tor takes about one."""

LONGEST_DELAY = 30.0
"""Seconds between tries at most, so that a tor that is back is noticed within half a minute."""

_FACTOR = 1.5
_MOST_JITTER = 1.0

RetryDelay = Callable[[int], float]
"""The number of failures in a row, from 0, to the seconds to wait."""


def retry_delay(random_fraction: Callable[[], float] = random.random) -> RetryDelay:
    """Return delays that grow by half each time, with up to a second of jitter."""
    policy: RetryDelay = backoffPolicy(
        initialDelay=FIRST_DELAY,
        maxDelay=LONGEST_DELAY - _MOST_JITTER,
        factor=_FACTOR,
        jitter=lambda: random_fraction() * _MOST_JITTER,
    )
    return policy


class SupervisedTask:
    """Runs a coroutine that calls ``begun`` once it has got so far that the start has succeeded."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._started: Deferred[None] = succeed(None)
        self._running: Deferred[None] = succeed(None)
        self._coroutine: Coroutine[Any, Any, None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the start has succeeded, or has ended otherwise."""
        return self._started.called

    def start(
        self, coroutine: Coroutine[Any, Any, None], on_failure: Callable[[str], None]
    ) -> Deferred[None]:
        """Run it; fires when it has begun, and fails with what it raises before that.

        What it raises later is a fault of ours: it is logged, and ``on_failure`` is told.
        """
        if not self._running.called:
            coroutine.close()
            raise RuntimeError("this was started before and has not ended")
        started = self._started = Deferred()
        self._coroutine = coroutine
        self._running = Deferred.fromCoroutine(coroutine)
        self._running.addErrback(self._ended, on_failure)
        return started

    def begun(self) -> None:
        """Fire what ``start`` has returned, if that is not done yet."""
        if not self._started.called:
            self._started.callback(None)

    def stop(self) -> None:
        """Cancel the coroutine where it waits; a start that still waits fires.

        It may be what calls this, by way of those that it has told something: then it is cancelled
        when it waits next, because a coroutine that runs cannot be cancelled.
        """
        if self._coroutine is not None and getcoroutinestate(self._coroutine) == CORO_RUNNING:
            self._clock.callLater(0, self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        self._running.cancel()

    def _ended(self, failure: Failure, on_failure: Callable[[str], None]) -> None:
        if failure.check(CancelledError):
            self.begun()
        elif not self._started.called:
            self._started.errback(failure)
        else:
            self._log.failure("what follows tor has failed", failure)
            on_failure("tor is not followed any more")
