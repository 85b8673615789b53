"""Clients that say nothing, or not enough, or never end: the clock is the test's."""

from __future__ import annotations

import select

import pytest
from twisted.internet import reactor
from twisted.internet.task import Clock

from tests.loopback.conftest import before_streams
from tests.support.fakes import Leg, hold, refuse, tor_like
from tests.support.ground import Ground, open_files
from tests.support.names import ONION
from tests.support.peers import Peer, named, refused
from tests.support.rows import rows
from torsocks_tx.server.protocol import State

pytestmark = before_streams

REQUEST = named("example.com", 80)


@rows("R-30")
@pytest.mark.parametrize("said", [b"", b"\5", b"\5\1\0", b"\5\1\0" + REQUEST[:-1], b"\4\1\0"])
async def test_a_client_that_does_not_finish_its_request(ground: Ground, said: bytes) -> None:
    clock = Clock()
    server, upstream = await tor_like(ground, hold, clock=clock)
    client = await ground.client(server)
    client.send(said)
    await server.until(lambda: server.heard == len(said) and bool(server.connections))
    clock.advance(30)
    # It hears at most the selection of the method, and then the FIN; it stays, half-open.
    assert await client.take_rest() in (b"", b"\5\0")
    assert await client.ended_well()
    transport = server.client.transport
    await server.until(lambda: transport._writeDisconnected)
    clock.advance(2)
    await server.emptied()
    assert clock.getDelayedCalls() == []
    assert upstream.peers == []


@rows("R-30")
async def test_one_byte_a_second_is_not_enough(ground: Ground) -> None:
    clock = Clock()
    server, _ = await tor_like(ground, hold, clock=clock)
    client = await ground.client(server)
    said = b"\5\1\0" + b"\5\1\0\3\x40" + b"a" * 64
    for sent in range(1, 31):
        client.send(said[sent - 1 : sent])
        await server.until(lambda sent=sent: server.heard == sent)
        assert not client.over
        assert server.client.state is State.HANDSHAKE
        clock.advance(1)
    assert await client.take_rest() == b"\5\0"


@rows("S-40", "R-21")
async def test_a_client_that_stays_after_its_failure_has_two_seconds(ground: Ground) -> None:
    clock = Clock()
    server, _ = await tor_like(ground, refuse(5), clock=clock)
    client = await ground.client(server)
    assert await client.negotiate(REQUEST) == refused(5)
    assert await client.take_rest() == b""
    transport = server.client.transport
    await server.until(lambda: transport._writeDisconnected)
    clock.advance(1.9)
    assert server.connections
    clock.advance(0.1)
    await server.emptied()
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(("host", "seconds"), [("example.com", 120.0), (ONION, 600.0)])
async def test_an_upstream_that_never_answers(ground: Ground, host: str, seconds: float) -> None:
    clock = Clock()
    server, upstream = await tor_like(ground, hold, clock=clock)
    client = await ground.client(server)
    client.send(b"\5\1\0" + named(host, 80))
    leg: Leg = await upstream.asked()
    clock.advance(seconds - 0.1)
    assert not leg.over
    clock.advance(0.1)
    assert await client.take_rest() == b"\5\0" + refused(6)
    await leg.until(lambda: leg.over)
    Peer.close(client)
    await server.emptied()
    assert clock.getDelayedCalls() == []


@rows("R-29", "S-40")
@pytest.mark.parametrize("way", [Peer.reset, Peer.close])
async def test_a_client_that_goes_while_it_is_paused_is_noticed(
    ground: Ground, way: object
) -> None:
    clock = Clock()
    server, upstream = await tor_like(ground, hold, clock=clock)
    client = await ground.client(server)
    # What does not fit the bound fits the kernel's buffers, so that a FIN can follow it.
    client.send(b"\5\1\0" + REQUEST + bytes(100_000))
    leg: Leg = await upstream.asked()
    transport = server.client.transport
    await server.until(lambda: transport not in reactor.getReaders())
    await client.flushed()
    way(client)  # type: ignore[operator]
    await leg.until(lambda: leg.over)
    await server.emptied()
    assert clock.getDelayedCalls() == []


@rows("R-29", "S-40")
async def test_where_that_cannot_be_heard_the_deadline_is_the_end(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "epoll")
    clock = Clock()
    server, upstream = await tor_like(ground, hold, clock=clock)
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST + bytes(8 * 1024 * 1024))
    leg: Leg = await upstream.asked()
    transport = server.client.transport
    await server.until(lambda: transport not in reactor.getReaders())
    client.reset()
    clock.advance(120)
    await leg.until(lambda: leg.over)
    await server.emptied()
    assert clock.getDelayedCalls() == []


@rows("S-40")
async def test_paused_clients_are_watched_by_one_descriptor_together(ground: Ground) -> None:
    server, _ = await tor_like(ground, hold)
    endpoint = await ground.listen(server)
    before = open_files("anon_inode")
    clients = [await ground.connect(endpoint) for _ in range(10)]
    for client in clients:
        client.send(b"\5\1\0" + REQUEST + bytes(100_000))

    def paused() -> int:
        transports = {protocol.transport for protocol in server.connections}
        return len(transports - set(reactor.getReaders()))

    await server.until(lambda: paused() == len(clients))
    # It watches the connections to the proxy, too.
    assert open_files("anon_inode") - before == {"anon_inode:[eventpoll]": 1}
    for client in clients:
        client.reset()
    await server.emptied()
    assert not open_files("anon_inode") - before
