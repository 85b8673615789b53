"""The lines to the parent, in memory; ``test_managed`` uses pipes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher

from tests.support.transports import FakeTransport
from torsocks_tx.pt.managed import FLUSH_TIMEOUT, Parent, ParentLog


class Stage:
    """A parent that reads, unless the test says otherwise."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.parent = Parent(self.clock)
        self.transport = FakeTransport()
        self.transport.connect(self.parent)

    def flush(self) -> list[Any]:
        outcome: list[Any] = []
        Deferred.fromCoroutine(self.parent.flush()).addBoth(outcome.append)
        return outcome


def test_lines_are_written_in_order() -> None:
    stage = Stage()
    stage.parent.say(b"VERSION 1\n")
    stage.parent.say_log("info", "hello")
    assert stage.transport.take() == b'VERSION 1\nLOG SEVERITY=info MESSAGE="hello"\n'


def test_log_lines_are_dropped_while_the_parent_does_not_read() -> None:
    stage = Stage()
    stage.transport.producer.pauseProducing()
    stage.parent.say_log("error", "lost")
    stage.parent.say(b"CMETHODS DONE\n")
    stage.transport.producer.resumeProducing()
    stage.parent.say_log("error", "heard")
    assert stage.transport.take() == b'CMETHODS DONE\nLOG SEVERITY=error MESSAGE="heard"\n'


@pytest.mark.parametrize("how", ["writeConnectionLost", "stopProducing"])
def test_nothing_is_written_after_the_parent_has_closed(how: str) -> None:
    stage = Stage()
    getattr(stage.parent, how)()
    stage.parent.say(b"CMETHODS DONE\n")
    stage.parent.say_log("error", "lost")
    stage.parent.resumeProducing()
    stage.parent.say_log("error", "lost")
    assert stage.transport.take() == b""
    assert stage.flush() == [None]


def test_end_of_standard_input_fires_once() -> None:
    stage = Stage()
    assert not stage.parent.input_closed.called
    stage.parent.readConnectionLost()
    stage.parent.readConnectionLost()
    assert stage.parent.input_closed.called


def test_flushing_waits_for_the_last_byte() -> None:
    stage = Stage()
    outcome = stage.flush()
    assert stage.transport.asked[-2:] == ["unregisterProducer", "loseConnection"]
    assert outcome == []
    stage.transport.finish()
    assert outcome == [None]
    assert stage.clock.getDelayedCalls() == []


def test_flushing_ends_after_its_timeout() -> None:
    stage = Stage()
    outcome = stage.flush()
    stage.clock.advance(FLUSH_TIMEOUT + 1)
    assert outcome == [None]
    stage.transport.finish()


class TestLog:
    def said(self, **event: Any) -> bytes:
        stage = Stage()
        base: LogEvent = {"log_namespace": "test", "log_level": LogLevel.info, "log_format": "x"}
        ParentLog(stage.parent)({**base, **event})
        return stage.transport.take()

    @pytest.mark.parametrize(
        ("level", "severity"),
        [
            (LogLevel.info, b"info"),
            (LogLevel.warn, b"warning"),
            (LogLevel.error, b"error"),
            (LogLevel.critical, b"error"),
            (None, b"info"),
        ],
    )
    def test_log_levels_become_severities(self, level: Any, severity: bytes) -> None:
        expected = b"LOG SEVERITY=" + severity + b' MESSAGE="x"\n'
        assert self.said(log_level=level) == expected

    @pytest.mark.parametrize("namespace", ["twisted.internet.tcp", "log_legacy", "twisted"])
    def test_info_lines_of_twisted_are_left_out(self, namespace: str) -> None:
        assert self.said(log_namespace=namespace) == b""
        warned = self.said(log_namespace=namespace, log_level=LogLevel.warn)
        assert warned.startswith(b"LOG SEVERITY=warning")

    def test_format_fields_are_filled_in(self) -> None:
        assert b'"7 lines"' in self.said(log_format="{count} lines", count=7)

    def test_event_without_text_writes_nothing(self) -> None:
        assert self.said(log_format="") == b""

    def test_text_of_an_exception_is_left_out(self) -> None:
        try:
            raise ValueError("to 192.0.2.1")
        except ValueError:
            failure = Failure()
        event = {"log_level": LogLevel.critical, "log_format": "a fault", "log_failure": failure}
        place = rb"ValueError at test_parent\.py:[0-9]+"
        expected = rb'LOG SEVERITY=error MESSAGE="a fault \(' + place + rb'\)"\n'
        assert re.fullmatch(expected, self.said(**event))

    @pytest.mark.parametrize(
        ("why", "text"), [(None, b"Unhandled error"), ("it broke", b"it broke")]
    )
    def test_text_of_an_exception_logged_by_log_err_is_left_out(
        self, why: str | None, text: bytes
    ) -> None:
        stage = Stage()
        publisher = LogPublisher(publishPublisher=ParentLog(stage.parent))
        try:
            raise ValueError("to 192.0.2.1")
        except ValueError:
            publisher.msg(failure=Failure(), why=why, isError=1)
        line = stage.transport.take()
        assert line.startswith(b'LOG SEVERITY=error MESSAGE="' + text + b" (ValueError at ")
        assert b"192.0.2.1" not in line

    def test_exception_that_was_never_raised_is_logged_without_a_place(self) -> None:
        said = self.said(log_failure=Failure(ValueError("x")))
        assert said == b'LOG SEVERITY=info MESSAGE="x (ValueError)"\n'

    def test_debug_lines_are_left_out(self) -> None:
        assert self.said(log_level=LogLevel.debug) == b""
