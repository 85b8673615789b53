"""Bytes in bulk, both ways at once, through the server and a fake tor."""

from __future__ import annotations

import hashlib
import os

import pytest
import pytest_twisted
from twisted.internet import reactor

from tests.fakes import Upstream, UpstreamBackend, grant
from tests.peers import GRANTED, Ground, named
from tests.rows import rows
from torsocks_tx.server import SOCKSFactory

SIZE = 10 * 1024 * 1024


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@rows("S-01", "S-03")
@pytest.mark.parametrize("pipelined", [True, False])
@pytest_twisted.ensureDeferred
async def test_ten_megabytes_each_way_at_once(ground: Ground, pipelined: bool) -> None:
    upstream = Upstream(grant)
    endpoint = await ground.listen(upstream)
    server = SOCKSFactory(UpstreamBackend(reactor, endpoint, pipelined=pipelined))
    client = await ground.connect(await ground.listen(server))
    up, down = os.urandom(SIZE), os.urandom(SIZE)
    assert await client.negotiate(named("example.com", 80)) == GRANTED
    leg = await upstream.asked()
    client.send(up)
    leg.send(down)
    assert digest(await leg.take(SIZE)) == digest(up)
    assert digest(await client.take(SIZE)) == digest(down)
    leg.close()
    assert await client.take_rest() == b""
    assert not leg.received
