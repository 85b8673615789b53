"""Tasks from their start to their end, and the delays between tries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from torsocks_tx.backends.tor.supervision import (
    FIRST_DELAY,
    LONGEST_DELAY,
    SupervisedTask,
    retry_delay,
)


def fail_test(reason: str) -> None:
    raise AssertionError(reason)


def test_it_begins_and_is_stopped_where_it_waits() -> None:
    life, heard = SupervisedTask(Clock()), []

    async def live() -> None:
        life.begun()
        life.begun()
        try:
            await Deferred()
        except CancelledError:
            heard.append("cancelled")
            raise

    started = life.start(live(), fail_test)
    assert started.called
    assert life.has_begun
    life.stop()
    assert heard == ["cancelled"]
    life.stop()
    assert life.start(live(), fail_test).called


def test_it_runs_once_at_a_time() -> None:
    life, waiting = SupervisedTask(Clock()), Deferred()

    async def live() -> None:
        await waiting

    life.start(live(), fail_test)
    with pytest.raises(RuntimeError, match="was started before"):
        life.start(live(), fail_test)
    life.stop()


def test_a_stop_ends_a_start_that_waits() -> None:
    life, waiting = SupervisedTask(Clock()), Deferred()

    async def live() -> None:
        await waiting

    started = life.start(live(), fail_test)
    assert not life.has_begun
    life.stop()
    assert started.result is None


def test_what_goes_wrong_before_it_has_begun_fails_the_start() -> None:
    life = SupervisedTask(Clock())

    async def live() -> None:
        raise KeyError("x")

    failures: list[Any] = []
    life.start(live(), fail_test).addErrback(failures.append)
    assert failures[0].check(KeyError)


def test_what_goes_wrong_later_is_logged_and_told(logged_failures: list[LogEvent]) -> None:
    life, heard = SupervisedTask(Clock()), []

    async def live() -> None:
        life.begun()
        raise KeyError("x")

    life.start(live(), heard.append)
    assert heard == ["tor is not followed any more"]
    assert logged_failures.pop()["log_failure"].check(KeyError)
    assert logged_failures == []


@pytest.mark.parametrize("turns", [1, 2])
def test_it_may_be_stopped_from_within(turns: int) -> None:
    clock = Clock()
    life, waiting = SupervisedTask(clock), Deferred()
    went_on: list[int] = []

    async def live() -> None:
        life.begun()
        life.stop()
        went_on.append(1)
        await waiting
        went_on.append(2)

    life.start(live(), fail_test)
    for _ in range(turns):
        clock.advance(0)
    waiting.callback(None)
    assert went_on == [1]


def test_delays_grow_to_their_longest() -> None:
    delays = retry_delay(lambda: 0.0)
    seconds = [delays(failures) for failures in range(20)]
    assert seconds[0] == FIRST_DELAY
    assert seconds == sorted(seconds)
    assert seconds[1] > seconds[0]
    assert seconds[-1] == LONGEST_DELAY - 1


@given(st.integers(0, 10**9), st.floats(0, 1))
def test_no_delay_is_too_long_or_none(failures: int, fraction: float) -> None:
    assert FIRST_DELAY <= retry_delay(lambda: fraction)(failures) <= LONGEST_DELAY


def test_jitter_is_on_by_default() -> None:
    delays = retry_delay()
    assert len({delays(0) for _ in range(20)}) > 1
