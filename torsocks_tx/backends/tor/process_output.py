"""What a process of ours prints, line by line, and how it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

Ending = int | str
"""How a process ended: its exit status, or the name of the signal."""

MAX_LINE = 4096
"""Bytes of one output line; longer ones are cut there."""

OUTPUT_DEADLINE = 1.0
"""Seconds after a process's end that its output is read: a child of its own may hold it open."""


class LineProtocol(ProcessProtocol):
    """Cuts a process's output into lines and reports its end."""

    def __init__(
        self, reactor: Any, on_line: Callable[[str], None], on_end: Callable[[Ending], None]
    ) -> None:
        self._reactor = reactor
        self._on_line = on_line
        self._on_end = on_end
        self._pending = {1: b"", 2: b""}

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Take output; standard output and standard error are cut into lines apart."""
        *lines, rest = (self._pending[childFD] + data).split(b"\n")
        self._pending[childFD] = rest[:MAX_LINE]
        for line in lines:
            self._deliver(line)

    def processExited(self, reason: Failure) -> None:
        """Give what it has printed a moment to arrive."""
        assert self.transport is not None
        self._closing = self._reactor.callLater(OUTPUT_DEADLINE, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        """Deliver what is left, then tell how it ended."""
        if self._closing.active():
            self._closing.cancel()
        try:
            for rest in self._pending.values():
                if rest:
                    self._deliver(rest)
        finally:
            # Whatever the last line made somebody raise, the process has ended.
            self._on_end(_describe_end(reason))

    def _deliver(self, line: bytes) -> None:
        self._on_line(line[:MAX_LINE].decode("utf-8", "replace").rstrip("\r"))


def _describe_end(reason: Failure) -> Ending:
    """Return the exit status as a number, or the name of the signal that ended the process."""
    end = reason.value
    assert isinstance(end, ProcessDone | ProcessTerminated)
    if end.signal is not None:
        return signal.Signals(end.signal).name
    return int(end.exitCode or 0)
