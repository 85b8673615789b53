"""What tests of the command line share: options, places to listen, and a tor that a test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor

from tests.backends.tor.fake_tor import STARTING, FakeTor
from tests.support.fakes import Upstream, refuse
from torsocks_tx.twistd.options import Options

LOOPBACK = "tcp:0:interface=127.0.0.1"
DIRECT = ("--backend", "direct", "--allow-internal")


def options_of(*arguments: str, directory: str | None = None) -> Options:
    """Return the options that these arguments are."""
    options = Options(directory)
    options.parseOptions(arguments)
    return options


@pytest_twisted.async_yield_fixture
async def tor(tmp_path: Path) -> AsyncIterator[FakeTor]:
    """Give a tor that a test speaks for, which still starts, with a SocksPort that refuses all."""
    tor = FakeTor(tmp_path)
    tor.info["status/bootstrap-phase"] = STARTING
    upstream = Upstream(refuse(1))
    port = reactor.listenUNIX(tor.socks, upstream)
    await tor.listen()
    yield tor
    await tor.stop()
    await port.stopListening()
    for peer in upstream.peers:
        peer.reset()
        await peer.until(lambda peer=peer: peer.lost is not None)  # type: ignore[misc]
