"""Open streams over real sockets: every end, resets, urgent data, and who is waited for."""

from __future__ import annotations

import hashlib
import os
import socket

import pytest
from twisted.internet.task import Clock

from tests.support.fakes import plain
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import GRANTED, Peer, Pump, named, turn
from tests.support.rows import rows

BLOCK = os.urandom(4 * 1024 * 1024)


class Open:
    """An open stream, on the test's clock; it has carried bytes both ways."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.clock = Clock()
        self.server: WatchedServer
        self.client: Peer
        self.remote: Peer

    async def begin(self) -> Open:
        self.server, origin = await plain(self.ground, clock=self.clock)
        self.client = await self.ground.client(self.server)
        self.client.send(b"\5\1\0")
        assert await self.client.take(2) == b"\5\0"
        self.client.send(named("example.com", 80))
        # The endpoint is chosen in the reactor's next turn, by the clock.
        while not origin.peers:
            self.clock.advance(0)
            await turn()
        assert await self.client.take(10) == GRANTED
        self.remote = await origin.peer()
        await self.exchange(b"question", b"an answer")
        return self

    async def exchange(self, up: bytes, down: bytes) -> None:
        self.client.send(up)
        assert await self.remote.take(len(up)) == up
        self.remote.send(down)
        assert await self.client.take(len(down)) == down

    def ends(self, by_client: bool) -> tuple[Peer, Peer]:
        """One end and the other, the client's first if ``by_client``."""
        return (self.client, self.remote) if by_client else (self.remote, self.client)

    @property
    def moved(self) -> tuple[int, int]:
        """The payload that went out and in."""
        relay = self.server.client._handler.relay
        return relay.sent, relay.received

    async def gone(self) -> None:
        """Wait until nothing is left of it."""
        await self.server.emptied()
        for _ in range(20):
            await turn()
        assert self.clock.getDelayedCalls() == []
        assert self.server.when_empty().called


async def begin(ground: Ground) -> Open:
    return await Open(ground).begin()


needs_resets = pytest.mark.parametrize(
    "ground", [f"tcp{way}" for way in ("", "-spliced", "-by-clock", "-by-protocols")], indirect=True
)


@rows("S-03")
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("size", [1, 65_536, 300_000, len(BLOCK)])
async def test_bytes_are_counted_however_they_go(ground: Ground, up: bool, size: int) -> None:
    stream = await begin(ground)
    one, other = stream.ends(up)
    one.send(BLOCK[:size])
    assert await other.take(size) == BLOCK[:size]
    assert stream.moved == ((8 + size, 9) if up else (8, 9 + size))
    await stream.exchange(b"more", b"and more")


@rows("S-03")
async def test_both_ways_at_one_time_past_stalled_readers(ground: Ground) -> None:
    stream = await begin(ground)
    ends = [stream.ends(True), stream.ends(False)]
    for one, _ in ends:
        one.transport.pauseProducing()
    pumps = [Pump(one, len(BLOCK)) for one, _ in ends]
    for pump in pumps:
        await pump.stalled()
    for one, _ in ends:
        one.transport.resumeProducing()
    for pump, (_, other) in zip(pumps, ends, strict=True):
        taken = await other.take(len(BLOCK))
        assert hashlib.sha256(taken).digest() == pump.digest.digest()
    assert stream.moved == (8 + len(BLOCK), 9 + len(BLOCK))


@rows("S-03")
@pytest.mark.parametrize("by_client", [True, False])
async def test_each_side_may_end_first_and_hears_the_rest(ground: Ground, by_client: bool) -> None:
    stream = await begin(ground)
    one, other = stream.ends(by_client)
    one.send(b"last words")
    one.shut()
    assert await other.take_rest() == b"last words"
    assert not one.over
    other.send(b"an answer")
    assert await one.take(9) == b"an answer"
    other.send(BLOCK)
    other.close()
    assert await one.take_rest() == BLOCK
    assert await one.ended_well()
    await stream.gone()


@rows("S-03")
async def test_both_sides_may_end_at_one_time(ground: Ground) -> None:
    stream = await begin(ground)
    stream.client.send(b"bye")
    stream.remote.send(b"closes")
    stream.client.shut()
    stream.remote.shut()
    assert await stream.client.take_rest() == b"closes"
    assert await stream.remote.take_rest() == b"bye"
    await stream.gone()


