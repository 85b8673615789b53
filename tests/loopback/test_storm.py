"""Many streams at one time, cut off at any moment from any side: nothing is left or mixed up."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.support.fakes import plain
from tests.support.ground import Ground
from tests.support.peers import GRANTED, Peer, named, turn
from tests.support.rows import rows
from torsocks_tx.relay.pipes import MOST_PIPES, pool

STREAMS = 24
BLOCK = os.urandom(1 << 20)

ENDS: list[Callable[[Peer], None]] = [Peer.reset, Peer.close, Peer.shut]


async def turns(count: int) -> None:
    """Let others have so many turns of the reactor."""
    for _ in range(count):
        await turn()


async def live(one: Peer, other: Peer, dice: random.Random) -> None:
    """Send both ways, stall, go on, and end one side or the other."""
    one.transport.pauseProducing()
    one.send(BLOCK[: dice.randrange(1, len(BLOCK))])
    other.send(BLOCK * dice.randrange(1, 6))
    await turns(dice.randrange(200))
    one.transport.resumeProducing()
    await turns(dice.randrange(200))
    if not one.over:
        dice.choice(ENDS)(one)
    await turns(dice.randrange(50))
    for peer in (other, one):
        if peer.lost is None:
            peer.transport.resumeProducing()
            peer.close()
    await turns(dice.randrange(50))
    for peer, sent in ((one, BLOCK * 6), (other, BLOCK)):
        assert sent.startswith(peer.received)


@rows("S-03", "R-29")
@pytest.mark.parametrize("most", [0, 2, MOST_PIPES])
async def test_streams_that_end_anyhow(
    ground: Ground, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "most", most)
    while pool.idle:
        pool.idle.pop().close()
    dice = random.Random(most)
    server, origin = await plain(ground)
    endpoint = await ground.listen(server)
    pairs = []
    for number in range(STREAMS):
        client = await ground.connect(endpoint)
        assert await client.negotiate(named("example.com", 80)) == GRANTED
        pair = [client, await origin.peer(number)]
        dice.shuffle(pair)
        pairs.append(pair)
    lives = [Deferred.fromCoroutine(live(*pair, dice)) for pair in pairs]
    await gatherResults(lives, consumeErrors=True)
