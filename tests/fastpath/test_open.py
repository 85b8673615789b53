"""Open streams on the short way: what passes, what is handed over, and every end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from tests.fastpath.conftest import over_tcp, over_unix
from tests.support.fakes import plain
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import GRANTED, Peer, Pump, named, turn
from tests.support.rows import rows
from torsocks_tx.fastpath import passage
from torsocks_tx.fastpath.handover import Stage
from torsocks_tx.fastpath.visitor import Visitor
from torsocks_tx.relay.flow import BULK_READ

REQUEST = named("example.com", 80)
BLOCK = os.urandom(4 * 1024 * 1024)


class Open:
    """An open stream, on the test's clock."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.clock = Clock()
        self.server: WatchedServer
        self.client: Peer
        self.far: Peer

    async def begin(self) -> Open:
        self.server, origin = await plain(self.ground, clock=self.clock)
        self.client = await self.ground.client(self.server)
        assert await self.client.negotiate(REQUEST) == GRANTED
        self.far = await origin.peer()
        assert self.visitor is not None
        return self

    @property
    def visitor(self) -> Visitor | None:
        """The stream, while it goes the short way."""
        [one] = self.server.connections
        return one if isinstance(one, Visitor) else None

    @property
    def moved(self) -> tuple[int, int]:
        """The payload that went out and in, as it is counted where it is now."""
        visitor = self.visitor
        one = self.server.client._errand._relay if visitor is None else visitor
        return one.sent, one.received

    async def exchange(self, up: bytes, down: bytes) -> None:
        self.client.send(up)
        assert await self.far.take(len(up)) == up
        self.far.send(down)
        assert await self.client.take(len(down)) == down

    async def gone(self) -> None:
        """Nothing is left of it."""
        await self.server.emptied()
        assert len(self.server._limiter) == 0
        assert self.clock.getDelayedCalls() == []
        assert self.server.when_empty().called

    async def handed_over(self) -> None:
        while self.visitor is not None:
            await turn()


class Halving:
    """A socket that takes half of what it is given."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def send(self, data: Any, *flags: int) -> Any:
        return self._sock.send(data[: (len(data) + 1) // 2], *flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def begin(ground: Ground) -> Open:
    return await Open(ground).begin()


@rows("S-03")
class TestPassing:
    @pytest_twisted.ensureDeferred
    async def test_small_messages_stay(self, ground: Ground) -> None:
        stream = await begin(ground)
        for _ in range(10):
            await stream.exchange(b"question", b"an answer")
        assert stream.visitor is not None
        assert stream.moved == (80, 90)
        assert stream.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("up", [True, False])
    @pytest.mark.parametrize("size", [BULK_READ - 1, BULK_READ, 3 * BULK_READ])
    @pytest_twisted.ensureDeferred
    async def test_a_read_that_is_full_is_the_relays(
        self, ground: Ground, size: int, up: bool
    ) -> None:
        stream = await begin(ground)
        await stream.exchange(b"question", b"an answer")
        block = BLOCK[:size]
        one, other = (stream.client, stream.far) if up else (stream.far, stream.client)
        one.send(block)
        assert await other.take(size) == block
        assert (stream.visitor is None) == (size >= BULK_READ)
        assert stream.moved == ((8 + size, 9) if up else (8, 9 + size))
        await stream.exchange(b"more", b"and more")

    @pytest.mark.parametrize("up", [True, False])
    @pytest_twisted.ensureDeferred
    async def test_what_a_sink_does_not_take_is_not_lost(self, ground: Ground, up: bool) -> None:
        """In messages that are small, until the reader's buffers are full."""
        stream = await begin(ground)
        one, other = (stream.client, stream.far) if up else (stream.far, stream.client)
        other.transport.pauseProducing()
        sent = hashlib.sha256()
        count = 0
        while stream.visitor is not None:
            chunk = BLOCK[count % 100_000 :][:8_000]
            one.send(chunk)
            sent.update(chunk)
            count += len(chunk)
            await turn()
        assert count > BULK_READ
        one.send(BLOCK)
        sent.update(BLOCK)
        count += len(BLOCK)
        other.transport.resumeProducing()
        assert hashlib.sha256(await other.take(count)).digest() == sent.digest()
        assert stream.moved == ((count, 0) if up else (0, count))

    @pytest_twisted.ensureDeferred
    async def test_what_a_sink_takes_a_part_of_is_not_said_twice(self, ground: Ground) -> None:
        stream = await begin(ground)
        visitor = stream.visitor
        assert visitor is not None
        visitor.far = Halving(visitor.far)  # type: ignore[assignment]
        await stream.exchange(b"0123456789", b"an answer")
        assert stream.visitor is None
        assert stream.moved == (10, 9)

    @pytest_twisted.ensureDeferred
    async def test_both_ways_at_one_time_past_stalled_readers(self, ground: Ground) -> None:
        stream = await begin(ground)
        ends = [(stream.client, stream.far), (stream.far, stream.client)]
        for one, _ in ends:
            one.transport.pauseProducing()
        pumps = [Pump(one, len(BLOCK)) for one, _ in ends]
        for pump in pumps:
            await pump.stalled()
        assert stream.visitor is None
        for one, _ in ends:
            one.transport.resumeProducing()
        for pump, (_, other) in zip(pumps, ends, strict=True):
            taken = await other.take(len(BLOCK))
            assert hashlib.sha256(taken).digest() == pump.digest.digest()
        assert stream.moved == (len(BLOCK), len(BLOCK))

    @over_unix
    @pytest_twisted.ensureDeferred
    async def test_it_is_handed_over_though_the_origin_listens_no_more(
        self, ground: Ground
    ) -> None:
        stream = await begin(ground)
        await ground.stop_listening()
        stream.far.send(BLOCK)
        assert await stream.client.take(len(BLOCK)) == BLOCK


