"""The processes of the bench: how they are started, and what they use.

As root everything runs without privileges: the kernel gives others less room for pipe buffers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.socks import Way

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
HOST = "127.0.0.1"


NO_PRIVILEGES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")


@functools.cache
def identity() -> tuple[tuple[str, ...], dict[str, Any], str]:
    """Return how to run as an ordinary user: a command prefix, ``Popen`` options, a description."""
    if os.geteuid() != 0:
        return (), {}, "an ordinary user"
    nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import bench, twisted"], cwd=ROOT, check=True,
                       capture_output=True, **nobody)  # fmt: skip
        return (), nobody, "nobody"
    # This Python is in a place that only root may read.
    return NO_PRIVILEGES, {}, "root without any capability"


def start(
    arguments: Sequence[str], tree: str | Path = ROOT, **streams: Any
) -> subprocess.Popen[str]:
    """Start a program of the bench, or of another tree, as an ordinary user."""
    prefix, options, _ = identity()
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("stdout", "stderr"):
        streams.setdefault(name, subprocess.DEVNULL)
    command = [*prefix, *arguments]
    return subprocess.Popen(command, env=environment, cwd="/", text=True, **streams, **options)


def _close(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a process, and close its pipes."""
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def descendants(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                found += descendants(int(child))
    return found


def cpu_of(pid: int) -> float:
    """Seconds of CPU that all threads of a process have used, also those that ended."""
    # What clock_getcpuclockid(3) computes.
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def cpu_of_ended(pid: int) -> float:
    """Seconds of CPU of the children that a process has had, and has waited for."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def rss_of(pid: int) -> int:
    """Bytes of memory in use."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def free_port() -> int:
    """A port for programs that cannot choose one."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until something listens."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens at {port}")


class Server:
    """A proxy that runs; ``version`` is the SOCKS version to speak to it, 0 for none at all."""

    def __init__(
        self, process: subprocess.Popen[str] | None, port: int, version: int = 5, log: str = ""
    ) -> None:
        self.process = process
        self.way = Way(version, (HOST, port))
        self._log = log

    @classmethod
    def at(cls, place: str) -> Server:
        """Return a SOCKS5 server at ``host:port`` that is not ours to start or stop."""
        return cls(None, int(place.rpartition(":")[2]))

    def by_version(self, version: int) -> Server:
        """Return the same server, spoken to by another version or HTTP, for its owner to stop."""
        return Server(self.process, self.way.proxy[1], version)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return sum(cpu_of(pid) + cpu_of_ended(pid) for pid in self._pids())

    def rss(self) -> int:
        """Bytes of memory in use."""
        return sum(map(rss_of, self._pids()))

    def _pids(self) -> list[int]:
        return [] if self.process is None else descendants(self.process.pid)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            pids = self._pids()
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            _close(self.process)
        if self._log:
            os.unlink(self._log)


class Helper:
    """A program of the bench that prints its address as a line of JSON, and ends with us."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        self._process = start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def told(self) -> Any:
        """Read one line of JSON from the program."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self) -> Any:
        """Make it say something more."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.told()

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        _close(self._process)


class Load:
    """The load generator and the origin, each a process of its own."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._origin = start([sys.executable, "-m", "bench.origin"], stdin=pipe, stdout=pipe)
        self._load = start([sys.executable, "-m", "bench.load"], stdin=pipe, stdout=pipe)
        assert self._origin.stdout is not None
        self.port = int(self._origin.stdout.readline())

    def do(self, server: Server, job: str, **arguments: Any) -> dict[str, float]:
        """Do one job; adds to its answer what it cost the server and the origin."""
        before, origin = server.cpu(), cpu_of(self._origin.pid)
        self.begin(server, job, **arguments)
        result = self.answer()
        result["origin_cpu"] = cpu_of(self._origin.pid) - origin
        return {**result, "server_cpu": server.cpu() - before}

    def begin(self, server: Server, job: str, **arguments: Any) -> None:
        """Begin one job; its answer must be taken before the next."""
        assert self._load.stdin is not None
        arguments = {"host": HOST, "port": self.port, **arguments}
        order = {"job": job, "version": server.way.version, "proxy": server.way.proxy}
        self._load.stdin.write(json.dumps({**order, **arguments}) + "\n")
        self._load.stdin.flush()

    def answer(self) -> dict[str, float]:
        """Wait for the end of the job."""
        assert self._load.stdout is not None
        result: dict[str, Any] = json.loads(self._load.stdout.readline())
        if "error" in result:
            raise RuntimeError(result["error"])
        return result

    def stop(self) -> None:
        """End both."""
        for process in (self._load, self._origin):
            process.kill()
            _close(process)
