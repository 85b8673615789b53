"""Who hangs up on a paused transport is heard; who sends more is not."""

from __future__ import annotations

import errno
import os
import select
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.relay.test_sockets import End
from tests.support.transports import FakeTransport
from torsocks_tx.relay.hangups import Hangup


class Listening:
    """A hang-up watch on one end of a socket pair."""

    def __init__(self) -> None:
        self.end = End()
        self.told = 0
        hangup = Hangup.watch(self.end.transport, self.tell)
        assert hangup is not None
        self.hangup: Any = hangup

    def tell(self) -> None:
        self.told += 1

    @property
    def is_ready(self) -> bool:
        return bool(select.select([self.hangup], [], [], 0)[0])


def test_it_is_what_a_reactor_reads() -> None:
    listening = Listening()
    assert verifyObject(IReadWriteDescriptor, listening.hangup)
    assert listening.hangup in listening.end.reactor.getReaders()
    assert listening.hangup.logPrefix() == "Hangup"
    listening.hangup.stop()
    listening.end.close()


def test_an_end_is_told_once() -> None:
    listening = Listening()
    assert not listening.is_ready
    listening.end.far.close()
    assert listening.is_ready
    listening.hangup.doRead()
    assert listening.told == 1
    assert listening.hangup not in listening.end.reactor.getReaders()
    listening.end.close()


def test_bytes_are_not() -> None:
    listening = Listening()
    listening.end.far.send(b"more")
    assert not listening.is_ready
    listening.hangup.stop()
    listening.end.close()


def test_events_of_another_descriptor_change_nothing() -> None:
    listening = Listening()
    hangup = listening.hangup
    assert hangup.doRead() is None
    assert hangup.doWrite() is None
    assert listening.told == 0
    assert hangup in listening.end.reactor.getReaders()
    hangup.stop()
    for event in (hangup.stop, hangup.doRead, hangup.doWrite):
        assert event() is None
    hangup.connectionLost(Failure(ConnectionDone()))
    assert hangup.fileno() == -1
    assert listening.told == 0
    assert hangup not in listening.end.reactor.getReaders()
    listening.end.close()


def test_with_the_reactor_it_ends() -> None:
    listening = Listening()
    listening.hangup.connectionLost(Failure(ConnectionDone()))
    assert listening.told == 0
    listening.end.close()


def test_what_is_no_plain_socket_cannot_be_watched() -> None:
    assert Hangup.watch(FakeTransport(), lambda: None) is None


def test_nor_can_one_descriptor_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """The epoll of a user who may watch no more."""

        closed = False

        def register(self, *_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            self.closed = True

    end, full = End(), Full()
    monkeypatch.setattr(select, "epoll", lambda: full)
    assert Hangup.watch(end.transport, lambda: None) is None
    assert full.closed
    end.close()


def test_nor_can_anything_without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(select, "epoll", none_left)
    end = End()
    assert Hangup.watch(end.transport, lambda: None) is None
    end.close()
