"""Many who wait for one thing, timeouts, and delays."""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.support.clocks import TurnClock
from torsocks_tx.backends.tor.waiting import MOST_EXTENSIONS, Waiters, limit, retry_delay
from torsocks_tx.relay.timeouts import WORK


def test_all_that_wait_get_it_and_later_ones_do_not() -> None:
    waiters: Waiters[int] = Waiters()
    got: list[int] = []
    for _ in range(2):
        waiters.wait().addCallback(got.append)
    waiters.fire(7)
    assert got == [7, 7]
    later = waiters.wait()
    waiters.fire(8)
    waiters.fire(9)
    assert later.result == 8


def test_each_gets_an_error_of_its_own() -> None:
    waiters: Waiters[int] = Waiters()
    errors: list[BaseException] = []
    for _ in range(2):
        waiters.wait().addErrback(lambda failure: errors.append(failure.value))
    waiters.fail(lambda: KeyError("x"))
    assert [type(error) for error in errors] == [KeyError, KeyError]
    assert errors[0] is not errors[1]


@pytest.mark.parametrize("result", [7, Failure(KeyError("x"))])
def test_what_is_settled_is_given_to_whoever_comes_later(result: Any) -> None:
    waiters: Waiters[int] = Waiters()
    got: list[Any] = []
    waiters.wait().addBoth(got.append)
    assert not waiters.is_settled
    waiters.settle(result)
    assert waiters.is_settled
    waiters.wait().addBoth(got.append)
    assert got == [result, result]


@pytest.mark.parametrize("failing", [False, True])
def test_one_may_cancel_itself_and_another(failing: bool) -> None:
    waiters: Waiters[int] = Waiters()
    first, second, third = (waiters.wait() for _ in range(3))
    heard: list[str] = []
    first.addBoth(lambda _: (heard.append("first"), second.cancel()))
    second.addErrback(lambda failure: heard.append(failure.type.__name__))
    third.addErrback(lambda failure: heard.append(failure.type.__name__))
    third.cancel()
    if failing:
        waiters.fail(lambda: KeyError("x"))
    else:
        waiters.fire(7)
    assert heard == [CancelledError.__name__, "first", CancelledError.__name__]


def test_leaving_takes_constant_time() -> None:
    """50,000 clients that left while tor started once took a minute: each was searched for."""
    waiters: Waiters[int] = Waiters()
    left = [waiters.wait().addErrback(lambda failure: None) for _ in range(50_000)]
    began = process_time()
    for waiting in reversed(left):
        waiting.cancel()
    assert process_time() - began < 5


def test_telling_many_takes_several_turns_of_the_reactor() -> None:
    clock, told = TurnClock(tick=WORK / 10), []
    waiters: Waiters[int] = Waiters(clock)
    many = [waiters.wait() for _ in range(100)]
    for waiting in many:
        waiting.addCallbacks(told.append, lambda failure: None)
    waiters.fire(7)
    many[-1].cancel()
    waiters.wait().addCallback(told.append)  # for what is fired later
    before = 0
    while told[before:]:
        assert len(told) - before <= 11
        before = len(told)
        clock.turn()
    assert told == [7] * 99


@pytest.fixture
def play() -> tuple[Clock, Deferred[str], list[Any]]:
    clock, heard = Clock(), []
    waiting: Deferred[str] = Deferred()
    limit(waiting, 1.0, clock).addBoth(heard.append)
    return clock, waiting, heard


Play = tuple[Clock, Deferred[str], list[Any]]


def test_an_answer_in_time_ends_the_timer(play: Play) -> None:
    clock, waiting, heard = play
    waiting.callback("answer")
    assert heard == ["answer"]
    assert clock.getDelayedCalls() == []


def test_time_for_which_this_process_was_stopped_does_not_count(play: Play) -> None:
    clock, waiting, heard = play
    clock.advance(3)
    assert heard == []
    waiting.callback("answer that was there all along")
    assert len(heard) == 1
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("steps", [[1], [3] * (MOST_EXTENSIONS + 1)], ids=["once", "stopped"])
def test_a_late_answer_is_a_timeout_even_if_this_process_is_stopped_again_and_again(
    play: Play, steps: list[float]
) -> None:
    clock, _, heard = play
    clock.pump(steps)
    assert heard[0].check(TimeoutError)
    assert clock.getDelayedCalls() == []


def test_cancelling_is_no_timeout(play: Play) -> None:
    clock, waiting, heard = play
    waiting.cancel()
    assert heard[0].check(CancelledError)
    assert clock.getDelayedCalls() == []


def test_delays_grow_to_half_a_minute_each_with_jitter() -> None:
    assert len({retry_delay(0) for _ in range(20)}) > 1
    for failures, shortest in ((0, 0.5), (1, 0.75), (2, 1.125), (20, 29), (10**9, 29)):
        assert shortest <= retry_delay(failures) <= shortest + 1
