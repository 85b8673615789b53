"""A connection that is over is forgotten at once: it leaves no cycles of references behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from tests.support.fakes import opened
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import Peer, turn
from tests.support.rows import rows


@pytest.fixture(autouse=True)
def _no_search() -> Iterator[None]:
    """Nobody looks for cycles meanwhile."""
    gc.disable()
    yield
    gc.enable()


def both_ends(server: WatchedServer) -> list[weakref.ref[object]]:
    """What stands at the two ends of the one stream there is; its relay would keep both."""
    client = server.client
    return [weakref.ref(client), weakref.ref(client._handler.relay.outbound)]


async def forgotten(server: WatchedServer, ends: list[weakref.ref[object]]) -> None:
    """Check that nothing is left of a stream."""
    await server.emptied()
    # The other side may be closing yet.
    for _ in range(20):
        await turn()
    assert [end() for end in ends] == [None, None]


@rows("R-29")
@pytest.mark.parametrize("way", [Peer.close, Peer.reset])
async def test_after_a_stream(ground: Ground, way: Callable[[Peer], None]) -> None:
    server, client, far = await opened(ground)
    ends = both_ends(server)
    client.send(b"ping")
    assert await far.take(4) == b"ping"
    way(client)
    far.close()
    await forgotten(server, ends)


@rows("R-29")
async def test_after_a_stream_through_tor(ground: Ground) -> None:
    server, client, leg = await opened(ground, tor=True)
    ends = both_ends(server)
    client.close()
    leg.close()
    await forgotten(server, ends)
