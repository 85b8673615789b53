"""Child processes: their start, their output, their end, and a watchdog that ends them with us.

:class:`Watchdog` runs a small process that notices our death by the end of a pipe (a SIGKILL closes
it too), kills the guarded processes (stopped ones too) and removes the guarded directories.
:func:`spawn_guarded` starts a program that is guarded from its first instruction on. tor's own
``__OwningControllerProcess`` is no substitute: it takes up to 15 s and a stopped tor survives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor import watchdog_process
from torsocks_tx.backends.tor.events import printable
from torsocks_tx.backends.tor.waiting import limit

Ending = int | str
"""How a process ended: its exit status, or the name of the signal."""

MAX_LINE = 4096
"""Bytes of one output line; longer ones are cut there."""

OUTPUT_DEADLINE = 1.0
"""Seconds after a process's end that its output is read: a child of its own may hold it open."""

RESTART_DELAY = 1.0
"""Seconds until a watchdog process that has ended is replaced, or until that is tried again."""

STOP_DEADLINE = 30.0
"""Seconds that :meth:`Watchdog.stop` waits before it kills the watchdog process itself."""

_PACKAGE_PARENT = str(Path(__file__).resolve().parents[3])


class SpawnError(Exception):
    """A process could not be started; the text says which program and why."""


class WatchdogError(Exception):
    """The watchdog process ended before it could guard anything."""


