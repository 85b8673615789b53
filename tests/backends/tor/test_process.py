"""Child processes: their start, errors when there can be none, and their end."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.support.processes import ROOT, Program
from torsocks_tx.backends.tor.process import (
    Ending,
    LineProtocol,
    SpawnError,
    Watchdog,
    WatchdogError,
    python_command,
    spawn,
)

PIPES = {0: "w", 1: "r", 2: "r"}
ODD_BYTES = b"\xff \\:=\"'#\n"


class NoRoomForProcesses:
    """A reactor of a user that has all the processes it may have."""

    def spawnProcess(self, *_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest_twisted.ensureDeferred
async def test_arguments_and_environment_may_be_any_bytes() -> None:
    text = os.fsdecode(ODD_BYTES)
    program = Program()
    report = "import os, sys; print(os.fsencode(sys.argv[1]).hex(), os.environb[b'NAME'].hex())"
    command = [sys.executable, "-I", "-S", "-c", report, text]
    spawn(reactor, program, command, descriptors=PIPES, env={"NAME": text})
    assert await program.line() == f"{ODD_BYTES.hex()} {ODD_BYTES.hex()}"
    assert await program.end() == 0


def test_a_process_that_cannot_be_started_is_an_error_with_its_reason(tmp_path: Path) -> None:
    plain = tmp_path / os.fsdecode(b"plain\xff")
    plain.write_text("")
    protocol = ProcessProtocol()
    for program in ("/nonexistent/program", str(plain)):
        with pytest.raises(SpawnError, match=r"cannot be started \(this user has no such program"):
            spawn(reactor, protocol, [program], descriptors=PIPES)
    with pytest.raises(SpawnError, match=r"/sh cannot be started \(Resource temporarily unavail"):
        spawn(NoRoomForProcesses(), protocol, ["/bin/sh"], descriptors=PIPES)
    with no_descriptors(), pytest.raises(SpawnError, match=r"started \(Too many open files\)"):
        spawn(reactor, protocol, ["/bin/sh"], descriptors=PIPES)
    assert protocol.transport is None


@pytest_twisted.ensureDeferred
async def test_a_watchdog_that_cannot_start_is_an_error_and_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_before = os.listdir("/dev/fd")
    for executable, error in (("/bin/false", WatchdogError), ("/nonexistent/python", SpawnError)):
        monkeypatch.setattr(sys, "executable", executable)
        watchdog = Watchdog(reactor)
        with pytest.raises(error):
            await watchdog.start()
        await watchdog.stop()
    watchdog = Watchdog(reactor)
    with no_descriptors(), pytest.raises(SpawnError, match="Too many open files"):
        await watchdog.start()
    await watchdog.stop()
    assert len(os.listdir("/dev/fd")) == len(open_before)


def test_a_fault_at_the_last_line_does_not_hide_the_end() -> None:
    def fault(_: str) -> NoReturn:
        raise RuntimeError("a fault")

    ends: list[Ending] = []
    clock = Clock()
    process = LineProtocol(clock, fault, ends.append)
    process.childDataReceived(1, b"a line without an end")
    process._closing = clock.callLater(1, int)
    with pytest.raises(RuntimeError):
        process.processEnded(Failure(ProcessDone(0)))
    assert len(ends) == 1


@pytest.mark.parametrize("is_here", [False, True], ids=["where-it-started", "where-it-is"])
def test_python_command_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_here: bool
) -> None:
    for name in ("json.py", "twisted.py"):
        (tmp_path / name).write_text("raise SystemExit('an intruder')")
    if is_here:
        monkeypatch.chdir(tmp_path)
    # As `python -m` does.
    monkeypatch.syspath_prepend(tmp_path)
    command = python_command("torsocks_tx", not_from="/" if is_here else str(tmp_path))
    ended = subprocess.run([*command, "--version"], capture_output=True, check=True)
    assert ended.stdout.startswith(b"torsocks_tx ")


def test_python_command_works_where_the_package_is_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), "", *sys.path])
    subprocess.run([*python_command("torsocks_tx"), "--version"], capture_output=True, check=True)
