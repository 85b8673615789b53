"""Who hears of which event, and what a fault of one does to the others."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from torsocks_tx.fastpath.poller import MOST, Poller

READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class Ear:
    """A watcher of one end of a socket pair."""

    def __init__(self, poller: Poller, *, watched: bool = True) -> None:
        self.poller = poller
        self.near, self.far = socket.socketpair()
        self.number = self.near.fileno()
        self.heard: list[int] = []
        self.resets = 0
        self.then: Callable[[], object] = lambda: None
        self.at_reset: Callable[[], object] = lambda: None
        if watched:
            poller.watch(self.number, self, READ)

    def ready(self, number: int, events: int) -> None:
        assert number == self.number
        self.heard.append(events)
        self.then()

    def reset(self) -> None:
        self.resets += 1
        self.at_reset()

    def close(self) -> None:
        """End it, as a connection is ended."""
        self.poller.forget(self.number)
        self.near.close()
        self.far.close()


class Ears:
    """A poller, and all that listen to it."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.poller = Poller(self.reactor)
        self.all: list[Ear] = []

    def ear(self) -> Ear:
        self.all.append(Ear(self.poller))
        return self.all[-1]

    @property
    def is_reader(self) -> bool:
        return self.poller in self.reactor.getReaders()

    @property
    def is_ready(self) -> bool:
        return bool(select.select([self.poller], [], [], 0)[0])


@pytest.fixture
def ears() -> Iterator[Ears]:
    ears = Ears()
    yield ears
    for ear in ears.all:
        ear.close()
    assert not ears.is_reader


def fail() -> None:
    raise ZeroDivisionError


def test_it_is_what_a_reactor_reads(ears: Ears) -> None:
    assert verifyObject(IReadWriteDescriptor, ears.poller)
    assert ears.poller.logPrefix() == "Poller"
    ears.poller.connectionLost(Failure(ConnectionDone()))


def test_the_reactor_reads_it_while_anybody_is_watched(ears: Ears) -> None:
    assert not ears.is_reader
    first, second = ears.ear(), ears.ear()
    assert ears.is_reader
    first.close()
    assert ears.is_reader
    ears.poller.forget(second.number)
    assert not ears.is_reader
    ears.poller.watch(second.number, second, READ)
    assert ears.is_reader


def test_an_event_is_told_once_to_whom_it_concerns(ears: Ears) -> None:
    one, other = ears.ear(), ears.ear()
    one.far.send(b"x")
    assert ears.is_ready
    ears.poller.doRead()
    ears.poller.doRead()
    assert one.heard == [select.EPOLLIN]
    assert other.heard == []
    assert not ears.is_ready


def test_what_was_there_before_is_told_too(ears: Ears) -> None:
    ear = Ear(ears.poller, watched=False)
    ears.all.append(ear)
    ear.far.send(b"x")
    ears.poller.watch(ear.number, ear, READ)
    ears.poller.doRead()
    assert ear.heard == [select.EPOLLIN]


def test_forgotten_it_hears_no_more(ears: Ears) -> None:
    ear = ears.ear()
    ear.far.send(b"x")
    ears.poller.forget(ear.number)
    ears.poller.doRead()
    assert ear.heard == []


def test_more_than_one_turn_takes_is_left_for_the_next(ears: Ears) -> None:
    many = [ears.ear() for _ in range(MOST + 3)]
    for ear in many:
        ear.far.send(b"x")
    ears.poller.doRead()
    assert sum(len(ear.heard) for ear in many) == MOST
    assert ears.is_ready
    ears.poller.doRead()
    assert [len(ear.heard) for ear in many] == [1] * len(many)


def test_an_event_is_not_for_whoever_has_the_number_next(ears: Ears) -> None:
    one, other = ears.ear(), ears.ear()
    heirs: list[Ear] = []

    def succeed(dead: Ear) -> None:
        """Close another one, whose event is there, and be given its number anew."""
        if heirs:
            return
        number = dead.number
        dead.close()
        heir = Ear(ears.poller, watched=False)
        if heir.number != number:
            os.dup2(heir.near.fileno(), number)
            heir.near.close()
            heir.near = socket.socket(fileno=number)
            heir.number = number
        ears.poller.watch(number, heir, READ)
        ears.all.append(heir)
        ears.all.remove(dead)
        heirs.append(heir)

    one.then = lambda: succeed(other)
    other.then = lambda: succeed(one)
    one.far.send(b"x")
    other.far.send(b"x")
    ears.poller.doRead()
    [heir] = heirs
    assert heir.heard == []
    assert len(one.heard) + len(other.heard) == 1
    heir.far.send(b"y")
    ears.poller.doRead()
    assert heir.heard == [select.EPOLLIN]


def test_one_that_another_has_closed_hears_nothing(ears: Ears) -> None:
    one, other = ears.ear(), ears.ear()
    one.then, other.then = (lambda: other.close()), (lambda: one.close())
    for ear in (one, other):
        ear.far.send(b"x")
    ears.poller.doRead()
    assert len(one.heard) + len(other.heard) == 1


def test_a_fault_of_one_is_nothing_to_the_others(
    ears: Ears, logged_failures: list[LogEvent]
) -> None:
    bad, worse, good = ears.ear(), ears.ear(), ears.ear()
    bad.then = worse.then = worse.at_reset = fail
    for ear in (bad, worse, good):
        ear.far.send(b"x")
    ears.poller.doRead()
    assert (bad.resets, worse.resets, good.resets) == (1, 1, 0)
    assert good.heard == [select.EPOLLIN]
    # The fault of each, and that of a reset.
    assert [event["log_failure"].type for event in logged_failures] == [ZeroDivisionError] * 3
    logged_failures.clear()
    good.far.send(b"y")
    ears.poller.doRead()
    assert len(good.heard) == 2


def test_one_that_cannot_be_watched_is_not(ears: Ears) -> None:
    ear = Ear(ears.poller, watched=False)
    with open(os.devnull) as plain_file, pytest.raises(PermissionError):
        ears.poller.watch(plain_file.fileno(), ear, READ)
    assert not ears.is_reader
    # Nor does it do harm that it is forgotten.
    ear.close()
