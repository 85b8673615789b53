"""One direction between two sockets: every branch, on socket pairs, the reactor in memory."""

from __future__ import annotations

import errno
import gc
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from twisted.internet import main
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from tests.relay.test_pipes import WatchedPool
from tests.relay.test_sockets import End, tcp_end
from tests.support.ground import open_files
from tests.support.rows import rows
from torsocks_tx.relay import flow as module
from torsocks_tx.relay import held
from torsocks_tx.relay.flow import (
    BULK_READ,
    BULK_RUN,
    READ,
    SMALL_RUN,
    TRIES,
    TURN,
    WORTH,
    Flow,
    Means,
)
from torsocks_tx.relay.rcvbuf import LONE, SHARED
from torsocks_tx.relay.transports import Throttle


class Way:
    """A flow between two ends, and its pool."""

    def __init__(self, pool: WatchedPool | None = None, source: End | None = None) -> None:
        self.source, self.sink = source or End(), End()
        self.throttle = Throttle(self.source.transport)
        self.sink.transport.registerProducer(self.throttle, True)
        self.moved = 0
        self.pool = pool or WatchedPool(most=2)
        self.counted: Callable[[], object] = lambda: None
        self.flow = Flow(
            self.source.transport, self.sink.transport, self.throttle, self.count, self.pool
        )
        self.flow.attach()

    def count(self, count: int) -> None:
        self.moved += count
        self.counted()

    def come(self, data: bytes) -> object:
        """Let bytes come to the source, and read; what the reactor is told."""
        self.source.far.setblocking(True)
        self.source.far.sendall(data)
        return self.source.transport.doRead()

    def splicing(self) -> Way:
        """Make it bulk."""
        self.flow._begin_bulk()
        self.flow._means = Means.SPLICE
        return self

    @property
    def is_reading(self) -> bool:
        return self.source.transport in self.source.reactor.getReaders()

    @property
    def is_writing(self) -> bool:
        return self.sink.transport in self.sink.reactor.getWriters()

    def run(self) -> bytes:
        """Let the sink take everything; what came out."""
        received = self.sink.take()
        for _ in range(100):
            if not self.is_writing:
                break
            assert self.sink.transport.doWrite() is None
            received += self.sink.take()
        return received

    def close(self) -> None:
        self.sink.close()
        self.source.close()
        self.flow.detach()
        assert self.pool.lent == 0
        assert not self.flow._is_bulk
        self.pool.clear()
        assert not self.pool.seen & open_files("pipe")


