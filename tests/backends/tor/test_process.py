"""Child processes: their start, errors when there can be none, their end, and the watchdog."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from tests.support.ground import open_files
from tests.support.processes import ROOT, Program, is_alive, process_ended, start_python
from torsocks_tx.backends.tor import process, watchdog_process
from torsocks_tx.backends.tor.process import (
    OUTPUT_DEADLINE,
    Ending,
    LineProtocol,
    SpawnError,
    Watchdog,
    WatchdogError,
    python_command,
    spawn,
    spawn_guarded,
)

PIPES = {0: "w", 1: "r", 2: "r"}
ODD_BYTES = b"\xff \\:=\"'#\n"


class NoRoomForProcesses:
    """A reactor that can start no more processes."""

    def spawnProcess(self, *_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_arguments_and_environment_may_be_any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    text = os.fsdecode(ODD_BYTES)
    monkeypatch.setenv("NAME", text)
    program = Program()
    report = "import os, sys; print(os.fsencode(sys.argv[1]).hex(), os.environb[b'NAME'].hex())"
    command = [sys.executable, "-I", "-S", "-c", report, text]
    spawn(reactor, program, command, descriptors=PIPES)
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


async def test_a_watchdog_that_cannot_start_is_an_error_and_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = open_files("pipe")
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
    assert open_files("pipe") <= before


def test_a_fault_at_the_last_line_does_not_hide_the_end() -> None:
    def fault(_: str) -> NoReturn:
        raise RuntimeError("a fault")

    ends: list[Ending] = []
    process = LineProtocol(Clock(), fault, ends.append)
    process.childDataReceived(1, b"a line without an end")
    with pytest.raises(RuntimeError):
        process.processEnded(Failure(ProcessDone(0)))
    assert len(ends) == 1


def test_output_that_waits_while_this_process_is_stopped_is_read() -> None:
    clock, lines, closed = Clock(), list[str](), list[bool]()
    process = LineProtocol(clock, lines.append, print)
    process.transport = SimpleNamespace(loseConnection=lambda: closed.append(True))
    process.processExited(Failure(ProcessDone(0)))
    clock.advance(3 * OUTPUT_DEADLINE)
    assert closed == []
    process.childDataReceived(1, b"why it has ended\n")
    assert lines == ["why it has ended"]
    clock.advance(OUTPUT_DEADLINE)
    assert closed == [True]


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


SLEEPER = (
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import signal, os; os.write(1, b'up\\n'); signal.pause()",
)

OWNER = """
import json, signal, sys
from twisted.internet import reactor
from tests.backends.tor.test_process import start_sleeper
from torsocks_tx.backends.tor.process import Watchdog

async def main():
    watchdog = Watchdog(reactor)
    await watchdog.start()
    watchdog.guard_directory(sys.argv[1])
    running, stopped, released = [await start_sleeper(watchdog) for _ in range(3)]
    stopped.transport.signalProcess(signal.SIGSTOP)
    watchdog.release_process(released.pid)
    pids = [process.pid for process in (running, stopped, released)]
    print(json.dumps([watchdog.pid, *pids]), flush=True)

