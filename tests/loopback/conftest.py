"""What the tests over real sockets share: the ground, tcp and unix, and a server on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted

from tests.ground import Ground
from torsocks_tx import server
from torsocks_tx.policy import ListenerPolicy

WITHOUT_EXTENDED = "tcp, without 97"


@pytest_twisted.async_yield_fixture(params=["tcp", WITHOUT_EXTENDED, "unix"])
async def ground(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ground]:
    """Give listeners and clients, over TCP and then over unix sockets; leave nothing behind.

    Whoever does not offer method X'97' must not see whether a listener has it, so everything runs
    without it too. A test that is about that method says ``@with_extended``.
    """
    if request.param == WITHOUT_EXTENDED:
        without = partial(ListenerPolicy, extended_auth=False)
        monkeypatch.setattr(server, "ListenerPolicy", without)
    directory = Path(tempfile.mkdtemp(prefix="socks-"))
    ground = Ground(request.param.partition(",")[0], directory)
    yield ground
    await ground.close()
    shutil.rmtree(directory)


with_extended = pytest.mark.parametrize("ground", ["tcp", "unix"], indirect=True)
