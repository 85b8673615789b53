"""A connection that is over is forgotten at once: it leaves no cycles of references behind."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted

from tests.fakes import grant, plain, tor_like
from tests.ground import Ground
from tests.peers import GRANTED, Peer, named
from tests.rows import rows

REQUEST = named("example.com", 80)

# The search takes long, and the ways that are left out have the same objects.
pytestmark = pytest.mark.parametrize("ground", ["tcp", "unix-by-protocols"], indirect=True)


@pytest.fixture
def garbage() -> Iterator[Callable[[], set[str]]]:
    """What classes of ours the search finds, of what is made from now on."""
    gc.collect()
    earlier = {id(one) for one in gc.get_objects()}
    gc.set_debug(gc.DEBUG_SAVEALL)

    def found() -> set[str]:
        gc.collect()
        kinds = {type(one) for one in gc.garbage if id(one) not in earlier}
        return {kind.__name__ for kind in kinds if kind.__module__.startswith("torsocks_tx")}

    yield found
    gc.set_debug(0)
    gc.garbage.clear()


@rows("R-29")
@pytest.mark.parametrize("way", [Peer.close, Peer.reset])
@pytest_twisted.ensureDeferred
async def test_after_a_stream(ground: Ground, garbage: Any, way: Callable[[Peer], None]) -> None:
    server, origin = await plain(ground)
    endpoint = await ground.listen(server)
    for number in range(3):
        client = await ground.connect(endpoint)
        assert await client.negotiate(REQUEST) == GRANTED
        far = await origin.peer(number)
        client.send(b"ping")
        assert await far.take(4) == b"ping"
        way(client)
        far.close()
        await server.emptied()
    assert garbage() == set()


@pytest_twisted.ensureDeferred
async def test_after_a_stream_through_tor(ground: Ground, garbage: Any) -> None:
    server, upstream = await tor_like(ground, grant)
    client = await ground.client(server)
    assert await client.negotiate(REQUEST) == GRANTED
    client.close()
    (await upstream.asked()).close()
    await server.emptied()
    assert garbage() == set()
