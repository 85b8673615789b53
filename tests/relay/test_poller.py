"""Sockets that are served for a bounded time in each turn of the reactor."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableDescriptor,
    IReactorFDSet,
    IReactorTime,
    IReadWriteDescriptor,
)
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.relay.test_sockets import End as SocketEnd
from tests.support.transports import FakeTransport
from torsocks_tx.relay import poller as module
from torsocks_tx.relay.poller import CLIENTS, EVENTS, OUTGOING, Paused, Poller, poller_of

BUDGET = 1.0


@implementer(IReadWriteDescriptor)
class End:
    """One end of a socket pair, which notes what it is told; ``then`` is done in the course."""

    def __init__(self, served: list[End]) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.served = served
        self.told: list[str] = []
        self.then: Callable[[str], Any] = lambda event: None

    def fileno(self) -> int:
        return self.near.fileno()

    def logPrefix(self) -> str:
        return "End"

    def _tell(self, event: str) -> Any:
        self.served.append(self)
        self.told.append(event)
        return self.then(event)

    def doRead(self) -> Any:
        return self._tell("read")

    def doWrite(self) -> Any:
        return self._tell("write")

    def connectionLost(self, reason: Failure) -> None:
        self._tell(reason.type.__name__)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@implementer(IHalfCloseableDescriptor)
class HalfCloseableEnd(End):
    """One whose peer may close its sending side alone."""

    def readConnectionLost(self, reason: Failure) -> None:
        self._tell("end")

    def writeConnectionLost(self, reason: Failure) -> None:
        self._tell("write end")


class Polled:
    """A poller in a reactor in memory, and its ends; ``cost``: seconds for which one is served."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.reactor.running = True
        self.poller = Poller(self.reactor, BUDGET)
        self.served: list[End] = []
        self.ends: list[End] = []

    def end(self, kind: type[End] = End, cost: float = 0.0) -> End:
        end = kind(self.served)
        if cost:
            end.then = lambda _: self.reactor.advance(cost)
        self.ends.append(end)
        return end

    def give_number(self, closed: End, to: End) -> None:
        """Close one end without a word, and give the number of its descriptor to another."""
        number = closed.fileno()
        os.dup2(to.fileno(), number)
        to.near.close()
        to.near = socket.socket(fileno=closed.near.detach())

    def turn(self) -> list[End]:
        """Serve as in one turn of the reactor; return who was served."""
        before = len(self.served)
        for reader in self.reactor.getReaders():
            reader.doRead()
        return self.served[before:]


@pytest.fixture
def polled() -> Iterator[Polled]:
    polled = Polled()
    yield polled
    for end in polled.ends:
        if end.fileno() != -1:
            polled.poller.removeReader(end)
            polled.poller.removeWriter(end)
        end.close()
    assert polled.reactor.getReaders() == []
    assert polled.poller.fileno() == -1


def test_a_poller_is_a_reactor_to_its_sockets_and_a_descriptor_to_the_reactor(
    polled: Polled,
) -> None:
    for interface in (IReactorFDSet, IReactorTime, IReadWriteDescriptor):
        assert verifyObject(interface, polled.poller)
    end = polled.end()
    polled.poller.addReader(end)
    polled.poller.addWriter(end)
    assert polled.reactor.getReaders() == [polled.poller]
    assert polled.poller.getReaders() == polled.poller.getWriters() == [end]
    assert polled.poller.logPrefix() == "Poller"
    polled.poller.doWrite()
    call = polled.poller.callLater(1, list)
    assert polled.poller.getDelayedCalls() == [call]
    assert polled.poller.seconds() == polled.reactor.seconds()
    assert polled.poller.running


def test_a_reactor_has_one_poller_of_each_kind_while_it_is_used() -> None:
    reactor = MemoryReactorClock()
    poller = poller_of(reactor, CLIENTS)
    assert poller_of(reactor, CLIENTS) is poller
    assert poller_of(reactor, OUTGOING) is not poller
    assert poller_of(MemoryReactorClock(), CLIENTS) is not poller


def test_where_there_is_no_epoll_or_none_that_can_be_watched_the_reactor_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for reactor in (Mock(spec=SelectReactor), MemoryReactorClock()):
        assert poller_of(reactor, CLIENTS) is reactor
        monkeypatch.delattr(select, "epoll", raising=False)


def test_what_a_test_has_left_open_is_named_and_keeps_nobody_from_being_served(
    polled: Polled,
) -> None:
    """trial takes all that a test has left out of the reactor, and tells nobody."""
    left, other = polled.end(), polled.end()
    polled.poller.addReader(left)
    assert repr(polled.poller) == f"<Poller of 1: {left!r}>"
    polled.reactor.removeReader(polled.poller)
    polled.poller.addReader(other)
    other.far.send(b"x")
    assert polled.turn() == [other]


