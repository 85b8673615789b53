"""Clients that send early data and leave, by the thousand, take no slot from others for long."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.threads import deferToThread

from tests.network.asking import becomes_true
from tests.support.peers import until
from tests.support.rows import rows
from tests.support.running import Twistd, run
from torsocks_tx.testing.tornet import PrivateNetwork
from torsocks_tx.testing.tornet.client import Client

pytestmark = pytest.mark.network

MOST = 200
SECONDS = "6"
ROOT = Path(__file__).parent.parent.parent


def ways(client: Client) -> list[Sequence[str]]:
    """How a server can reach this tor: by its control port, by TCP, and by a unix socket."""
    return [
        ("--tor", client.control_endpoint),
        ("--tor-socks", "tcp:{}:{}".format(*client.socks_tcp)),
        ("--tor-socks", f"unix:{client.socks_unix}"),
    ]


def free_slots(port: int) -> int:
    """How many clients are served at one time."""
    clients = []
    try:
        for _ in range(MOST):
            client = socket.create_connection(("127.0.0.1", port), timeout=120)
            clients.append(client)
            client.sendall(b"\5\1\0")
            if client.recv(2) != b"\5\0":
                return len(clients) - 1
    except ConnectionResetError:
        return len(clients) - 1
    finally:
        for client in clients:
            client.close()
    return MOST


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@rows("R-29", "S-40")
async def test_clients_that_leave_early_free_their_slots(
    private_network: PrivateNetwork, tmp_path: Path
) -> None:
    client = await private_network.add_client()
    for way in ways(client):
        limits = "--max-connections", str(MOST), "--connect-timeout", "5"
        listen = "--listen", "tcp:0:interface=127.0.0.1"
        twistd = Twistd(*listen, *way, *limits, directory=tmp_path)
        try:
            await twistd.up()
            await withstand(twistd)
        finally:
            assert await twistd.stop() == -15


async def withstand(twistd: Twistd) -> None:
    """Attack a server; afterwards it is as it was before."""
    port = int(twistd.addresses[0].rpartition(":")[2])
    assert await deferToThread(free_slots, port) == MOST
    before, said = descriptors(twistd.pid), len(twistd.output.splitlines())
    attack = sys.executable, "-m", "tests.support.attack", str(port), SECONDS
    ended = await run(*attack, cwd=ROOT)
    assert int(ended.text) > 1000
    await until(lambda: descriptors(twistd.pid) <= before, 0.05)

    async def are_all_free() -> bool:
        return bool(await deferToThread(free_slots, port) == MOST)

    # The kernel may have accepted clients that the server has not met yet.
    await becomes_true(are_all_free)
    assert len(twistd.output.splitlines()) <= said + 3, twistd.output
    assert "Traceback" not in twistd.output
