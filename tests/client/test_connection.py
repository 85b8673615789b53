"""Who stands by a stream until it is open, and when an answer is doubted."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.backends.ends import REQUEST, StreamStage
from tests.support.peers import GRANTED
from tests.support.rows import rows
from torsocks_tx.client.connection import Conversation
from torsocks_tx.errors import (
    ConnectionRefused,
    DescriptorNotFound,
    GeneralFailure,
    HostUnreachable,
    Refused,
    RendezvousFailed,
)
from torsocks_tx.socks.client import Initiator
from torsocks_tx.socks.outcomes import DOUBT_TIMEOUT

NOT_FOUND = b"\5\xf0\0\1" + bytes(6)


class Bystander:
    """An ``Opening`` that writes down what it hears, and explains when the test does."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.explanation: Deferred[Refused] = Deferred(lambda _: self.heard.append("cancelled"))

    def opened(self) -> None:
        self.heard.append("opened")

    def refused(self, reason: Refused) -> Deferred[Refused]:
        self.heard.append(type(reason))
        return self.explanation

    def over(self) -> None:
        self.heard.append("over")


class Play(StreamStage):
    """A stream with a bystander."""

    def __init__(self, **options: Any) -> None:
        self.bystander = Bystander()
        super().__init__(pipelined=True, opening=self.bystander, **options)

    def say(self, data: bytes) -> None:
        self.stream.dataReceived(data)


def test_opened() -> None:
    play = Play()
    play.come()
    play.say(b"\1\0" + GRANTED + b"hello")
    assert play.heard == ["opened", b"hello"]
    play.stream.abort()
    assert play.bystander.heard == ["opened"]


@rows("S-02")
def test_the_bystander_has_the_last_word() -> None:
    play = Play()
    play.come()
    play.say(b"\1\0\5\4")
    assert play.heard == []
    assert play.transport.asked[-1] == "abortConnection"
    play.transport.finish()
    play.stream.write(b"early data that is late")
    better = DescriptorNotFound("why")
    play.bystander.explanation.callback(better)
    assert play.heard == [better]
    assert play.bystander.heard == [HostUnreachable]


@pytest.mark.parametrize("end", ["readConnectionLost", "connectionLost"])
def test_a_close_before_the_reply_is_explained_too(end: str) -> None:
    play = Play(half_close=False)
    play.come()
    getattr(play.stream, end)()
    plain = GeneralFailure()
    play.bystander.explanation.callback(plain)
    assert play.heard == [plain]


def test_a_bystander_with_a_fault_costs_the_reason_alone(logged_failures: list[Any]) -> None:
    play = Play()
    play.come()
    play.say(b"\1\0\5\4")
    play.bystander.explanation.errback(ZeroDivisionError())
    assert isinstance(play.heard[0], HostUnreachable)
    assert len(logged_failures) == 1
    logged_failures.clear()


@rows("R-29")
def test_a_client_that_leaves_while_it_is_explained() -> None:
    play = Play()
    play.come()
    play.say(b"\1\0\5\4")
    play.stream.abort()
    assert play.heard == []
    assert play.bystander.heard == [HostUnreachable, "cancelled"]


@rows("R-29")
@pytest.mark.parametrize("connected", [False, True])
def test_a_client_that_leaves_before_the_reply(connected: bool) -> None:
    play = Play()
    if connected:
        play.come()
    play.stream.abort()
    play.stream.abort()
    assert play.bystander.heard == ["over"]


def test_a_connection_that_is_not_made() -> None:
    play = Play()
    play.endpoint.fail(OSError())
    assert len(play.heard) == 1
    assert play.bystander.heard == ["over"]


def test_a_stream_that_was_given_up_before_it_could_connect() -> None:
    stage, bystander = StreamStage(), Bystander()
    stage.stream.abort()
    conversation = Conversation(stage.clock, stage.stream, Initiator(REQUEST), opening=bystander)
    stage.stream.connect(stage.endpoint, conversation)
    assert bystander.heard == ["over"]


@rows("S-46")
def test_the_bystander_may_end_it() -> None:
    play = Play()
    play.come()
    reason = RendezvousFailed("nobody came")
    play.stream.refuse(reason)
    assert play.heard == [reason]
    assert play.transport.asked[-1] == "abortConnection"
    play.transport.finish()
    assert play.heard == [reason]


@rows("S-43")
class TestDoubt:
    def doubting(self) -> Play:
        play = Play(doubtful=True)
        play.come()
        play.say(b"\1\0" + NOT_FOUND)
        assert play.heard == []
        return play

    def test_silence_means_that_it_works(self) -> None:
        play = self.doubting()
        play.clock.advance(DOUBT_TIMEOUT)
        assert play.heard == ["opened"]
        assert play.bystander.heard == ["opened"]

    def test_data_means_that_it_works(self) -> None:
        play = self.doubting()
        play.say(b"hello")
        assert play.heard == ["opened", b"hello"]
        assert play.clock.getDelayedCalls() == []

    def test_a_close_means_that_it_failed(self) -> None:
        play = self.doubting()
        play.transport.finish()
        assert play.clock.getDelayedCalls() == []
        assert play.bystander.heard == [DescriptorNotFound]

    def test_given_up_meanwhile(self) -> None:
        play = self.doubting()
        play.stream.abort()
        assert play.clock.getDelayedCalls() == []
        assert play.heard == []


def test_without_a_bystander() -> None:
    stage = StreamStage(pipelined=True).come()
    stage.stream.dataReceived(b"\1\0\5\5")
    assert isinstance(stage.heard[0], ConnectionRefused)
