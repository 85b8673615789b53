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

from tests.support.tables import table
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


def test_lines_wait_for_the_parent_and_those_for_its_log_are_dropped() -> None:
    stage = Stage()
    stage.parent.say("VERSION 1")
    stage.parent.say_log("info", "hello")
    assert stage.transport.take() == b'VERSION 1\nLOG SEVERITY=info MESSAGE="hello"\n'
    stage.transport.producer.pauseProducing()
    stage.parent.say_log("error", "lost")
    stage.parent.say("CMETHODS DONE")
    stage.transport.producer.resumeProducing()
    stage.parent.say_log("error", "heard")
    assert stage.transport.take() == b'CMETHODS DONE\nLOG SEVERITY=error MESSAGE="heard"\n'


@pytest.mark.parametrize("how", ["writeConnectionLost", "stopProducing"])
def test_nothing_is_written_after_the_parent_has_closed(how: str) -> None:
    stage = Stage()
    getattr(stage.parent, how)()
    stage.parent.say("CMETHODS DONE")
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


@pytest.mark.parametrize("in_time", [True, False])
def test_flushing_waits_for_the_last_byte_but_not_for_ever(in_time: bool) -> None:
    stage = Stage()
    outcome = stage.flush()
    assert stage.transport.asked[-2:] == ["unregisterProducer", "loseConnection"]
    assert outcome == []
    if not in_time:
        stage.clock.advance(FLUSH_TIMEOUT + 1)
        assert outcome == [None]
    stage.transport.finish()
    assert outcome == [None]
    assert stage.clock.getDelayedCalls() == []


def raised() -> Failure:
    try:
        raise ValueError("to 192.0.2.1")
    except ValueError:
        return Failure()


LOGGED = table(
    ("info", {}, b'info MESSAGE="x"'),
    ("warn", {"log_level": LogLevel.warn}, b'warning MESSAGE="x"'),
    ("error", {"log_level": LogLevel.error}, b'error MESSAGE="x"'),
    ("critical", {"log_level": LogLevel.critical}, b'error MESSAGE="x"'),
    ("no level", {"log_level": None}, b'info MESSAGE="x"'),
    ("debug", {"log_level": LogLevel.debug}, b""),
    ("fields", {"log_format": "{count} lines", "count": 7}, b'info MESSAGE="7 lines"'),
    ("no text", {"log_format": ""}, b""),
    *(
        (f"{space}, {level.name}", {"log_namespace": space, "log_level": level}, expected)
        for space in ("twisted.internet.tcp", "log_legacy", "twisted")
        for level, expected in ((LogLevel.info, b""), (LogLevel.warn, b'warning MESSAGE="x"'))
    ),
    # Of an exception only its kind and place; the text may hold an address.
    (
        "raised",
        {"log_failure": raised()},
        rb'info MESSAGE="x (ValueError at test_parent.py:NUMBER)"',
    ),
    ("never raised", {"log_failure": Failure(ValueError("x"))}, b'info MESSAGE="x (ValueError)"'),
)


@pytest.mark.parametrize(("event", "line"), LOGGED)
def test_log_events_become_lines_for_the_parent(event: dict[str, Any], line: bytes) -> None:
    stage = Stage()
    base: LogEvent = {"log_namespace": "test", "log_level": LogLevel.info, "log_format": "x"}
    ParentLog(stage.parent)({**base, **event})
    said = re.sub(rb"py:[0-9]+", b"py:NUMBER", stage.transport.take())
    assert said == (b"LOG SEVERITY=" + line + b"\n" if line else b"")


@pytest.mark.parametrize(("why", "text"), [(None, b"Unhandled error"), ("it broke", b"it broke")])
def test_text_of_an_exception_logged_by_log_err_is_left_out(why: str | None, text: bytes) -> None:
    stage = Stage()
    publisher = LogPublisher(publishPublisher=ParentLog(stage.parent))
    publisher.msg(failure=raised(), why=why, isError=1)
    line = stage.transport.take()
    assert line.startswith(b'LOG SEVERITY=error MESSAGE="' + text + b" (ValueError at ")
    assert b"192.0.2.1" not in line
