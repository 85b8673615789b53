"""What the tests of the short way share: a ground whose clients take it, over TCP and unix."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.loopback.conftest import choose_way
from tests.support.ground import Ground
from torsocks_tx.relay.connector import CONNECTED


@pytest_twisted.async_yield_fixture(params=["tcp", "unix"])
async def ground(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ground]:
    """Give listeners and clients; leave nothing behind."""
    choose_way("short", monkeypatch)
    directory = Path(tempfile.mkdtemp(prefix="socks-"))
    ground = Ground(request.param, directory, fast=True)
    yield ground
    await ground.close()
    shutil.rmtree(directory)


over_tcp = pytest.mark.parametrize("ground", ["tcp"], indirect=True)
over_unix = pytest.mark.parametrize("ground", ["unix"], indirect=True)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Give a port on loopback that neither accepts nor refuses: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting: list[socket.socket] = []
        status = 0
        while status in CONNECTED:
            sock = socket.socket()
            sock.setblocking(False)
            waiting.append(sock)
            sock.connect_ex(listener.getsockname())
            status = sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for sock in waiting:
            sock.close()
