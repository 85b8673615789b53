"""One client's connection: its handshake, deadline, close and faults."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.logger import LogEvent
from zope.interface.verify import verifyObject

from tests.support.clocks import TurnClock
from tests.support.names import ONION
from tests.support.peers import GRANTED, named, refused
from tests.support.rows import rows
from tests.support.stage import CONNECT, GREETING, LOGIN, Stage
from tests.support.transports import FakeTransport, WholeTransport
from torsocks_tx.backends.memory import MemoryBackend, MemoryOutbound
from torsocks_tx.errors import TorDown
from torsocks_tx.limits import Limits
from torsocks_tx.relay.timeouts import WORK
from torsocks_tx.server.connections import ONIONS_AT_ONCE
from torsocks_tx.server.factory import SOCKS4Factory, SOCKS5Factory
from torsocks_tx.server.protocol import SOCKS4Protocol, SOCKS5Protocol, SOCKSProtocol, State


@pytest.mark.parametrize("kind", [SOCKSProtocol, SOCKS4Protocol, SOCKS5Protocol])
def test_each_version_is_a_protocol(kind: type[SOCKSProtocol]) -> None:
    assert verifyObject(IProtocol, kind())
    assert verifyObject(IHalfCloseableProtocol, kind())


def test_a_new_connection_is_prepared_and_its_log_prefix_names_nobody() -> None:
    stage = Stage(transport=FakeTransport("the peer"))
    assert stage.transport.asked == ["noDelay", "keepAlive"]
    assert stage.transport.logstr == "SOCKSProtocol"


@rows("S-04", "S-05", "S-06")
@pytest.mark.parametrize(
    "said",
    [
        pytest.param(bytes.fromhex("04 01 0050 C0000201 00"), id="4"),
        pytest.param(bytes.fromhex("04 01 0050 00000001 00") + b"example.com\0", id="4a"),
        pytest.param(b"\5\1\0" + CONNECT, id="5"),
        pytest.param(b"\5\2\0\2" + LOGIN + CONNECT, id="5-credentials"),
    ],
)
def test_each_version_opens_a_stream(said: bytes) -> None:
    stage = Stage()
    stage.say(said + b"early")
    [outbound] = stage.backend.outbounds
    assert outbound.written == b"early"
    outbound.receiver.opened()
    granted = bytes.fromhex("00 5A 0000 00000000") if said[0] == 4 else GRANTED
    assert stage.transport.take() == granted


@rows("S-04", "S-06")
def test_one_version_alone_refuses_the_other() -> None:
    for kind, said in ((SOCKS4Factory, GREETING), (SOCKS5Factory, b"\4\1\0\x50\xc0\0\2\1\0")):
        stage = Stage(kind=kind)
        assert stage.say(said) == b""
        assert stage.closes
        assert stage.protocol.state is State.CLOSING


@rows("R-21", "S-40")
class TestLingeringClose:
    def closing(self, transport: WholeTransport | None = None) -> Stage:
        stage = Stage(transport=transport)
        stage.transport.pauseProducing()
        stage.transport.asked.clear()
        stage.protocol.finish(b"last")
        assert stage.transport.take() == b"last"
        return stage

    def test_a_paused_client_is_read_again(self) -> None:
        stage = self.closing()
        assert stage.transport.asked == ["loseWriteConnection"]
        assert stage.transport.reading

    def test_a_client_has_two_seconds_to_close_after_the_last_byte(self) -> None:
        stage = self.closing()
        stage.clock.advance(299)
        stage.transport.flush()
        stage.clock.advance(1.9)
        assert "loseConnection" not in stage.transport.asked
        stage.clock.advance(0.1)
        assert stage.transport.asked[-1] == "loseConnection"

    def test_a_megabyte_is_dropped_and_no_more(self) -> None:
        stage = self.closing()
        for _ in range(16):
            stage.say(bytes(65536))
        assert "loseConnection" not in stage.transport.asked
        stage.say(b"x")
        assert stage.transport.asked[-1] == "loseConnection"

    def test_a_client_that_closes_too_is_closed_at_once(self) -> None:
        stage = self.closing()
        stage.protocol.readConnectionLost()
        assert stage.transport.asked[-1] == "loseConnection"

    def test_a_transport_that_cannot_half_close_is_flushed_and_closed(self) -> None:
        stage = self.closing(WholeTransport())
        stage.clock.advance(299)
        assert stage.transport.asked == ["loseConnection"]

    @pytest.mark.parametrize("kind", [FakeTransport, WholeTransport])
    def test_a_client_that_reads_nothing_is_reset_after_five_minutes(
        self, kind: type[WholeTransport]
    ) -> None:
        stage = self.closing(kind())
        stage.clock.advance(300)
        assert stage.transport.asked[-1] == "abortConnection"


@rows("R-30")
class TestHandshakeDeadline:
    @pytest.mark.parametrize(
        "said", [b"", b"\5", GREETING, GREETING + CONNECT[:-1], b"\4\1\0", b"\5\1\x97\1\0\1"]
    )
    def test_a_client_without_a_request_is_closed_after_30_seconds(self, said: bytes) -> None:
        stage = Stage()
        stage.say(said)
        stage.clock.advance(29.9)
        assert stage.protocol.state is State.HANDSHAKE
        stage.clock.advance(0.1)
        assert stage.closes
        assert stage.transport.take() == b""
        self.ends(stage)

    def test_the_handshake_deadline_does_not_start_again_with_each_byte(self) -> None:
        stage = Stage()
        said = GREETING + b"\5\1\0\3\x40" + b"a" * 64
        for number in range(29):
            stage.protocol.dataReceived(said[number : number + 1])
            stage.clock.advance(1)
        assert stage.protocol.state is State.HANDSHAKE
        stage.protocol.dataReceived(b"a")
        stage.clock.advance(1)
        assert stage.closes
        self.ends(stage)

    def test_a_client_that_still_sends_is_closed_two_seconds_later(self) -> None:
        stage = Stage()
        stage.clock.advance(30)
        stage.transport.flush()
        for _ in range(4):
            stage.protocol.dataReceived(b"\5")
            stage.clock.advance(0.5)
        assert stage.transport.asked[-1] == "loseConnection"

    def test_the_handshake_deadline_ends_with_the_request(self) -> None:
        stage = Stage()
        stage.ask(CONNECT)
        stage.clock.advance(119)
        assert not stage.closes
        stage.transport.lose(clean=False)
        assert stage.clock.getDelayedCalls() == []

    def ends(self, stage: Stage) -> None:
        stage.transport.flush()
        stage.clock.advance(2)
        assert stage.transport.asked[-1] == "loseConnection"
        stage.transport.finish()
        assert stage.server.connections == set()
        assert stage.clock.getDelayedCalls() == []


class TestEnds:
    @rows("R-29")
    def test_a_fin_in_the_handshake_closes_without_an_answer(self) -> None:
        stage = Stage()
        stage.say(b"\5")
        stage.protocol.readConnectionLost()
        assert stage.transport.asked[-1] == "loseConnection"
        stage.transport.finish()
        assert stage.transport.take() == b""
        assert stage.server.connections == set()
        assert stage.clock.getDelayedCalls() == []

    @rows("R-29")
    def test_a_fin_before_the_reply_aborts_the_stream(self) -> None:
        stage = Stage()
        stage.ask(CONNECT)
        stage.protocol.readConnectionLost()
        assert stage.backend.outbounds[0].events == ["abort"]
        # It will send no more, so nothing can turn a close into a reset.
        assert stage.transport.asked[-1] == "loseConnection"
        stage.transport.finish()
        assert stage.backend.outbounds[0].events == ["abort"]
        assert stage.transport.take() == b""
        assert stage.clock.getDelayedCalls() == []

    def test_a_fin_after_the_failure_reply_closes(self) -> None:
        stage = Stage()
        stage.say(GREETING + b"\5\2")
        stage.transport.flush()
        stage.protocol.readConnectionLost()
        assert stage.transport.asked[-1] == "loseConnection"

    def test_a_remote_that_closes_is_flushed_and_closed(self) -> None:
        stage = Stage()
        stage.ask(CONNECT)
        receiver = stage.backend.outbounds[0].receiver
        receiver.opened()
        receiver.data(b"last words")
        receiver.lost(True)
        assert stage.transport.take() == GRANTED + b"last words"
        assert stage.closes

    def test_reset_by_the_remote_is_forwarded_as_reset(self) -> None:
        stage = Stage()
        stage.ask(CONNECT)
        receiver = stage.backend.outbounds[0].receiver
        receiver.opened()
        receiver.lost(False)
        assert stage.transport.asked[-1] == "abortConnection"
        stage.protocol.dataReceived(b"still in flight")
        stage.transport.finish()
        assert stage.clock.getDelayedCalls() == []

    @rows("S-03")
    def test_fin_of_the_remote_is_forwarded_once_the_producer_is_gone(self) -> None:
        stage = Stage()
        stage.ask(CONNECT)
        receiver = stage.backend.outbounds[0].receiver
        receiver.opened()
        receiver.eof()
        assert stage.transport.asked[-2:] == ["unregisterProducer", "loseWriteConnection"]
        stage.transport.flush()
        stage.protocol.dataReceived(b"more")
        assert stage.backend.outbounds[0].written == b"more"
        stage.protocol.readConnectionLost()
        assert stage.backend.outbounds[0].events == ["close"]

    def test_a_client_of_a_wrapped_transport_closes_both_directions(self) -> None:
        stage = Stage(transport=WholeTransport())
        stage.ask(CONNECT)
        [outbound] = stage.backend.outbounds
        outbound.receiver.opened()
        stage.protocol.dataReceived(b"last words")
        stage.transport.lose(clean=True)
        assert outbound.written == b"last words"
        assert outbound.events == ["close"]

    def test_fin_of_the_remote_closes_a_wrapped_transport(self) -> None:
        stage = Stage(transport=WholeTransport())
        stage.ask(CONNECT)
        [outbound] = stage.backend.outbounds
        outbound.receiver.opened()
        outbound.receiver.data(b"last words")
        outbound.receiver.eof()
        assert stage.transport.take() == GRANTED + b"last words"
        assert stage.transport.asked[-1] == "loseConnection"
        assert outbound.events == ["close"]


class TestFaults:
    """An exception of the backend is logged once, and the client gets 01."""

    def fails(self, stage: Stage, logged_failures: list[LogEvent]) -> None:
        assert stage.ask(CONNECT + b"early") == refused(1)
        assert stage.closes
        [event] = logged_failures
        assert event["log_failure"].check(RuntimeError)
        logged_failures.clear()
        stage.transport.finish()
        assert stage.clock.getDelayedCalls() == []

    def test_a_fault_in_open(self, logged_failures: list[LogEvent]) -> None:
        def script(_: MemoryOutbound) -> NoReturn:
            raise RuntimeError("out of order")

        self.fails(Stage(MemoryBackend(script)), logged_failures)

    def test_a_fault_in_the_first_write(self, logged_failures: list[LogEvent]) -> None:
        def broken(_: bytes) -> NoReturn:
            raise RuntimeError("out of order")

        def script(outbound: MemoryOutbound) -> None:
            outbound.on_write = broken

        stage = Stage(MemoryBackend(script))
        self.fails(stage, logged_failures)
        [outbound] = stage.backend.outbounds
        assert outbound.events == ["abort"]
        outbound.receiver.opened()
        outbound.receiver.data(b"too late")
        assert stage.transport.take() == b""

    def test_a_fault_in_admit(self, logged_failures: list[LogEvent]) -> None:
        stage = Stage()

        def admit(*_: object) -> NoReturn:
            raise RuntimeError("out of order")

        stage.server.admit = admit  # type: ignore[method-assign]
        self.fails(stage, logged_failures)
        assert stage.backend.outbounds == []


def test_a_client_that_left_is_not_counted_even_if_the_backend_raises() -> None:
    class Stubborn(MemoryOutbound):
        """A stream whose abort raises."""

        def abort(self) -> NoReturn:
            raise RuntimeError("closed epoll object")

    class StubbornBackend(MemoryBackend):
        def open(self, *asked: Any) -> MemoryOutbound:
            return Stubborn(*asked)

    stage = Stage(StubbornBackend(), limits=Limits(max_connections=1))
    stage.ask(CONNECT)
    assert not stage.server.limiter.has_room()
    with pytest.raises(RuntimeError):
        stage.transport.lose(clean=False)
    assert stage.server.limiter.has_room()
    assert not stage.server.connections


class TestWaitingForATurn:
    """A client whose request is begun in a later turn of the reactor."""

    def setup_method(self) -> None:
        self.stage = Stage(clock=TurnClock(), limits=Limits(early_data=100))
        clock = self.stage.clock
        self.stage.server.limiter.serve(self.stage.protocol, lambda: None)
        clock.rightNow += WORK
        assert self.stage.ask(CONNECT + b"early ") == b""
        assert self.stage.backend.outbounds == []

    def test_it_is_served_in_the_next_turn_with_what_it_sent_meanwhile(self) -> None:
        assert self.stage.say(b"and late") == b""
        self.stage.clock.turn()
        [outbound] = self.stage.backend.outbounds
        assert outbound.written == b"early and late"
        outbound.receiver.opened()
        assert self.stage.transport.take() == GRANTED

    def test_early_data_has_the_same_bound(self) -> None:
        self.stage.say(bytes(99))
        assert not self.stage.transport.reading
        self.stage.clock.turn()
        [outbound] = self.stage.backend.outbounds
        assert not self.stage.transport.reading
        outbound.receiver.refused(TorDown("x"))
        assert self.stage.transport.reading

    @pytest.mark.parametrize("leave", ["is lost", "is closed"])
    def test_a_client_that_is_gone_by_then_is_not_served(self, leave: str) -> None:
        if leave == "is lost":
            self.stage.transport.lose(clean=True)
        else:
            self.stage.protocol.finish(b"")
        self.stage.clock.turn()
        assert self.stage.backend.outbounds == []

    def test_a_server_that_stops_lets_it_be_served_or_resets_it(self) -> None:
        assert self.stage.protocol.is_served
        self.stage.server.abort_all()
        assert self.stage.transport.asked[-1] == "abortConnection"


class TestWaitingForOnionServices:
    """A client whose address is on the way to as many onion services as it may be."""

    def setup_method(self) -> None:
        self.stage = Stage(clock=TurnClock())
        self.limiter, protocol = self.stage.server.limiter, self.stage.protocol
        self.limiter.leave(protocol)
        protocol.network = bytes([192, 0, 2, 1])
        self.limiter.join(protocol)
        self.others = [self.another([]) for _ in range(ONIONS_AT_ONCE)]
        assert self.stage.ask(named(ONION, 80)) == b""
        self.turn()
        assert self.stage.backend.outbounds == []

    def another(self, begun: list[str]) -> SOCKSProtocol:
        """Have another client of this address ask for an onion service."""
        other = SOCKSProtocol()
        other.network = self.stage.protocol.network
        self.limiter.join(other)
        self.limiter.serve(other, lambda: begun.append("begun"), onion=True)
        return other

    def turn(self) -> None:
        while self.stage.clock.turn():
            pass

    def test_it_is_served_when_another_is_reached_and_then_lets_the_next_be_served(self) -> None:
        begun: list[str] = []
        self.another(begun)
        self.limiter.reached(self.others[0])
        self.turn()
        [outbound] = self.stage.backend.outbounds
        assert begun == []
        outbound.receiver.opened()
        assert self.stage.transport.take() == GRANTED
        self.turn()
        assert begun == ["begun"]

    def test_it_waits_as_long_as_for_an_onion_service_and_is_refused_then(self) -> None:
        self.stage.clock.advance(599)
        assert not self.stage.closes
        self.stage.clock.advance(1)
        assert self.stage.transport.take() == refused(6)
        assert self.stage.closes
        self.limiter.reached(self.others[0])
        self.turn()
        assert self.stage.backend.outbounds == []
