"""A codec between a protocol and a connection, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.logger import LogEvent

from tests.backends.ends import FakeEndpoint
from tests.support.rows import rows
from tests.support.tables import cuts, table
from tests.support.transports import App, BareTransport, FakeTransport, HalfApp, WholeTransport
from torsocks_tx.errors import ConnectionRefused, GeneralFailure, InvalidBridge, Temporary
from torsocks_tx.pt.channel import Channel, Codec, CodecEndpoint


class Swap(Codec):
    """Sends HELLO, expects WELCOME, answers THANKS; then swaps the case of payload.

    Payload with ``?`` is refused, payload with ``!`` is a fault of the codec.
    """

    ready = False

    def __init__(self) -> None:
        self.heard = b""

    def start(self) -> bytes:
        return b"HELLO"

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        if self.ready:
            return self._swap(data), b""
        self.heard += data
        word, rest = self.heard[:7], self.heard[7:]
        if not b"WELCOME".startswith(word):
            raise InvalidBridge("no welcome")
        self.ready = word == b"WELCOME"
        return self._swap(rest), b"THANKS" if self.ready else b""

    def encode(self, data: bytes) -> bytes:
        return self._swap(data)

    def _swap(self, data: bytes) -> bytes:
        if b"?" in data:
            raise InvalidBridge("a question")
        if b"!" in data:
            raise ZeroDivisionError
        return data.swapcase()


class Stage:
    """A channel on a transport in memory, with its endpoint, codec and protocol."""

    def __init__(
        self,
        codec: type[Codec] = Swap,
        kind: type[App] = App,
        transport: WholeTransport | None = None,
    ) -> None:
        self.below = transport or FakeTransport()
        self.above = kind()
        self.outcome: list[Any] = []
        self.endpoint = FakeEndpoint()
        self.opening = CodecEndpoint(self.endpoint, codec).connect(
            Factory.forProtocol(lambda: self.above)
        )
        self.opening.addBoth(self.outcome.append)

    def connect(self) -> Stage:
        self.endpoint.come(self.below)
        return self

    def open(self) -> Stage:
        self.connect()
        self.hear(b"WELCOME")
        assert self.outcome == [self.above]
        assert self.below.take() == b"HELLOTHANKS"
        assert self.above.heard == ["made"]
        self.above.heard.clear()
        return self

    def end(self) -> None:
        self.below.protocol.readConnectionLost()

    def hear(self, data: bytes) -> None:
        self.below.protocol.dataReceived(data)

    @property
    def failure(self) -> type[BaseException]:
        [failure] = self.outcome
        assert self.above.heard == []
        return failure.type  # type: ignore[no-any-return]


class TestHandshake:
    def test_protocol_is_connected_when_the_handshake_is_finished(self) -> None:
        for chunks in cuts(b"WELCOME"):
            stage = Stage().connect()
            assert stage.below.take() == b"HELLO"
            for chunk in chunks:
                assert stage.outcome == []
                assert stage.above.heard == []
                stage.hear(chunk)
            assert stage.outcome == [stage.above]
            assert stage.above.heard == ["made"]
            assert stage.below.take() == b"THANKS"

    def test_payload_may_come_with_the_end_of_the_handshake(self) -> None:
        stage = Stage().connect()
        stage.hear(b"WELCOMEabc")
        assert stage.above.heard == ["made", b"ABC"]

    def test_base_codec_opens_at_once_and_changes_nothing(self) -> None:
        stage = Stage(Codec).connect()
        assert stage.outcome == [stage.above]
        stage.above.transport.write(b"data")
        assert stage.below.take() == b"data"
        stage.hear(b"more")
        assert stage.above.heard == ["made", b"more"]

    @rows("P-29", "P-30", "P-31", "P-32")
    @pytest.mark.parametrize(
        ("end", "call", "kind"),
        table(
            ("refusal", lambda stage: stage.hear(b"WELXX"), "abortConnection", InvalidBridge),
            ("fault", lambda stage: stage.hear(b"WELCOME!"), "abortConnection", ZeroDivisionError),
            ("FIN", lambda stage: stage.end(), "loseConnection", Temporary),
            ("reset", lambda stage: stage.below.lose(clean=False), None, ConnectionRefused),
        ),
    )
    def test_handshake_that_fails_is_the_outcome(
        self, end: Callable[[Stage], None], call: str | None, kind: type[Exception]
    ) -> None:
        stage = Stage().connect()
        end(stage)
        assert call is None or stage.below.asked[-1] == call
        if call is not None:
            stage.below.lose()
        assert stage.failure is kind

    def test_bytes_after_a_refusal_are_ignored(self) -> None:
        stage = Stage().connect()
        stage.hear(b"WELXX")
        stage.hear(b"WELCOME")
        stage.below.finish()
        assert stage.failure is InvalidBridge

    def test_failure_to_connect_is_the_outcome(self) -> None:
        stage = Stage()
        stage.endpoint.fail(ConnectionRefusedError())
        assert stage.failure is ConnectionRefusedError

    def test_factory_without_protocol_is_a_general_failure(self) -> None:
        endpoint, outcome = FakeEndpoint(), []
        factory = Factory.forProtocol(lambda: None)  # type: ignore[arg-type, return-value]
        factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]
        CodecEndpoint(endpoint, Codec).connect(factory).addBoth(outcome.append)
        transport = FakeTransport()
        endpoint.come(transport)
        assert outcome[0].type is GeneralFailure
        assert "abortConnection" in transport.asked

    def test_cancelling_while_connecting_cancels_the_endpoint(self) -> None:
        stage = Stage()
        stage.opening.cancel()
        assert stage.failure is CancelledError
        assert stage.endpoint.cancelled == 1

    def test_cancelling_during_the_handshake_resets(self) -> None:
        stage = Stage().connect()
        stage.opening.cancel()
        assert stage.failure is CancelledError
        assert stage.below.asked[-1] == "abortConnection"
        stage.hear(b"WELCOME")
        stage.below.finish()
        assert stage.below.take() == b"HELLO"
        assert stage.failure is CancelledError

    def test_connection_after_cancelling_is_reset(self) -> None:
        """Some endpoints cannot be cancelled."""
        outcome: list[Any] = []
        channel = Channel(Swap(), Factory.forProtocol(App))
        channel.wait_for(Deferred()).addBoth(outcome.append)
        channel.opened.cancel()
        transport = FakeTransport()
        transport.connect(channel)
        assert transport.take() == b""
        assert transport.asked == ["abortConnection"]


class TestOpen:
    def test_bytes_are_encoded_and_decoded(self) -> None:
        stage = Stage().open()
        stage.above.transport.write(b"abc")
        stage.above.transport.writeSequence([b"de", b"f"])
        assert stage.below.take() == b"ABCDEF"
        stage.hear(b"ABC")
        assert stage.above.heard == [b"abc"]

    @pytest.mark.parametrize(
        ("clean", "kind"), [(True, ConnectionDone), (False, ConnectionLost)], ids=["FIN", "RST"]
    )
    def test_fin_and_reset_reach_the_protocol(self, clean: bool, kind: type) -> None:
        stage = Stage().open()
        stage.below.lose(clean)
        assert [type(end) for end in stage.above.heard] == [kind]
        stage.above.transport.write(b"abc")
        assert stage.below.take() == b""

    def test_half_close_passes_through(self) -> None:
        stage = Stage(kind=HalfApp).open()
        stage.end()
        assert stage.above.heard == ["eof"]
        stage.above.transport.loseWriteConnection()
        assert stage.below.asked[-1] == "loseWriteConnection"
        stage.below.protocol.writeConnectionLost()
        assert stage.above.heard == ["eof", "shut"]

    def test_read_end_closes_where_the_protocol_has_no_half_close(self) -> None:
        stage = Stage().open()
        stage.end()
        assert stage.below.asked[-1] == "loseConnection"
        stage.below.protocol.writeConnectionLost()
        assert stage.above.heard == []

    def test_write_end_is_ignored_where_the_connection_has_no_half_close(self) -> None:
        stage = Stage(transport=WholeTransport()).open()
        asked = list(stage.below.asked)
        stage.above.transport.loseWriteConnection()
        assert stage.below.asked == asked

    @pytest.mark.parametrize("call", ["loseConnection", "abortConnection", "stopProducing"])
    def test_ends_asked_by_the_protocol_pass_through(self, call: str) -> None:
        stage = Stage().open()
        getattr(stage.above.transport, call)()
        assert stage.below.asked[-1] == call

    def test_backpressure_passes_through(self) -> None:
        stage = Stage().open()
        channel, producer = stage.above.transport, object()
        channel.registerProducer(producer, True)
        assert stage.below.producer is producer
        channel.unregisterProducer()
        assert stage.below.producer is None
        channel.pauseProducing()
        assert not stage.below.reading
        channel.resumeProducing()
        assert stage.below.reading

    def test_addresses_are_those_of_the_connection(self) -> None:
        stage = Stage().open()
        assert stage.above.transport.getPeer() == stage.below.getPeer()
        assert stage.above.transport.getHost() == stage.below.getHost()

    def test_refusal_of_the_codec_resets_an_open_stream(self) -> None:
        sending, hearing = Stage().open(), Stage().open()
        sending.above.transport.write(b"a?")
        hearing.hear(b"a?")
        assert sending.below.asked[-1] == hearing.below.asked[-1] == "abortConnection"

    def test_fault_of_the_codec_is_logged_and_resets_an_open_stream(
        self, logged_failures: list[LogEvent]
    ) -> None:
        stage = Stage().open()
        stage.hear(b"a!")
        [event] = logged_failures
        assert event["log_failure"].type is ZeroDivisionError
        logged_failures.clear()
        assert stage.below.asked[-1] == "abortConnection"
        assert stage.above.heard == []

    def test_transport_has_options_set_and_no_address_in_its_log_prefix(self) -> None:
        stage = Stage().open()
        assert {"noDelay", "keepAlive"} <= set(stage.below.asked)
        assert stage.below.logstr == "Channel"


def test_connection_that_cannot_abort_is_closed() -> None:
    stage = Stage()
    channel: Any = stage.endpoint.protocol
    channel.makeConnection(BareTransport(stage.below))
    stage.opening.cancel()
    assert [failure.type for failure in stage.outcome] == [CancelledError]
    assert stage.below.asked == ["loseConnection"]