@rows("S-03", "R-29")
class TestEnds:
    @pytest.mark.parametrize("by_client", [True, False])
    @pytest_twisted.ensureDeferred
    async def test_one_side_and_then_the_other(self, ground: Ground, by_client: bool) -> None:
        stream = await begin(ground)
        ends = (stream.client, stream.far)
        one, other = ends if by_client else ends[::-1]
        one.send(b"last words")
        one.shut()
        assert await other.take_rest() == b"last words"
        assert not one.over
        visitor = stream.visitor
        assert visitor is not None
        assert len(stream.clock.getDelayedCalls()) == 1
        other.close()
        assert await one.ended_well()
        await stream.gone()

    @pytest.mark.parametrize("by_client", [True, False])
    @pytest_twisted.ensureDeferred
    async def test_an_answer_behind_a_half_close_is_whole(
        self, ground: Ground, by_client: bool
    ) -> None:
        stream = await begin(ground)
        ends = (stream.client, stream.far)
        one, other = ends if by_client else ends[::-1]
        one.send(b"question")
        one.shut()
        assert await other.take_rest() == b"question"
        other.send(b"an answer")
        assert await one.take(9) == b"an answer"
        assert stream.visitor is None
        assert stream.moved == ((8, 9) if by_client else (9, 8))
        other.send(BLOCK)
        other.close()
        assert await one.take_rest() == BLOCK
        assert await one.ended_well()
        await stream.gone()

    @pytest_twisted.ensureDeferred
    async def test_both_at_one_time(self, ground: Ground) -> None:
        stream = await begin(ground)
        stream.client.send(b"bye")
        stream.far.send(b"farewell")
        stream.client.shut()
        stream.far.shut()
        assert await stream.client.take_rest() == b"farewell"
        assert await stream.far.take_rest() == b"bye"
        await stream.gone()

    @over_tcp
    @pytest.mark.parametrize("by_client", [True, False])
    @pytest.mark.parametrize("before", ["nothing", "its own end", "the other's end"])
    @pytest_twisted.ensureDeferred
    async def test_a_reset_is_one(self, ground: Ground, before: str, by_client: bool) -> None:
        stream = await begin(ground)
        ends = (stream.client, stream.far)
        one, other = ends if by_client else ends[::-1]
        if before != "nothing":
            first, second = (one, other) if before == "its own end" else (other, one)
            first.transport.loseWriteConnection()
            await second.until(lambda: second.eof)
        one.reset()
        if other.eof:
            # It hears of it when it reads or writes again.
            await stream.gone()
            other.reset()
        else:
            assert not await other.ended_well()
        await stream.gone()

    @over_tcp
    @pytest_twisted.ensureDeferred
    async def test_one_behind_an_end_is_passed_on_too(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = await begin(ground)
        visitor = stream.visitor
        reset, heard = Visitor.reset, []

        def note(visitor: Visitor) -> None:
            heard.append(visitor)
            reset(visitor)

        monkeypatch.setattr(Visitor, "reset", note)
        stream.client.transport.loseWriteConnection()
        await stream.far.until(lambda: stream.far.eof)
        stream.client.reset()
        await stream.gone()
        assert heard == [visitor]
        stream.far.reset()

    @pytest_twisted.ensureDeferred
    async def test_how_long_a_client_has_been_done_is_handed_over(self, ground: Ground) -> None:
        stream = await begin(ground)
        stream.client.shut()
        await stream.far.until(lambda: stream.far.eof)
        stream.clock.advance(10)
        stream.far.send(BLOCK)
        await stream.client.take(len(BLOCK))
        assert stream.visitor is None
        limits = stream.server.limits
        patience = stream.server.client._errand._relay.patience
        assert patience._linger_end == pytest.approx(limits.linger_limit)
        stream.far.close()
        await stream.gone()

    @over_unix
    @pytest_twisted.ensureDeferred
    async def test_a_client_that_closes_after_its_end_is_gone(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Which is no reset: an origin over TCP may not have read all yet."""
        stream = await begin(ground)
        monkeypatch.setattr(Visitor, "reset", lambda _: None)
        stream.far.transport.pauseProducing()
        stream.client.send(b"question")
        stream.client.transport.loseWriteConnection()
        await stream.server.until(lambda: stream.server.ended == 1)
        stream.client.reset()
        await stream.gone()
        stream.far.transport.resumeProducing()
        assert await stream.far.take_rest() == b"question"
        assert await stream.far.ended_well()

    @over_unix
    @pytest_twisted.ensureDeferred
    async def test_one_who_always_has_more_does_not_keep_others_waiting(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody tells of it again on the short way."""
        stream = await begin(ground)
        monkeypatch.setattr(passage, "READS", 1)
        stream.client.send(b"more")
        assert await stream.far.take(4) == b"more"
        assert stream.visitor is None
        await stream.exchange(b"and more", b"enough")
        stream.client.close()
        stream.far.close()
        await stream.gone()

    @pytest.mark.parametrize(("by_client", "seconds"), [(True, 30.0), (False, 300.0)])
    @pytest_twisted.ensureDeferred
    async def test_a_silent_other_side_is_left(
        self, ground: Ground, by_client: bool, seconds: float
    ) -> None:
        stream = await begin(ground)
        ends = (stream.client, stream.far)
        one, other = ends if by_client else ends[::-1]
        stream.clock.advance(1000)
        one.shut()
        await other.until(lambda: other.eof)
        stream.clock.advance(seconds - 0.1)
        assert stream.visitor is not None
        assert not one.over
        stream.clock.advance(0.1)
        assert not stream.server.connections
        assert await one.ended_well()
        await stream.gone()

    @pytest_twisted.ensureDeferred
    async def test_a_client_that_has_ended_may_make_room(self, ground: Ground) -> None:
        stream = await begin(ground)
        stream.client.shut()
        await stream.server.until(lambda: stream.server.ended == 1)
        assert list(stream.server._limiter._all.lingering) == [stream.visitor]
        stream.far.send(b"an answer")
        assert await stream.client.take(9) == b"an answer"
        await stream.server.until(lambda: stream.server.ended == 2)
        assert list(stream.server._limiter._all.lingering) == [stream.server.client]
        assert len(stream.server._limiter) == 1
        stream.far.close()
        await stream.gone()

    @over_unix
    @pytest.mark.parametrize("is_short", [True, False])
    @pytest_twisted.ensureDeferred
    async def test_a_far_end_that_has_not_taken_all_yet_may_answer_later(
        self, ground: Ground, is_short: bool
    ) -> None:
        """Over TCP too, but there its own buffers would have to be full first."""
        stream = await begin(ground)
        if not is_short:
            stream.visitor.hand_over()  # type: ignore[union-attr]
        far = stream.far.transport
        far.pauseProducing()
        block = BLOCK[: BULK_READ - 1]
        stream.client.send(block)
        stream.client.shut()
        await stream.server.until(lambda: stream.server.ended == 1)
        for _ in range(3):
            stream.clock.advance(30)
            await turn()
        assert not stream.client.over
        far.resumeProducing()
        assert await stream.far.take(len(block)) == block
        await stream.far.until(lambda: stream.far.eof)
        stream.far.send(b"an answer")
        stream.far.close()
        assert await stream.client.take_rest() == b"an answer"
        await stream.gone()

    @pytest_twisted.ensureDeferred
    async def test_a_client_that_has_ended_is_left_in_time_wherever_it_was(
        self, ground: Ground
    ) -> None:
        """What an origin goes on to say holds the end off, on both ways together for so long."""
        stream = await begin(ground)
        stream.client.shut()
        await stream.server.until(lambda: stream.server.ended == 1)
        for _ in range(14):
            stream.clock.advance(20)
            stream.far.send(b"more")
            assert await stream.client.take(4) == b"more"
        assert stream.visitor is None
        stream.clock.advance(19.9)
        assert not stream.client.over
        stream.clock.advance(0.1)
        # More was to come. On a unix socket that looks the same.
        assert await stream.client.ended_well() == (ground.kind != "tcp")
        await stream.gone()

    @over_tcp
    @pytest.mark.parametrize("ask", [WatchedServer.close_all, Visitor.reset])
    @pytest_twisted.ensureDeferred
    async def test_a_server_that_stops_resets(
        self, ground: Ground, ask: Callable[[object], None]
    ) -> None:
        stream = await begin(ground)
        visitor = stream.visitor
        assert visitor is not None
        stream.server.close_unserved()
        assert stream.visitor is visitor
        empty = stream.server.when_empty()
        ask(stream.server if ask is WatchedServer.close_all else visitor)
        assert empty.called
        assert visitor.stage is Stage.OVER
        # Once more is harmless.
        visitor.reset()
        visitor.leave()
        assert not await stream.client.ended_well()
        assert not await stream.far.ended_well()
        await stream.gone()
