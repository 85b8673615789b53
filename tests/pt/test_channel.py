"""A codec between a protocol and a connection, in memory and over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.pt.codecs import Swap
from tests.pt.ports import HeldEndpoint
from tests.support.rows import rows
from tests.support.tables import cuts
from tests.support.transports import BareTransport, FakeTransport, WholeTransport
from torsocks_tx.errors import ConnectionRefused, GeneralFailure, InvalidBridge, Temporary
from torsocks_tx.pt.channel import Channel, CodecEndpoint
from torsocks_tx.pt.codec import Codec


class Above(Protocol):
    """The protocol above; ``heard`` is what it was told."""

    transport: Any

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def connectionMade(self) -> None:
        self.heard.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.heard.append(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Above):
    """One that can go on when one way is closed."""

    def readConnectionLost(self) -> None:
        self.heard.append("read lost")

    def writeConnectionLost(self) -> None:
        self.heard.append("write lost")


class Stage:
    """A channel on a transport in memory, and all that is around it."""

    def __init__(
        self,
        codec: type[Codec] = Swap,
        kind: type[Above] = Above,
        transport: WholeTransport | None = None,
    ) -> None:
        self.below = transport or FakeTransport()
        self.above = kind()
        self.outcome: list[Any] = []
        self.endpoint = HeldEndpoint()
        self.opening = CodecEndpoint(self.endpoint, codec).connect(
            Factory.forProtocol(lambda: self.above)
        )
        self.opening.addBoth(self.outcome.append)

    def connect(self) -> Stage:
        self.endpoint.made(self.below)
        return self

    def open(self) -> Stage:
        self.connect()
        self.hear(b"WELCOME")
        assert self.outcome == [self.above]
        assert self.below.take() == b"HELLOTHANKS"
        assert self.above.heard == ["made"]
        self.above.heard.clear()
        return self

    def hear(self, data: bytes) -> None:
        self.below.protocol.dataReceived(data)

    @property
    def failure(self) -> type[BaseException]:
        [failure] = self.outcome
        assert self.above.heard == []
        return failure.type  # type: ignore[no-any-return]


class TestHandshake:
    def test_the_protocol_is_connected_when_it_is_finished(self) -> None:
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

    def test_payload_may_come_with_its_end(self) -> None:
        stage = Stage().connect()
        stage.hear(b"WELCOMEabc")
        assert stage.above.heard == ["made", b"ABC"]

    def test_there_may_be_none(self) -> None:
        stage = Stage(Codec).connect()
        assert stage.outcome == [stage.above]
        assert stage.below.take() == b""

    @rows("P-31", "P-32")
    def test_what_the_codec_raises_is_the_outcome(self) -> None:
        stage = Stage().connect()
        stage.hear(b"WELXX")
        assert stage.failure is InvalidBridge
        assert stage.below.asked[-1] == "abortConnection"
        stage.hear(b"WELCOME")
        stage.below.finish()
        assert stage.failure is InvalidBridge

    def test_so_it_is_where_it_has_a_fault(self) -> None:
        stage = Stage().connect()
        stage.hear(b"WELCOME!")
        assert stage.failure is ZeroDivisionError

    @rows("P-29", "P-30")
    def test_a_fin_is_what_the_codec_says(self) -> None:
        stage = Stage().connect()
        stage.below.protocol.readConnectionLost()
        assert stage.below.asked[-1] == "loseConnection"
        stage.below.lose()
        assert stage.failure is Temporary

    def test_a_reset_is_a_refusal(self) -> None:
        stage = Stage().connect()
        stage.below.lose(clean=False)
        assert stage.failure is ConnectionRefused

    def test_a_connection_that_is_not_made(self) -> None:
        stage = Stage()
        stage.endpoint.connecting.errback(ConnectionRefusedError())
        assert stage.failure is ConnectionRefusedError

    def test_a_factory_that_makes_nothing(self) -> None:
        endpoint, outcome = HeldEndpoint(), []
        factory = Factory.forProtocol(lambda: None)  # type: ignore[arg-type, return-value]
        factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]
        CodecEndpoint(endpoint, Codec).connect(factory).addBoth(outcome.append)
        transport = FakeTransport()
        endpoint.made(transport)
        assert outcome[0].type is GeneralFailure
        assert "abortConnection" in transport.asked

    def test_cancelling_while_it_connects(self) -> None:
        stage = Stage()
        stage.opening.cancel()
        assert stage.failure is CancelledError
        assert stage.endpoint.connecting.called

    def test_cancelling_during_the_handshake(self) -> None:
        stage = Stage().connect()
        stage.opening.cancel()
        assert stage.failure is CancelledError
        assert stage.below.asked[-1] == "abortConnection"
        stage.hear(b"WELCOME")
        stage.below.finish()
        assert stage.below.take() == b"HELLO"
        assert stage.failure is CancelledError

    def test_a_connection_that_comes_too_late(self) -> None:
        """Some endpoints cannot be cancelled."""
        endpoint, outcome = HeldEndpoint(), []
        channel = Channel(Swap(), Factory.forProtocol(Above))
        channel.wait_for(endpoint.connecting).addBoth(outcome.append)
        channel.opened.cancel()
        transport = FakeTransport()
        transport.connect(channel)
        assert transport.take() == b""
        assert transport.asked == ["abortConnection"]


class TestOpen:
    def test_bytes_are_turned_both_ways(self) -> None:
        stage = Stage().open()
        stage.above.transport.write(b"abc")
        stage.above.transport.writeSequence([b"de", b"f"])
        assert stage.below.take() == b"ABCDEF"
        stage.hear(b"ABC")
        assert stage.above.heard == [b"abc"]

    @pytest.mark.parametrize(
        ("clean", "kind"), [(True, ConnectionDone), (False, ConnectionLost)], ids=["FIN", "RST"]
    )
    def test_its_end_is_heard_as_it_was(self, clean: bool, kind: type) -> None:
        stage = Stage().open()
        stage.below.lose(clean)
        assert stage.above.heard == [kind]
        stage.above.transport.write(b"abc")
        assert stage.below.take() == b""

    def test_half_close_passes_through(self) -> None:
        stage = Stage(kind=HalfCloseable).open()
        stage.below.protocol.readConnectionLost()
        assert stage.above.heard == ["read lost"]
        stage.above.transport.loseWriteConnection()
        assert stage.below.asked[-1] == "loseWriteConnection"
        stage.below.protocol.writeConnectionLost()
        assert stage.above.heard == ["read lost", "write lost"]

    def test_unless_the_protocol_knows_nothing_of_it(self) -> None:
        stage = Stage().open()
        stage.below.protocol.readConnectionLost()
        assert stage.below.asked[-1] == "loseConnection"
        stage.below.protocol.writeConnectionLost()
        assert stage.above.heard == []

    def test_or_the_connection_does_not(self) -> None:
        stage = Stage(transport=WholeTransport()).open()
        asked = list(stage.below.asked)
        stage.above.transport.loseWriteConnection()
        assert stage.below.asked == asked

    @pytest.mark.parametrize("call", ["loseConnection", "abortConnection", "stopProducing"])
    def test_calls_pass_through(self, call: str) -> None:
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

    def test_addresses_are_the_connections(self) -> None:
        stage = Stage().open()
        assert stage.above.transport.getPeer() == stage.below.getPeer()
        assert stage.above.transport.getHost() == stage.below.getHost()

    def test_a_refusal_of_the_codec_ends_it(self) -> None:
        for send in (False, True):
            stage = Stage().open()
            if send:
                stage.above.transport.write(b"a?")
            else:
                stage.hear(b"a?")
            assert stage.below.asked[-1] == "abortConnection"

    def test_a_fault_of_the_codec_is_logged_and_ends_it(
        self, logged_failures: list[LogEvent]
    ) -> None:
        stage = Stage().open()
        stage.hear(b"a!")
        [event] = logged_failures
        assert event["log_failure"].type is ZeroDivisionError
        logged_failures.clear()
        assert stage.below.asked[-1] == "abortConnection"
        assert stage.above.heard == []

    def test_the_transport_is_prepared_and_has_no_address_in_its_name(self) -> None:
        stage = Stage().open()
        assert {"noDelay", "keepAlive"} <= set(stage.below.asked)
        assert stage.below.logstr == "Channel"


def test_a_connection_that_cannot_abort_is_closed() -> None:
    stage = Stage()
    channel: Any = stage.endpoint.factory.buildProtocol(None)
    channel.makeConnection(BareTransport(stage.below))
    stage.opening.cancel()
    assert [failure.type for failure in stage.outcome] == [CancelledError]
    assert stage.below.asked == ["loseConnection"]
