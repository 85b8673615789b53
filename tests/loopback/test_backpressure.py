"""Bytes in bulk; and a reader that stalls stalls its writer: what piles up is bounded."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from tests.support.fakes import opened
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import Peer, Pump
from tests.support.rows import rows

ENDLESS = 256 * 1024 * 1024
"""What would be sent if nobody objected; the kernel's own buffers hold a tenth of it."""

QUEUED = 320 * 1024
"""What may wait in this process for one connection: high-water mark and one read, with room."""

SIZE = 10 * 1024 * 1024
PIPE = 1024 * 1024
"""What may wait in a pipe."""


def queued(transport: Any) -> int:
    """Return how many bytes a Twisted transport holds that the kernel has not taken."""
    return len(transport.dataBuffer) + transport._tempDataLen


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
    pipes = sum(side._pipe.filled for side in sides if side._pipe is not None)
    held = pipes + sum(len(side._untaken) for side in sides)
    assert relay.is_blocked
    assert sum(map(queued, ours)) <= QUEUED
    assert held <= PIPE
    assert held + sum(map(queued, ours)) > 0
    pump.stop()
    sink.transport.resumeProducing()
    await sink.until(lambda: len(sink.received) >= pump.sent)
    assert hashlib.sha256(sink.received).digest() == pump.digest.digest()


@rows("S-03")
@pytest.mark.parametrize("tor", [True, False])
@pytest.mark.parametrize("by_client", [True, False])
async def test_a_side_that_does_not_read_stalls_the_other(
    ground: Ground, tor: bool, by_client: bool
) -> None:
    server, client, far = await opened(ground, tor=tor)
    source, sink = (far, client) if by_client else (client, far)
    await pour(server, source, sink)


@rows("S-03")
async def test_one_stalled_way_leaves_the_other_open(ground: Ground) -> None:
    _, client, far = await opened(ground, tor=True)
    client.transport.pauseProducing()
    pump = Pump(far, ENDLESS)
    await pump.stalled()
    pump.stop()
    client.send(b"still heard")
    assert await far.take(11) == b"still heard"
    client.transport.resumeProducing()
    await client.until(lambda: len(client.received) == pump.sent)
    assert hashlib.sha256(client.received).digest() == pump.digest.digest()


@rows("S-01", "S-03")
@pytest.mark.parametrize("pipelined", [True, False])
async def test_ten_megabytes_each_way_at_once(ground: Ground, pipelined: bool) -> None:
    _, client, leg = await opened(ground, tor=True, pipelined=pipelined)
    up, down = os.urandom(SIZE), os.urandom(SIZE)
    assert leg.asked == (1, 3, b"example.com", 80)
    client.send(up)
    leg.send(down)
    # Compared by digests: a difference would be shown for minutes.
    assert hashlib.sha256(await leg.take(SIZE)).digest() == hashlib.sha256(up).digest()
    assert hashlib.sha256(await client.take(SIZE)).digest() == hashlib.sha256(down).digest()
    leg.close()
    assert await client.take_rest() == b""
    assert not leg.received
