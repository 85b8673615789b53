"""What the tests over real sockets share: the ground, tcp and unix, and the ways of the bytes.

Each test runs on every way: as it comes (copied, and spliced once it is bulk), spliced from the
first bytes on, and through the protocols of both ends, as where neither is possible.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.ground import Ground
from torsocks_tx import flow
from torsocks_tx.pipes import pool

GROUNDS = [f"{kind}{way}" for way in ("", "-spliced", "-by-protocols") for kind in ("tcp", "unix")]


def choose_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """See that bytes go this way: "spliced", "by-protocols", or "" as they do anyway."""
    if way == "by-protocols":
        monkeypatch.setattr(flow, "is_socket", lambda _: False)
    elif way == "spliced":
        monkeypatch.setattr(flow, "BULK_READ", 1)
        monkeypatch.setattr(flow, "BULK_RUN", 1)
        monkeypatch.setattr(flow, "SMALL_RUN", -1)


@pytest_twisted.async_yield_fixture(params=GROUNDS)
async def ground(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ground]:
    """Give listeners and clients, over TCP and then over unix sockets; leave nothing behind."""
    kind, _, way = request.param.partition("-")
    choose_way(way, monkeypatch)
    directory = Path(tempfile.mkdtemp(prefix="socks-"))
    ground = Ground(kind, directory)
    yield ground
    await ground.close()
    assert pool.lent == 0
    shutil.rmtree(directory)
