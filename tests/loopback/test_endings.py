"""Who goes away, when and how: nothing stays behind, and each end hears of the other's end."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock
from twisted.protocols.policies import WrappingFactory

from tests.loopback.conftest import before_streams
from tests.support.fakes import Leg, grant, hold, opened, plain, refuse, tor_like
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import GRANTED, Peer, named, refused, turn
from tests.support.rows import rows

REQUEST = named("example.com", 80)
ANSWER = b"0123456789abcdef" * 131072


def needs_resets(ground: Ground) -> bool:
    """Whether these sockets can carry a reset; on unix sockets it looks like a FIN."""
    return ground.kind == "tcp"


@before_streams
@rows("R-29")
@pytest.mark.parametrize("way", [Peer.shut, Peer.close, Peer.reset])
async def test_a_client_that_goes_before_the_reply_cancels_the_stream(
    ground: Ground, way: Callable[[Peer], None]
) -> None:
    server, upstream = await tor_like(ground, hold)
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST)
    leg = await upstream.asked()
    assert await client.take(2) == b"\5\0"
    way(client)
    await leg.until(lambda: leg.over)
    await server.emptied()
    assert not client.received


@before_streams
@rows("R-29")
async def test_a_client_that_goes_while_tor_accepts_but_is_silent(ground: Ground) -> None:
    server, upstream = await tor_like(ground, hold, pipelined=False)
    upstream.kind = Peer
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST)
    mute = await upstream.peer()
    assert await mute.take(3) == b"\5\1\2"
    client.shut()
    await mute.until(lambda: mute.over)
    await server.emptied()


@rows("S-03")
async def test_a_reset_of_the_far_end_is_a_reset_and_a_fin_a_fin(ground: Ground) -> None:
    server, upstream = await tor_like(ground, grant)
    endpoint = await ground.listen(server)
    for number, leave in enumerate([Peer.close, Peer.reset]):
        client = await ground.connect(endpoint)
        assert await client.negotiate(REQUEST) == GRANTED
        leave(await upstream.asked(number))
        clean = leave is Peer.close or not needs_resets(ground)
        assert await client.ended_well() == clean
        client.close()
        await server.emptied()


async def in_use(ground: Ground) -> tuple[WatchedServer, Peer, Peer]:
    """A server, and both ends of a stream that has carried bytes both ways."""
    server, client, far = await opened(ground)
    client.send(b"question")
    assert await far.take(8) == b"question"
    far.send(b"answer")
    assert await client.take(6) == b"answer"
    return server, client, far


@rows("S-03")
@pytest.mark.parametrize("size", [5, 100_000])
@pytest.mark.parametrize("by_client", [True, False])
async def test_a_reset_that_a_write_meets_first_is_a_reset(
    ground: Ground, by_client: bool, size: int
) -> None:
    """The write uses the error up, and what is read behind it looks like an orderly end."""
    server, client, far = await in_use(ground)
    one, other = (client, far) if by_client else (far, client)
    other.transport.socket.send(bytes(size))
    one.reset()
    assert await other.ended_well() == (not needs_resets(ground))
    assert not other.eof or not needs_resets(ground)
    await server.emptied()


@rows("S-03")
@pytest.mark.parametrize("way", [Peer.close, Peer.reset])
async def test_what_was_said_before_the_end_is_heard(
    ground: Ground, way: Callable[[Peer], None]
) -> None:
    """A server that answers a request of which it does not want the rest."""
    server, client, far = await in_use(ground)
    client.transport.socket.send(b"the rest")
    far.transport.socket.send(b"no more, please")
    way(far)
    assert await client.take(15) == b"no more, please"
    await client.until(lambda: client.over)
    client.close()
    await server.emptied()


@before_streams
@rows("S-02", "R-20", "R-21")
@pytest.mark.parametrize("code", range(1, 9))
async def test_every_failure_is_one_whole_reply_and_a_fin(ground: Ground, code: int) -> None:
    server, upstream = await tor_like(ground, refuse(code))
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST)
    assert await client.take_rest() == b"\5\0" + refused(code)
    assert await client.ended_well()
    client.close()
    await server.emptied()
    assert len(upstream.peers) == 1


@before_streams
@rows("S-21", "S-22", "S-41")
@pytest.mark.parametrize(
    ("upstream_code", "heard"),
    [(0x09, 1), (0xDF, 1), (0xE0, 1), (0xF0, 4), (0xF1, 4), (0xF6, 1), (0xF8, 1), (0xFF, 1)],
)
async def test_no_code_of_an_upstream_is_passed_on_unread(
    ground: Ground, upstream_code: int, heard: int
) -> None:
    server, _ = await tor_like(ground, refuse(upstream_code))
    client = await ground.client(server)
    assert await client.negotiate(REQUEST) == refused(heard)


@before_streams
@rows("S-02")
@pytest.mark.parametrize("leave", [Peer.close, Peer.reset, Peer.shut])
async def test_an_upstream_that_leaves_without_a_reply(ground: Ground, leave: object) -> None:
    def script(leg: Leg) -> None:
        leave(leg)  # type: ignore[operator]

    server, _ = await tor_like(ground, script)
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST)
    assert await client.take_rest() == b"\5\0" + refused(1)
    assert await client.ended_well()


@before_streams
@rows("S-02")
async def test_a_reply_that_is_cut_at_any_byte_is_no_success(ground: Ground) -> None:
    whole = b"\1\0" + bytes.fromhex("05 00 00 04") + bytes(18)

    def script(leg: Leg) -> None:
        leg.send(whole[: len(upstream.peers) - 1])
        leg.close()

    server, upstream = await tor_like(ground, hold)
    # The fake's own answer would come first: what it says is all in the script.
    upstream.script, upstream.mute = script, True
    endpoint = await ground.listen(server)
    for _ in range(len(whole)):
        client = await ground.connect(endpoint)
        client.send(b"\5\1\0" + REQUEST)
        assert await client.take_rest() == b"\5\0" + refused(1)
        client.close()
    client = await ground.connect(endpoint)
    client.send(b"\5\1\0" + REQUEST)
    assert await client.take_rest() == b"\5\0" + GRANTED
    client.close()
    await server.emptied()


@rows("S-02")
async def test_the_reply_may_come_byte_by_byte(ground: Ground) -> None:
    server, upstream = await tor_like(ground, hold)
    upstream.mute = True
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST)
    assert await client.take(2) == b"\5\0"
    leg = await upstream.asked()
    reply = b"\5\2\1\0" + GRANTED + b"payload"
    for place in range(len(reply)):
        leg.send(reply[place : place + 1])
        await leg.flushed()
        await turn()
    assert await client.take(17) == GRANTED + b"payload"


@pytest.mark.parametrize("ground", ["unix"], indirect=True)
async def test_descriptors_that_a_client_passes_are_closed_unseen(ground: Ground) -> None:
    server, _ = await tor_like(ground, hold)
    client = await ground.client(server)
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    client.transport.sendFileDescriptor(theirs.fileno())
    client.send(b"\5\1\0")
    assert await client.take(2) == b"\5\0"
    theirs.close()
    # The end comes when nobody holds the other side any more.
    assert mine.recv(1) == b""
    mine.close()


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


async def wrapped_stream(ground: Ground) -> tuple[Peer, Peer]:
    """Return both ends of a stream whose listener is wrapped, as by TLS: it cannot half-close."""
    server, origin = await plain(ground)
    client = await ground.connect(await ground.listen(WrappingFactory(server)))
    assert await client.negotiate(named("example.com", 80)) == GRANTED
    return client, await origin.peer()


@rows("S-03")
@before_streams  # it cannot be spliced
async def test_fin_of_the_far_end_ends_a_wrapped_stream_after_its_last_byte(ground: Ground) -> None:
    client, far = await wrapped_stream(ground)
    far.send(ANSWER)
    far.shut()
    assert await client.take_rest() == ANSWER
    assert await client.ended_well()


@rows("S-03")
@before_streams
async def test_what_a_wrapped_client_sent_before_its_end_still_arrives(ground: Ground) -> None:
    client, far = await wrapped_stream(ground)
    client.send(ANSWER)
    client.close()
    assert await far.take_rest() == ANSWER
    assert await far.ended_well()
