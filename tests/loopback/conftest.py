"""What the tests over real sockets share: the ground, tcp and unix, and the ways of the bytes.

Each test of open streams runs on every way: as it comes (by the protocols, and spliced once it is
bulk), spliced from the first byte on, spliced and read by the clock, and by the protocols alone, as
where splicing is not possible. What comes before a stream is the same on all of them:
``@before_streams``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.ground import Ground
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.relay import relay, splice
from torsocks_tx.server import factory as server

WAYS = ("", "-spliced", "-by-clock", "-by-protocols")
GROUNDS = [f"{kind}{way}" for way in WAYS for kind in ("tcp", "unix")]
WITHOUT_EXTENDED = "tcp-without 97"


def choose_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bytes go this way: "spliced", "by-clock", "by-protocols", or "" as they do anyway."""
    if way == "by-protocols":
        monkeypatch.setattr(relay, "_is_flushed", lambda _: False)
    elif way:
        monkeypatch.setattr(relay, "BULK", 1)
        monkeypatch.setattr(splice, "LARGE", 1)
    if way == "by-clock":
        monkeypatch.setattr(splice, "LARGE", 1 << 30)
        monkeypatch.setattr(splice, "PERIOD", 0)
        monkeypatch.setattr(splice, "LEAST", 0)
        monkeypatch.setattr(splice, "BY_EVENT_ONLY", ())


@pytest_twisted.async_yield_fixture(params=[*GROUNDS, WITHOUT_EXTENDED])
async def ground(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ground]:
    """Give listeners and clients, over TCP and unix sockets, by each way; leave nothing behind.

    Whoever does not offer method X'97' must not see whether a listener has it, so everything runs
    without it too. A test that is about that method says ``@with_extended``.
    """
    if request.param == WITHOUT_EXTENDED:
        monkeypatch.setattr(server, "_default_policy", ListenerPolicy(extended_auth=False))
    kind, _, way = request.param.partition("-")
    choose_way(way, monkeypatch)
    directory = Path(tempfile.mkdtemp(prefix="socks-"))
    ground = Ground(kind, directory)
    yield ground
    await ground.close()
    assert splice.pool.lent == 0
    shutil.rmtree(directory)


before_streams = pytest.mark.parametrize("ground", ["tcp", "unix", WITHOUT_EXTENDED], indirect=True)
with_extended = pytest.mark.parametrize("ground", GROUNDS, indirect=True)
extended_before_streams = pytest.mark.parametrize("ground", ["tcp", "unix"], indirect=True)
