"""Deadlines of one length: who is told, when, and by how many timers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from tests.support.rows import rows
from torsocks_tx.fastpath.waits import Waits


class Told:
    """Waits of ten seconds, and who was told when."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.heard: list[tuple[str, float]] = []
        self.then: Callable[[str], object] = lambda _: None
        self.waits = Waits(self.clock, 10.0, self._tell)

    def _tell(self, one: str) -> None:
        self.heard.append((one, self.clock.seconds()))
        self.then(one)

    @property
    def timers(self) -> list[float]:
        return [call.getTime() for call in self.clock.getDelayedCalls()]


@pytest.fixture
def told() -> Told:
    return Told()


@rows("R-30")
class TestWaits:
    def test_one_timer_tells_all_in_order(self, told: Told) -> None:
        for one in ("a", "b", "c"):
            told.waits.add(one)
            assert told.timers == [10.0]
            told.clock.advance(1)
        told.clock.advance(20)
        assert [one for one, _ in told.heard] == ["a", "b", "c"]
        assert told.timers == []

    def test_each_is_told_at_its_own_time(self, told: Told) -> None:
        for one in ("a", "b", "c"):
            told.waits.add(one)
            told.clock.advance(1)
        for _ in range(20):
            told.clock.advance(0.5)
        assert told.heard == [("a", 10.0), ("b", 11.0), ("c", 12.0)]

    def test_without_anybody_there_is_no_timer(self, told: Told) -> None:
        told.waits.add("a")
        told.waits.add("b")
        told.waits.drop("a")
        assert told.timers == [10.0]
        told.waits.drop("b")
        assert told.timers == []
        told.clock.advance(5)
        told.waits.add("c")
        assert told.timers == [15.0]

    def test_the_timer_of_one_that_was_dropped_is_for_the_next(self, told: Told) -> None:
        told.waits.add("a")
        told.clock.advance(4)
        told.waits.add("b")
        told.waits.drop("a")
        told.clock.advance(6)
        assert told.heard == []
        assert told.timers == [14.0]
        told.clock.advance(4)
        assert told.heard == [("b", 14.0)]

    def test_dropping_says_what_was_left(self, told: Told) -> None:
        told.waits.add("a")
        told.clock.advance(4)
        assert told.waits.drop("a") == 6.0
        told.waits.add("a")
        assert told.waits.drop("a") == 10.0

    def test_nothing_is_left_to_one_that_is_due(self, told: Told) -> None:
        left = []
        told.then = lambda one: left.append(told.waits.drop(one))
        told.waits.add("a")
        told.clock.advance(25)
        assert left == [0.0]
        assert told.timers == []

    def test_one_that_is_told_may_drop_others(self, told: Told) -> None:
        told.then = lambda one: told.waits.drop("b") if one == "a" else None
        for one in ("a", "b", "c"):
            told.waits.add(one)
        told.clock.advance(10)
        assert [one for one, _ in told.heard] == ["a", "c"]
        assert told.timers == []

    def test_the_last_that_is_told_may_drop_the_last_that_is_not(self, told: Told) -> None:
        told.waits.add("a")
        told.clock.advance(5)
        told.waits.add("b")
        told.then = lambda _: (told.waits.drop("a"), told.waits.drop("b"))
        told.clock.advance(5)
        assert told.timers == []

    def test_one_that_is_told_may_add_others(self, told: Told) -> None:
        told.then = lambda one: told.waits.add("new") if one == "a" else None
        told.waits.add("a")
        told.clock.advance(5)
        told.waits.add("b")
        told.clock.advance(5)
        assert told.timers == [15.0]
        told.clock.advance(5)
        assert told.timers == [20.0]
        told.clock.advance(5)
        assert told.heard == [("a", 10.0), ("b", 15.0), ("new", 20.0)]
        assert told.timers == []

    def test_and_itself(self, told: Told) -> None:
        def again(one: str) -> None:
            told.waits.drop(one)
            if len(told.heard) == 1:
                told.waits.add(one)

        told.then = again
        told.waits.add("a")
        told.clock.advance(10)
        told.clock.advance(10)
        assert told.heard == [("a", 10.0), ("a", 20.0)]
        assert told.timers == []

    def test_a_fault_of_one_is_nothing_to_the_others(
        self, told: Told, logged_failures: list[LogEvent]
    ) -> None:
        def fail(one: str) -> None:
            if one == "a":
                raise ZeroDivisionError

        told.then = fail
        told.waits.add("a")
        told.waits.add("b")
        told.clock.advance(5)
        told.waits.add("c")
        told.clock.advance(5)
        told.clock.advance(5)
        assert [one for one, _ in told.heard] == ["a", "b", "c"]
        assert told.timers == []
        [event] = logged_failures
        assert event["log_failure"].check(ZeroDivisionError)
        logged_failures.clear()
