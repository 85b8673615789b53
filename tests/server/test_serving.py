"""``serve``: what a listener is written as, who may reach it, and its orderly end."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from stat import S_IMODE
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.task import LoopingCall

from tests.support.peers import DEADLINE, GRANTED, Peer, PeerFactory, named, refused, turn, until
from torsocks_tx import Limits, ListenError, MemoryBackend, MemoryOutbound, Server, serve
from torsocks_tx.policy.isolation import Isolator
from torsocks_tx.relay.poller import Paused
from torsocks_tx.server.connections import ONIONS_AT_ONCE

LOOPBACK = "tcp:0:interface=127.0.0.1"
REQUEST = named("example.com", 80)
ONION = named("2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion", 80)


def grant(outbound: MemoryOutbound) -> None:
    reactor.callLater(0, outbound.receiver.opened)


class Serving:
    """Servers in front of one backend, and clients of theirs."""

    def __init__(self) -> None:
        self.backend = MemoryBackend(grant)
        self.servers: list[Server] = []
        self.clients = PeerFactory()

    def start(self, listen: str | list[str], **options: Any) -> Server:
        server = serve(reactor, listen, self.backend, **options)
        self.servers.append(server)
        return server

    async def connect(self, server: Server, number: int = 0) -> Peer:
        address: Any = server.addresses[number]
        endpoint: Any = (
            UNIXClientEndpoint(reactor, address.name)
            if isinstance(address, UNIXAddress)
            else TCP4ClientEndpoint(reactor, address.host, address.port)
        )
        peer: Peer = await endpoint.connect(self.clients)
        return peer

    async def credentials(self, server: Server, number: int = 0) -> bytes:
        """Return what the stream of a new client is isolated by."""
        client = await self.connect(server, number)
        assert await client.negotiate(REQUEST) == GRANTED
        client.reset()
        credentials: bytes = self.backend.outbounds[-1].isolation.credentials.password
        return credentials


@pytest_twisted.async_yield_fixture
async def serving() -> AsyncIterator[Serving]:
    made = Serving()
    yield made
    for client in made.clients.peers:
        client.reset()
    for server in made.servers:
        await server.shutdown(0)


async def test_flags_of_each_listener_act(serving: Serving, tmp_path: Path) -> None:
    place = tmp_path / "socks"
    server = serving.start([f"unix:{place} NoDNSRequest", f"{LOOPBACK} SessionGroup=7"])
    assert S_IMODE(place.stat().st_mode) == 0o600
    assert await (await serving.connect(server)).negotiate(REQUEST) == refused(2)
    assert await (await serving.connect(server, 1)).negotiate(REQUEST) == GRANTED


async def test_servers_share_circuits_only_in_a_session_group(serving: Serving) -> None:
    apart, other = (serving.start(LOOPBACK) for _ in range(2))
    both = serving.start([f"{LOOPBACK} SessionGroup=7"] * 2)
    found = [await serving.credentials(server) for server in (apart, apart, other)]
    assert found[0] == found[1] != found[2]
    assert await serving.credentials(both) == await serving.credentials(both, 1)


async def test_servers_with_one_secret_share_circuits_by_the_name_of_a_listener(
    serving: Serving,
) -> None:
    place = f"{LOOPBACK} Name=one"
    servers = [serving.start(place, isolator=Isolator(bytes([n]) * 32)) for n in (1, 1, 2)]
    first, second, apart = [await serving.credentials(server) for server in servers]
    assert first == second != apart


PUBLIC = ["tcp:0", "tcp:0:interface=0.0.0.0", "tcp:0 ProxyProtocol=192.0.2.1"]


@pytest.mark.parametrize("text", PUBLIC)
async def test_listener_that_others_can_reach_must_be_meant(serving: Serving, text: str) -> None:
    with pytest.raises(ListenError, match="AllowPublic"):
        serving.start(text)
    assert serving.start(f"{text} AllowPublic").addresses


async def test_passwords_make_a_public_listener_safe(serving: Serving) -> None:
    server = serving.start("tcp:0", authenticator=lambda credentials: succeed(None))
    client = await serving.connect(server)
    client.send(b"\5\1\0")
    assert await client.take_rest() == b"\5\xff"


async def test_all_listeners_open_or_none(serving: Serving, tmp_path: Path) -> None:
    first = tmp_path / "first"
    with pytest.raises(ListenError, match="nowhere/socks: No such file or directory"):
        serving.start([f"unix:{first}", f"unix:{tmp_path}/nowhere/socks"])
    assert not first.exists()
    with pytest.raises(ListenError, match="did you mean IsolateDestAddr"):
        serving.start(f"unix:{first} IsolateDestAdr")


@pytest.mark.parametrize("listen", [1080, b"tcp:1080", [], [1080], PeerFactory()])
def test_what_is_no_text_of_a_listener_is_refused_at_the_call(listen: Any) -> None:
    with pytest.raises(TypeError, match='listen must be a text such as "tcp:1080:interface='):
        serve(reactor, listen, MemoryBackend())


async def test_clients_of_all_listeners_are_counted_together(serving: Serving) -> None:
    server = serving.start([LOOPBACK, LOOPBACK], limits=Limits(max_connections=1))
    assert await (await serving.connect(server)).negotiate(REQUEST) == GRANTED
    assert await (await serving.connect(server, 1)).take_rest() == b""


async def test_shutdown_resets_what_is_open_when_the_grace_is_over(serving: Serving) -> None:
    server = serving.start(LOOPBACK)
    client = await serving.connect(server)
    assert await client.negotiate(REQUEST) == GRANTED
    await server.shutdown(0.01)
    assert not await client.ended_well()


async def make_no_request(client: Peer) -> None:
    client.send(b"\5\1\0")
    assert await client.take(2) == b"\5\0"


async def finish_and_leave(client: Peer) -> None:
    assert await client.negotiate(REQUEST) == GRANTED
    client.close()


@pytest.mark.parametrize("behaviour", [make_no_request, finish_and_leave])
async def test_shutdown_waits_a_second_for_clients_that_are_not_served(
    serving: Serving, behaviour: Callable[[Peer], Awaitable[None]]
) -> None:
    server = serving.start(LOOPBACK)
    await behaviour(await serving.connect(server))
    await server.shutdown(600).addTimeout(DEADLINE, reactor)


async def test_shutdown_waits_for_the_answer_to_a_client_that_has_sent_everything(
    serving: Serving,
) -> None:
    server = serving.start(LOOPBACK)
    client = await serving.connect(server)
    assert await client.negotiate(REQUEST) == GRANTED
    client.shut()
    [stream] = serving.backend.outbounds
    answering = LoopingCall(lambda: stream.receiver.data(b"more"))
    answering.start(0.3)
    ended = server.shutdown(600)
    await client.until(lambda: len(client.received) >= 6 * len(b"more"))
    answering.stop()
    assert not client.over
    stream.receiver.lost(True)
    await ended.addTimeout(DEADLINE, reactor)
    assert await client.ended_well()


async def test_a_shutdown_that_is_cancelled_leaves_the_clients_and_no_timers(
    serving: Serving,
) -> None:
    server = serving.start([LOOPBACK, LOOPBACK])
    client = await serving.connect(server)
    assert await client.negotiate(REQUEST) == GRANTED
    timers = len(reactor.getDelayedCalls())
    ending = server.shutdown(600)
    await turn()
    ending.cancel()
    with pytest.raises(CancelledError):
        await ending
    assert len(reactor.getDelayedCalls()) == timers
    serving.backend.outbounds[0].receiver.data(b"more")
    assert await client.take(4) == b"more"


def count_paused() -> int:
    """Count the clients that are not read, and whose end is waited for."""
    gc.collect()
    return sum(type(each) is Paused for each in gc.get_objects())


async def test_clients_that_wait_for_others_of_their_address_and_leave_are_forgotten(
    serving: Serving,
) -> None:
    """Also if so much early data came that they are not read any more."""
    serving.backend = MemoryBackend()
    limits = Limits(max_per_client=ONIONS_AT_ONCE + 1)
    server = serving.start(LOOPBACK, limits=limits)
    for _ in range(ONIONS_AT_ONCE + 1):
        client = await serving.connect(server)
        client.send(b"\5\1\0" + ONION)
        assert await client.take(2) == b"\5\0"
    client.send(bytes(limits.early_data))
    await client.flushed()
    client.close()
    await until(lambda: server.count() == ONIONS_AT_ONCE)
    assert len(serving.backend.outbounds) == ONIONS_AT_ONCE
    before = count_paused()
    client = await serving.connect(server)
    client.send(b"\5\1\0" + ONION + bytes(limits.early_data))
    await until(lambda: count_paused() > before, 0.05)
    await server.shutdown(0)
    assert count_paused() <= before