from twisted.internet.defer import ensureDeferred
reactor.callWhenRunning(lambda: ensureDeferred(main()))
reactor.run()
"""


async def start_sleeper(watchdog: Watchdog) -> Program:
    """A guarded process that says that it is up and then waits for ever."""
    sleeper = Program()
    spawn_guarded(reactor, watchdog, sleeper, SLEEPER)
    assert await sleeper.line() == "up"
    return sleeper


def fill(directory: Path) -> None:
    """A directory with a file, a nested one, and links that must not be followed."""
    outside = directory.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "kept").write_text("kept")
    (directory / "nested" / "deep").mkdir(parents=True)
    (directory / "nested" / "file").write_text("x")
    (directory / "link").symlink_to(outside)
    (directory / "dangling").symlink_to("nowhere")


async def test_a_killed_owner_leaves_nothing(tmp_path: Path) -> None:
    guarded = tmp_path / "guarded dir\n"
    fill(guarded)
    owner = start_python("-c", OWNER, str(guarded))
    watchdog, running, stopped, free = json.loads(await owner.line())
    assert all(map(is_alive, (watchdog, running, stopped, free)))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(watchdog, number)
    os.kill(owner.pid, signal.SIGKILL)
    assert await owner.end() == -signal.SIGKILL
    await process_ended(watchdog)
    try:
        assert not is_alive(running)
        assert not is_alive(stopped)
        assert is_alive(free)
    finally:
        os.kill(free, signal.SIGKILL)
    assert not guarded.exists()
    assert (tmp_path / "outside" / "kept").read_text() == "kept"


async def test_stopping_ends_what_is_still_guarded_and_spares_the_released(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    guarded = tmp_path / "guarded"
    fill(guarded)
    watchdog.guard_directory(guarded)
    kept, lost = await start_sleeper(watchdog), await start_sleeper(watchdog)
    watchdog.release_process(kept.pid)
    guard = watchdog.pid
    os.kill(guard, signal.SIGSTOP)  # by whoever: it is told to go on
    await watchdog.stop()
    await lost.end()
    assert not is_alive(guard)
    assert not guarded.exists()
    assert is_alive(kept.pid)
    kept.transport.signalProcess("KILL")
    await kept.end()
    await watchdog.stop()


async def test_a_reused_process_id_is_spared() -> None:
    """An order with another start time stands for a process that has ended."""
    process = start_python("-I", "-S", watchdog_process.__file__)
    assert await process.line() == "ready"
    bystander = start_python(*SLEEPER[1:])
    assert await bystander.line() == "up"
    start = int(watchdog_process.process_start(bystander.pid))
    process.transport.write(f"guard-process {bystander.pid} {start - 1}\n".encode())
    process.transport.closeStdin()
    assert await process.end() == 0
    assert is_alive(bystander.pid)
    bystander.transport.signalProcess("KILL")
    await bystander.end()


def test_processes_that_are_not_there_have_no_start() -> None:
    assert watchdog_process.process_start(os.getpid()).isdigit()
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert watchdog_process.process_start(child.pid) == "", "a zombie"
    child.wait()
    assert watchdog_process.process_start(child.pid) == ""


async def test_a_daemon_whose_owner_died_before_guarding_it_never_starts(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    program = start_python("-I", "-S", watchdog_process.__file__, "/usr/bin/touch", str(proof))
    program.transport.closeStdin()
    assert await program.end() == 0
    assert not proof.exists()


async def test_guarded_programs_have_a_session_of_their_own_and_no_input(
    watchdog: Watchdog,
) -> None:
    report = """import os, signal, sys
print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()), signal.pthread_sigmask(0, ()),
    signal.getsignal(signal.SIGINT) is signal.default_int_handler)"""
    program = Program()
    command = (sys.executable, "-I", "-S", "-c", report)
    os.kill(spawn_guarded(reactor, watchdog, program, command), signal.SIGINT)
    assert await program.line() == "True '' set() True"
    assert await program.end() == 0


async def test_ctrl_c_while_a_watchdog_starts_does_not_end_it(log_lines: list[str]) -> None:
    watchdog = Watchdog(reactor)
    started = Deferred.fromCoroutine(watchdog.start())
    assert watchdog.pid is not None
    os.kill(watchdog.pid, signal.SIGINT)
    os.kill(watchdog.pid, signal.SIGTERM)
    await started
    await watchdog.stop()
    assert log_lines == []


@pytest.mark.parametrize("delay", [0, 60], ids=["meanwhile", "at-the-end"])
async def test_another_watchdog_takes_over_from_one_that_was_killed(
    watchdog: Watchdog,
    tmp_path: Path,
    log_lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    delay: int,
) -> None:
    monkeypatch.setattr(process, "RESTART_DELAY", delay)
    before, later = tmp_path / "before", tmp_path / "later"
    fill(before)
    watchdog.guard_directory(before)
    kept, lost = await start_sleeper(watchdog), await start_sleeper(watchdog)
    first = watchdog.pid
    os.kill(first, signal.SIGKILL)
    while not (log_lines and (delay or watchdog.pid not in (None, first))):
        await deferLater(reactor, 0.01)
    assert log_lines == ["error: the watchdog process has ended: it is started again"]
    fill(later)
    watchdog.guard_directory(later)
    watchdog.release_process(kept.pid)
    await watchdog.stop()
    await lost.end()
    assert not before.exists()
    assert not later.exists()
    kept.transport.signalProcess("KILL")
    await kept.end()


async def test_a_watchdog_that_cannot_be_replaced_is_tried_again(
    watchdog: Watchdog, log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "RESTART_DELAY", 0.01)
    sleeper, first = await start_sleeper(watchdog), watchdog.pid
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python")
        os.kill(first, signal.SIGKILL)
        while len(log_lines) < 3:
            await deferLater(reactor, 0.01)
        assert watchdog.pid is None
    assert "daemons may now outlive this process" in log_lines[2]
    await watchdog.stop()
    await sleeper.end()
