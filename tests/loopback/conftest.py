"""What the tests over real sockets share: the ground, tcp and unix, and the ways of the bytes.

Each test runs on every way: as it comes (copied, and spliced once it is bulk), spliced from the
first bytes on, through the protocols of both ends, as where neither is possible, and the short way
of ``torsocks_tx.fastpath``, with what is handed over copied or spliced.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.ground import Ground, WatchedProtocol, WatchedVisitor
from torsocks_tx.fastpath import door
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.relay import flow
from torsocks_tx.relay.pipes import pool
from torsocks_tx.server import factory as server
from torsocks_tx.server.protocol import SOCKSProtocol

WAYS = ("", "-spliced", "-by-protocols", "-short", "-short-spliced")
GROUNDS = [f"{kind}{way}" for way in WAYS for kind in ("tcp", "unix")]
WITHOUT_EXTENDED = "tcp-without 97"


def choose_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """See that bytes go this way: "spliced", "by-protocols", "short", or "" as they do anyway."""
    if way == "by-protocols":
        monkeypatch.setattr(flow, "is_socket", lambda _: False)
    elif way in ("spliced", "short-spliced"):
        monkeypatch.setattr(flow, "BULK_READ", 1)
        monkeypatch.setattr(flow, "BULK_RUN", 1)
        monkeypatch.setattr(flow, "SMALL_RUN", -1)
    if way.startswith("short"):
        monkeypatch.setattr(door, "Visitor", WatchedVisitor)
        monkeypatch.setattr(door, "KEPT", ("buildProtocol",))
        monkeypatch.setattr(door, "PROTOCOLS", {WatchedProtocol, SOCKSProtocol})


@pytest_twisted.async_yield_fixture(params=[*GROUNDS, WITHOUT_EXTENDED])
async def ground(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ground]:
    """Give listeners and clients, over TCP and unix sockets, by each way; leave nothing behind.

    Whoever does not offer method X'97' must not see whether a listener has it, so everything runs
    without it too. A test that is about that method says ``@with_extended``.
    """
    if request.param == WITHOUT_EXTENDED:
        without = partial(ListenerPolicy, extended_auth=False)
        monkeypatch.setattr(server, "ListenerPolicy", without)
    kind, _, way = request.param.partition("-")
    choose_way(way, monkeypatch)
    directory = Path(tempfile.mkdtemp(prefix="socks-"))
    ground = Ground(kind, directory, fast=way.startswith("short"))
    yield ground
    await ground.close()
    assert pool.lent == 0
    assert pool.flows == 0
    shutil.rmtree(directory)


with_extended = pytest.mark.parametrize("ground", GROUNDS, indirect=True)