@rows("S-03")
@needs_resets
@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("before", ["nothing", "its own end", "the other's end"])
async def test_a_reset_is_passed_on_whatever_ended_before(
    ground: Ground, before: str, by_client: bool
) -> None:
    stream = await begin(ground)
    one, other = stream.ends(by_client)
    if before != "nothing":
        first, second = (one, other) if before == "its own end" else (other, one)
        first.transport.loseWriteConnection()
        await second.until(lambda: second.eof)
    one.reset()
    if other.eof:
        # It hears of it when it reads or writes again; a side that has ended may be silent.
        stream.clock.advance(300)
        await stream.server.emptied()
        other.reset()
    else:
        assert not await other.ended_well()
    await stream.gone()


@rows("S-03", "R-29")
@pytest.mark.parametrize(("by_client", "seconds"), [(True, 30.0), (False, 300.0)])
async def test_after_one_sides_end_a_silent_other_is_left(
    ground: Ground, by_client: bool, seconds: float
) -> None:
    stream = await begin(ground)
    one, other = stream.ends(by_client)
    stream.clock.advance(1000)
    one.shut()
    await other.until(lambda: other.eof)
    stream.clock.advance(seconds - 0.1)
    assert not one.over
    stream.clock.advance(0.1)
    assert await one.ended_well()
    await stream.gone()


@rows("S-03")
@pytest.mark.parametrize("ground", ["unix", "unix-spliced", "unix-by-protocols"], indirect=True)
async def test_a_remote_that_has_not_taken_all_yet_may_answer_later(ground: Ground) -> None:
    """Over TCP too, but there its own buffers would have to be full first."""
    stream = await begin(ground)
    stream.remote.transport.pauseProducing()
    block = BLOCK[:16_000]
    stream.client.send(block)
    stream.client.shut()
    await stream.server.until(lambda: stream.server.ended == 1)
    for _ in range(3):
        stream.clock.advance(30)
        await turn()
    assert not stream.client.over
    stream.remote.transport.resumeProducing()
    assert await stream.remote.take(len(block)) == block
    await stream.remote.until(lambda: stream.remote.eof)
    stream.remote.send(b"an answer")
    stream.remote.close()
    assert await stream.client.take_rest() == b"an answer"
    await stream.gone()


@rows("S-03")
async def test_five_minutes_after_the_clients_end_a_remote_that_still_speaks_is_left(
    ground: Ground,
) -> None:
    stream = await begin(ground)
    stream.client.shut()
    await stream.server.until(lambda: stream.server.ended == 1)
    for _ in range(14):
        stream.clock.advance(20)
        stream.remote.send(b"more")
        assert await stream.client.take(4) == b"more"
    stream.clock.advance(19.9)
    assert not stream.client.over
    stream.clock.advance(0.1)
    # More was to come. On a unix socket that looks the same.
    assert await stream.client.ended_well() == (ground.kind != "tcp")
    await stream.gone()


@rows("S-03")
@needs_resets
@pytest.mark.parametrize("stops", [True, False])
async def test_a_server_that_closes_a_stream_resets_both_sides(ground: Ground, stops: bool) -> None:
    stream = await begin(ground)
    protocol = stream.server.client
    empty = stream.server.when_empty()
    for _ in range(2):
        # Once more is harmless.
        stream.server.abort_all() if stops else protocol.reset()
    assert not await stream.client.ended_well()
    assert not await stream.remote.ended_well()
    await stream.gone()
    assert empty.called


@rows("S-03")
@needs_resets
@pytest.mark.parametrize("by_client", [True, False])
async def test_payload_behind_urgent_bytes_is_passed_on(ground: Ground, by_client: bool) -> None:
    stream = await begin(ground)
    one, other = stream.ends(by_client)
    one.transport.socket.send(b"before!", socket.MSG_OOB)
    one.send(b"behind")
    assert await other.take(12) == b"beforebehind"
    one.close()
    assert await other.take_rest() == b""
    other.close()
    await stream.gone()
