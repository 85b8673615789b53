"""The programs that are measured: how each is started, and where it listens."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.processes import HOST, ROOT, Server, free_port, start, wait_for

BEFORE = "torsocks_tx before"
DIRECT = ("--backend", "direct", "--allow-internal")


def no_proxy() -> Server:
    """Run no server: connect to the origin directly."""
    return Server(None, 0, 0)


def twistd(*options: str, tree: str | Path = ROOT) -> Server:
    """``twistd torsocks`` of this tree with these options; its port is in its log."""
    log, name = tempfile.mkstemp(prefix="bench-", suffix=".log")
    program = str(Path(sys.executable).with_name("twistd"))
    arguments = [sys.executable, program, "-n", "--pidfile=", "torsocks", *options]
    listen = ["--listen", f"tcp:0:interface={HOST}"]
    process = start([*arguments, *listen], tree, stdout=log, stderr=log)
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
    """Run ``twistd torsocks`` without Tor."""
    more = ["--workers", str(workers)] if workers > 1 else []
    return twistd(*DIRECT, *more)


@contextlib.contextmanager
def earlier(commit: str) -> Iterator[Server]:
    """Run ``twistd torsocks`` without Tor as it was at a commit."""
    with tempfile.TemporaryDirectory(prefix="bench-") as tree:
        pack = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", tree], input=pack.stdout, check=True)
        os.chmod(tree, 0o755)
        with twistd(*DIRECT, tree=tree) as server:
            yield server


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


HAPROXY = """\
defaults
  mode tcp
  timeout connect 30s
  timeout client 1h
  timeout server 1h
global
  nbthread 1
  maxconn 4000
listen front
  bind {host}:{port}
  server behind {behind}
"""


def haproxy(behind: str) -> Server:
    """Run HAProxy as a TCP proxy for ``host:port``, without SOCKS; one thread, C."""
    port = free_port()
    descriptor, name = tempfile.mkstemp(prefix="bench-", suffix=".cfg")
    os.write(descriptor, HAPROXY.format(host=HOST, port=port, behind=behind).encode())
    os.close(descriptor)
    os.chmod(name, 0o644)
    process = start([found("haproxy"), "-db", "-f", name])
    wait_for(port)
    return Server(process, port, 5, name)


def found(program: str) -> str:
    """Return the path of a program."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return path


SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "no proxy": no_proxy,
    "torsocks_tx": torsocks_tx,
    "torsocks_tx, 2 workers": lambda: torsocks_tx(2),
    "plain Twisted relay": lambda: baseline("plain", 5),
    "Twisted's SOCKS4": lambda: baseline("socks4", 4),
    "microsocks": microsocks,
}