def spawn(
    reactor: Any,
    protocol: ProcessProtocol,
    command: Sequence[str | bytes],
    *,
    descriptors: Mapping[int, int | str],
) -> Any:
    """Start a program, which unblocks SIGINT and SIGTERM; return its transport or raise SpawnError.

    Args:
        reactor: what starts the process.
        protocol: gets its output and its end; is not called if it cannot be started.
        command: the full path of the program, and its arguments.
        descriptors: as ``childFDs`` of ``spawnProcess``.
    """
    words = list(map(os.fsencode, command))
    name = words[0].decode("utf-8", "backslashreplace")
    if not os.access(words[0], os.X_OK):
        raise SpawnError(f"{name} cannot be started (this user has no such program to execute)")
    # Ctrl-C, or a service manager, signals all processes: one that starts hears of it when ready.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        # All as bytes: Twisted encodes text strictly, and not every path is UTF-8.
        return reactor.spawnProcess(
            protocol, words[0], words, env=dict(os.environb), childFDs=dict(descriptors)
        )
    except OSError as error:
        raise SpawnError(f"{name} cannot be started ({error.strerror})") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def python_command(module: str, *, not_from: str = os.curdir) -> list[str]:
    """Return the command that runs a module as the main program, with this Python.

    It runs isolated, and imports from where we do, but for the working directory and ``not_from``:
    a ``json.py`` there would be run.
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
    with contextlib.suppress(ProcessExitedAlready):
        transport.signalProcess(number)


class LineProtocol(ProcessProtocol):
    """Cuts a process's output into lines and reports its end."""

    transport: Any

    def __init__(
        self, reactor: Any, on_line: Callable[[str], None], on_end: Callable[[Ending], None]
    ) -> None:
        self._reactor = reactor
        self._on_line = on_line
        self._on_end = on_end
        self._pending = {1: b"", 2: b""}
        self._closing: Deferred[None] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Take output; standard output and standard error are cut into lines apart."""
        *lines, rest = (self._pending[childFD] + data).split(b"\n")
        self._pending[childFD] = rest[:MAX_LINE]
        for line in lines:
            self._deliver(line)

    def processExited(self, reason: Failure) -> None:
        """Wait a moment for the rest of its output."""
        close = self.transport.loseConnection
        limit(self._closing, OUTPUT_DEADLINE, self._reactor).addErrback(lambda _: close())

    def processEnded(self, reason: Failure) -> None:
        """Deliver the rest of its output, then report how it ended."""
        self._closing.callback(None)
        try:
            for rest in self._pending.values():
                if rest:
                    self._deliver(rest)
        finally:
            # Even if a callback for the last line raises, the process has ended.
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


class Watchdog:
    """Guards processes and directories until it is stopped or we are gone.

    Call :meth:`start` first. Everything that is still guarded when the watchdog stops is killed or
    removed. If its process ends before that, another one takes over. ``pid``: the id of that
    process, None while there is none.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self.pid: int | None = None
        self._reactor = reactor
        self._pipe: int | None = None
        self._protocol: LineProtocol
        self._orders: dict[str, str] = {}
        self._restart: IDelayedCall | None = None
        self._ready: Deferred[None] = Deferred()
        self._ended: Deferred[None] = Deferred()

    async def start(self) -> None:
        """Start the process, once, and wait until it is on guard.

        Raises :class:`SpawnError` or :class:`WatchdogError`, and then nothing is left.
        """
        self._spawn()
        await self._ready

    def _spawn(self) -> None:
        """Start a process, and have it guard what is guarded."""
        self._protocol = LineProtocol(self._reactor, self._line_received, self._process_ended)
        read_end, write_end = _pipe()
        try:
            os.set_blocking(write_end, False)
            self.pid = _spawn_python(self._reactor, self._protocol, (), read_end)
        except SpawnError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._pipe = write_end
        for order in self._orders.values():
            self._send(order)

    def guard_process(self, pid: int) -> None:
        """Kill this process if we die; it must be running now."""
        order = f"guard-process {pid} {watchdog_process.process_start(pid)}"
        self._orders[f"process {pid}"] = order
        self._send(order)

    def release_process(self, pid: int) -> None:
        """Guard this process no longer; does nothing if it was not guarded."""
        self._orders.pop(f"process {pid}", None)
        self._send(f"release-process {pid}")

    def guard_directory(self, path: str | Path) -> None:
        """Remove this directory with all that is in it if we die; it need not exist yet."""
        order = f"guard-directory {os.fsencode(os.path.abspath(path)).hex()}"
        self._orders[order] = order
        self._send(order)

    def stop(self) -> Deferred[None]:
        """End the watchdog: what is still guarded goes now. Fires when all that is done."""
        if self._restart is not None:
            self._restart.cancel()
            self._start_again()
        if self._restart is not None:
            self._restart.cancel()
        if self._pipe is None:
            return succeed(None)
        pipe, self._pipe = self._pipe, None
        os.close(pipe)
        signal_if_alive(self._protocol.transport, signal.SIGCONT)
        timeout = self._reactor.callLater(STOP_DEADLINE, self._kill)

        def ended(result: None) -> None:
            if timeout.active():
                timeout.cancel()

        return self._ended.addCallback(ended)

    def _kill(self) -> None:
        self._log.error("the watchdog process did not finish in time")
        signal_if_alive(self._protocol.transport, signal.SIGKILL)

    def _line_received(self, line: str) -> None:
        if line != watchdog_process.READY:
            self._log.error("watchdog process: {line}", line=line)
        elif not self._ready.called:
            self._ready.callback(None)

    def _process_ended(self, _: Ending) -> None:
        self.pid = None
        if not self._ready.called:
            self._ready.errback(WatchdogError("the watchdog process ended at once"))
            self._ended.callback(None)
        elif self._pipe is None:
            self._ended.callback(None)
        else:
            pipe, self._pipe = self._pipe, None
            os.close(pipe)
            self._log.error("the watchdog process has ended: it is started again")
            self._restart = self._reactor.callLater(RESTART_DELAY, self._start_again)

    def _start_again(self) -> None:
        self._restart = None
        try:
            self._spawn()
        except SpawnError as error:
            text = "no watchdog process ({error}): daemons may now outlive this process"
            self._log.error(text, error=error)
            self._restart = self._reactor.callLater(RESTART_DELAY, self._start_again)

    def _send(self, order: str) -> None:
        # Written at once, not by the reactor: a SIGKILL may come before its next turn.
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # it has ended: the next one gets all orders
                os.write(self._pipe, order.encode("ascii") + b"\n")


def spawn_guarded(
    reactor: Any, watchdog: Watchdog, protocol: ProcessProtocol, arguments: Sequence[str]
) -> int:
    """Start a program (``arguments[0]`` is its full path) under guard and return its process id.

    It has no input and its own session, and is guarded until released. Raises ``SpawnError``.
    """
    read_end, write_end = _pipe()
    try:
        pid = _spawn_python(reactor, protocol, arguments, read_end)
        watchdog.guard_process(pid)
        os.write(write_end, b"\n")
    finally:
        os.close(read_end)
        os.close(write_end)
    return pid


def _pipe() -> tuple[int, int]:
    try:
        return os.pipe()
    except OSError as error:
        raise SpawnError(f"no process can be started ({error.strerror})") from None


def _spawn_python(
    reactor: Any, protocol: ProcessProtocol, arguments: Sequence[str], stdin: int
) -> int:
    command = [sys.executable, "-I", "-S", watchdog_process.__file__, *arguments]
    pid: int = spawn(reactor, protocol, command, descriptors={0: stdin, 1: "r", 2: "r"}).pid
    return pid
