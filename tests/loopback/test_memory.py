"""Hostile clients by the ten thousand leave no memory, descriptor or work behind."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peers import named

ROOT = Path(__file__).resolve().parents[2]
RESET = struct.pack("ii", 1, 0)
WARM_UP, REST = 4_000, 26_000
MOST = 5 * 1024
"""KiB that memory may have grown by."""


def dial(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 20)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def wait_for_server(port: int) -> None:
    """Return when the server has met all who came before."""
    with dial(port) as client:
        client.sendall(b"\5\1\0")
        assert client.recv(2) == b"\5\0"


def attack(port: int, numbers: range) -> None:
    """Connect once for each number: with garbage, cut requests, resets, names nobody waits for."""
    held: deque[socket.socket] = deque()
    for number in numbers:
        name = f"n{number}.example"
        says = [
            random.Random(number).randbytes(60),
            b"\5\1\0",
            named(name, 80)[:9],
            b"\5\1\0" + named(name, 80),
            b"\5\1\0" + named(name, 80, 0xF0),
            b"\5\1\0" + named("8.8.8.8", 80, 0xF1),
            b"\4\1\0\x50\0\0\0\1u\0" + name.encode() + b"\0",
            b"GET / HTTP/1.1\r\n\r\n",
        ][number % 8]
        client = dial(port)
        client.sendall(says)
        if number % 3 == 0:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if number % 3 == 1:
            held.append(client)
        else:
            client.close()
        if len(held) > 100:
            held.popleft().close()
        if number % 20 == 0:
            wait_for_server(port)
    for client in held:
        client.close()
    wait_for_server(port)


def memory(process: subprocess.Popen[str]) -> int:
    """Return the resident memory of a process, in KiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found[1])


@pytest.fixture(params=["direct", "socks"])
def exposed(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Start a server of its own process, over this backend."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.loopback.servers", "exposed", request.param],
        cwd=ROOT,
        env={**os.environ, "PYTHONDEVMODE": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        assert process.stdin
        process.stdin.close()
        assert process.wait(60) == 0


def test_hostile_clients_leave_nothing(exposed: subprocess.Popen[str]) -> None:
    assert exposed.stdout
    port = int(exposed.stdout.readline())
    attack(port, range(WARM_UP))
    before = memory(exposed)
    attack(port, range(WARM_UP, WARM_UP + REST))
    deadline = time.monotonic() + 60
    while len(os.listdir(f"/proc/{exposed.pid}/fd")) > 50:
        # Those that were answered have some seconds to read it.
        assert time.monotonic() < deadline
        wait_for_server(port)
    assert memory(exposed) < before + MOST
