"""Listeners whose clients must be somebody: what the protocol does with its authenticator."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogEvent

from tests.support.peers import named
from tests.support.rows import rows
from tests.support.stage import Stage

REJECTED_4 = bytes.fromhex("00 5B 0000 00000000")
LOGIN = b"\1\2me\3you"
CONNECT = named("example.com", 80)


class TestAuthentication:
    """A listener whose clients must be somebody."""

    def ask(self, outcome: Any) -> Stage:
        def check(credentials: object) -> Any:
            self.checked.append(credentials)
            return outcome() if callable(outcome) else outcome

        self.checked: list[Any] = []
        return Stage(authenticator=check)

    @rows("R-11")
    def test_accepted_at_once(self) -> None:
        stage = self.ask(lambda: succeed(b"alice"))
        assert stage.say(b"\5\2\0\2" + LOGIN + CONNECT + b"early") == b"\5\2\1\0"
        [outbound] = stage.backend.outbounds
        assert outbound.request.avatar == b"alice"
        assert outbound.written == b"early"
        assert stage.transport.reading
        assert (self.checked[0].username, self.checked[0].password) == (b"me", b"you")

    def test_accepted_later_while_nothing_is_read(self) -> None:
        answer: Deferred[bytes | None] = Deferred()
        stage = self.ask(answer)
        assert stage.say(b"\5\1\2" + LOGIN) == b"\5\2"
        assert not stage.transport.reading
        # What a wrapper delivers all the same is kept.
        assert stage.say(CONNECT) == b""
        answer.callback(b"alice")
        assert stage.transport.take() == b"\1\0"
        assert stage.transport.reading
        assert len(stage.backend.outbounds) == 1

    @pytest.mark.parametrize("late", [False, True])
    def test_refused(self, late: bool) -> None:
        answer: Deferred[bytes | None] = Deferred()
        stage = self.ask(answer if late else lambda: succeed(None))
        answered = stage.say(b"\5\1\2" + LOGIN + CONNECT)
        if late:
            answer.callback(None)
            answered += stage.transport.take()
        assert answered == b"\5\2\1\1"
        assert stage.farewell
        assert stage.transport.reading
        assert stage.backend.outbounds == []

    @pytest.mark.parametrize("late", [False, True])
    def test_a_checker_that_fails_refuses_and_is_logged(
        self, late: bool, logged_failures: list[LogEvent]
    ) -> None:
        def broken() -> NoReturn:
            raise RuntimeError("out of order")

        stage = self.ask(fail(RuntimeError("out of order")) if late else broken)
        assert stage.say(b"\5\1\2" + LOGIN + CONNECT) == b"\5\2\1\1"
        assert stage.farewell
        assert [event["log_failure"].type for event in logged_failures] == [RuntimeError]
        logged_failures.clear()

    def test_a_slow_one_is_under_the_handshakes_deadline(self) -> None:
        cancelled: list[object] = []
        answer: Deferred[bytes | None] = Deferred(cancelled.append)
        stage = self.ask(answer)
        stage.say(b"\5\1\2" + LOGIN)
        stage.clock.advance(30)
        assert stage.farewell
        assert stage.transport.reading
        stage.transport.finish()
        assert len(cancelled) == 1
        assert stage.transport.take() == b""

    def test_an_answer_after_the_deadline_is_too_late(self) -> None:
        answer: Deferred[bytes | None] = Deferred()
        stage = self.ask(answer)
        stage.say(b"\5\1\2" + LOGIN + CONNECT)
        stage.clock.advance(30)
        answer.callback(b"alice")
        assert stage.transport.take() == b""
        assert stage.backend.outbounds == []

    def test_a_client_that_goes_cancels_it(self) -> None:
        cancelled: list[object] = []
        stage = self.ask(Deferred(cancelled.append))
        stage.say(b"\5\1\2" + LOGIN)
        stage.transport.lose(clean=False)
        assert len(cancelled) == 1
        assert stage.clock.getDelayedCalls() == []

    @rows("R-07", "R-11")
    @pytest.mark.parametrize(
        ("said", "answer"), [(b"\5\1\0", b"\5\xff"), (b"\4\1\0\x50\xc0\0\2\1\0", REJECTED_4)]
    )
    def test_who_has_no_credentials_is_refused(self, said: bytes, answer: bytes) -> None:
        stage = self.ask(succeed(b"anyone"))
        assert stage.say(said) == answer
        assert stage.farewell
        assert self.checked == []
