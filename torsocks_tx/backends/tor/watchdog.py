"""Daemons and directories that never outlive us, not even if we are killed by SIGKILL.

:class:`Watchdog` runs a small process that notices our death by the end of a pipe and then kills
the guarded processes (stopped ones too) and removes the guarded directories.
:func:`spawn_guarded` starts a program that is guarded from its first instruction on. tor's own
``__OwningControllerProcess`` is no substitute: it takes up to 15 s and a stopped tor survives it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor import watchdog_process
from torsocks_tx.backends.tor.process import SpawnError, signal_if_alive, spawn

STOP_DEADLINE = 30.0
"""Seconds that :meth:`Watchdog.stop` waits before it kills the watchdog itself."""


class WatchdogError(Exception):
    """The watchdog process ended before it could guard anything."""


class _WatchdogProtocol(ProcessProtocol):
    """Hears the watchdog's one word, its complaints, and its end."""

    _log = Logger()

    def __init__(self) -> None:
        self.ready: Deferred[None] | None = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.stopping = False

    def outReceived(self, data: bytes) -> None:
        ready, self.ready = self.ready, None
        if ready is not None:
            ready.callback(None)

    def errReceived(self, data: bytes) -> None:
        self._log.error("watchdog process: {text}", text=data.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        ready, self.ready = self.ready, None
        if ready is not None:
            ready.errback(Failure(WatchdogError("the watchdog process ended at once")))
        elif not self.stopping:
            self._log.error("the watchdog process ended: daemons may now outlive this process")
        self.ended.callback(None)


class Watchdog:
    """Guards processes and directories until it is stopped or we are gone.

    Call :meth:`start` first. Everything that is still guarded when the watchdog stops is killed or
    removed, so release what shall stay.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pipe: int | None = None
        self._protocol = _WatchdogProtocol()

    @property
    def pid(self) -> int:
        """The id of the watchdog's own process."""
        pid: int = self._protocol.transport.pid  # type: ignore[union-attr]
        return pid

    def start(self) -> Deferred[None]:
        """Start the process; fires when it is on guard.

        Fails with :class:`SpawnError` or :class:`WatchdogError`, and then nothing is left.
        """
        return maybeDeferred(self._start)

    def _start(self) -> Deferred[None]:
        ready = self._protocol.ready
        assert ready is not None, "a watchdog starts once"
        read_end, write_end = _pipe()
        try:
            os.set_blocking(write_end, False)
            _spawn_python(self._reactor, self._protocol, (), read_end)
        except SpawnError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._pipe = write_end
        return ready

    def guard_process(self, pid: int) -> None:
        """Kill this process if we die; it must be running now."""
        self._order(f"guard-process {pid} {watchdog_process.process_start(pid)}")

    def release_process(self, pid: int) -> None:
        """Guard this process no longer; harmless if it was not guarded."""
        self._order(f"release-process {pid}")

    def guard_directory(self, path: str | Path) -> None:
        """Remove this directory with all that is in it if we die; it need not exist yet."""
        self._order(f"guard-directory {_absolute(path).hex()}")

    def release_directory(self, path: str | Path) -> None:
        """Guard this directory no longer; harmless if it was not guarded."""
        self._order(f"release-directory {_absolute(path).hex()}")

    def stop(self) -> Deferred[None]:
        """End the watchdog: what is still guarded goes now. Fires when all that is done."""
        if self._pipe is None:
            return succeed(None)
        pipe, self._pipe = self._pipe, None
        self._protocol.stopping = True
        os.close(pipe)
        timeout = self._reactor.callLater(STOP_DEADLINE, self._kill)

        def ended(result: None) -> None:
            if timeout.active():
                timeout.cancel()

        return self._protocol.ended.addCallback(ended)

    def _kill(self) -> None:
        self._log.error("the watchdog process did not finish in time")
        signal_if_alive(self._protocol.transport, signal.SIGKILL)

    def _order(self, line: str) -> None:
        # Written at once, not by the reactor: a SIGKILL may come before its next turn.
        assert self._pipe is not None, "start the watchdog first"
        try:
            os.write(self._pipe, line.encode("ascii") + b"\n")
        except OSError as error:
            self._log.error("the watchdog process is not on guard: {error}", error=str(error))


def spawn_guarded(
    reactor: Any,
    watchdog: Watchdog,
    protocol: ProcessProtocol,
    arguments: Sequence[str],
) -> int:
    """Start a program (``arguments[0]`` is its full path) under guard and return its process id.

    It gets no standard input and a session of its own. It stays guarded until released. Raises
    ``SpawnError``.
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
    transport = spawn(reactor, protocol, command, descriptors={0: stdin, 1: "r", 2: "r"})
    pid: int = transport.pid
    return pid


def _absolute(path: str | Path) -> bytes:
    return os.fsencode(os.path.abspath(path))
