"""Timeouts of a process that may stand still."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import Clock

from torsocks_tx.backends.tor.stalls import MOST_EXTENSIONS, limit


@pytest.fixture
def play() -> tuple[Clock, Deferred[str], list[Any]]:
    clock, heard = Clock(), []
    waiting: Deferred[str] = Deferred()
    limit(waiting, 1.0, clock).addBoth(heard.append)
    return clock, waiting, heard


Play = tuple[Clock, Deferred[str], list[Any]]


def test_in_time(play: Play) -> None:
    clock, waiting, heard = play
    waiting.callback("answer")
    assert heard == ["answer"]
    assert clock.getDelayedCalls() == []


def test_too_late(play: Play) -> None:
    clock, _, heard = play
    clock.advance(1)
    assert heard[0].check(TimeoutError)
    assert clock.getDelayedCalls() == []


def test_time_that_we_stood_still_does_not_count(play: Play) -> None:
    clock, waiting, heard = play
    clock.advance(3)
    assert heard == []
    waiting.callback("answer that was there all along")
    assert len(heard) == 1
    assert clock.getDelayedCalls() == []


def test_but_not_for_ever(play: Play) -> None:
    clock, _, heard = play
    for _ in range(MOST_EXTENSIONS + 1):
        clock.advance(3)
    assert heard[0].check(TimeoutError)


def test_who_gives_up_is_not_told_of_a_timeout(play: Play) -> None:
    clock, waiting, heard = play
    waiting.cancel()
    assert heard[0].check(CancelledError)
    assert clock.getDelayedCalls() == []