@pytest.fixture(autouse=True)
def gather(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Small reads may follow each other at once, unless this is called with seconds."""
    monkeypatch.setattr(module, "GATHER", 0.0)
    return lambda seconds: monkeypatch.setattr(module, "GATHER", seconds)


@pytest.fixture
def way() -> Iterator[Way]:
    way = Way()
    yield way
    way.close()
    assert way.pool.flows == 0


@pytest.fixture(params=["copied", "spliced"])
def either(request: pytest.FixtureRequest, way: Way) -> Way:
    return way.splicing() if request.param == "spliced" else way


@rows("S-03")
class TestBothMeans:
    def test_bytes_go_on_at_once_and_are_counted(self, either: Way) -> None:
        assert either.come(b"hello") is None
        assert either.sink.take() == b"hello"
        assert either.moved == 5
        assert not either.is_writing
        assert either.source.ear.heard == []
        assert either.flow.held == 0

    def test_nothing_to_read_is_no_end(self, either: Way) -> None:
        assert either.source.transport.doRead() is None
        assert either.moved == 0

    def test_the_sources_end_is_its_transports(self, either: Way) -> None:
        either.source.far.close()
        assert either.source.transport.doRead() is main.CONNECTION_DONE

    def test_a_full_sink_pauses_the_source_and_loses_nothing(self, either: Way) -> None:
        filled = either.sink.fill()
        either.come(b"x" * 100_000)
        assert either.throttle.paused
        assert not either.is_reading
        assert either.is_writing
        assert len(either.run()) == filled + 100_000
        assert not either.throttle.paused
        assert either.is_reading
        assert either.moved == 100_000
        either.come(b"more")
        assert either.sink.take() == b"more"

    def test_however_little_a_full_sink_does_not_take(self, either: Way) -> None:
        either.sink.fill()
        either.come(b"x")
        assert either.throttle.paused
        either.run()
        assert not either.throttle.paused

    def test_why_a_sink_took_nothing_is_noted(
        self, either: Way, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        noted: list[object] = []
        for place in (module, held):
            monkeypatch.setattr(place, "not_sent", lambda *of: noted.append(of))
        either.sink.far.close()
        either.come(b"lost")
        assert noted == [(either.sink.transport, errno.EPIPE)]

    def test_what_is_queued_goes_first(self, either: Way) -> None:
        either.sink.transport.write(b"queued")
        either.come(b"late")
        # The protocol has it, and would write it behind what is queued.
        assert either.source.ear.heard == ["late"]
        assert either.moved == 0

    def test_a_sink_that_is_closing_gets_nothing_past_the_protocols(self, either: Way) -> None:
        either.sink.transport.unregisterProducer()
        either.come(b"late")
        assert either.source.ear.heard == ["late"]

    def test_a_sink_that_is_gone_is_told_by_its_own_event(self, either: Way) -> None:
        either.sink.far.close()
        assert either.come(b"hello") is None
        assert either.sink.ear.heard == []
        assert either.sink.transport.doWrite() is main.CONNECTION_LOST

    def test_detached_the_protocol_reads_again(self, either: Way) -> None:
        either.flow.detach()
        either.flow.detach()
        either.come(b"hello")
        assert either.source.ear.heard == ["hello"]

    def test_a_reset_is_one(self, either: Way, monkeypatch: pytest.MonkeyPatch) -> None:
        def reset(*_: object) -> int:
            raise ConnectionResetError

        monkeypatch.setattr(module, "splice", reset)
        either.source.transport.socket.close()
        assert either.source.transport.doRead() is main.CONNECTION_LOST
        either.source.transport.socket = either.source.far


@rows("S-03")
@rows("S-03")
class TestGathering:
    """Small reads of one stream are not made too often: what comes meanwhile is one piece."""

    def test_what_comes_at_once_behind_a_small_read_waits_for_more(
        self, way: Way, gather: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = [100.0]
        monkeypatch.setattr(module, "monotonic", lambda: times[0])
        gather(0.5)
        assert way.come(b"one") is None
        times[0] = 100.4
        assert way.come(b"two") is None
        assert way.sink.take() == b"one"
        assert way.come(b"three") is None
        times[0] = 100.5
        assert way.source.transport.doRead() is None
        assert way.sink.take() == b"twothree"
        assert way.moved == 11

    def test_so_does_an_end(
        self, way: Way, gather: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gather(3600.0)
        assert way.come(b"one") is None
        way.source.far.close()
        assert way.source.transport.doRead() is None
        monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + 3600.0)
        assert way.source.transport.doRead() is main.CONNECTION_DONE

    def test_nobody_waits_behind_a_large_read(
        self, way: Way, gather: Callable[[float], None]
    ) -> None:
        gather(3600.0)
        assert way.come(bytes(BULK_READ)) is None
        assert way.come(b"one") is None
        assert way.moved == BULK_READ + 3


class TestPipe:
    """A pipe that the sink has not emptied."""

    @pytest.fixture
    def stuck(self, way: Way) -> Way:
        way.splicing()
        self.filled = way.sink.fill()
        way.come(b"held")
        assert way.flow.held == 4
        assert way.pool.lent == 1
        return way

    def test_a_close_waits_for_it(self, stuck: Way) -> None:
        stuck.sink.transport.unregisterProducer()
        stuck.sink.transport.loseConnection()
        received = stuck.sink.take()
        reason = stuck.sink.transport.doWrite()
        assert (received + stuck.sink.take())[self.filled :] == b"held"
        assert reason is main.CONNECTION_DONE

    def test_so_does_a_half_close(self, stuck: Way) -> None:
        stuck.sink.transport.unregisterProducer()
        stuck.sink.transport.loseWriteConnection()
        stuck.sink.take()
        assert stuck.sink.transport.doWrite() is None
        assert stuck.sink.ear.heard == ["shut"]

    def test_and_what_is_written_meanwhile(self, stuck: Way) -> None:
        stuck.sink.transport.write(b" behind")
        assert stuck.run()[self.filled :] == b"held behind"

    def test_it_outlives_the_source(self, stuck: Way) -> None:
        stuck.source.transport.connectionLost(Failure(ConnectionLost()))
        stuck.flow.detach()
        stuck.sink.transport.unregisterProducer()
        assert stuck.run()[self.filled :] == b"held"

    def test_it_goes_with_the_sink(self, stuck: Way) -> None:
        stuck.sink.transport.connectionLost(Failure(ConnectionLost()))
        assert stuck.pool.lent == 0
        assert stuck.flow.held == 0
        assert stuck.sink.ear.heard == ["reset"]

    def test_what_was_in_it_is_not_for_the_next_stream(self, stuck: Way) -> None:
        stuck.sink.transport.connectionLost(Failure(ConnectionLost()))
        pipe = stuck.pool.borrow()
        assert pipe is not None
        with pytest.raises(BlockingIOError):
            os.read(pipe.reader, 1)
        stuck.pool.give_back(pipe)

    def test_once_it_is_empty_it_is_kept_for_the_next(self, stuck: Way) -> None:
        stuck.run()
        stuck.come(b"straight on")
        stuck.source.transport.doRead()
        assert len(stuck.pool.seen) == 1

    def test_it_goes_with_a_sink_that_is_aborted(self, stuck: Way) -> None:
        stuck.sink.transport.abortConnection()
        assert stuck.sink.transport.doWrite() is None
        stuck.sink.reactor.advance(0)
        assert stuck.pool.lent == 0
        assert stuck.sink.ear.heard == ["reset"]

    def test_a_sink_that_was_aborted_in_this_turn_gets_none(self, way: Way) -> None:
        way.splicing()
        way.sink.fill()
        way.sink.transport.abortConnection()
        assert way.come(b"too late") is None
        assert way.pool.lent == 0
        way.sink.reactor.advance(0)
        assert way.sink.ear.heard == ["reset"]

    def test_a_sink_that_still_takes_nothing_is_waited_for(self, stuck: Way) -> None:
        assert stuck.sink.transport.doWrite() is None
        assert stuck.flow.held == 4

    def test_a_sink_that_takes_a_part_may_be_gone(
        self, way: Way, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have been reset meanwhile, and a splice that took some does not say so."""
        asked: list[object] = []
        monkeypatch.setattr(held, "not_all_spliced", asked.append)
        way.splicing()
        way.come(b"all")
        assert asked == []
        with monkeypatch.context() as patch:
            patch.setattr(held, "splice", lambda *_: 1)
            way.come(b"four")
            assert asked == [way.sink.transport]
            assert way.sink.transport.doWrite() is None
        assert asked == [way.sink.transport] * 2
        assert way.flow.held == 2
        way.sink.transport.connectionLost(Failure(ConnectionLost()))

    def test_a_sink_that_takes_a_part(self, way: Way) -> None:
        way.splicing()
        filled = way.sink.fill()
        way.sink.far.recv(100_000)
        block = os.urandom(150_000)
        way.come(block)
        received = bytearray(way.run())
        assert len(received) == filled - 100_000 + way.moved
        assert received.endswith(block[: way.moved])

    def test_once_it_is_empty_nothing_of_it_leads_back_to_the_flow(self, stuck: Way) -> None:
        held = stuck.flow._held
        assert stuck.flow in [getattr(r, "__self__", r) for r in gc.get_referents(held)]
        stuck.run()
        assert stuck.flow not in [getattr(r, "__self__", r) for r in gc.get_referents(held)]

    def test_a_sink_that_resets_is_lost(self, stuck: Way) -> None:
        stuck.sink.far.close()
        reason = stuck.sink.transport.doWrite()
        assert reason is main.CONNECTION_LOST
        stuck.sink.transport.connectionLost(Failure(reason))
        assert stuck.pool.lent == 0


class TestChoice:
    """When a stream is bulk."""

    def feed(self, way: Way, size: int, count: int) -> None:
        for _ in range(count):
            way.come(bytes(size))
            way.run()

    def test_large_reads_in_a_row_are(self, way: Way) -> None:
        self.feed(way, 32 * 1024, BULK_RUN // (32 * 1024) - 1)
        assert way.flow.means is Means.COPY
        self.feed(way, 32 * 1024, 1)
        assert way.flow.means is Means.SPLICE

    def test_a_small_one_starts_the_row_again(self, way: Way) -> None:
        for _ in range(3):
            self.feed(way, 32 * 1024, BULK_RUN // (32 * 1024) - 1)
            self.feed(way, 100, 1)
        assert way.flow.means is Means.COPY

    def test_small_splices_in_a_row_are_not(self, way: Way) -> None:
        way.splicing()
        self.feed(way, 100, SMALL_RUN - 1)
        assert way.flow.means is Means.SPLICE
        self.feed(way, 100, 1)
        assert way.flow.means is Means.COPY

    def test_a_large_splice_starts_the_row_again(self, way: Way) -> None:
        way.splicing()
        for _ in range(2):
            self.feed(way, 100, SMALL_RUN - 1)
            self.feed(way, 32 * 1024, 1)
        assert way.flow.means is Means.SPLICE

    def test_without_pipes_it_is_copied_for_a_while(self, way: Way) -> None:
        lent = [way.pool.borrow(), way.pool.borrow()]
        way.splicing()
        self.feed(way, 32 * 1024, BULK_RUN // (32 * 1024))
        assert way.flow.means is Means.COPY
        assert way.moved == BULK_RUN
        for pipe in lent:
            assert pipe is not None
            way.pool.give_back(pipe)

    def test_where_nothing_can_be_spliced_all_is_copied(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "can_splice", lambda: False)
        way = Way()
        assert way.flow.means is Means.COPY_ONLY
        self.feed(way, 32 * 1024, 2 * BULK_RUN // (32 * 1024))
        assert way.flow.means is Means.COPY_ONLY
        assert way.moved == 2 * BULK_RUN
        way.close()

    def test_one_read_is_bounded(self, way: Way) -> None:
        # Unix sockets hold less than this by default.
        assert way.come(bytes(100_000)) is None
        assert way.moved <= READ


class Script:
    """Stands in for ``splice``: each try finds so many bytes, 0 for none yet, None for the end.

    Endless if there is no list. ``full``: the sink takes nothing.
    """

    def __init__(self, way: Way, finds: list[int | None] | None = None, full: bool = False) -> None:
        self.source = way.source.transport.fileno()
        self.finds = finds
        self.full = full
        self.tries = 0
        self.yields = 0
        self.now = 0.0

    def __call__(self, source: int, _sink: int, count: int) -> int:
        if source != self.source:
            return 0 if self.full else count
        self.tries += 1
        found = count if self.finds is None else self.finds.pop(0)
        if found == 0:
            raise BlockingIOError
        return found or 0

    def sched_yield(self) -> None:
        self.yields += 1

    def monotonic(self) -> float:
        return self.now


class TestTurn:
    """How long a spliced stream goes on in one turn of the reactor."""

    @pytest.fixture
    def play(self, way: Way, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Script]:
        def play(*finds: int | None, endless: bool = False, full: bool = False) -> Script:
            script = Script(way.splicing(), None if endless else list(finds), full)
            monkeypatch.setattr(module, "splice", script)
            monkeypatch.setattr(held, "splice", script)
            monkeypatch.setattr(os, "sched_yield", script.sched_yield)
            monkeypatch.setattr(module, "monotonic", script.monotonic)
            return script

        return play

    def test_an_endless_source_gets_so_many_splices_and_no_more(
        self, way: Way, play: Callable[..., Script]
    ) -> None:
        script = play(endless=True)
        assert way.source.transport.doRead() is None
        pipe = way.pool.borrow()
        assert pipe is not None
        assert (script.tries, script.yields) == (TRIES, TRIES - 1) == (9, 8)
        assert way.moved == TRIES * pipe.size
        way.pool.give_back(pipe)

    def test_it_is_left_when_it_takes_long(self, way: Way, play: Callable[..., Script]) -> None:
        script = play(endless=True)

        def pass_time() -> None:
            script.now += 0.4 * TURN

        way.counted = pass_time
        assert way.source.transport.doRead() is None
        assert script.tries == 3

    @pytest.mark.parametrize("little", [0, 1, WORTH - 1])
    def test_a_slow_stream_pays_nothing(
        self, way: Way, play: Callable[..., Script], little: int
    ) -> None:
        script = play(little)
        assert way.source.transport.doRead() is None
        assert (script.tries, script.yields) == (1, 0)
        assert way.moved == little

    @pytest.mark.parametrize("little", [0, 1])
    def test_later_little_is_forgiven_once(
        self, way: Way, play: Callable[..., Script], little: int
    ) -> None:
        script = play(WORTH, little, WORTH, little)
        assert way.source.transport.doRead() is None
        assert (script.tries, script.yields) == (4, 3)
        assert way.moved == 2 * WORTH + 2 * little

    def test_the_end_is_told_in_the_same_turn(self, way: Way, play: Callable[..., Script]) -> None:
        play(WORTH, None)
        way.source.far.close()
        assert way.source.transport.doRead() is main.CONNECTION_DONE

    def test_a_held_pipe_ends_it(self, way: Way, play: Callable[..., Script]) -> None:
        script = play(WORTH, full=True)
        assert way.source.transport.doRead() is None
        assert script.tries == 1
        assert way.flow.held == WORTH
        assert way.throttle.paused

    def test_so_does_a_pool_that_has_none(self, way: Way, play: Callable[..., Script]) -> None:
        script = play(WORTH)
        lent = [way.pool.borrow()]
        way.counted = lambda: lent.append(way.pool.borrow())
        assert way.source.transport.doRead() is None
        assert script.tries == 1
        assert way.flow.means is Means.COPY
        for pipe in filter(None, lent):
            way.pool.give_back(pipe)

    @pytest.mark.parametrize(
        "happen",
        [
            lambda way: way.flow.detach(),
            lambda way: way.throttle.pauseProducing(),
            lambda way: way.source.transport.loseConnection(),
            lambda way: way.source.transport.abortConnection(),
            lambda way: way.source.transport.connectionLost(Failure(ConnectionLost())),
            lambda way: way.sink.transport.connectionLost(Failure(ConnectionLost())),
            lambda way: way.sink.transport.unregisterProducer(),
            lambda way: way.sink.transport.write(b"queued"),
        ],
        ids=["detached", "paused", "closing", "aborted", "lost", "no sink", "freed", "queued"],
    )
    def test_what_happens_while_bytes_are_counted_ends_it(
        self, way: Way, play: Callable[..., Script], happen: Callable[[Way], object]
    ) -> None:
        script = play(endless=True)
        counted = []

        def count() -> None:
            counted.append(way.moved)
            happen(way)

        way.counted = count
        assert way.source.transport.doRead() is None
        assert script.tries == len(counted) == 1


class TestCount:
    """Each flow in bulk is counted, once, until it is no more."""

    @pytest.fixture
    def bulk(self, either: Way) -> Way:
        if either.flow.means is Means.COPY:
            either.come(bytes(BULK_READ))
            either.run()
        assert either.pool.flows == 1
        return either

    def test_from_its_first_large_read_on_and_once(self, way: Way) -> None:
        way.come(bytes(BULK_READ - 1))
        way.run()
        assert way.pool.flows == 0
        for _ in range(BULK_RUN // BULK_READ + 1):
            way.come(bytes(BULK_READ))
            way.run()
            assert way.pool.flows == 1
        assert way.flow.means is Means.SPLICE

    def test_with_it_go_both_its_sockets_bounds(
        self, way: Way, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bounded: list[object] = []
        monkeypatch.setattr(module.rcvbuf, "bound", lambda *of, is_lone: bounded.append(of))
        way.come(bytes(BULK_READ))
        assert bounded == [(way.source.transport.socket, way.sink.transport.socket)]

    def test_until_its_end(self, bulk: Way) -> None:
        bulk.source.far.close()
        for _ in range(2):
            assert bulk.source.transport.doRead() is main.CONNECTION_DONE
            assert bulk.pool.flows == 0

    def test_until_an_end_that_its_protocol_hears(self, bulk: Way) -> None:
        bulk.sink.transport.write(b"queued")
        bulk.source.far.close()
        assert bulk.source.transport.doRead() is main.CONNECTION_DONE
        assert bulk.pool.flows == 0

    def test_until_a_reset(self, bulk: Way, monkeypatch: pytest.MonkeyPatch) -> None:
        def reset(*_: object) -> int:
            raise ConnectionResetError

        monkeypatch.setattr(module, "splice", reset)
        bulk.source.transport.socket.close()
        assert bulk.source.transport.doRead() is main.CONNECTION_LOST
        assert bulk.pool.flows == 0
        bulk.source.transport.socket = bulk.source.far

    def test_until_it_is_detached(self, bulk: Way) -> None:
        bulk.flow.detach()
        assert bulk.pool.flows == 0
        bulk.flow.detach()
        assert bulk.pool.flows == 0

    def test_also_from_inside_a_read(self, way: Way) -> None:
        way.counted = way.flow.detach
        way.come(bytes(BULK_READ))
        assert way.pool.flows == 0
        way.flow.attach()
        way.splicing()
        way.come(bytes(BULK_READ))
        assert way.pool.flows == 0

    def test_until_the_sink_is_lost_with_a_pipe_held(self, way: Way) -> None:
        way.splicing().sink.fill()
        way.come(b"held")
        assert way.flow.held == 4
        assert way.pool.flows == 1
        way.sink.transport.connectionLost(Failure(ConnectionLost()))
        assert way.pool.flows == 0
        way.flow.detach()
        assert way.pool.flows == 0

    def test_until_it_is_small_again(self, bulk: Way) -> None:
        for _ in range(SMALL_RUN):
            bulk.come(bytes(100))
        assert bulk.flow.means is Means.COPY
        assert bulk.pool.flows == 0

    def test_without_pipes_it_is_copied_and_bulk(self, way: Way) -> None:
        lent = [way.pool.borrow(), way.pool.borrow()]
        way.splicing().come(bytes(BULK_READ))
        assert way.flow.means is Means.COPY
        assert way.pool.flows == 1
        way.come(b"little")
        assert way.pool.flows == 0
        for pipe in filter(None, lent):
            way.pool.give_back(pipe)


class TestUrgent:
    """Urgent data in the middle of a stream: a splice stops there, and finds nothing any more."""

    @pytest.fixture
    def bulk(self) -> Iterator[Way]:
        way = Way(WatchedPool(), tcp_end())
        yield way.splicing()
        way.close()
        assert way.pool.flows == 0

    def say(self, way: Way, urgent: bytes, rest: bytes) -> None:
        """Let both come; the kernel takes only the last byte of what is urgent out of the row."""
        far, ours = way.source.far, way.source.transport.socket
        far.setblocking(True)
        far.send(urgent, socket.MSG_OOB)
        far.sendall(rest)
        ours.setblocking(True)
        ours.recv(1, socket.MSG_PEEK)
        ours.setblocking(False)

    def test_what_is_behind_it_is_passed_on(self, bulk: Way) -> None:
        rest = os.urandom(BULK_READ)
        self.say(bulk, b"!", rest)
        received = b""
        for _ in range(4):
            assert bulk.source.transport.doRead() is None
            received += bulk.run()
        assert received == rest
        assert bulk.flow.means is Means.SPLICE

    def test_so_is_what_is_on_both_sides(self, bulk: Way) -> None:
        self.say(bulk, b"before!", b"behind")
        received = b""
        for _ in range(4):
            assert bulk.source.transport.doRead() is None
            received += bulk.run()
        assert received == b"beforebehind"

    def test_an_end_behind_it_takes_nothing_along(self, bulk: Way) -> None:
        self.say(bulk, b"!", b"the last words")
        bulk.source.far.close()
        assert bulk.source.transport.doRead() is None
        assert bulk.run() == b"the last words"
        assert bulk.source.transport.doRead() is main.CONNECTION_DONE

    def test_later_in_a_turn_nothing_more_is_asked(
        self, bulk: Way, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = Script(bulk, [WORTH, 0, 0, 0])
        monkeypatch.setattr(module, "splice", script)
        monkeypatch.setattr(held, "splice", script)
        bulk.source.far.sendall(b"meanwhile")
        assert bulk.source.transport.doRead() is None
        assert bulk.moved == WORTH
        assert bulk.source.transport.doRead() is None
        assert bulk.moved == WORTH + len(b"meanwhile")


class Watched(socket.socket):
    """A socket that notes the receive buffers asked of it; ``peer`` is where it says it leads."""

    peer: tuple[str, int] | None = None

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self.asked: list[int] = []

    def getpeername(self) -> tuple[str, int]:
        return self.peer or super().getpeername()  # type: ignore[no-any-return]

    def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
        if (level, option) == (socket.SOL_SOCKET, socket.SO_RCVBUF):
            self.asked.append(value)
        super().setsockopt(level, option, value)


class TestReceiveBuffer:
    """A flow in bulk bounds what waits in the kernel, if its peer is on this machine."""

    @pytest.fixture
    def make(self) -> Iterator[Callable[[], Way]]:
        pool, ways = WatchedPool(), []

        def make() -> Way:
            with socket.create_server(("127.0.0.1", 0)) as port:
                far = socket.create_connection(port.getsockname())
                accepted, _ = port.accept()
            ours = Watched(fileno=accepted.detach())
            ours.setblocking(False)
            ways.append(Way(pool, End((ours, far))))
            return ways[-1]

        yield make
        for way in ways:
            way.close()
        assert pool.flows == 0

    def feed(self, way: Way, size: int = BULK_READ) -> None:
        way.source.far.sendall(bytes(size))
        ours = way.source.transport.socket
        ours.setblocking(True)
        # One read is to find all of it.
        ours.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL)
        ours.setblocking(False)
        before = way.moved
        way.source.transport.doRead()
        assert way.moved == before + size
        way.run()

    def test_a_lone_one_does_once(self, make: Callable[[], Way]) -> None:
        way = make()
        self.feed(way, BULK_READ - 1)
        assert way.source.transport.socket.asked == []
        for size in (BULK_READ, BULK_READ, 1, BULK_READ):
            self.feed(way, size)
            assert way.source.transport.socket.asked == [LONE]

    def test_a_second_one_meanwhile_has_more(self, make: Callable[[], Way]) -> None:
        first, second = make(), make()
        self.feed(first)
        self.feed(second)
        assert first.source.transport.socket.asked == [LONE]
        assert second.source.transport.socket.asked == [SHARED]

    def test_but_after_it(self, make: Callable[[], Way]) -> None:
        first, second = make(), make()
        self.feed(first)
        first.flow.detach()
        self.feed(second)
        assert second.source.transport.socket.asked == [LONE]

    def test_for_a_peer_elsewhere_it_would_be_too_small(self, make: Callable[[], Way]) -> None:
        way = make()
        way.source.transport.socket.peer = ("192.0.2.1", 80)
        self.feed(way)
        assert way.pool.flows == 1
        assert way.source.transport.socket.asked == []


def test_joined_bytes_flow_both_ways() -> None:
    near, far = End(), End()
    up, down = Throttle(near.transport), Throttle(far.transport)
    far.transport.registerProducer(up, True)
    near.transport.registerProducer(down, True)
    ways = (up, lambda _: None), (down, lambda _: None)
    flows = module.join(near.transport, far.transport, *ways)
    for source, sink in ((near, far), (far, near)):
        source.far.send(b"hello")
        source.transport.doRead()
        assert sink.take() == b"hello"
        assert source.ear.heard == []
    for flow in flows:
        flow.detach()
    near.close()
    far.close()


def test_what_is_not_ours_is_left_alone() -> None:
    end = End()
    end.transport.abortConnection()
    aborted = end.transport.doRead
    held.leave(end.transport, "doRead", end.transport.doWrite)
    assert end.transport.doRead is aborted
    end.reactor.advance(0)
    end.close()
