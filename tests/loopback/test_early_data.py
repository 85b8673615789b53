"""Payload that comes before the reply: once, in order, bounded, not at the reply's expense."""

from __future__ import annotations

import contextlib
import hashlib
import socket

import pytest
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from tests.loopback.conftest import before_streams
from tests.support.fakes import Leg, hold, plain, refuse, tor_like
from tests.support.ground import Ground
from tests.support.peers import DEADLINE, GRANTED, Peer, Pump, named, refused, turn
from tests.support.rows import rows
from torsocks_tx.http.answers import Answers

REQUEST = named("example.com", 80)
HTTP_OPENED = Answers(tor=True, isolates=True).connected
MEGABYTE = 1024 * 1024


@rows("S-37", "S-38", "S-39", "R-27")
async def test_it_goes_to_tor_in_one_write_with_our_request(ground: Ground) -> None:
    server, upstream = await tor_like(ground, hold)
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST + b"first ")
    leg = await upstream.asked()
    # Everything was in the first segment, and the client has heard nothing but the selection.
    assert len(leg.segments) == 1
    assert leg.segments[0].endswith(REQUEST + b"first ")
    assert await leg.take(6) == b"first "
    client.send(b"second ")
    assert await leg.take(7) == b"second "
    assert await client.take(2) == b"\5\0"
    assert not client.received
    leg.answer(0, b"an answer")
    assert await client.take(19) == GRANTED + b"an answer"
    client.send(b"third")
    assert await leg.take(5) == b"third"


@rows("S-37", "S-02", "R-34")
async def test_it_waits_for_the_reply_of_any_other_upstream(ground: Ground) -> None:
    server, upstream = await tor_like(ground, hold, pipelined=False)
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST + b"first ")
    leg = await upstream.asked()
    # Greeting, credentials and request came one by one, each after the answer to the one before.
    assert [len(segment) for segment in leg.segments] == [3, 76, len(REQUEST)]
    client.send(b"second")
    await server.until(lambda: server.heard == 3 + len(REQUEST) + 12)
    for _ in range(20):
        await turn()
    assert not leg.received
    assert await client.take(2) == b"\5\0"
    assert not client.received
    leg.answer()
    assert await leg.take(12) == b"first second"
    assert await client.take(10) == GRANTED


@rows("S-37", "R-06")
async def test_it_may_follow_a_socks4_request(ground: Ground) -> None:
    server, upstream = await tor_like(ground, hold)
    client = await ground.client(server)
    client.send(bytes.fromhex("04 01 0050 00000001 00") + b"example.com\0payload")
    leg = await upstream.asked()
    assert leg.asked == (1, 3, b"example.com", 80)
    assert await leg.take(7) == b"payload"
    leg.answer()
    assert await client.take(8) == bytes.fromhex("00 5A 0000 00000000")


@rows("H-18")
async def test_64_kib_with_a_connect_of_http_are_at_tor_before_the_answer(ground: Ground) -> None:
    server, upstream = await tor_like(ground, hold)
    client = await ground.client(server)
    early = bytes(range(256)) * 256
    client.send(b"CONNECT example.com:80 HTTP/1.1\r\nHost: a\r\n\r\n" + early)
    leg = await upstream.asked()
    assert leg.asked == (1, 3, b"example.com", 80)
    assert await leg.take(len(early)) == early
    # What was in the segment of the head left in that of our request.
    assert len(leg.segments[0]) > 100 + len(REQUEST)
    assert not client.received
    leg.answer(0, b"an answer")
    answer = await client.take(len(HTTP_OPENED) + 9)
    assert answer == HTTP_OPENED + b"an answer"


@rows("S-40")
@pytest.mark.parametrize("pipelined", [True, False])
async def test_it_is_bounded_and_then_the_client_is_paused(ground: Ground, pipelined: bool) -> None:
    server, upstream = await tor_like(ground, hold, pipelined=pipelined)
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST)
    assert await client.take(2) == b"\5\0"
    leg = await upstream.asked()
    pump = Pump(client, 64 * MEGABYTE)
    await pump.stalled()
    assert pump.sent < 64 * MEGABYTE
    assert server.client.transport not in reactor.getReaders()
    # The bound, and at most one read of 64 KiB beyond it: there, or here where it must wait.
    early = server.heard - 3 - len(REQUEST)
    assert 64 * 1024 <= early <= 128 * 1024
    assert len(leg.received) == (early if pipelined else 0)
    pump.stop()
    leg.answer()
    assert await client.take(10) == GRANTED
    await leg.until(lambda: len(leg.received) == pump.sent)
    assert hashlib.sha256(leg.received).digest() == pump.digest.digest()


@before_streams
@rows("S-40", "R-20", "R-21")
async def test_a_failure_is_read_whole_by_a_client_that_sends_eight_megabytes(
    ground: Ground,
) -> None:
    server, upstream = await tor_like(ground, refuse(5))
    endpoint = await ground.listen(server)
    for number in range(50):
        client = await ground.connect(endpoint)
        client.send(b"\5\1\0" + REQUEST + bytes(8 * MEGABYTE))
        assert await client.take_rest() == b"\5\0" + refused(5), number
        client.reset()
    await server.emptied()
    assert len(upstream.peers) == 50


def send_then_read(address: str | tuple[str, int]) -> bytes:
    """Be a client that sends all it has, is stopped at it, and only then reads."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    received = b""
    with socket.socket(family) as client:
        client.settimeout(DEADLINE)
        client.connect(address)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(b"\5\1\0" + REQUEST + bytes(8 * MEGABYTE))
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(64):
                received += data
    return received


@before_streams
@rows("S-40", "R-20", "R-21")
async def test_a_failure_is_read_whole_by_a_client_that_reads_last(ground: Ground) -> None:
    server, _ = await tor_like(ground, refuse(5))
    address = ground.address(await ground.listen(server))
    for number in range(50):
        received = await deferToThread(send_then_read, address)
        assert received == b"\5\0" + refused(5), number
    await server.emptied()


@rows("S-03", "R-32")
async def test_the_far_end_may_speak_in_the_segment_of_the_reply_and_leave(ground: Ground) -> None:
    def greet_and_go(leg: Leg) -> None:
        leg.answer(0, b"220 hello\r\n")
        leg.close()

    server, _ = await tor_like(ground, greet_and_go)
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST)
    assert await client.take_rest() == b"\5\0" + GRANTED + b"220 hello\r\n"
    assert await client.ended_well()
    client.close()
    await server.emptied()


class SpeaksFirst(Peer):
    def connectionMade(self) -> None:
        super().connectionMade()
        self.send(b"220 hello\r\n")


@rows("S-03")
async def test_an_origin_that_speaks_first_is_heard_after_the_reply(ground: Ground) -> None:
    server, _ = await plain(ground, kind=SpeaksFirst)
    client = await ground.client(server)
    client.send(b"\5\1\0" + REQUEST)
    assert await client.take(23) == b"\5\0" + GRANTED + b"220 hello\r\n"
