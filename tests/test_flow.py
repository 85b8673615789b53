"""One direction between two sockets: every branch, on socket pairs, the reactor in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from twisted.internet import main
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from tests.ground import open_files
from tests.rows import rows
from tests.test_sockets import End
from torsocks_tx import flow as module
from torsocks_tx.flow import BULK_RUN, READ, SMALL_RUN, Flow, Means
from torsocks_tx.pipes import PipePool
from torsocks_tx.transports import Throttle


class Way:
    """A flow between two ends, and its pool."""

    def __init__(self, most: int = 2) -> None:
        self.source, self.sink = End(), End()
        self.throttle = Throttle(self.source.transport)
        self.sink.transport.registerProducer(self.throttle, True)
        self.moved = 0
        self.pool = PipePool(most)
        self.flow = Flow(
            self.source.transport, self.sink.transport, self.throttle, self.count, self.pool
        )
        self.flow.attach()

    def count(self, count: int) -> None:
        self.moved += count

    def come(self, data: bytes) -> object:
        """Let bytes come to the source, and read; what the reactor is told."""
        self.source.far.setblocking(True)
        self.source.far.sendall(data)
        return self.source.transport.doRead()

    def splicing(self) -> Way:
        """Make it bulk."""
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
        self.pool.clear()


@pytest.fixture
def way() -> Iterator[Way]:
    before = open_files("pipe")
    way = Way()
    yield way
    way.close()
    assert open_files("pipe") == before


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

    def test_it_goes_with_a_sink_that_is_aborted(self, stuck: Way) -> None:
        stuck.sink.transport.abortConnection()
        assert stuck.sink.transport.doWrite() is None
        stuck.sink.reactor.advance(0)
        assert stuck.pool.lent == 0
        assert stuck.sink.ear.heard == ["reset"]

    def test_a_sink_that_still_takes_nothing_is_waited_for(self, stuck: Way) -> None:
        assert stuck.sink.transport.doWrite() is None
        assert stuck.flow.held == 4

    def test_a_sink_that_takes_a_part(self, way: Way) -> None:
        way.splicing()
        filled = way.sink.fill()
        way.sink.far.recv(100_000)
        block = os.urandom(150_000)
        way.come(block)
        received = bytearray(way.run())
        assert len(received) == filled - 100_000 + way.moved
        assert received.endswith(block[: way.moved])

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
