"""The parent's ends of our standard input and output, and the log that goes there.

Nothing else may be printed to standard output: what is printed by accident becomes a LOG line.
Lines for the log are dropped while the parent does not read; other lines wait.
"""

from __future__ import annotations

import os
import sys
from enum import Enum, auto
from typing import Any, TextIO

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.pt import lines

FLUSH_TIMEOUT = 2.0
"""Seconds that a parent may take to read the last lines."""


class State(Enum):
    """Whether the parent reads."""

    READING = auto()
    STALLED = auto()
    GONE = auto()


@implementer(IHalfCloseableProtocol, IPushProducer)
class Parent(Protocol):
    """Speaks to the parent, and hears it close our standard input."""

    transport: Any = None

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._state = State.READING
        self.input_closed: Deferred[None] = Deferred()
        self._over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Ask to be told when the parent does not read."""
        self.transport.registerProducer(self, True)

    def say(self, line: bytes) -> None:
        """Write a line, unless the parent is gone."""
        if self._state is not State.GONE:
            self.transport.write(line)

    def say_log(self, severity: str, message: str) -> None:
        """Write a line for the parent's log, if it reads."""
        if self._state is State.READING:
            self.say(lines.log(severity, message))

    async def flush(self) -> None:
        """Wait until all is written, for a bounded time; the last thing that is done."""
        if self._state is State.GONE:
            return
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        try:
            await self._over.addTimeout(FLUSH_TIMEOUT, self._reactor)
        except TimeoutError:
            self._state = State.GONE

    # IPushProducer: standard output is full, or has room again.

    def pauseProducing(self) -> None:
        """The parent does not read."""
        self._state = State.STALLED

    def resumeProducing(self) -> None:
        """It reads again."""
        if self._state is State.STALLED:
            self._state = State.READING

    def stopProducing(self) -> None:
        """It never will."""
        self._state = State.GONE

    # IHalfCloseableProtocol.

    def readConnectionLost(self) -> None:
        """The parent closed our standard input."""
        if not self.input_closed.called:
            self.input_closed.callback(None)

    def writeConnectionLost(self) -> None:
        """The parent reads no more: there is nobody to speak to."""
        self._state = State.GONE

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Everything is written."""
        self._state = State.GONE
        if not self._over.called:
            self._over.callback(None)


def take_standard_io(reactor: Any) -> Parent:
    """Speak to the parent by standard input and output, which are then this object's alone."""
    parent = Parent(reactor)
    standard_io: Any = StandardIO  # typed as on another system
    stdin, stdout = _own(sys.stdin, os.O_RDONLY), _own(sys.stdout, os.O_WRONLY)
    standard_io(parent, stdin=stdin, stdout=stdout, reactor=reactor)
    return parent


def _own(stream: TextIO | None, mode: int) -> int:
    """A descriptor of our own; of nothing at all where the parent gave us none."""
    # Python sets closed ones to None; their numbers may have gone to other files since.
    return os.open(os.devnull, mode) if stream is None else os.dup(stream.fileno())


_CHATTER = ("twisted", "log_legacy")
_SEVERITIES = {
    LogLevel.debug: "debug",
    LogLevel.info: "info",
    LogLevel.warn: "warning",
    LogLevel.error: "error",
    LogLevel.critical: "error",
}


@implementer(ILogObserver)
class ParentLog:
    """Turns log events into LOG lines; those of the debug level only if ``debug`` is set.

    What an exception says may hold addresses: above debug only its kind and place are named, also
    where Twisted's old ``log.err`` made a traceback the text. tor repeats every line that it hears,
    debug or not, in its own log at the level info.
    """

    def __init__(self, parent: Parent, *, debug: bool = False) -> None:
        self._parent = parent
        self._debug = debug

    def __call__(self, event: LogEvent) -> None:
        """Write an event, and the traceback that it may have."""
        severity = _SEVERITIES.get(event.get("log_level") or LogLevel.info, "info")
        # Twisted's own chatter: factories that start, the reactor that ends.
        if severity == "info" and event.get("log_namespace", "").startswith(_CHATTER):
            severity = "debug"
        text, failure = _text_and_failure(event)
        if failure is not None:
            text = f"{text or 'Unhandled error'} ({_kind_and_place(failure)})"
        if text:
            self._say(severity, text)
        if failure is not None:
            self._say("debug", failure.getTraceback())

    def _say(self, severity: str, text: str) -> None:
        if self._debug or severity != "debug":
            self._parent.say_log(severity, text)


def _text_and_failure(event: LogEvent) -> tuple[str, Failure | None]:
    """What the logging code says, and the failure that it adds."""
    old = event.get("failure")
    if isinstance(old, Failure) and "log_failure" not in event:
        return str(event.get("why") or ""), old
    return formatEvent(event), event.get("log_failure")


def _kind_and_place(failure: Failure) -> str:
    """Such as ``ValueError at veil.py:42``."""
    kind = type(failure.value).__name__
    if not failure.frames:
        return kind
    _, path, line, *_ = failure.frames[-1]
    return f"{kind} at {os.path.basename(path)}:{line}"


def log_to(parent: Parent, *, debug: bool = False) -> None:
    """Send everything that is logged or printed to the parent's log."""
    observer = ParentLog(parent, debug=debug)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=True)
