"""What the tests of the tor backend share: short directories, a fake tor, real tors, log lines."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from tests.backends.tor.fake_tor import COOKIE, FakeTor, listen_at
from tests.backends.tor.real_tor import RealTor
from torsocks_tx.backends.tor.authentication import connect
from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.process import Watchdog


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Give a private directory with a path short enough for unix sockets, whatever TMPDIR is."""
    path = Path(tempfile.mkdtemp(prefix="tor-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest_twisted.async_yield_fixture
async def fake_tor(short_directory: Path) -> AsyncIterator[FakeTor]:
    """Give a fake tor that listens at its ``endpoint``."""
    fake = FakeTor(short_directory)
    await fake.listen()
    socks = await listen_at(fake.socks)
    yield fake
    await fake.stop()
    await socks.stopListening()


@pytest.fixture
def cookie(short_directory: Path) -> Path:
    """Give the file of a cookie, whose name needs quotes."""
    path = short_directory / 'c "q"'
    path.write_bytes(COOKIE)
    return path


@pytest_twisted.async_yield_fixture
async def control(fake_tor: FakeTor) -> AsyncIterator[Control]:
    """Give a control connection to the fake tor."""
    control = await connect(reactor, fake_tor.endpoint)
    yield control
    control.close()


@pytest_twisted.async_yield_fixture
async def watchdog() -> AsyncIterator[Watchdog]:
    """Give a watchdog that is on guard."""
    watchdog = Watchdog(reactor)
    await watchdog.start()
    yield watchdog
    await watchdog.stop()


@pytest_twisted.async_yield_fixture
async def real_tor(short_directory: Path, watchdog: Watchdog) -> AsyncIterator[RealTor]:
    """Give a real tor that is not yet started."""
    tor = RealTor(short_directory, watchdog)
    yield tor
    await tor.stop()
