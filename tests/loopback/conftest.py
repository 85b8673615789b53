"""What the tests over real sockets share: the ground, tcp and unix, and a server on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.ground import Ground


@pytest_twisted.async_yield_fixture(params=["tcp", "unix"])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    """Give listeners and clients, over TCP and then over unix sockets; leave nothing behind."""
    directory = Path(tempfile.mkdtemp(prefix="socks-"))
    ground = Ground(request.param, directory)
    yield ground
    await ground.close()
    shutil.rmtree(directory)
