"""How long to wait before the next try to get tor back."""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.application.internet import backoffPolicy

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
