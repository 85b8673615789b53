"""One stream over a Twisted connection: what is kept, what is sent in one write, every end, and who
explains a failure."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tests.backends.ends import REQUEST, FakeEndpoint, Receiver, StreamStage
from tests.support.peers import GRANTED, named
from tests.support.rows import rows
from tests.support.transports import FakeTransport, WholeTransport
from torsocks_tx.client.connection import CLOSE_TIMEOUT, LookUp, Stream
from torsocks_tx.errors import (
    ConnectionRefused,
    DescriptorNotFound,
    GeneralFailure,
    HostUnreachable,
    ProxyBroken,
    RendezvousFailed,
    SOCKSError,
)
from torsocks_tx.interfaces import IOutbound
from torsocks_tx.socks.client import UNCONFIRMED_TIMEOUT, ClientHandshake

LOGIN = b"\1\1u\1p"
ASK = named("example.com", 80)


def test_a_stream_provides_its_interfaces() -> None:
    stream = StreamStage().stream
    assert verifyObject(IOutbound, stream)
    assert verifyObject(IProtocol, stream)
    assert verifyObject(IHalfCloseableProtocol, stream)
    assert stream.transport is None


class TestHandshake:
    @rows("S-38", "R-34")
    def test_pipelined_with_early_data_everything_is_one_write(self) -> None:
        stage = StreamStage(pipelined=True, early=True)
        stage.stream.write(b"early ")
        stage.stream.write(b"data")
        stage.come()
        assert stage.transport.take() == b"\5\1\2" + LOGIN + ASK + b"early data"
        stage.stream.write(b" and more")
        assert stage.transport.take() == b" and more"
        stage.stream.dataReceived(b"\1\0" + GRANTED + b"hello")
        assert stage.heard == ["opened", b"hello"]
        assert stage.stream.outcome is None  # with what came behind the reply

    @rows("R-34")
    def test_pipelined_without_early_data_the_payload_waits_for_the_reply(self) -> None:
        stage = StreamStage(pipelined=True, early=False)
        stage.stream.write(b"early ")
        stage.come()
        assert stage.transport.take() == b"\5\1\2" + LOGIN + ASK
        stage.stream.write(b"data")
        assert stage.transport.take() == b""
        stage.stream.dataReceived(b"\5\2\1\0" + GRANTED)
        assert stage.transport.take() == b"early data"

    @rows("R-34")
    @pytest.mark.parametrize("early", [False, True])
    def test_a_server_is_spoken_to_step_by_step(self, early: bool) -> None:
        stage = StreamStage(pipelined=False, early=early).come()
        assert stage.transport.take() == b"\5\1\2"
        stage.stream.write(b"data")
        stage.stream.dataReceived(b"\5\2")
        assert stage.transport.take() == LOGIN
        stage.stream.dataReceived(b"\1\0")
        assert stage.transport.take() == ASK + (b"data" if early else b"")
        stage.stream.dataReceived(GRANTED)
        assert stage.transport.take() == (b"" if early else b"data")
        assert stage.heard == ["opened"]

    def test_a_refusal_closes_and_nothing_follows(self) -> None:
        stage = StreamStage(pipelined=True).come()
        stage.stream.dataReceived(b"\1\0\5\5")
        [reason] = stage.heard
        assert isinstance(reason, ConnectionRefused)
        assert stage.transport.asked[-1] == "abortConnection"
        stage.stream.dataReceived(b"\0\1\0\0\0\0\0\0")
        stage.transport.finish()
        assert len(stage.heard) == 1
        stage.stream.write(b"for nobody")
        assert stage.transport.take() == b"\5\1\2" + LOGIN + ASK

    @pytest.mark.parametrize("fin", [False, True])
    def test_an_end_before_the_reply_is_a_refusal(self, fin: bool) -> None:
        stage = StreamStage(pipelined=True, half_close=False).come()
        if fin:
            stage.stream.readConnectionLost()
            assert stage.transport.asked[-1] == "abortConnection"
        stage.transport.finish()
        [reason] = stage.heard
        assert isinstance(reason, ProxyBroken)

    def test_a_receiver_that_gives_up_when_it_opens_hears_no_more(self) -> None:
        stage = StreamStage(pipelined=True).come()
        stage.receiver.opened = stage.stream.abort  # type: ignore[method-assign]
        stage.stream.dataReceived(b"\1\0" + GRANTED + b"hello")
        assert stage.heard == []
        stage.transport.finish()
        assert stage.heard == []


class TestGivingUp:
    @rows("R-29")
    @pytest.mark.parametrize("end", [Stream.abort, Stream.close])
    def test_while_connecting_the_attempt_is_cancelled(self, end: Any) -> None:
        stage = StreamStage()
        stage.stream.write(b"early")
        end(stage.stream)
        assert stage.endpoint.cancelled == 1
        assert stage.heard == []

    @rows("R-29")
    def test_in_the_handshake_the_connection_is_reset(self) -> None:
        stage = StreamStage(pipelined=True).come()
        stage.stream.abort()
        assert stage.transport.asked[-1] == "abortConnection"
        stage.transport.finish()
        assert stage.heard == []

    def test_a_connection_that_comes_all_the_same_is_reset(self) -> None:
        stage = StreamStage(pipelined=True)
        stage.stream.abort()
        stage.transport.connect(stage.endpoint.protocol)
        assert stage.transport.asked == ["abortConnection"]
        assert stage.transport.take() == b""
        assert stage.heard == []

    def test_what_the_stream_waits_for_is_cancelled(self) -> None:
        waiting: Deferred[Any] = Deferred()
        stream = Stream(Clock(), Receiver(), half_close=True)
        stream.prepare_by(waiting)
        stream.abort()
        failures: list[Any] = []
        waiting.addErrback(failures.append)
        assert failures == []
        assert waiting.called
        stream.connect(FakeEndpoint())
        assert stream.transport is None

    def test_what_was_prepared_at_once_leaves_the_connection_to_be_cancelled(self) -> None:
        stream, endpoint = Stream(Clock(), Receiver(), half_close=True), FakeEndpoint()
        stream.prepare_by(succeed(endpoint).addCallback(stream.connect))
        stream.abort()
        assert endpoint.cancelled == 1

    def test_a_stream_is_refused_if_what_it_waits_for_fails(self) -> None:
        waiting: Deferred[Any] = Deferred()
        receiver = Receiver()
        Stream(Clock(), receiver, half_close=True).prepare_by(waiting)
        waiting.errback(CancelledError())
        [reason] = receiver.heard
        assert isinstance(reason, GeneralFailure)


class TestOpen:
    def test_each_side_can_pause_the_other(self) -> None:
        stage = StreamStage()
        stage.stream.register_producer(object())  # type: ignore[arg-type]
        stage.stream.unregister_producer()
        stage.stream.pauseProducing()
        stage.stream.resumeProducing()
        stage.open()
        stage.stream.pauseProducing()
        assert not stage.transport.reading
        stage.stream.resumeProducing()
        assert stage.transport.reading
        producer: Any = object()
        stage.stream.register_producer(producer)
        assert stage.transport.producer is producer
        stage.stream.unregister_producer()
        assert stage.transport.producer is None
        stage.stream.stopProducing()
        assert "stopProducing" not in stage.transport.asked

    @rows("S-03")
    def test_the_remote_is_told_that_no_more_comes(self) -> None:
        stage = StreamStage(half_close=True).open()
        stage.stream.lose_write()
        assert stage.transport.asked[-2:] == ["unregisterProducer", "loseWriteConnection"]
        stage.transport.flush()
        stage.stream.dataReceived(b"answer")
        stage.stream.readConnectionLost()
        assert stage.heard == [b"answer", "eof"]

    @rows("S-03")
    @pytest.mark.parametrize(
        ("half_close", "transport"), [(False, FakeTransport()), (True, WholeTransport())]
    )
    def test_the_remote_is_not_told_where_that_would_lose_the_answer(
        self, half_close: bool, transport: WholeTransport
    ) -> None:
        stage = StreamStage(half_close=half_close, transport=transport).open()
        stage.stream.lose_write()
        assert transport.asked == ["noDelay", "keepAlive"]

    @rows("S-03")
    @pytest.mark.parametrize("at_once", [True, False])
    def test_the_fin_of_a_remote_that_cannot_half_close_is_its_end(self, at_once: bool) -> None:
        stage = StreamStage(half_close=False).open()
        stage.stream.register_producer(object())  # type: ignore[arg-type]
        if at_once:  # a transport whose sending side is shut down is gone when it is closed
            stage.transport.loseConnection = stage.transport.lose
        stage.stream.readConnectionLost()
        assert stage.heard == [("lost", True)]
        assert stage.transport.producer is None
        if not at_once:
            assert stage.transport.asked[-1] == "loseConnection"
            # Its reset, because we were still sending, changes nothing.
            stage.transport.lose(clean=False)
        assert stage.heard == [("lost", True)]
        assert stage.clock.getDelayedCalls() == []

    @rows("S-03")
    @pytest.mark.parametrize("clean", [True, False])
    def test_the_end_of_the_remote_is_heard_as_it_was(self, clean: bool) -> None:
        stage = StreamStage().open()
        stage.transport.lose(clean)
        assert stage.heard == [("lost", clean)]

    @pytest.mark.parametrize("in_time", [True, False])
    def test_closing_flushes_first_but_not_for_ever(self, in_time: bool) -> None:
        stage = StreamStage().open()
        stage.stream.close()
        stage.stream.close()
        assert stage.transport.asked[-2:] == ["unregisterProducer", "loseConnection"]
        stage.stream.write(b"too late")
        assert stage.transport.take() == b""
        if not in_time:
            stage.clock.advance(CLOSE_TIMEOUT)
            assert stage.transport.asked[-1] == "abortConnection"
        stage.transport.finish()
        assert stage.heard == [("lost", in_time)]
        assert stage.clock.getDelayedCalls() == []


NOT_FOUND = b"\5\xf0\0\1" + bytes(6)


class Explainer:
    """A ``FailureExplainer`` that writes down what it hears, and explains when the test does."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.explanation: Deferred[SOCKSError] = Deferred(lambda _: self.heard.append("cancelled"))

    def opened(self) -> None:
        self.heard.append("opened")

    def refused(self, reason: SOCKSError) -> Deferred[SOCKSError]:
        self.heard.append(type(reason))
        return self.explanation

    def over(self) -> None:
        self.heard.append("over")


