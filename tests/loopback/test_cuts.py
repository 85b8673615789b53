"""One conversation, split at every byte, and cut off at every byte: nothing leaks."""

from __future__ import annotations

import pytest

from tests.loopback.conftest import before_streams, extended_before_streams, with_extended
from tests.support.fakes import Leg, hold, tor_like
from tests.support.ground import Ground
from tests.support.peers import GRANTED, Peer, named
from tests.support.rows import rows
from torsocks_tx.http.answers import Answers

SOCKS5 = b"\5\2\0\2" + b"\1\2me\3you" + named("example.com", 80) + b"ping"
SOCKS5_ANSWER = b"\5\2\1\0" + GRANTED + b"pong"
SOCKS4 = bytes.fromhex("04 01 0050 00000001 6D65 00") + b"example.com\0" + b"ping"
SOCKS4_ANSWER = bytes.fromhex("00 5A 0000 00000000") + b"pong"
HTTP = b"CONNECT example.com:80 HTTP/1.1\r\nHost: a\r\n\r\nping"
HTTP_ANSWER = Answers(tor=True, isolates=True).connected + b"pong"
PAIRS = b"\1" + b"\0\1\0\x09ISOLATION\0\2xy"
EXTENDED = b"\5\3\0\2\x97" + PAIRS + named("example.com", 80) + b"ping"
PAIRS_ANSWER = b"\1\0\0\2" + b"\0\x08ACCEPTED\0\x09ISOLATION" + b"\0\x0bREPLY_CODES\0\7prop229"
EXTENDED_ANSWER = b"\5\x97" + PAIRS_ANSWER + GRANTED + b"pong"
VERSIONS = [
    pytest.param(SOCKS5, SOCKS5_ANSWER, id="socks5"),
    pytest.param(SOCKS4, SOCKS4_ANSWER, id="socks4a"),
    pytest.param(HTTP, HTTP_ANSWER, id="http"),
]


def pong(leg: Leg) -> None:
    """Open the stream, answer the ping, and close."""
    leg.answer()

    def answer_ping() -> bool:
        if bytes(leg.received) != b"ping":
            return False
        leg.send(b"pong")
        leg.close()
        return True

    if not answer_ping():
        leg.on_data = answer_ping


@rows("R-27", "R-12", "R-02", "P-35", "H-03")
@pytest.mark.parametrize(("said", "answer"), VERSIONS)
async def test_split_at_every_byte(ground: Ground, said: bytes, answer: bytes) -> None:
    await split_at_every_byte(ground, said, answer)


@rows("P-11", "P-13", "P-18", "R-27")
@with_extended
async def test_pairs_split_at_every_byte(ground: Ground) -> None:
    await split_at_every_byte(ground, EXTENDED, EXTENDED_ANSWER)


async def split_at_every_byte(ground: Ground, said: bytes, answer: bytes) -> None:
    server, upstream = await tor_like(ground, pong)
    endpoint = await ground.listen(server)
    for place in range(len(said) + 1):
        before = server.heard
        client = await ground.connect(endpoint)
        client.send(said[:place])
        await server.until(lambda before=before, place=place: server.heard == before + place)
        client.send(said[place:])
        assert await client.take_rest() == answer
        client.close()
        assert (await upstream.asked(place)).asked == (1, 3, b"example.com", 80)
    await server.emptied()


@rows("R-27", "S-37")
@pytest.mark.parametrize(("said", "answer"), VERSIONS)
async def test_one_byte_at_a_time(ground: Ground, said: bytes, answer: bytes) -> None:
    server, _ = await tor_like(ground, pong)
    client = await ground.client(server)
    for place in range(len(said)):
        client.send(said[place : place + 1])
        await server.until(lambda place=place: server.heard == place + 1)
    assert await client.take_rest() == answer


LEAVE = [Peer.shut, Peer.close, Peer.reset]


@rows("R-29", "R-30")
@before_streams
@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize(("said", "answer"), VERSIONS)
async def test_cut_off_at_every_byte(
    ground: Ground, said: bytes, answer: bytes, leave: object
) -> None:
    await cut_off_at_every_byte(ground, said, leave)


@rows("R-29", "R-30", "P-09", "P-11")
@extended_before_streams
@pytest.mark.parametrize("leave", LEAVE)
async def test_pairs_cut_off_at_every_byte(ground: Ground, leave: object) -> None:
    await cut_off_at_every_byte(ground, EXTENDED, leave)


async def cut_off_at_every_byte(ground: Ground, said: bytes, leave: object) -> None:
    server, upstream = await tor_like(ground, hold)
    endpoint = await ground.listen(server)
    for place in range(len(said) + 1):
        before, legs = server.heard, len(upstream.peers)
        client = await ground.connect(endpoint)
        client.send(said[:place])
        await server.until(lambda before=before, place=place: server.heard == before + place)
        # A whole request has set out for upstream: it must be called back.
        whole = place >= len(said) - len(b"ping")
        leg = await upstream.peer(legs) if whole else None
        leave(client)  # type: ignore[operator]
        if leg is not None:
            await leg.until(lambda leg=leg: leg.over)
            leg.close()
        await server.emptied()
        assert not bytes(client.received).endswith(GRANTED)
        client.reset()
    assert len(upstream.peers) == len(b"ping") + 1
    # Ground.close fails if any of all these sockets or their timers is left.
