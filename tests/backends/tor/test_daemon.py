"""A real tor, offline: its files, its output, its signals and its end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.support.processes import is_alive, process_ended, write_program
from torsocks_tx.backends.tor.daemon import (
    KEPT_LINES,
    DaemonState,
    TorDaemon,
    TorNotFound,
    find_tor,
)
from torsocks_tx.backends.tor.process import MAX_LINE, Watchdog

OFFLINE = ("DisableNetwork 1", "SocksPort 0", "ConnLimit 99")  # of 1000 descriptors
MINUTE = 60

ENDED_BY_ITSELF = (0, "SIGABRT")
"""tor 0.4.9 that is told to end while it starts aborts now and then: a thread uses a freed lock."""


def daemon_of(
    watchdog: Watchdog, directory: Path, text: str, on_line: Callable[[str], None] | None = None
) -> TorDaemon:
    """A daemon that runs a Python program in tor's place."""
    command = (sys.executable, "-c", f"import os, signal, sys\n{text}")
    program = write_program(directory / "program", *command)
    return TorDaemon(
        reactor, directory / "tor", (), tor_binary=program, watchdog=watchdog, on_line=on_line
    )


class Lines:
    """Fires when a line with some words has been seen."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.seen: Deferred[str] = Deferred()

    def __call__(self, line: str) -> None:
        if self.words in line and not self.seen.called:
            self.seen.callback(line)


async def running(watchdog: Watchdog, directory: Path) -> TorDaemon:
    """A tor that has read its configuration and handles signals."""
    ready = Lines("Delaying directory fetches")
    daemon = TorDaemon(reactor, directory, OFFLINE, watchdog=watchdog, on_line=ready)
    daemon.start()
    await ready.seen.addTimeout(MINUTE, reactor)
    return daemon


async def test_a_daemon_has_a_private_directory_and_ends_when_it_is_stopped(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    directory = tmp_path / 'with space, "quotes" and \\'
    daemon = await running(watchdog, directory)
    assert daemon.state is DaemonState.RUNNING
    assert is_alive(daemon.pid)
    with pytest.raises(RuntimeError, match="is running"):
        daemon.start()
    assert directory.stat().st_mode & 0o777 == 0o700
    torrc = directory / "torrc"
    assert torrc.stat().st_mode & 0o777 == 0o600
    assert f"__OwningControllerProcess {os.getpid()}\n" in torrc.read_text()
    assert (directory / "lock").exists(), "the DataDirectory"
    assert any("Tor 0." in line for line in daemon.last_lines)
    exited = daemon.when_exited()
    await daemon.stop()
    assert await exited in ENDED_BY_ITSELF
    assert await daemon.when_exited() == await exited
    assert daemon.state is DaemonState.EXITED
    assert directory.exists()
    await daemon.stop()


async def test_a_suspended_daemon_stands_still_and_can_be_stopped(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    daemon = await running(watchdog, tmp_path / "tor")
    daemon.suspend()
    assert daemon.state is DaemonState.SUSPENDED
    os.waitid(os.P_PID, daemon.pid, os.WSTOPPED)
    daemon.resume()
    assert daemon.state is DaemonState.RUNNING
    os.waitid(os.P_PID, daemon.pid, os.WCONTINUED)
    daemon.suspend()
    await daemon.stop(grace=MINUTE)
    assert await daemon.when_exited() in ENDED_BY_ITSELF


async def test_a_daemon_that_does_not_listen_is_killed(watchdog: Watchdog, tmp_path: Path) -> None:
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    ready = Lines("up")
    daemon = daemon_of(watchdog, tmp_path, text, ready)
    daemon.start()
    await ready.seen
    await daemon.stop(grace=0.01)
    assert await daemon.when_exited() == "SIGKILL"


async def test_a_child_that_keeps_the_output_open_does_not_hide_the_end(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    text = "child = os.fork()\nprint(child) if child else signal.pause()"
    child = Lines("")
    daemon = daemon_of(watchdog, tmp_path, text, child)
    daemon.start()
    pid = int(await child.seen)
    try:
        assert await daemon.when_exited().addTimeout(MINUTE, reactor) == 0
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
    await process_ended(pid)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("print('a\\r\\nb')", ["a", "b"]),
        ("print('no end', end='')", ["no end"]),
        ("sys.stderr.write('complaint')", ["complaint"]),
        ("sys.stdout.buffer.write(b'\\xff\\n')", ["\ufffd"]),
        ("print('x' * 100000)", ["x" * MAX_LINE]),
        ("[print(n) for n in range(1000)]", [str(n) for n in range(1000 - KEPT_LINES, 1000)]),
    ],
)
async def test_output_is_cut_into_bounded_lines(
    watchdog: Watchdog, tmp_path: Path, text: str, expected: list[str]
) -> None:
    daemon = daemon_of(watchdog, tmp_path, text)
    daemon.start()
    await daemon.when_exited()
    assert list(daemon.last_lines) == expected


def test_tor_is_found_where_a_path_may_lack_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_tor().endswith("/tor")
    assert find_tor("/bin/sh") == "/bin/sh"
    monkeypatch.setattr("torsocks_tx.backends.tor.daemon._search_path", lambda: str(tmp_path))
    with pytest.raises(TorNotFound, match=r"^tor-gencert is not installed: .*apt install tor"):
        find_tor(name="tor-gencert")
    with pytest.raises(TorNotFound, match=r"^'/no/tor' is not an executable program"):
        find_tor("/no/tor")