class Play(StreamStage):
    """A stream with an explainer."""

    def __init__(self, **options: Any) -> None:
        self.explainer = Explainer()
        super().__init__(pipelined=True, explainer=self.explainer, **options)

    def say(self, data: bytes) -> None:
        self.stream.dataReceived(data)

    def refused(self) -> Play:
        """Come, and hear a refusal that is to be explained."""
        self.come()
        self.say(b"\1\0\5\4")
        assert (self.heard, self.explainer.heard) == ([], [HostUnreachable])
        return self


def test_an_explainer_hears_that_the_stream_is_open() -> None:
    play = Play()
    play.come()
    play.say(b"\1\0" + GRANTED + b"hello")
    assert play.heard == ["opened", b"hello"]
    play.stream.abort()
    assert play.explainer.heard == ["opened"]


@rows("S-02")
def test_an_explainer_has_the_last_word() -> None:
    play = Play().refused()
    assert play.transport.asked[-1] == "abortConnection"
    play.transport.finish()
    play.stream.write(b"early data that is late")
    better = DescriptorNotFound("why")
    play.explainer.explanation.callback(better)
    assert play.heard == [better]
    assert play.explainer.heard == [HostUnreachable]


@pytest.mark.parametrize("end", ["readConnectionLost", "connectionLost"])
def test_an_explainer_explains_a_close_before_the_reply(end: str) -> None:
    play = Play(half_close=False)
    play.come()
    getattr(play.stream, end)()
    plain = GeneralFailure()
    play.explainer.explanation.callback(plain)
    assert play.heard == [plain]


