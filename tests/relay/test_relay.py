"""The relay's states, between a transport in memory and a scripted far end."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from unittest.mock import Mock

import pytest
from zope.interface.verify import verifyObject

from tests.support.relaying import RelayStage
from tests.support.rows import rows
from tests.support.transports import WholeTransport
from torsocks_tx.errors import ConnectionRefused
from torsocks_tx.interfaces import IReceiver
from torsocks_tx.relay import relay as module
from torsocks_tx.relay.relay import BULK, Relay, State


def test_bytes_are_metered_as_they_pass_whichever_way() -> None:
    stage = RelayStage().begin(b"early")
    assert stage.meter.tolist() == [5, 0]
    stage.relay.opened()
    stage.relay.client_data(b"12")
    stage.relay.data(b"123")
    stage.relay.spliced(True, 100)
    stage.relay.spliced(False, 1000)
    assert stage.meter.tolist() == [stage.relay.sent, stage.relay.received] == [107, 1003]


def test_a_relay_is_a_receiver() -> None:
    assert verifyObject(IReceiver, RelayStage().relay)


class TestOpening:
    @rows("S-02", "S-37")
    def test_early_data_goes_out_at_once_and_nothing_comes_in(self) -> None:
        stage = RelayStage().begin(b"early ")
        stage.relay.client_data(b"data")
        assert stage.outbound.written == b"early data"
        stage.relay.data(b"too soon")
        assert stage.transport.written == b""
        assert stage.heard == []
        assert not stage.relay.is_open

    @rows("S-40")
    def test_the_client_is_paused_at_the_bound_until_the_stream_opens(self) -> None:
        stage = RelayStage(early_data=10).begin(b"12345")
        stage.relay.client_data(b"6789")
        assert stage.transport.reading
        stage.relay.client_data(b"0")
        assert not stage.transport.reading
        stage.relay.opened()
        assert stage.transport.reading
        assert stage.outbound.written == b"1234567890"

    @rows("R-29")
    @pytest.mark.parametrize(
        "end", [Relay.client_eof, partial(Relay.client_lost, clean=True),
                partial(Relay.client_lost, clean=False)]
    )  # fmt: skip
    def test_the_clients_end_gives_the_stream_up(self, end: Callable[[Relay], None]) -> None:
        stage = RelayStage().begin()
        end(stage.relay)
        assert stage.events == ["abort"]
        assert stage.relay.state is State.OVER
        assert stage.idle

    def test_a_refusal_is_heard_once(self) -> None:
        stage = RelayStage().begin()
        stage.relay.refused(ConnectionRefused())
        stage.relay.refused(ConnectionRefused())
        stage.relay.opened()
        stage.relay.lost(False)
        assert stage.heard == ["refused: ConnectionRefused"]
        assert stage.idle
        stage.relay.client_data(b"for nobody")
        assert stage.outbound.written == b""

    def test_the_deadline_gives_the_stream_up(self) -> None:
        stage = RelayStage().begin()
        stage.clock.advance(119.9)
        assert stage.heard == []
        stage.clock.advance(0.1)
        assert stage.heard == ["refused: TimedOut"]
        assert stage.events == ["abort"]
        stage.relay.opened()
        assert stage.heard == ["refused: TimedOut"]


@rows("S-03")
class TestOpen:
    def test_sockets_that_could_not_all_be_taken_are_given_back_with_the_stream(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        splice = Mock(**{"start.side_effect": OSError(errno.ENOSPC, "no room")})
        monkeypatch.setattr(module, "Splice", lambda *_: splice)
        monkeypatch.setattr(module, "_is_flushed", lambda _: True)
        stage = RelayStage().open()
        with pytest.raises(OSError, match="no room"):
            stage.relay.client_data(bytes(BULK))
        stage.relay.client_lost(clean=False)
        splice.stop.assert_called_once_with()

    def test_bytes_go_both_ways_and_are_counted(self) -> None:
        stage = RelayStage().open()
        assert stage.idle
        assert stage.relay.is_open
        stage.relay.client_data(b"ping")
        stage.relay.data(b"pong!")
        assert stage.outbound.written == b"ping"
        assert stage.transport.written == b"pong!"
        assert (stage.relay.sent, stage.relay.received) == (4, 5)

    def test_each_side_can_pause_the_other(self) -> None:
        stage = RelayStage().open()
        assert stage.outbound.producer is not None
        stage.outbound.producer.pauseProducing()
        assert not stage.transport.reading
        stage.outbound.producer.resumeProducing()
        assert stage.transport.reading
        stage.transport.producer.pauseProducing()
        stage.transport.producer.resumeProducing()
        assert stage.events == ["pause", "resume"]

    def test_a_lost_transport_stops_nobody(self) -> None:
        stage = RelayStage().open()
        assert stage.outbound.producer is not None
        stage.outbound.producer.stopProducing()
        stage.transport.producer.stopProducing()
        assert stage.events == []
        assert "stopProducing" not in stage.transport.asked

    @pytest.mark.parametrize("clean", [True, False])
    def test_the_end_of_either_side_is_passed_on_as_it_was(self, clean: bool) -> None:
        stage = RelayStage().open()
        stage.relay.lost(clean)
        assert stage.heard == ["over" if clean else "reset"]
        assert stage.relay.outbound is None
        # Twisted would wait for a producer, and not close.
        assert stage.transport.producer is None
        stage.relay.client_lost(True)
        assert stage.events == []
        stage = RelayStage().open()
        stage.relay.client_lost(clean)
        assert stage.events == ["close" if clean else "abort"]
        assert stage.outbound.producer is None or not clean
        assert stage.heard == []

    def test_the_client_may_finish_first(self) -> None:
        stage = RelayStage().open()
        stage.relay.client_eof()
        assert stage.events == ["lose_write"]
        stage.relay.data(b"answer")
        assert stage.transport.written == b"answer"
        stage.relay.client_eof()
        stage.relay.eof()
        assert stage.events == ["lose_write", "close"]
        assert stage.heard == ["over"]
        assert stage.idle

    def test_the_remote_may_finish_first(self) -> None:
        stage = RelayStage().open()
        stage.relay.eof()
        stage.relay.eof()
        assert stage.heard == ["remote eof"]
        stage.relay.client_data(b"more")
        assert stage.outbound.written == b"more"
        stage.relay.data(b"out of turn")
        assert stage.transport.written == b""
        stage.relay.client_eof()
        assert stage.events == ["close"]
        assert stage.heard == ["remote eof", "over"]

    def test_a_client_that_cannot_be_half_closed_is_closed(self) -> None:
        stage = RelayStage(WholeTransport()).open()
        stage.relay.eof()
        assert stage.events == ["close"]
        assert stage.heard == ["over"]
