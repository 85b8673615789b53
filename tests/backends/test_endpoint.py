"""The backend over endpoints: when it chooses one, and how refusals and faults are handled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionRefusedError as ConnectionRefusedByHost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.backends.ends import FakeEndpoint, Receiver
from tests.support.relaying import ISOLATION, REQUEST
from tests.support.transports import FakeTransport
from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.client.endpoint import SOCKSClientEndpoint
from torsocks_tx.errors import (
    CommandNotSupported,
    ConnectionRefused,
    GeneralFailure,
    HostUnreachable,
    Internal,
    NotAllowed,
    ProxyUnreachable,
)
from torsocks_tx.interfaces import IBackend, IOutbound
from torsocks_tx.socks.constants import Command
from torsocks_tx.socks.replies import ReplyContext, code_for


class TestOpen:
    def setup_method(self) -> None:
        self.clock = Clock()
        self.receiver = Receiver()
        self.endpoint = FakeEndpoint()
        self.asked: list[object] = []

    def choose(self, *request: object) -> FakeEndpoint:
        self.asked.append(request)
        return self.endpoint

    def open(self, choose: Any = None) -> Any:
        backend = EndpointBackend(self.clock, choose or self.choose)
        assert verifyObject(IBackend, backend)
        stream = backend.open(REQUEST, ISOLATION, self.receiver)
        assert self.receiver.heard == []
        assert verifyObject(IOutbound, stream)
        return stream

    def outcome(self) -> Any:
        """Let the next turn come, and return what is heard by then."""
        self.clock.advance(0)
        [what] = self.receiver.heard
        return what

    def test_endpoint_is_chosen_in_the_next_turn(self) -> None:
        stream = self.open()
        stream.write(b"early")
        assert self.asked == []
        self.clock.advance(0)
        assert self.asked == [(REQUEST, ISOLATION)]
        assert self.receiver.heard == []
        transport = FakeTransport()
        self.endpoint.come(transport)
        assert self.outcome() == "opened"
        stream.write(b"later")
        assert transport.take() == b"earlylater"

    @pytest.mark.parametrize("at_once", [False, True])
    def test_a_failed_attempt_is_refused(self, at_once: bool) -> None:
        failed = self.endpoint = FakeEndpoint(Deferred())
        if at_once:
            failed.fail(ConnectionRefusedByHost())
        self.open()
        if not at_once:
            self.clock.advance(0)
            failed.fail(ConnectionRefusedByHost())
        assert isinstance(self.outcome(), ConnectionRefused)

    @pytest.mark.parametrize("failure", [ConnectionRefusedByHost(), HostUnreachable("a chain")])
    def test_unreachable_proxy_is_a_general_failure(self, failure: Exception) -> None:
        proxy = self.endpoint
        self.open(lambda *_: SOCKSClientEndpoint(self.clock, proxy, "example.com", 80))
        self.clock.advance(0)
        proxy.fail(failure)
        reason = self.outcome()
        assert type(reason) is ProxyUnreachable
        assert reason.code == 1

    def test_reply_of_a_proxy_is_passed_on(self) -> None:
        self.open(lambda *_: SOCKSClientEndpoint(self.clock, self.endpoint, "example.com", 80))
        self.clock.advance(0)
        transport = FakeTransport()
        self.endpoint.come(transport)
        self.endpoint.protocol.dataReceived(b"\5\0\5\5\0\1\0\0\0\0\0\0")
        reason = self.outcome()
        assert type(reason) is ConnectionRefused
        assert reason.reply == 5

    def test_chooser_may_be_a_coroutine(self) -> None:
        answer: Deferred[FakeEndpoint] = Deferred()

        async def choose(*_: object) -> FakeEndpoint:
            return await answer

        self.open(choose)
        self.clock.advance(0)
        answer.callback(self.endpoint)
        self.endpoint.come(FakeTransport())
        assert self.receiver.heard == ["opened"]

    def test_coroutine_that_chooses_is_cancelled_with_its_client(self) -> None:
        cancelled: list[object] = []

        async def choose(*_: object) -> NoReturn:
            await Deferred(cancelled.append)
            raise AssertionError("the answer never comes")

        stream = self.open(choose)
        self.clock.advance(0)
        stream.abort()
        assert len(cancelled) == 1
        assert self.receiver.heard == []

    def test_chooser_may_refuse(self) -> None:
        def choose(*_: object) -> NoReturn:
            raise NotAllowed("not there")

        self.open(choose)
        assert isinstance(self.outcome(), NotAllowed)

    def test_choice_that_is_no_endpoint_is_told_and_refused(self, log_lines: list[str]) -> None:
        self.open(lambda *_: None)  # type: ignore[arg-type,return-value]
        assert isinstance(self.outcome(), Internal)
        assert log_lines == [
            "error: what should choose an endpoint has returned NoneType; the client is refused"
        ]

    @pytest.mark.parametrize("in_connect", [False, True])
    def test_fault_of_the_chooser_is_logged_and_refused(
        self, in_connect: bool, logged_failures: list[LogEvent]
    ) -> None:
        def broken(*_: object) -> NoReturn:
            raise RuntimeError("out of order")

        if in_connect:
            self.endpoint.connect = broken  # type: ignore[method-assign]
        self.open(None if in_connect else broken)
        assert isinstance(self.outcome(), GeneralFailure)
        assert [event["log_failure"].type for event in logged_failures] == [RuntimeError]
        logged_failures.clear()

    def test_abort_before_the_next_turn_chooses_nothing(self) -> None:
        self.open().abort()
        self.clock.advance(0)
        assert self.asked == []
        assert self.receiver.heard == []
        assert self.clock.getDelayedCalls() == []

    def test_abort_while_connecting_cancels_the_endpoint(self) -> None:
        stream = self.open()
        self.clock.advance(0)
        stream.abort()
        assert self.endpoint.cancelled == 1
        assert self.receiver.heard == []

    def test_an_endpoint_may_connect_at_once(self) -> None:
        transport = FakeTransport()

        @implementer(IStreamClientEndpoint)
        class Instant:
            def connect(self, factory: Any) -> Deferred[Any]:
                protocol = factory.buildProtocol(None)
                transport.connect(protocol)
                return succeed(protocol)

        self.open(lambda *_: Instant())
        assert self.outcome() == "opened"


@pytest.mark.parametrize("look_up", ["resolve", "resolve_ptr"])
def test_look_ups_are_refused_with_07(look_up: str) -> None:
    backend = EndpointBackend(Clock(), lambda *_: None)  # type: ignore[arg-type,return-value]
    failures: list[Any] = []
    getattr(backend, look_up)(REQUEST, ISOLATION).addErrback(failures.append)
    assert failures[0].check(CommandNotSupported)
    asked = replace(REQUEST, command=Command.RESOLVE)
    assert code_for(failures[0].value, ReplyContext.of(asked)) == 7


def test_an_endpoint_in_place_of_the_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"choose must be a function that .*, not FakeEndpoint"):
        EndpointBackend(Clock(), FakeEndpoint())  # type: ignore[arg-type]