def test_an_explainer_with_a_fault_costs_the_reason_alone(logged_failures: list[Any]) -> None:
    play = Play().refused()
    play.explainer.explanation.errback(ZeroDivisionError())
    assert isinstance(play.heard[0], HostUnreachable)
    assert len(logged_failures) == 1
    logged_failures.clear()


@rows("R-29")
def test_a_client_that_leaves_while_its_refusal_is_explained_cancels_that() -> None:
    play = Play().refused()
    play.stream.abort()
    assert play.heard == []
    assert play.explainer.heard == [HostUnreachable, "cancelled"]


@rows("R-29")
def test_an_explainer_hears_once_of_a_stream_that_is_not_asked_for_any_more() -> None:
    leaving, connected, failing = Play(), Play(), Play()
    connected.come()
    for play in (leaving, connected):
        play.stream.abort()
        play.stream.abort()
    failing.endpoint.fail(OSError())
    assert len(failing.heard) == 1
    stage, late = StreamStage(), Explainer()
    stage.stream.abort()
    stage.stream.ask(ClientHandshake(REQUEST), explainer=late)
    explainers = [leaving.explainer, connected.explainer, failing.explainer, late]
    assert [explainer.heard for explainer in explainers] == [["over"]] * 4


@rows("S-46")
def test_an_explainer_may_end_the_stream() -> None:
    play = Play()
    play.come()
    reason = RendezvousFailed("nobody came")
    play.stream.refuse(reason)
    assert play.heard == [reason]
    assert play.transport.asked[-1] == "abortConnection"
    play.transport.finish()
    assert play.heard == [reason]


