"""Deadlines, and how long a stream may linger and idle."""

from __future__ import annotations

import gc
from collections.abc import Sequence
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

    def start(self, seconds: float, name: str = "it") -> None:
        self.deadline.start(seconds, lambda: self.expired.append(name))

    def test_expires_once(self) -> None:
        self.start(5)
        self.clock.advance(4.9)
        assert self.expired == []
        self.clock.advance(0.1)
        self.clock.advance(100)
        assert self.expired == ["it"]

    @pytest.mark.parametrize("seconds", [3, 8])
    def test_a_new_start_replaces_the_old_and_there_is_one_timer(self, seconds: int) -> None:
        self.start(5, "old")
        self.start(seconds, "new")
        assert len(self.clock.getDelayedCalls()) == 1
        self.clock.pump([1] * seconds)
        assert self.expired == ["new"]
        assert self.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("end", [Deadline.stop, lambda deadline: deadline.start(None, list)])
    def test_stopped_or_started_for_never_it_leaves_no_timer(self, end: Any) -> None:
        self.start(5)
        end(self.deadline)
        end(self.deadline)
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


@pytest.mark.parametrize(
    ("limits", "ended", "bytes_at", "over_at", "heard"),
    [
        # The client has ended: the remote may be silent for 30 s, and stay for five minutes.
        ({}, "client", [], 30, ["over"]),
        ({}, "client", [20, 40, 60, 80, 100], 130, ["over"]),
        # More was to come, which is not to look like its end; or it was silent for long enough.
        ({}, "client", range(10, 300, 10), 300, ["reset"]),
        ({}, "client", range(10, 280, 10), 300, ["over"]),
        # The remote has ended: the client may be silent for five minutes.
        ({}, "remote", [200, 400, 600, 800], 1100, ["over"]),
        ({"idle_timeout": 60}, "remote", [], 60, ["over"]),
        # Nobody has ended.
        ({"idle_timeout": 60}, None, [50, 100], 160, ["over"]),
    ],
)
def test_a_stream_ends_by_its_silence(
    limits: dict[str, Any],
    ended: str | None,
    bytes_at: Sequence[int],
    over_at: int,
    heard: list[str],
) -> None:
    stage = RelayStage(**limits).open()
    if not limits:
        stage.clock.advance(1000)  # which is allowed by default, while both sides are open
    start = stage.clock.seconds()
    say = stage.relay.client_data if ended == "remote" else stage.relay.data
    if ended == "client":
        stage.relay.client_eof()
    elif ended == "remote":
        stage.relay.eof()
        assert stage.heard.pop() == "remote eof"
    for time in bytes_at:
        stage.clock.advance(start + time - stage.clock.seconds())
        say(b"x")
    stage.clock.advance(start + over_at - 0.1 - stage.clock.seconds())
    assert stage.heard == []
    stage.clock.advance(0.11)
    assert stage.heard == heard
    assert stage.events[-1] == "close"
    assert stage.idle


def test_the_end_of_a_remote_that_lingers_comes_before_its_timeout() -> None:
    stage = RelayStage().open()
    stage.relay.client_eof()
    stage.relay.lost(True)
    assert stage.heard == ["over"]
    assert stage.idle


class TestSlowReaders:
    """A side that is not read from, because the other takes no more, is not silent."""

    @rows("S-03")
    @pytest.mark.parametrize("slow", ["client", "remote"])
    def test_one_that_reads_slowly_is_waited_for(self, slow: str) -> None:
        stage = RelayStage().open()
        stage.relay.client_eof()
        producer = (stage.transport if slow == "client" else stage.outbound).producer
        producer.pauseProducing()
        stage.clock.pump([29] * 5)
        assert stage.heard == []
        producer.resumeProducing()
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


def test_a_clock_that_nobody_has_takes_its_turns_with_it() -> None:
    clock = Clock()
    turns = turns_of(clock)
    clock.callLater(9, turns.later, list)
    assert turns_of(clock) is turns
    gone = ref(clock)
    del clock, turns
    gc.collect()
    assert gone() is None
