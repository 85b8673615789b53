"""A connection that is over is forgotten at once: it leaves no cycles of references behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from tests.support.fakes import opened
from tests.support.ground import Ground
from tests.support.peers import Peer, turn
from tests.support.rows import rows


@pytest.fixture(autouse=True)
def _no_search() -> Iterator[None]:
    """Nobody looks for cycles meanwhile."""
    gc.disable()
    yield
    gc.enable()


@rows("R-29")
@pytest.mark.parametrize("tor", [False, True])
@pytest.mark.parametrize("way", [Peer.close, Peer.reset])
async def test_after_a_stream_nothing_is_left(
    ground: Ground, tor: bool, way: Callable[[Peer], None]
) -> None:
    server, client, far = await opened(ground, tor=tor)
    # What stands at its two ends; its relay would keep both.
    ends = [weakref.ref(server.client), weakref.ref(server.client._handler.relay.outbound)]
    client.send(b"ping")
    assert await far.take(4) == b"ping"
    way(client)
    far.close()
    await server.emptied()
    # The other side may be closing yet.
    for _ in range(20):
        await turn()
    assert [end() for end in ends] == [None, None]
