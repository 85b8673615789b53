"""The watchdog process, and the first moments of each process that it guards.

Run as a script (``python -I -S``) by :mod:`torsocks_tx.backends.tor.process`. Without arguments it
is the watchdog: it kills and removes what its owner leaves behind. Orders come as lines on standard
input; the end of that input means that the owner is gone (a SIGKILL closes a pipe too). With
arguments it waits until it is guarded, and then becomes the program that they name. Standard
library only, and little of it: it starts in 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

_DEADLINE = 10.0
"""Seconds for killed processes to vanish, and again for their directories to be removed."""

_PAUSE = 0.05
_READ_SIZE = 65536

READY = "ready"
"""The line that the watchdog prints when it is on guard."""

CANNOT_EXECUTE = 127
"""The exit status when the program cannot be executed, as shells have it."""

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


def process_start(pid: int) -> str:
    """Return when the process started, in the kernel's ticks; "" if there is none.

    A process that is dead but not yet waited for counts as none. Without ``/proc`` the answer is
    always "": then nothing protects a reused process id.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            fields = status.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def remove_tree(top: bytes) -> bool:
    """Remove a directory and all in it, follow no link; tell whether it is gone."""
    for parent, directories, files in os.walk(top, topdown=False):
        for name in files + directories:
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                _remove_one(path)
    with contextlib.suppress(OSError):
        _remove_one(top)
    return not os.path.lexists(top)


def _remove_one(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
    else:
        os.unlink(path)


class Guarded:
    """The processes to kill and the directories to remove when the owner is gone."""

    def __init__(self) -> None:
        self.processes: dict[int, str] = {}
        self.directories: list[bytes] = []

    def obey(self, line: bytes) -> None:
        """Carry out an order: its name, a process id or path, for a process its start time."""
        order, subject, *rest = line.decode("ascii").split(" ")
        if order == "guard-process":
            self.processes[int(subject)] = rest[0]
        elif order == "release-process":
            self.processes.pop(int(subject), None)
        elif order == "guard-directory":
            self.directories.append(bytes.fromhex(subject))

    def kill_all(self) -> None:
        """Kill every guarded process, then remove every guarded directory."""
        for pid in self._living():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        _until(lambda: not self._living())
        for directory in self.directories:
            _until(partial(remove_tree, directory))

    def _living(self) -> list[int]:
        return [pid for pid, start in self.processes.items() if process_start(pid) == start]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not condition() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def become(command: list[str]) -> int:
    """Wait for one byte on standard input, then replace this process with the program.

    It gets a session of its own, so that Ctrl-C at the terminal does not reach it. If the owner
    dies before this process is guarded, the input ends and so does this process.
    """
    os.setsid()
    if not os.read(0, 1):
        return 0
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for handling in (signal.SIG_IGN, signal.SIG_DFL):  # drops a Ctrl-C from before our session
        signal.signal(signal.SIGINT, handling)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return CANNOT_EXECUTE


def guard() -> int:
    """Obey until the owner is gone, then clean up after it."""
    with contextlib.suppress(PermissionError):
        os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.write(1, f"{READY}\n".encode())
    guarded = Guarded()
    pending = b""
    while received := os.read(0, _READ_SIZE):
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            guarded.obey(line)
    guarded.kill_all()
    return 0


if __name__ == "__main__":
    sys.exit(become(sys.argv[1:]) if sys.argv[1:] else guard())
