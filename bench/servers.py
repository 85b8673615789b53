"""The programs that are measured: how each is started, where it listens, what it uses.

As root everything runs without privileges: the kernel gives others less room for pipe buffers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.socks import Way

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
HOST = "127.0.0.1"


NO_PRIVILEGES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")


@functools.cache
def identity() -> tuple[tuple[str, ...], dict[str, Any], str]:
    """How to be an ordinary user: a prefix of the command, options of ``Popen``, and in words."""
    if os.geteuid() != 0:
        return (), {}, "an ordinary user"
    nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import bench, twisted"], cwd=ROOT, check=True,
                       capture_output=True, **nobody)  # fmt: skip
        return (), nobody, "nobody"
    # This Python is in a place that only root may read.
    return NO_PRIVILEGES, {}, "root without any capability"


def start(arguments: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
    """Start a program of the bench as an ordinary user."""
    prefix, options, _ = identity()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("stdout", "stderr"):
        streams.setdefault(name, subprocess.DEVNULL)
    command = [*prefix, *arguments]
    return subprocess.Popen(command, env=environment, cwd="/", text=True, **streams, **options)


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

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return sum(map(cpu_of, self._pids()))

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
            self.process.wait()
        if self._log:
            os.unlink(self._log)


def no_proxy() -> Server:
    """Nothing in between."""
    return Server(None, 0, 0)


def twistd(*options: str) -> Server:
    """``twistd torsocks`` with these options; its port is in its log."""
    log, name = tempfile.mkstemp(prefix="bench-", suffix=".log")
    program = str(Path(sys.executable).with_name("twistd"))
    arguments = [sys.executable, program, "-n", "--pidfile=", "torsocks", *options]
    listen = ["--listen", f"tcp:0:interface={HOST}"]
    process = start([*arguments, *listen], stdout=log, stderr=log)
    os.close(log)
    for _ in range(1200):
        text = Path(name).read_text()
        found = re.search(r"SOCKS5 at \S+:(\d+)", text)
        if found and "clients at one time" in text:
            return Server(process, int(found[1]), 5, name)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"twistd torsocks does not start:\n{Path(name).read_text()}")


def torsocks_tx(workers: int = 1) -> Server:
    """Ours, without Tor."""
    more = ["--workers", str(workers)] if workers > 1 else []
    return twistd("--backend", "direct", "--allow-internal", *more)


def baseline(kind: str, version: int) -> Server:
    """One of ``bench.baselines``."""
    arguments = [sys.executable, "-m", "bench.baselines", kind]
    process = start(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return Server(process, int(process.stdout.readline()), version)


def microsocks() -> Server:
    """One thread for each client, 1 KiB buffers, C."""
    port = free_port()
    process = start([found("microsocks"), "-i", HOST, "-p", str(port)])
    wait_for(port)
    return Server(process, port)


DANTE = """\
internal: {host} port = {port}
external: {host}
socksmethod: none
clientmethod: none
logoutput: /dev/null
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
"""


def dante() -> Server:
    """Processes, C."""
    port = free_port()
    descriptor, name = tempfile.mkstemp(prefix="bench-", suffix=".conf")
    os.write(descriptor, DANTE.format(host=HOST, port=port).encode())
    os.close(descriptor)
    os.chmod(name, 0o644)
    process = start([found("danted"), "-f", name, "-p", "/dev/null"])
    wait_for(port)
    return Server(process, port, 5, name)


def found(program: str) -> str:
    """Where a program is."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return path


SERVERS: dict[str, Callable[[], Server]] = {
    "no proxy": no_proxy,
    "torsocks_tx": torsocks_tx,
    "torsocks_tx, 2 workers": lambda: torsocks_tx(2),
    "plain Twisted relay": lambda: baseline("plain", 5),
    "Twisted's SOCKS4": lambda: baseline("socks4", 4),
    "microsocks": microsocks,
    "dante": dante,
}


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
        assert self._load.stdin is not None
        assert self._load.stdout is not None
        arguments = {"host": HOST, "port": self.port, **arguments}
        order = {"job": job, "version": server.way.version, "proxy": server.way.proxy}
        before, origin = server.cpu(), cpu_of(self._origin.pid)
        self._load.stdin.write(json.dumps({**order, **arguments}) + "\n")
        self._load.stdin.flush()
        result: dict[str, Any] = json.loads(self._load.stdout.readline())
        if "error" in result:
            raise RuntimeError(f"{job}: {result['error']}")
        result["origin_cpu"] = cpu_of(self._origin.pid) - origin
        return {**result, "server_cpu": server.cpu() - before}

    def stop(self) -> None:
        """End both."""
        for process in (self._load, self._origin):
            process.kill()
            process.wait()
