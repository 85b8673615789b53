"""Child processes: starting one, reading what it prints line by line, and how it ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.paths import printable

Ending = int | str
"""How a process ended: its exit status, or the name of the signal."""

MAX_LINE = 4096
"""Bytes of one output line; longer ones are cut there."""

OUTPUT_DEADLINE = 1.0
"""Seconds after a process's end that its output is read: a child of its own may hold it open."""


_PACKAGE_PARENT = str(Path(__file__).resolve().parents[3])


class SpawnError(Exception):
    """A process could not be started; the text says which program and why."""


def spawn(
    reactor: Any,
    protocol: ProcessProtocol,
    command: Sequence[str | bytes],
    *,
    descriptors: Mapping[int, int | str],
    env: Mapping[str, str] | None = None,
) -> Any:
    """Start a program and return its transport, or raise ``SpawnError``.

    Args:
        reactor: what starts the process.
        protocol: hears what it prints and its end; hears nothing if it cannot be started.
        command: the full path of the program, and its arguments.
        descriptors: as ``childFDs`` of ``spawnProcess``.
        env: the environment; this process's own if not given.
    """
    program, *arguments = map(os.fsencode, command)
    name = program.decode("utf-8", "backslashreplace")
    if not os.access(program, os.X_OK):
        raise SpawnError(f"{name} cannot be started (this user has no such program to execute)")
    # Twisted encodes text strictly: a path that is not UTF-8 would be no argument.
    variables = (
        dict(os.environb)
        if env is None
        else {os.fsencode(key): os.fsencode(value) for key, value in env.items()}
    )
    try:
        return reactor.spawnProcess(
            protocol, program, [program, *arguments], env=variables, childFDs=dict(descriptors)
        )
    except OSError as error:
        raise SpawnError(f"{name} cannot be started ({error.strerror})") from None


def python_command(module: str, *, not_from: str = os.curdir) -> list[str]:
    """Return the command that runs a module as the main program, with this Python.

    It runs isolated, and imports from where we do, but for the working directory and ``not_from``:
    whoever can write there could run anything by a ``json.py``.
    """
    paths = [path for path in sys.path if os.path.isabs(path)]
    for excluded in (os.curdir, not_from):
        paths = [path for path in paths if not _is_same(path, excluded)]
    if _PACKAGE_PARENT not in paths:
        paths.append(_PACKAGE_PARENT)
    code = f"import runpy, sys; sys.path[:] = {paths!a}; runpy.run_module({module!r},"
    return [sys.executable, "-I", "-c", f"{code} run_name='__main__', alter_sys=True)"]


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def signal_if_alive(transport: Any, number: int) -> None:
    """Send a signal to a process of the reactor, unless it has ended."""
    try:
        transport.signalProcess(number)
    except ProcessExitedAlready:
        return


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
        text = line[:MAX_LINE].decode("utf-8", "replace").rstrip("\r")
        self._on_line(printable(text))


def _describe_end(reason: Failure) -> Ending:
    """Return the exit status as a number, or the name of the signal that ended the process."""
    end = reason.value
    assert isinstance(end, ProcessDone | ProcessTerminated)
    if end.signal is not None:
        return signal.Signals(end.signal).name
    return int(end.exitCode or 0)
