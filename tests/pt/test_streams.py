"""Whole streams over real sockets: parent, transport, bridge, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import LogEvent, LogLevel, formatEvent

from tests.pt.bridge import Unveil, load_example
from tests.pt.ports import userpass
from tests.support.ground import Ground
from tests.support.peers import GRANTED, Peer, PeerFactory, Pump, refused, talk
from tests.support.rows import rows
from torsocks_tx.client.endpoint import SOCKSClientEndpoint
from torsocks_tx.errors import Internal, InvalidBridge, Retry, SOCKSError, Temporary
from torsocks_tx.pt import Target, TransportFactory
from torsocks_tx.pt.channel import Channel
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.constants import Role
from torsocks_tx.socks.messages import KeyValues

SECRET = b"hunter2-the-secret"
MEGABYTE = 1024 * 1024


class FarSide(Factory):
    """The bridge of the example's transport, with a ``Peer`` for each stream."""

    noisy = False

    def __init__(self, secret: bytes = SECRET) -> None:
        self.origin = PeerFactory()
        self.secret = secret

    def buildProtocol(self, addr: Any) -> Channel:
        channel = Channel(Unveil(self.secret), self.origin)
        channel.opened.addErrback(lambda _: None)
        return channel


class Tunnel:
    """A port of the example's transport, and its bridge."""

    def __init__(self, ground: Ground, far: Any) -> None:
        self.ground = ground
        self.far = far
        veil: Callable[[Target], IStreamClientEndpoint] = load_example().veil
        self.factory = TransportFactory(reactor, veil)

    async def ask(self, arguments: bytes = b"secret=" + SECRET) -> tuple[Peer, bytes]:
        """Connect a parent and make its request; return its connection and the answer."""
        _, port = self.ground.address(await self.ground.listen(self.far))
        client = await self.ground.client(self.factory)
        client.send(b"\5\2\0\2")
        assert await client.take(2) == b"\5\2"
        client.send(userpass(arguments))
        assert await client.take(2) == b"\1\0"
        client.send(bytes.fromhex("05 01 00 01 7F000001") + int(port).to_bytes(2, "big"))
        return client, await client.take(10)

    async def open(self) -> tuple[Peer, Peer]:
        """Return both ends of an open stream."""
        client, answer = await self.ask()
        assert answer == GRANTED
        return client, await self.far.origin.peer()


@rows("S-03", "P-02")
async def test_two_megabytes_each_way_at_once_arrive_whole(ground: Ground) -> None:
    client, far = await Tunnel(ground, FarSide()).open()
    pumps = [Pump(peer, 2 * MEGABYTE) for peer in (client, far)]
    for peer, pump in ((far, pumps[0]), (client, pumps[1])):
        received = await peer.take(2 * MEGABYTE)
        assert hashlib.sha256(received).digest() == pump.digest.digest()


@rows("S-03")
async def test_half_close_passes_through_both_ways(ground: Ground) -> None:
    client, far = await Tunnel(ground, FarSide()).open()
    client.send(b"question")
    client.shut()
    assert await far.take_rest() == b"question"
    far.send(b"answer")
    far.close()
    assert await client.take_rest() == b"answer"
    assert await client.ended_well()


@rows("S-03")
async def test_bridge_that_does_not_read_pauses_the_parent(ground: Ground) -> None:
    client, far = await Tunnel(ground, FarSide()).open()
    far.transport.pauseProducing()
    pump = Pump(client, 64 * MEGABYTE)
    await pump.stalled()
    assert pump.sent < 32 * MEGABYTE
    pump.stop()
    client.reset()
    far.reset()


@rows("S-03")
async def test_reset_by_the_bridge_is_forwarded_as_reset(ground: Ground) -> None:
    client, far = await Tunnel(ground, FarSide()).open()
    far.reset()
    assert not await client.ended_well()


@rows("R-29")
async def test_reset_by_the_parent_during_the_handshake_closes_the_bridge(ground: Ground) -> None:
    mute = PeerFactory()
    tunnel = Tunnel(ground, mute)
    _, port = ground.address(await ground.listen(mute))
    client = await ground.client(tunnel.factory)
    client.send(
        b"\5\1\2" + userpass(b"secret=x") + b"\5\1\0\1\x7f\0\0\1" + int(port).to_bytes(2, "big")
    )
    far = await mute.peer()
    assert len(await far.take(32)) == 32
    client.reset()
    await far.until(lambda: far.over)


@rows("P-29", "P-31")
async def test_bridge_with_another_secret_is_refused_with_05(ground: Ground) -> None:
    client, answer = await Tunnel(ground, FarSide(b"another secret")).ask()
    assert answer == refused(5)
    assert await client.take_rest() == b""


@rows("P-37")
async def test_no_log_line_holds_an_address_or_an_argument(
    ground: Ground, logged: list[LogEvent]
) -> None:
    tunnel = Tunnel(ground, FarSide())
    client, far = await tunnel.open()
    client.send(b"payload")
    assert await far.take(7) == b"payload"
    far.reset()
    await client.until(lambda: client.over)
    _, answer = await Tunnel(ground, FarSide(b"another")).ask()
    assert answer == refused(5)
    malformed = await ground.client(tunnel.factory)
    malformed.send(b"\5\1\2" + userpass(b"no list, " + SECRET))
    assert await malformed.take_rest() == b"\5\2\1\1"
    assert logged
    for event in logged:
        text = formatEvent(event)
        assert SECRET.decode() not in text
        if event.get("log_level") is not LogLevel.debug and "log_legacy" not in str(
            event.get("log_namespace")
        ):
            assert "127.0.0.1" not in text


async def parent(ground: Ground, factory: TransportFactory, secret: bytes, port: int) -> Peer:
    """Connect our own client as the parent of a listening transport."""
    proxy = await ground.listen(factory)
    options = ClientOptions(pairs=KeyValues.of({"PT.secret": secret}), role=Role.PT)
    return await ground.connect(SOCKSClientEndpoint(reactor, proxy, "127.0.0.1", port, options))


@rows("P-02", "P-03", "P-17")
async def test_our_client_passes_a_long_secret_by_extended_authentication(ground: Ground) -> None:
    """A stream opens only if the secret of 60,000 bytes arrives whole, by method X'97'."""
    secret = bytes(range(256)) * 234
    far_side = FarSide(secret)
    _, port = ground.address(await ground.listen(far_side))
    client = await parent(ground, Tunnel(ground, far_side).factory, secret, int(port))
    far = await far_side.origin.peer()
    await talk(client, far)


@rows("P-29", "P-31", "P-33", "P-34")
@pytest.mark.parametrize(
    ("raised", "code", "advice"),
    [
        (Temporary("busy"), 0xF0, Retry.NOW),
        (InvalidBridge("no"), 0xF1, Retry.NEVER),
        (Internal("oh"), 0xF2, Retry.LATER),
    ],
    ids=["F0", "F1", "F2"],
)
async def test_our_client_gets_the_error_of_the_transport(
    ground: Ground, raised: SOCKSError, code: int, advice: Retry
) -> None:
    def refuse(target: Target) -> IStreamClientEndpoint:
        raise raised

    with pytest.raises(SOCKSError) as caught:
        await parent(ground, TransportFactory(reactor, refuse), b"x", 4000)
    assert type(caught.value) is type(raised)
    assert (caught.value.reply, caught.value.retry) == (code, advice)