@rows("S-43")
class TestUnconfirmed:
    def unconfirmed(self) -> Play:
        play = Play(verify_f0=True)
        play.come()
        play.say(b"\1\0" + NOT_FOUND)
        assert play.heard == []
        return play

    def test_silence_or_data_behind_f0_mean_that_the_stream_works(self) -> None:
        silent, talking = self.unconfirmed(), self.unconfirmed()
        silent.clock.advance(UNCONFIRMED_TIMEOUT)
        talking.say(b"hello")
        assert (silent.heard, talking.heard) == (["opened"], ["opened", b"hello"])
        assert silent.explainer.heard == talking.explainer.heard == ["opened"]
        assert talking.clock.getDelayedCalls() == []

    def test_a_stream_that_ends_behind_f0_leaves_no_timer(self) -> None:
        closed, left = self.unconfirmed(), self.unconfirmed()
        closed.transport.finish()
        left.stream.abort()
        assert closed.explainer.heard == [DescriptorNotFound]
        assert left.heard == []
        assert closed.clock.getDelayedCalls() == left.clock.getDelayedCalls() == []


@pytest.mark.parametrize("how", ["answered", "refused", "left"])
def test_a_look_up_that_is_over_does_not_hold_its_stream(how: str) -> None:
    asking, nothing = LookUp(), lambda: None
    outcome = SimpleNamespace(reply=SimpleNamespace(address=None))
    asking.stream = SimpleNamespace(outcome=outcome, close=nothing, abort=nothing)
    asking.answer.addErrback(lambda _: None)
    refuse = partial(asking.refused, HostUnreachable("x"))
    {"answered": asking.opened, "refused": refuse, "left": asking.answer.cancel}[how]()
    assert asking.stream is None
