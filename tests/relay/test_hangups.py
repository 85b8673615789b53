"""Who hangs up on a paused transport is heard; who sends more is not."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.relay.test_sockets import End
from torsocks_tx.relay.hangups import HangupWatcher, watcher_of

LOST = Failure(ConnectionDone())


class Watched:
    """Some ends of socket pairs that one watcher watches; ``heard`` are the numbers of those."""

    def __init__(self, count: int) -> None:
        self.reactor = MemoryReactorClock()
        self.reactor.running = True
        self.watcher = HangupWatcher(self.reactor)
        self.ends = [End() for _ in range(count)]
        self.heard: list[int] = []
        self.then: Callable[[], object] = lambda: None
        for number, end in enumerate(self.ends):
            self.watcher.watch(end.transport.fileno(), lambda number=number: self.hear(number))

    def hear(self, number: int) -> None:
        self.heard.append(number)
        self.then()

    @property
    def is_ready(self) -> bool:
        return self.watcher.fileno() != -1 and bool(select.select([self.watcher], [], [], 0)[0])


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched(2)
    yield watched
    for end in watched.ends:
        watched.watcher.forget(end.transport.fileno())
        end.close()
    assert watched.watcher.fileno() == -1
    assert watched.reactor.getReaders() == []


def test_a_watcher_is_what_a_reactor_reads(watched: Watched) -> None:
    assert verifyObject(IReadWriteDescriptor, watched.watcher)
    assert watched.watcher in watched.reactor.getReaders()
    assert watched.watcher.logPrefix() == "HangupWatcher"


def test_a_reactor_has_one_while_anything_is_watched(watched: Watched) -> None:
    assert watcher_of(watched.reactor) is watcher_of(watched.reactor)


def test_an_end_is_told_once_and_only_to_whom_it_concerns(watched: Watched) -> None:
    assert not watched.is_ready
    watched.ends[1].far.close()
    assert watched.is_ready
    watched.watcher.doRead()
    watched.watcher.doRead()
    assert watched.heard == [1]


def test_more_bytes_are_not_told(watched: Watched) -> None:
    watched.ends[0].far.send(b"more")
    assert not watched.is_ready
    watched.watcher.doRead()
    assert watched.heard == []


def test_events_of_other_descriptors_change_nothing(watched: Watched) -> None:
    watched.watcher.doRead()
    watched.watcher.doWrite()
    watched.reactor.removeReader(watched.watcher)
    watched.watcher.connectionLost(LOST)
    assert watched.watcher in watched.reactor.getReaders()
    watched.ends[0].far.close()
    watched.watcher.doRead()
    assert watched.heard == [0]


def test_one_that_is_forgotten_while_others_are_told_is_not_told(watched: Watched) -> None:
    for end in watched.ends:
        end.far.close()
    watched.then = lambda: [watched.watcher.forget(end.transport.fileno()) for end in watched.ends]
    watched.watcher.doRead()
    assert len(watched.heard) == 1


def test_a_number_that_is_used_again_while_others_are_told_is_anothers(watched: Watched) -> None:
    for end in watched.ends:
        end.far.close()
    again: list[str] = []

    def use_again() -> None:
        for end in watched.ends:
            watched.watcher.forget(end.transport.fileno())
            watched.watcher.watch(end.transport.fileno(), lambda: again.append("told"))

    watched.then = use_again
    watched.watcher.doRead()
    assert len(watched.heard) == 1
    assert again == []


def test_one_that_was_taken_out_of_the_reactor_comes_back_with_the_next(watched: Watched) -> None:
    """trial takes all that a test has left out of the reactor, and tells nobody."""
    watched.reactor.removeReader(watched.watcher)
    end = End()
    watched.ends.append(end)
    watched.watcher.watch(end.transport.fileno(), lambda: watched.hear(2))
    assert watched.watcher in watched.reactor.getReaders()


def test_with_the_reactor_it_ends(watched: Watched) -> None:
    watched.reactor.running = False
    watched.watcher.connectionLost(LOST)
    assert watched.watcher.fileno() == -1
    for event in (watched.watcher.doRead, watched.watcher.doWrite):
        event()
    assert watched.heard == []


@pytest.mark.parametrize("lack", ["room", "descriptors", "epoll"])
def test_where_it_is_not_possible_nothing_is_watched(
    lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """The epoll of a user who may watch no more."""

        closed = False

        def register(self, *_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self) -> int:
            return 0

        def close(self) -> None:
            self.closed = True

    def none_left() -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    full = Full()
    if lack == "epoll":
        monkeypatch.delattr(select, "epoll")
    else:
        made = none_left if lack == "descriptors" else lambda: full
        monkeypatch.setattr(select, "epoll", made)
    watched = Watched(1)
    assert watched.watcher.fileno() == -1
    assert watched.reactor.getReaders() == []
    assert full.closed == (lack == "room")
    watched.ends[0].close()