def test_what_is_closed_is_refused_and_changes_nothing_for_others(polled: Polled) -> None:
    end, closed = polled.end(), polled.end()
    polled.poller.addReader(end)
    closed.close()
    for add in (polled.poller.addReader, polled.poller.addWriter, polled.poller.addHangup):
        with pytest.raises(ValueError, match="closed"):
            add(closed)
    assert (polled.poller.getReaders(), polled.poller.getWriters()) == ([end], [])


def test_one_that_is_closed_while_another_process_has_its_socket_is_served_no_more(
    polled: Polled,
) -> None:
    end = polled.end()
    polled.poller.addReader(end)
    with contextlib.closing(end.near.dup()):  # so that the kernel goes on to tell of it
        end.near.close()
        end.far.send(b"x")
        assert polled.turn() == []


def test_many_that_are_ready_at_once_are_served_in_turns_the_first_first(polled: Polled) -> None:
    ends = [polled.end(cost=BUDGET / 20) for _ in range(80)]  # two descriptors each
    for end in ends:
        polled.poller.addReader(end)
        end.far.close()  # as when a proxy ends that had all these connections
    served: list[End] = []
    while len(served) < len(ends):
        now = polled.turn()
        assert 20 <= len(now) <= 20 + EVENTS
        served += now
    assert served[: len(ends)] == ends


def _send(end: End) -> None:
    end.far.send(b"x")


def _close(end: End) -> None:
    end.far.close()


IN, OUT, BOTH = ["addReader"], ["addWriter"], ["addReader", "addWriter"]


@pytest.mark.parametrize(
    ("watched", "do", "returned", "told"),
    [
        (IN, _send, {}, ["read"]),
        (OUT, bool, {}, ["write"]),
        (BOTH, _send, {}, ["read", "write"]),
        (IN, bool, {}, []),
        (OUT, _close, {}, ["ConnectionLost"]),
        (IN, _send, {"read": ConnectionDone()}, ["read", "ConnectionDone"]),
        (BOTH, _send, {"read": ConnectionLost()}, ["read", "ConnectionLost"]),
        (OUT, bool, {"write": ConnectionDone()}, ["write", "ConnectionDone"]),
    ],
)
def test_a_descriptor_is_told_what_reactors_tell(
    polled: Polled,
    watched: list[str],
    do: Callable[[End], object],
    returned: dict[str, Exception],
    told: list[str],
) -> None:
    end = polled.end()
    end.then = returned.get
    for method in watched:
        getattr(polled.poller, method)(end)
    do(end)
    polled.turn()
    assert end.told == told


def test_an_end_of_the_sending_side_alone_is_told_to_those_that_can_tell_it(polled: Polled) -> None:
    end = polled.end(HalfCloseableEnd)
    end.then = {"read": ConnectionDone()}.get
    polled.poller.addReader(end)
    polled.poller.addWriter(end)
    end.far.shutdown(socket.SHUT_WR)
    polled.turn()
    assert end.told == ["read", "end"]
    assert polled.poller.getReaders() == []
    assert polled.poller.getWriters() == [end]


@pytest.mark.parametrize("fault", [RuntimeError, CancelledError])
def test_one_that_raises_is_lost_and_the_others_are_served(
    polled: Polled, logged_failures: list[LogEvent], fault: type[BaseException]
) -> None:
    broken, other = polled.end(), polled.end()

    def fail(event: str) -> None:
        if event == "read":
            raise fault

    broken.then = fail
    for end in (broken, other):
        polled.poller.addReader(end)
        end.far.send(b"x")
    polled.turn()
    assert broken.told == ["read", fault.__name__]
    assert other.told == ["read"]
    assert [event["log_failure"].type for event in logged_failures] == [fault]
    logged_failures.clear()


def test_the_number_of_one_that_was_closed_is_anothers(polled: Polled) -> None:
    first, second, third = (polled.end() for _ in range(3))

    def replace(event: str) -> None:
        """Close the second, whose event is known already."""
        polled.poller.removeReader(second)
        polled.give_number(second, third)
        polled.poller.addReader(third)

    first.then = replace
    for end in (first, second):
        polled.poller.addReader(end)
        end.far.send(b"x")
    assert polled.turn() == [first]
    polled.poller.removeReader(first)
    assert polled.turn() == []
    third.far.send(b"x")
    assert polled.turn() == [third]


def test_a_number_that_is_anothers_once_it_was_read_from_is_not_written_to(polled: Polled) -> None:
    first, second = polled.end(), polled.end()

    def replace(event: str) -> None:
        polled.poller.removeAll()
        polled.give_number(first, second)
        polled.poller.addWriter(second)

    first.then = replace
    polled.poller.addReader(first)
    polled.poller.addWriter(first)
    first.far.send(b"x")
    polled.turn()
    assert (first.told, second.told) == (["read"], [])


def test_one_that_closes_without_a_word_keeps_its_number_from_nobody(polled: Polled) -> None:
    silent, other = polled.end(), polled.end()
    polled.poller.addReader(silent)
    polled.give_number(silent, other)
    polled.poller.addReader(other)
    other.far.send(b"x")
    assert polled.turn() == [other]


