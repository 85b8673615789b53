"""Deadlines, and how long a stream may linger and idle."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any
from unittest.mock import Mock
from weakref import ref

import pytest
from twisted.internet.task import Clock

from tests.support.clocks import TurnClock
from tests.support.relaying import RelayStage
from tests.support.rows import rows
from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.relay.timeouts import WORK, Deadline, turns_of
from torsocks_tx.server.connections import ConnectionLimiter


class TestDeadline:
    def setup_method(self) -> None:
        self.clock = Clock()
        self.deadline = Deadline(self.clock)
        self.expired: list[str] = []

    def start(self, seconds: float | None, name: str = "it") -> None:
        self.deadline.start(seconds, lambda: self.expired.append(name))

    def test_expires_once(self) -> None:
        self.start(5)
        self.clock.advance(4.9)
        assert self.expired == []
        self.clock.advance(0.1)
        self.clock.advance(100)
        assert self.expired == ["it"]

    def test_a_new_start_replaces_the_old(self) -> None:
        self.start(5, "old")
        self.start(10, "new")
        self.clock.advance(50)
        assert self.expired == ["new"]

    def test_stopped_it_leaves_no_timer(self) -> None:
        self.start(5)
        self.deadline.stop()
        self.deadline.stop()
        assert self.clock.getDelayedCalls() == []

    def test_a_later_start_keeps_the_timer(self) -> None:
        self.start(5, "old")
        self.start(8, "new")
        assert len(self.clock.getDelayedCalls()) == 1
        self.clock.advance(5)
        assert self.expired == []
        self.clock.advance(3)
        assert self.expired == ["new"]
        assert self.clock.getDelayedCalls() == []

    def test_none_is_never(self) -> None:
        self.start(5)
        self.start(None)
        assert self.clock.getDelayedCalls() == []

    def test_may_be_started_again_as_it_expires(self) -> None:
        self.deadline.start(5, lambda: self.start(5))
        self.clock.advance(5)
        self.clock.advance(5)
        assert self.expired == ["it"]


class TestTurns:
    """What thousands wait for, in a reactor whose clock counts each look at it."""

    COST = WORK / 10

    def setup_method(self) -> None:
        self.clock = TurnClock()
        self.turns = turns_of(self.clock)
        self.told: list[int] = []

    def tell(self, number: int) -> None:
        self.told.append(number)
        self.clock.rightNow += self.COST

    def portions(self) -> list[int]:
        """Make all turns; return how many were told in each."""
        portions, before = [], len(self.told)
        while self.clock.turn():
            portions.append(len(self.told) - before)
            before = len(self.told)
        return portions

    def test_deadlines_that_fall_together_end_in_several_turns(self) -> None:
        deadlines = [Deadline(self.clock) for _ in range(100)]
        for number, deadline in enumerate(deadlines):
            deadline.start(5, partial(self.tell, number))
        self.clock.rightNow += 5
        deadlines[98].start(50, partial(self.tell, 998))
        assert self.clock.turn()
        assert 0 < len(self.told) < 12
        # They wait for a turn: what is done to them counts all the same.
        deadlines[97].stop()
        deadlines[98].start(50, partial(self.tell, 998))
        deadlines[99].stop()
        deadlines[99].start(50, partial(self.tell, 999))
        assert max(self.portions()) < 12
        assert sorted(self.told) == [*range(97)]
        self.clock.advance(51)
        self.portions()
        assert sorted(self.told[97:]) == [998, 999]

    def test_all_kinds_of_work_share_the_time_of_a_turn(self) -> None:
        waiters: Waiters[None] = Waiters(self.clock)
        limiter = ConnectionLimiter(clock=self.clock)
        for number in range(100):
            waiters.wait().addCallback(lambda _, number=number: self.tell(number))
            Deadline(self.clock).start(0, partial(self.tell, number))
            limiter.serve(Mock(network=None), partial(self.tell, number))
        waiters.fire(None)
        portions = self.portions()
        assert sorted(self.told) == sorted([*range(100)] * 3)
        assert max(portions) < 12

    def test_a_turn_that_somebody_cancelled_keeps_no_later_one(self) -> None:
        """trial cancels what a test has left in the reactor."""
        self.turns.later(partial(self.tell, 1))
        self.clock.getDelayedCalls()[0].cancel()
        self.turns.later(partial(self.tell, 2))
        self.portions()
        assert self.told == [1, 2]

    def test_one_that_raises_keeps_no_other(self) -> None:
        def fail() -> None:
            raise RuntimeError

        self.turns.later(fail)
        self.turns.later(partial(self.tell, 1))
        with pytest.raises(RuntimeError):
            self.clock.turn()
        self.clock.turn()
        assert self.told == [1]


class TestLinger:
    def lingering(self, **limits: Any) -> RelayStage:
        stage = RelayStage(**limits).open()
        stage.clock.advance(1000)
        stage.relay.client_eof()
        return stage

    def test_thirty_silent_seconds_are_the_end(self) -> None:
        stage = self.lingering()
        stage.clock.advance(29.9)
        assert stage.heard == []
        stage.clock.advance(0.1)
        assert stage.events == ["lose_write", "close"]
        assert stage.heard == ["over"]
        assert stage.idle

    def trickle(self, stage: RelayStage, count: int) -> None:
        """Let a byte come every ten seconds."""
        for _ in range(count):
            stage.clock.advance(10)
            stage.relay.data(b"x")

    def test_each_byte_of_the_far_end_starts_them_again(self) -> None:
        stage = self.lingering()
        for _ in range(5):
            stage.clock.advance(20)
            stage.relay.data(b"x")
        stage.clock.advance(29.9)
        assert stage.heard == []
        stage.clock.advance(0.1)
        assert stage.heard == ["over"]

    def test_five_minutes_are_the_end_in_any_case(self) -> None:
        stage = self.lingering()
        self.trickle(stage, 29)
        stage.clock.advance(9.9)
        assert stage.heard == []
        stage.clock.advance(0.1)
        # More was to come: that is not to look like its end.
        assert stage.heard == ["reset"]
        assert stage.idle

    def test_one_that_was_silent_for_long_enough_by_then_is_complete(self) -> None:
        stage = self.lingering(linger_timeout=30, linger_limit=300)
        self.trickle(stage, 27)
        stage.clock.advance(29.9)
        assert stage.heard == []
        stage.clock.advance(0.1)
        assert stage.heard == ["over"]

    def test_the_far_ends_end_comes_before(self) -> None:
        stage = self.lingering()
        stage.relay.lost(True)
        assert stage.heard == ["over"]
        assert stage.idle


class TestIdle:
    def test_off_by_default(self) -> None:
        assert RelayStage().open().idle

    def test_silence_both_ways_is_the_end(self) -> None:
        stage = RelayStage(idle_timeout=60).open()
        stage.clock.advance(50)
        stage.relay.client_data(b"x")
        stage.clock.advance(50)
        stage.relay.data(b"x")
        stage.clock.advance(59.9)
        assert stage.heard == []
        stage.clock.advance(0.1)
        assert stage.heard == ["over"]
        assert stage.events == ["close"]
        assert stage.idle

    def test_a_half_closed_stream_is_watched_too(self) -> None:
        stage = RelayStage(idle_timeout=60).open()
        stage.relay.eof()
        stage.clock.advance(60)
        assert stage.heard == ["remote eof", "over"]

    def test_after_the_far_ends_fin_five_silent_minutes_are_the_end(self) -> None:
        stage = RelayStage().open()
        stage.clock.advance(1000)
        stage.relay.eof()
        for _ in range(4):
            stage.clock.advance(200)
            stage.relay.client_data(b"x")
        stage.clock.advance(299.9)
        assert stage.heard == ["remote eof"]
        stage.clock.advance(0.1)
        assert stage.heard == ["remote eof", "over"]
        assert stage.idle


class TestSlowReaders:
    """A side that is not read from, because the other takes no more, is not silent."""

    @rows("S-03")
    def test_a_client_that_reads_slowly_is_waited_for(self) -> None:
        stage = RelayStage().open()
        stage.relay.client_eof()
        stage.transport.producer.pauseProducing()
        stage.clock.pump([29] * 5)
        assert stage.heard == []
        stage.transport.producer.resumeProducing()
        stage.relay.data(b"more")
        stage.clock.advance(29)
        assert stage.heard == []
        stage.clock.advance(1.1)
        assert stage.heard == ["over"]

    def test_but_not_for_ever_and_then_it_is_told(self) -> None:
        stage = RelayStage().open()
        stage.relay.client_eof()
        stage.transport.producer.pauseProducing()
        stage.clock.pump([29] * 11)
        assert stage.heard == ["reset"]

    def test_an_upload_that_is_stuck_is_waited_for(self) -> None:
        stage = RelayStage().open()
        stage.relay.client_eof()
        stage.outbound.producer.pauseProducing()
        stage.clock.pump([29] * 5)
        assert stage.heard == []


def test_a_clock_that_nobody_has_takes_its_turns_with_it() -> None:
    clock = Clock()
    turns = turns_of(clock)
    clock.callLater(9, turns.later, list)
    assert turns_of(clock) is turns
    gone = ref(clock)
    del clock, turns
    gc.collect()
    assert gone() is None
