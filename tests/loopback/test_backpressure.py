"""A reader that stalls stalls its writer: what piles up between them is bounded."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.support.fakes import grant, plain, tor_like
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import GRANTED, Peer, Pump, named
from tests.support.rows import rows

ENDLESS = 256 * 1024 * 1024
"""What would be sent if nobody objected; the kernel's own buffers hold a tenth of it."""

QUEUED = 320 * 1024
"""What may wait in this process for one connection: high-water mark and one read, with room."""

PIPE = 1024 * 1024
"""What may wait in a pipe."""


def queued(transport: Any) -> int:
    """Return how many bytes a Twisted transport holds that the kernel has not taken."""
    return len(transport.dataBuffer) + transport._tempDataLen


async def streams(ground: Ground, way: str) -> tuple[WatchedServer, Peer, Peer]:
    """Return a server and the two ends of a stream through it."""
    if way == "socks":
        server, upstream = await tor_like(ground, grant)
    else:
        server, upstream = await plain(ground)
    client = await ground.client(server)
    assert await client.negotiate(named("example.com", 80)) == GRANTED
    return server, client, await upstream.peer()


async def pour(server: WatchedServer, source: Peer, sink: Peer) -> None:
    """Fill the way from source to a stalled sink; then let it run, and compare what comes out."""
    outbound = server.client._handler.relay.outbound
    assert outbound is not None
    sink.transport.pauseProducing()
    pump = Pump(source, ENDLESS)
    await pump.stalled()
    assert pump.sent < ENDLESS
    relay = server.client._handler.relay
    ours = [server.client.transport, outbound.transport]
    sides = () if relay._splice is None else relay._splice._sides
    held = sum(side._left + len(side._pending) for side in sides)
    assert relay.is_blocked
    assert sum(map(queued, ours)) <= QUEUED
    assert held <= PIPE
    assert held + sum(map(queued, ours)) > 0
    pump.stop()
    sink.transport.resumeProducing()
    await sink.until(lambda: len(sink.received) >= pump.sent)
    assert hashlib.sha256(sink.received).digest() == pump.digest.digest()


@rows("S-03")
@pytest.mark.parametrize("way", ["socks", "plain"])
async def test_a_client_that_does_not_read(ground: Ground, way: str) -> None:
    server, client, far = await streams(ground, way)
    await pour(server, source=far, sink=client)


@rows("S-03")
@pytest.mark.parametrize("way", ["socks", "plain"])
async def test_a_far_end_that_does_not_read(ground: Ground, way: str) -> None:
    server, client, far = await streams(ground, way)
    await pour(server, source=client, sink=far)


@rows("S-03")
async def test_one_stalled_way_leaves_the_other_open(ground: Ground) -> None:
    _, client, far = await streams(ground, "socks")
    client.transport.pauseProducing()
    pump = Pump(far, ENDLESS)
    await pump.stalled()
    pump.stop()
    client.send(b"still heard")
    assert await far.take(11) == b"still heard"
    client.transport.resumeProducing()
    await client.until(lambda: len(client.received) == pump.sent)
    assert hashlib.sha256(client.received).digest() == pump.digest.digest()
