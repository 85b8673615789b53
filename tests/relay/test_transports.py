"""Deadlines, throttles, and the order of a farewell."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface.verify import verifyObject

from tests.support.rows import rows
from tests.support.transports import BareTransport, FakeTransport, WholeTransport
from torsocks_tx.limits import Limits
from torsocks_tx.relay.transports import (
    Deadline,
    Farewell,
    Throttle,
    abort,
    can_half_close,
    prepare,
)


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

    def test_at_rest_it_expires_no_more_and_keeps_its_timer(self) -> None:
        self.start(5)
        self.deadline.rest()
        assert not self.deadline.is_waiting
        self.start(8)
        assert len(self.clock.getDelayedCalls()) == 1
        self.clock.advance(5)
        assert self.expired == []
        self.deadline.rest()
        self.clock.advance(3)
        assert self.expired == []
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


def test_a_throttle_pauses_and_resumes_and_never_stops() -> None:
    transport = FakeTransport()
    throttle = Throttle(transport)
    assert verifyObject(IPushProducer, throttle)
    throttle.pauseProducing()
    assert not transport.reading
    throttle.resumeProducing()
    assert transport.reading
    throttle.stopProducing()
    assert transport.asked == []


class OverUnix(FakeTransport):
    def getHost(self) -> Any:
        return UNIXAddress("/socket")


class TestPrepare:
    def test_tcp_gets_no_delay_and_keepalive(self) -> None:
        transport = FakeTransport()
        prepare(transport)
        assert transport.asked == ["noDelay", "keepAlive"]

    def test_unix_gets_neither(self) -> None:
        transport = OverUnix()
        prepare(transport)
        assert transport.asked == []

    def test_nor_does_what_is_no_tcp(self) -> None:
        prepare(object())


class TestCanHalfClose:
    def test_by_the_method_of_the_class(self) -> None:
        assert can_half_close(FakeTransport())
        assert not can_half_close(WholeTransport())

    def test_a_wrapper_does_not_speak_for_what_it_wraps(self) -> None:
        wrapper = ProtocolWrapper(WrappingFactory(None), Protocol())
        FakeTransport().connect(wrapper)
        # It passes the method on, all the same.
        assert wrapper.loseWriteConnection
        assert not can_half_close(wrapper)

    def test_nor_can_a_connection_that_started_tls(self) -> None:
        transport = FakeTransport()
        transport.TLS = True  # type: ignore[attr-defined]
        assert not can_half_close(transport)


@rows("R-21", "S-40")
class TestFarewell:
    def begin(self, transport: WholeTransport) -> Farewell:
        self.clock = Clock()
        self.transport = transport
        farewell = Farewell(transport, Deadline(self.clock), Limits())
        farewell.begin()
        return farewell

    def test_a_paused_peer_is_read_again(self) -> None:
        transport = FakeTransport()
        transport.pauseProducing()
        self.begin(transport)
        assert transport.asked == ["loseWriteConnection"]
        assert transport.reading

    def test_the_peer_has_two_seconds_after_the_last_byte(self) -> None:
        farewell = self.begin(FakeTransport())
        self.clock.advance(299)
        farewell.flushed()
        self.clock.advance(1.9)
        assert "loseConnection" not in self.transport.asked
        self.clock.advance(0.1)
        assert self.transport.asked[-1] == "loseConnection"

    def test_a_peer_that_reads_nothing_is_given_up(self) -> None:
        self.begin(FakeTransport())
        self.clock.advance(300)
        assert self.transport.asked[-1] == "abortConnection"

    def test_a_megabyte_is_dropped_and_no_more(self) -> None:
        farewell = self.begin(FakeTransport())
        for _ in range(16):
            farewell.received(bytes(65536))
        assert "loseConnection" not in self.transport.asked
        farewell.received(b"x")
        assert self.transport.asked[-1] == "loseConnection"

    def test_the_peers_fin_is_the_end(self) -> None:
        farewell = self.begin(FakeTransport())
        farewell.closed()
        assert self.transport.asked[-1] == "loseConnection"

    @pytest.mark.parametrize("seconds", [0, 299])
    def test_what_cannot_half_close_flushes_and_closes(self, seconds: float) -> None:
        self.begin(WholeTransport())
        self.clock.advance(seconds)
        assert self.transport.asked == ["loseConnection"]

    def test_but_not_for_ever(self) -> None:
        self.begin(WholeTransport())
        self.clock.advance(300)
        assert self.transport.asked[-1] == "abortConnection"


def test_aborting_what_cannot_be_aborted_closes() -> None:
    transport = FakeTransport()
    abort(BareTransport(transport))
    abort(transport)
    assert transport.asked == ["loseConnection", "abortConnection"]
