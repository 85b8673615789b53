"""One tor daemon that we start: its torrc, its process, its end.

Connects to no port of it. The daemon ends when this process ends, even by SIGKILL: see
:mod:`torsocks_tx.backends.tor.process`.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from torsocks_tx.backends.tor.events import quote_path
from torsocks_tx.backends.tor.files import make_private_directory
from torsocks_tx.backends.tor.process import (
    Ending,
    LineProtocol,
    Watchdog,
    signal_if_alive,
    spawn_guarded,
)
from torsocks_tx.backends.tor.waiting import Waiters

KEPT_LINES = 50
"""How many of tor's last output lines are kept to explain a failure."""


class TorNotFound(Exception):
    """There is no tor (or no tool of tor's) on this machine; the text says what to install."""


class DaemonState(Enum):
    """Whether the process of a daemon runs."""

    NEW = auto()
    RUNNING = auto()
    SUSPENDED = auto()
    EXITED = auto()


def find_tor(explicit: str | None = None, *, name: str = "tor") -> str:
    """Return the full path of tor, or of a tool that comes with it.

    Args:
        explicit: a path or a name that the user gave instead.
        name: the program, where nothing was given.

    Raises:
        TorNotFound: there is no such program; one sentence on what to do.
    """
    path = shutil.which(explicit or name, path=_search_path())
    if path is not None:
        return os.path.abspath(path)
    if explicit is not None:
        raise TorNotFound(f"{explicit!r} is not an executable program: give the path of {name}")
    raise TorNotFound(
        f"{name} is not installed: install the package 'tor' (on Debian: apt install tor)"
    )


def _search_path() -> str:
    # Debian keeps tor in /usr/bin, others in an sbin that a user's PATH may lack.
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def write_torrc(path: Path, lines: Sequence[str]) -> None:
    """Write a configuration that only its owner may read.

    Raises ``ValueError`` for a line that holds a line break: it would be two.
    """
    for line in lines:
        if any(character in line for character in "\r\n\0"):
            raise ValueError("a torrc line must not hold a line break or a NUL")
    path.touch(mode=0o600)
    path.write_bytes(os.fsencode("".join(f"{line}\n" for line in lines)))


class TorDaemon:
    """A tor process in a directory of its own (mode 0700), which is also its DataDirectory.

    Args:
        reactor: what starts processes and tells the time.
        directory: made if it is missing, kept when the daemon ends.
        torrc_lines: the configuration. DataDirectory and the owner are added.
        tor_binary: the program; found by :func:`find_tor` if not given.
        watchdog: a started watchdog.
        on_line: called with every line that tor prints.
    """

    def __init__(
        self,
        reactor: Any,
        directory: str | Path,
        torrc_lines: Sequence[str],
        *,
        tor_binary: str | None = None,
        watchdog: Watchdog,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.torrc_lines = tuple(torrc_lines)
        self.state = DaemonState.NEW
        self.pid: int | None = None
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._reactor = reactor
        self._tor_binary = tor_binary
        self._watchdog = watchdog
        self._on_line = on_line
        self._protocol: LineProtocol | None = None
        self._exit: Waiters[Ending] = Waiters()

    def start(self) -> None:
        """Write the torrc and start the process, which is not ready yet.

        A daemon that has ended may be started again.

        Raises:
            TorNotFound: there is no tor.
            SpawnError: the process cannot be started.
            ValueError: a line of the configuration holds a line break.
        """
        if self.state not in (DaemonState.NEW, DaemonState.EXITED):
            raise RuntimeError("this daemon is running")
        tor = find_tor(self._tor_binary)
        torrc = self._write_torrc()
        self.last_lines.clear()
        self._protocol = LineProtocol(self._reactor, self._line, self._ended)
        # An empty defaults file, so that the machine's own torrc is not read.
        command = [tor, "--defaults-torrc", os.devnull, "-f", str(torrc)]
        self.pid = spawn_guarded(self._reactor, self._watchdog, self._protocol, command)
        self.state = DaemonState.RUNNING
        if self._exit.is_settled:
            self._exit = Waiters()

    def when_exited(self) -> Deferred[Ending]:
        """Fire with the exit status, or the name of the signal, once the process has ended.

        Fires at once if it has ended before; cancelling stops waiting and nothing else.
        """
        return self._exit.wait()

    def stop(self, grace: float = 5.0) -> Deferred[None]:
        """Ask it to end, kill it after ``grace`` seconds; fires when it is gone."""
        if self.state in (DaemonState.NEW, DaemonState.EXITED):
            return succeed(None)
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        killing = self._reactor.callLater(grace, self.kill)

        def gone(_: object) -> None:
            if killing.active():
                killing.cancel()

        return self.when_exited().addCallback(gone)

    def suspend(self) -> None:
        """Suspend the process (SIGSTOP): its sockets stay open, and nothing answers."""
        if self.state is DaemonState.RUNNING:
            self._signal(signal.SIGSTOP)
            self.state = DaemonState.SUSPENDED

    def resume(self) -> None:
        """Let a suspended process go on."""
        if self.state is DaemonState.SUSPENDED:
            self._signal(signal.SIGCONT)
            self.state = DaemonState.RUNNING

    def kill(self) -> None:
        """Kill the process now (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def _write_torrc(self) -> Path:
        lines = [
            *self.torrc_lines,
            f"DataDirectory {quote_path(self.directory)}",
            f"__OwningControllerProcess {os.getpid()}",
        ]
        make_private_directory(self.directory)
        self.directory.chmod(0o700)
        torrc = self.directory / "torrc"
        write_torrc(torrc, lines)
        return torrc

    def _line(self, line: str) -> None:
        self.last_lines.append(line)
        if self._on_line is not None:
            self._on_line(line)

    def _ended(self, ending: Ending) -> None:
        assert self.pid is not None
        self._watchdog.release_process(self.pid)
        self.state = DaemonState.EXITED
        self._exit.settle(ending)

    def _signal(self, number: signal.Signals) -> None:
        if self._protocol is not None:
            signal_if_alive(self._protocol.transport, number)
