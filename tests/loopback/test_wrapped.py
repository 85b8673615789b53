"""A listener behind a wrapper that cannot half-close, as TLS and the PROXY protocol are."""

from __future__ import annotations

from twisted.protocols.policies import WrappingFactory

from tests.loopback.conftest import before_streams
from tests.support.fakes import plain
from tests.support.ground import Ground
from tests.support.peers import GRANTED, Peer, named
from tests.support.rows import rows

pytestmark = before_streams  # a wrapped listener cannot be spliced


ANSWER = b"0123456789abcdef" * 131072


async def streams(ground: Ground) -> tuple[Peer, Peer]:
    """Return both ends of a stream."""
    server, origin = await plain(ground)
    client = await ground.connect(await ground.listen(WrappingFactory(server)))
    assert await client.negotiate(named("example.com", 80)) == GRANTED
    return client, await origin.peer()


@rows("S-03")
async def test_the_far_ends_fin_ends_the_stream_after_its_last_byte(ground: Ground) -> None:
    client, far = await streams(ground)
    far.send(ANSWER)
    far.shut()
    assert await client.take_rest() == ANSWER
    assert await client.ended_well()


@rows("S-03")
async def test_what_the_client_sent_before_its_end_still_arrives(ground: Ground) -> None:
    client, far = await streams(ground)
    client.send(ANSWER)
    client.close()
    assert await far.take_rest() == ANSWER
    assert await far.ended_well()
