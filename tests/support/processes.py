"""Real processes in tests: start one, wait for its lines and for its end, without polling."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol

DEADLINE = 120.0
END_DEADLINE = 240.0
"""Seconds that a test waits for a process before it fails."""

ROOT = Path(__file__).resolve().parents[2]


class _Pidfd(FileDescriptor):
    """Readable once the process, anyone's child, has ended."""

    def __init__(self, pid: int) -> None:
        super().__init__(reactor)
        self._fd = os.pidfd_open(pid)
        self.ended: Deferred[None] = Deferred(lambda _: self._close())
        self.startReading()

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> None:
        self._close()
        self.ended.callback(None)

    def _close(self) -> None:
        self.stopReading()
        os.close(self._fd)
        self._fd = -1


def process_ended(pid: int, deadline: float = DEADLINE) -> Deferred[None]:
    """Fire when the process has ended, at once if there is none."""
    try:
        return _Pidfd(pid).ended.addTimeout(deadline, reactor)
    except ProcessLookupError:
        ended: Deferred[None] = Deferred()
        ended.callback(None)
        return ended


def is_alive(pid: int) -> bool:
    """Tell whether the process runs or is stopped; a zombie is dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")


def write_program(path: Path, *command: str) -> str:
    """Write a program that runs this command, with its own arguments at the end; return its path.

    A ``#!`` line takes no path of a Python that is long or has a blank.
    """
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
    return str(path)


_started: list[Program] = []


class Program(ProcessProtocol):
    """A program under test; its standard output is read by line, its standard error kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.errors = b""
        self.status: int | None = None
        self._pending = b""
        self._waiters: list[Deferred[None]] = []
        self.ended: Deferred[int] = Deferred()

    def start(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        directory: Path | None = None,
        descriptors: Mapping[int, str | int] | None = None,
    ) -> None:
        """Start it, in a directory and with descriptors of its own if some are given."""
        path = None if directory is None else str(directory)
        more = {} if descriptors is None else {"childFDs": descriptors}
        reactor.spawnProcess(self, arguments[0], arguments, environment, path, **more)

    @property
    def pid(self) -> int:
        return int(self.transport.pid)

    def outReceived(self, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\n")
        self.lines.extend(line.decode() for line in lines)
        self.wake()

    def errReceived(self, data: bytes) -> None:
        self.errors += data
        self.wake()

    def processEnded(self, reason: Any) -> None:
        end = reason.value
        self.status = -end.signal if end.signal else end.exitCode
        self.wake()
        self.ended.callback(self.status)

    async def line(self, start: str = "", deadline: float = DEADLINE) -> str:
        """Take the lines up to the first that begins so, and return that one."""
        await self.until(lambda: self._skip_to(start), deadline)
        return self.lines.pop(0)

    def _skip_to(self, start: str) -> bool:
        while self.lines and not self.lines[0].startswith(start):
            del self.lines[0]
        return bool(self.lines)

    async def complaint(self, text: str, deadline: float = DEADLINE) -> None:
        """Wait until this is part of its standard error."""
        await self.until(lambda: text.encode() in self.errors, deadline)

    async def until(self, condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
        """Wait until this holds, which is looked at whenever it prints; fail if it ends before."""
        await Deferred.fromCoroutine(self._until(condition)).addTimeout(deadline, reactor)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.status is None, f"ended with {self.status}: {self}"
            waiter: Deferred[None] = Deferred()
            self._waiters.append(waiter)
            await waiter

    async def end(self, deadline: float = END_DEADLINE) -> int:
        """Wait for its end; return the exit status, or minus the signal."""
        if self.status is None:
            # Twisted may have seen its end already, before all of its output.
            if self.transport.pid is not None:
                await process_ended(self.pid, deadline)
            await self.ended
        assert self.status is not None
        return self.status

    def __str__(self) -> str:
        return self.errors.decode()

    def wake(self) -> None:
        """Look again at what is waited for."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)


def start_program(arguments: Sequence[str], environment: dict[str, str] | None = None) -> Program:
    """Start a program, which ends with the test; the package is importable in it."""
    program = Program()
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("TOR_PT_")}
    program.start(arguments, {**inherited, "PYTHONPATH": str(ROOT), **(environment or {})})
    _started.append(program)
    return program


def kill_programs() -> None:
    """Kill whatever a test that failed has left running."""
    while _started:
        with contextlib.suppress(ProcessExitedAlready):
            _started.pop().transport.signalProcess("KILL")


def start_python(*arguments: str, environment: dict[str, str] | None = None) -> Program:
    """Start this same Python."""
    return start_program([sys.executable, *arguments], environment)


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes that this one started, and so on; of other sessions too."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended since
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found
