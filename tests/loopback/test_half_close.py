"""One side is done and the other is not: nothing is cut short, and tor hears no FIN too early."""

from __future__ import annotations

from twisted.internet.task import Clock

from tests.support.fakes import opened
from tests.support.ground import Ground
from tests.support.rows import rows

ANSWER = b"0123456789abcdef" * 131072


@rows("S-03")
async def test_the_clients_fin_is_held_back_from_tor(ground: Ground) -> None:
    server, client, leg = await opened(ground, tor=True)
    client.send(b"question")
    client.shut()
    await server.until(lambda: server.ended == 1)
    assert await leg.take(8) == b"question"
    leg.send(ANSWER)
    assert await client.take(len(ANSWER)) == ANSWER
    assert not leg.over
    leg.close()
    assert await client.take_rest() == b""
    assert await client.ended_well()
    await server.emptied()


@rows("S-03")
async def test_after_the_clients_fin_a_silent_tor_is_left_in_the_end(ground: Ground) -> None:
    clock = Clock()
    server, client, leg = await opened(ground, tor=True, clock=clock)
    client.shut()
    await server.until(lambda: server.ended == 1)
    clock.advance(29)
    leg.send(b"late")
    assert await client.take(4) == b"late"
    # That byte started the 30 seconds again.
    clock.advance(29)
    assert not client.over
    clock.advance(1)
    assert await client.take_rest() == b""
    assert await client.ended_well()
    await leg.until(lambda: leg.over)
    await server.emptied()
    assert clock.getDelayedCalls() == []


@rows("S-03")
async def test_tors_fin_ends_the_stream_though_the_client_was_still_sending(ground: Ground) -> None:
    server, client, leg = await opened(ground, tor=True)
    # tor reads no more: what the client sends stays in our hands, and the client is paused.
    leg.transport.pauseProducing()
    client.send(ANSWER * 8)
    transport = server.client.transport
    await server.until(lambda: transport not in transport.reactor.getReaders())
    leg.send(b"413 too large")
    leg.shut()
    assert await client.take_rest() == b"413 too large"
    client.reset()
    await server.emptied()