def test_when_the_reactor_stops_all_are_lost_whichever_raises(
    polled: Polled, logged_failures: list[LogEvent]
) -> None:
    broken, other = polled.end(), polled.end()
    broken.then = lambda event: {}[event]
    for end in (broken, other):
        polled.poller.addReader(end)
    polled.poller.connectionLost(Failure(ConnectionLost()))  # meant for another descriptor
    assert (polled.served, polled.poller.getReaders()) == ([], [broken, other])
    polled.reactor.running = False
    polled.poller.connectionLost(Failure(ConnectionLost()))
    assert broken.told == other.told == ["ConnectionLost"]
    assert [event["log_failure"].type for event in logged_failures] == [KeyError]
    logged_failures.clear()


def test_what_is_removed_or_paused_meanwhile_is_not_served(polled: Polled) -> None:
    first, second = polled.end(), polled.end()
    first.then = lambda _: polled.poller.removeReader(second)
    for end in (first, second):
        polled.poller.addReader(end)
        polled.poller.addWriter(end)
        end.far.send(b"x")
    polled.turn()
    assert (first.told, second.told) == (["read", "write"], ["write"])
    with contextlib.closing(second):
        assert polled.poller.removeAll() == [first, second]
    polled.poller.removeReader(first)


class TestPaused:
    """A transport that is not read, in a reactor in memory; its peer is heard all the same."""

    @pytest.fixture
    def ends(self) -> Iterator[list[SocketEnd]]:
        """Give two ends of one reactor; nothing stays behind."""
        ends = [SocketEnd(), SocketEnd()]
        ends[1].transport.reactor = ends[0].reactor
        yield ends
        for end in ends:
            end.close()
        assert ends[0].reactor.getReaders() == []

    def turn(self, end: SocketEnd) -> None:
        for reader in end.reactor.getReaders():
            reader.doRead()
        end.reactor.advance(0)

    def test_one_that_hangs_up_is_aborted_alone_and_more_bytes_are_not_heard(
        self, ends: list[SocketEnd]
    ) -> None:
        paused = [Paused(end.transport) for end in ends]
        assert verifyObject(IReadWriteDescriptor, paused[0])
        assert paused[0].logPrefix() == "Paused"
        for event in (paused[0].doRead, paused[0].doWrite):
            event()
        ends[0].far.send(b"more")
        self.turn(ends[0])
        assert [end.ear.heard for end in ends] == [[], []]
        ends[1].far.close()
        self.turn(ends[0])
        assert [end.ear.heard for end in ends] == [[], ["reset"]]
        paused[1].connectionLost(Failure(ConnectionLost()))
        paused[0].resume()
        assert ends[0].reactor.getReaders() == [ends[0].transport]

    def test_one_that_is_forgotten_while_others_are_told_is_not_told(
        self, ends: list[SocketEnd]
    ) -> None:
        _, second = [Paused(end.transport) for end in ends]
        for end in ends:
            end.far.close()
        ends[0].ear.connectionLost = lambda reason: second.forget()  # type: ignore[method-assign]
        ends[0].transport.abortConnection = lambda: ends[0].transport.connectionLost(  # at once
            Failure(ConnectionLost())
        )
        self.turn(ends[0])
        assert ends[1].ear.heard == []

    def test_one_that_a_poller_serves_is_watched_by_the_reactor_below(
        self, ends: list[SocketEnd]
    ) -> None:
        end, reactor = ends[0], ends[0].reactor
        end.transport.stopReading()
        end.transport.reactor = poller_of(reactor, CLIENTS)
        end.transport.startReading()
        paused = Paused(end.transport)
        assert reactor.getReaders() == [poller_of(reactor, OUTGOING)]
        paused.resume()
        assert reactor.getReaders() == [end.transport.reactor]

    def test_one_of_a_select_reactor_is_heard_too(
        self, ends: list[SocketEnd], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "SelectReactor", MemoryReactorClock)
        assert poller_of(ends[0].reactor, OUTGOING) is ends[0].reactor
        Paused(ends[0].transport)
        ends[0].far.close()
        self.turn(ends[0])
        assert ends[0].ear.heard == ["reset"]

    def test_what_is_no_socket_is_paused_and_resumed(self) -> None:
        transport = FakeTransport()
        paused = Paused(transport)
        assert not transport.reading
        paused.resume()
        assert transport.reading

    @pytest.mark.parametrize("lack", ["room", "descriptors", "epoll"])
    def test_where_it_is_not_possible_nothing_is_watched(
        self, lack: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full = Mock(register=fail, fileno=lambda: 0)
        if lack == "epoll":
            monkeypatch.delattr(select, "epoll")
        else:
            monkeypatch.setattr(select, "epoll", fail if lack == "descriptors" else lambda: full)
        end = SocketEnd()
        paused = Paused(end.transport)
        assert end.reactor.getReaders() == []
        assert full.close.called == (lack == "room")
        paused.resume()
        assert end.reactor.getReaders() == [end.transport]
        end.close()
