"""A spliced stream: every branch of its two sides, on socket pairs, the reactor in memory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.relay.test_sockets import End, tcp_end
from tests.support.ground import open_files
from tests.support.rows import rows
from torsocks_tx.relay import pipes
from torsocks_tx.relay import splice as module
from torsocks_tx.relay.pipes import IDLE_PIPES, LEAST_PIPE, Pipe, PipePool, share_pool
from torsocks_tx.relay.sockets import was_reset
from torsocks_tx.relay.splice import PERIOD, TICK, Reading, Side, Splice

LOST = Failure(ConnectionLost())


class Stream:
    """A spliced stream from ``client`` to ``remote``; the test lets the reactor's events happen."""

    def __init__(self, client: End | None = None, has_ended: tuple[bool, bool] = (False,) * 2):
        self.client, self.remote = client or End(), End()
        self.reactor = self.client.reactor
        for end in (self.client, self.remote):
            end.transport.reactor = self.reactor
        self.remote.reactor = self.reactor
        self.moved = {True: 0, False: 0}
        self.is_spliced = True
        self.counted: Callable[[], object] = lambda: None
        ends = self.client.transport, self.remote.transport
        for transport in ends:
            self.reactor.addReader(transport)
        self.splice = Splice(self, *ends, has_ended)
        self.splice.start()
        self.side, self.other = self.splice._sides

    def spliced(self, by_client: bool, count: int) -> None:
        self.moved[by_client] += count
        self.counted()

    def unspliced(self) -> None:
        self.is_spliced = False

    def come(self, data: bytes) -> None:
        """Let bytes come from the client, and be read."""
        self.client.far.setblocking(True)
        self.client.far.sendall(data)
        self.client.far.setblocking(False)
        self.read()

    def read(self) -> None:
        """Read the client's side, by event or by clock."""
        if self.side.reading is Reading.BY_CLOCK:
            self.reactor.advance(TICK)
        else:
            self.side.doRead()

    def run(self) -> bytes:
        """Let the remote take everything; what came out."""
        received = self.remote.take()
        while self.other in self.reactor.getWriters():
            self.other.doWrite()
            received += self.remote.take()
        return received

    def close(self) -> None:
        self.splice.stop()
        self.client.close()
        self.remote.close()


class WatchedPool(PipePool):
    """A pool that remembers its pipes: others may be opened meanwhile, as by the reactor."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.seen: set[str] = set()

    def borrow(self) -> Pipe | None:
        pipe = super().borrow()
        if pipe is not None:
            self.seen.add(os.readlink(f"/proc/self/fd/{pipe.reader}"))
        return pipe


def close_kept(pool: PipePool) -> None:
    """Close the pipes that are kept for the next stream."""
    while pool.idle:
        pool.idle.pop().close()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[PipePool]:
    """A pool of pipes for the test alone, all of which come back."""
    pool = WatchedPool(2)
    monkeypatch.setattr(module, "pool", pool)
    yield pool
    assert pool.lent == 0
    close_kept(pool)
    assert not pool.seen & open_files("pipe").keys()


@pytest.fixture
def stream(pool: PipePool) -> Iterator[Stream]:
    stream = Stream()
    yield stream
    stream.close()
    assert stream.reactor.getDelayedCalls() == []


@pytest.fixture(params=["copied", "by pipe", "by clock"])
def each(request: pytest.FixtureRequest, stream: Stream) -> Stream:
    """A stream whose bytes are moved in each of the ways."""
    set_way(stream, request.param)
    return stream


def set_way(stream: Stream, way: str) -> None:
    stream.side._uses_pipe = way == "by pipe"
    if way == "by clock":
        stream.side.read(Reading.BY_CLOCK)


@rows("S-03")
class TestMoving:
    def test_bytes_go_on_at_once_and_are_counted(self, each: Stream) -> None:
        each.read()
        assert each.moved[True] == 0  # that there is nothing to read is no end
        assert each.is_spliced
        each.come(b"hello")
        assert each.remote.take() == b"hello"
        assert each.moved == {True: 5, False: 0}
        assert each.client.ear.heard == []
        assert not each.splice.is_blocked

    @pytest.mark.parametrize("room", [0, 100_000])
    def test_a_full_sink_blocks_the_source_and_loses_nothing(self, each: Stream, room: int) -> None:
        filled = each.remote.fill()
        if room:
            each.remote.far.recv(room)
        block = os.urandom(150_000)
        each.come(block)
        each.other.doWrite()
        assert each.splice.is_blocked
        assert each.side not in each.reactor.getReaders()
        assert each.other in each.reactor.getWriters()
        received = each.run()
        while each.moved[True] < len(block):
            each.read()
            received += each.run()
        assert received[filled - room :] == block
        assert not each.splice.is_blocked
        assert each.side in each.reactor.getReaders()
        each.come(b"more")
        assert each.remote.take() == b"more"

    def test_what_waits_is_not_mixed_with_the_bytes_of_another_stream(self, each: Stream) -> None:
        other, filled = Stream(), each.remote.fill()
        each.come(b"mine")
        other.come(b"theirs")
        assert (each.run()[filled:], other.remote.take()) == (b"mine", b"theirs")
        other.close()


@rows("S-03")
class TestEnds:
    def test_an_end_gives_both_sockets_back(self, each: Stream) -> None:
        each.client.far.close()
        each.read()
        assert not each.is_spliced
        readers = set(each.reactor.getReaders())
        assert readers == {each.client.transport, each.remote.transport}
        assert each.client.transport.doRead() is not None

    def test_a_side_that_had_ended_before_is_never_read(self, pool: PipePool) -> None:
        stream = Stream(has_ended=(True, False))
        assert stream.reactor.getReaders() == [stream.other]
        stream.come(b"nothing that anybody could say")
        assert stream.moved[True] == 0
        stream.splice.stop()
        assert stream.reactor.getReaders() == [stream.remote.transport]
        stream.close()

    def test_what_waits_goes_out_by_the_transport(self, each: Stream) -> None:
        filled = each.remote.fill()
        each.come(b"held")
        assert each.splice.stop()
        assert not each.splice.stop()
        received = each.remote.take()
        each.remote.transport.doWrite()
        assert (received + each.remote.take())[filled:] == b"held"

    def test_a_loss_that_the_reactor_finds_is_the_transports(self, each: Stream) -> None:
        each.side.connectionLost(LOST)
        assert each.client.ear.heard == ["reset"]
        assert not each.is_spliced
        each.side.connectionLost(LOST)
        assert each.client.ear.heard == ["reset"]

    def test_a_read_that_fails_is_a_reset(self, each: Stream) -> None:
        each.client.far.close()
        each.side.sock.close()
        each.side.fd = each.side.sock.fileno()
        each.read()
        each.reactor.advance(0)
        assert not each.is_spliced
        assert each.client.ear.heard == ["reset"]

    def test_a_sink_that_is_gone_is_heard_to_its_end(self, each: Stream) -> None:
        each.remote.far.send(b"last words")
        each.remote.far.close()
        each.come(b"too late")
        assert each.side.reading is Reading.OVER
        each.other.doRead()
        assert each.client.take() == b"last words"
        each.other.doRead()
        assert not each.is_spliced
        # What it did not take shows its transport the error.
        assert each.remote.transport.doWrite() is not None

    def test_a_sink_that_is_gone_and_has_ended_before_is_the_end(self, pool: PipePool) -> None:
        stream = Stream(has_ended=(False, True))
        stream.remote.far.close()
        stream.come(b"too late")
        stream.reactor.advance(0)
        assert not stream.is_spliced
        assert stream.remote.ear.heard == ["reset"]
        stream.close()

    def test_a_sink_that_was_reset_is_noted(self, pool: PipePool) -> None:
        stream = Stream(tcp_end())
        stream.client.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.client.far.close()
        stream.remote.far.send(b"too late")
        stream.other.doRead()
        assert was_reset(stream.client.transport)
        stream.close()

    @pytest.mark.parametrize("happen", ["stop", "fail"])
    def test_it_may_end_while_bytes_are_counted(self, each: Stream, happen: str) -> None:
        def end() -> None:
            each.counted = lambda: None
            if happen == "stop":
                each.splice.stop()
            else:
                each.splice.fail(each.client.transport)

        each.counted = end
        each.come(b"the last")
        assert each.remote.take() == b"the last"
        assert not each.is_spliced
        each.reactor.advance(0)


class TestStaleEvents:
    """Descriptor numbers are used again at once: an event may be meant for another."""

    def test_they_change_nothing(self, each: Stream) -> None:
        for side in (each.side, each.other):
            assert verifyObject(IReadWriteDescriptor, side)
            assert side.logPrefix() == "Side"
            side.doRead()
            side.doWrite()
        each.remote.fill()
        each.come(b"held")
        before = each.moved[True]
        each.client.far.send(b"more")
        each.side.doRead()
        each.side.doWrite()
        each.other.doWrite()
        assert each.moved[True] == before
        assert each.splice.is_blocked
        each.splice.stop()
        for side in (each.side, each.other):
            side.doRead()
            side.doWrite()
            side.connectionLost(Failure(ConnectionDone()))
            assert side.fileno() == -1
        assert each.client.ear.heard == each.remote.ear.heard == []


class TestPipes:
    """When bytes go through a pipe, and which."""

    def test_after_a_large_read(self, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "LARGE", 10)
        stream.come(b"small")
        assert not stream.side._uses_pipe
        stream.come(b"large enough")
        assert stream.side._uses_pipe
        stream.come(b"small")
        assert not stream.side._uses_pipe
        assert stream.run() == b"smalllarge enoughsmall"

    def test_without_pipes_they_are_copied(self, stream: Stream, pool: PipePool) -> None:
        lent = [pool.borrow(), pool.borrow()]
        set_way(stream, "by pipe")
        stream.come(b"copied")
        assert stream.remote.take() == b"copied"
        for pipe in filter(None, lent):
            pool.give_back(pipe)

    @pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOSYS])
    def test_where_the_system_cannot_they_are_copied_from_then_on(
        self, stream: Stream, pool: PipePool, reason: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cannot(*_: int, flags: int) -> int:
            raise OSError(reason, os.strerror(reason))

        monkeypatch.setattr(os, "splice", cannot)
        set_way(stream, "by pipe")
        stream.come(b"copied")
        assert stream.remote.take() == b"copied"
        close_kept(pool)
        assert pool.borrow() is None

    def test_a_pipe_with_bytes_in_it_is_not_for_the_next_stream(
        self, stream: Stream, pool: PipePool
    ) -> None:
        set_way(stream, "by pipe")
        stream.remote.fill()
        stream.come(b"held")
        assert pool.lent == 1
        stream.splice.stop()
        pipe = pool.borrow()
        assert pipe is not None
        with pytest.raises(BlockingIOError):
            os.read(pipe.reader, 1)
        pool.give_back(pipe)

    def test_a_sink_that_takes_a_part_may_be_gone(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have been reset meanwhile, and a splice that took some does not say so."""
        asked: list[object] = []
        monkeypatch.setattr(module, "note_partly_spliced", asked.append)
        set_way(stream, "by pipe")
        stream.come(b"all")
        assert asked == []
        set_way(stream, "by pipe")
        real, given = os.splice, stream.side.fd
        monkeypatch.setattr(
            os, "splice", lambda s, t, n, flags: real(s, t, n if s == given else 1, flags=flags)
        )
        stream.come(b"four")
        assert asked == [stream.remote.transport]
        assert stream.run() == b"allfour"
        assert asked == [stream.remote.transport] * 3

    def test_one_is_wide_and_never_waits(self, pool: PipePool) -> None:
        pipe = pool.borrow()
        assert pipe is not None
        assert fcntl.fcntl(pipe.writer, fcntl.F_GETPIPE_SZ) >= LEAST_PIPE
        for descriptor in (pipe.reader, pipe.writer):
            assert not os.get_blocking(descriptor)
            assert not os.get_inheritable(descriptor)
        pool.give_back(pipe)

    def test_few_are_lent_and_fewer_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = PipePool(IDLE_PIPES + 1)
        lent = [pool.borrow() for _ in range(IDLE_PIPES + 1)]
        assert pool.borrow() is None
        for pipe in lent:
            assert pipe is not None
            pool.give_back(pipe)
        assert pool.idle == lent[:-1]
        monkeypatch.setattr(pipes, "pool", pool)
        share_pool(32)
        assert pool.borrow() is lent[-2]
        close_kept(pool)
        assert pool.borrow() is None
        assert lent[-2] is not None
        pool.give_back(lent[-2])
        close_kept(pool)

    def test_one_with_bytes_in_it_is_lent_no_more(self, pool: PipePool) -> None:
        pipe = pool.borrow()
        assert pipe is not None
        with contextlib.closing(End()) as end:
            end.far.send(b"secret")
            pipe.fill(end.transport.fileno(), 6)
        pool.give_back(pipe)
        assert pool.idle == []

    def test_there_is_none_without_descriptors_or_room(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, pool = open_files("pipe"), PipePool()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            assert pool.borrow() is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        def no_room(*_: int) -> int:
            raise PermissionError

        monkeypatch.setattr(fcntl, "fcntl", no_room)
        assert pool.borrow() is None
        assert (pool.lent, open_files("pipe")) == (0, before)
        monkeypatch.delattr(os, "splice")  # as on other systems than Linux
        monkeypatch.setattr(pipes, "pool", PipePool())
        share_pool(2)
        assert pipes.pool.borrow() is None


class TestUrgentData:
    """Urgent data in the middle of a stream: a splice stops there, and finds nothing any more."""

    @pytest.mark.parametrize(
        ("urgent", "rest"), [(b"!", os.urandom(16384)), (b"before!", b"behind"), (b"!", b"bye")]
    )
    def test_what_is_on_both_sides_of_it_is_passed_on(
        self, pool: PipePool, urgent: bytes, rest: bytes
    ) -> None:
        stream = Stream(tcp_end())
        far, ours = stream.client.far, stream.client.transport.getHandle()
        far.setblocking(True)
        # The kernel takes only the last byte of what is urgent out of the row.
        far.send(urgent, socket.MSG_OOB)
        far.sendall(rest)
        far.close()
        ours.setblocking(True)
        ours.recv(1, socket.MSG_PEEK)
        ours.setblocking(False)
        received = b""
        for _ in range(5):
            set_way(stream, "by pipe")
            stream.read()
            received += stream.run()
        assert received == urgent[:-1] + rest
        assert not stream.is_spliced
        stream.close()


class TestClock:
    """When a side is read by the clock."""

    @pytest.fixture(autouse=True)
    def _in_small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"BY_EVENT_ONLY": (), "LEAST": 10, "MOST": 100}.items():
            monkeypatch.setattr(module, name, value)

    def flow(self, stream: Stream, count: int) -> bool:
        """Let so many bytes come in each of two periods; whether it is read by the clock then."""
        for _ in range(2):
            stream.client.far.sendall(bytes(count))
            stream.reactor.advance(PERIOD + TICK)
            stream.side.doRead()
        assert stream.remote.take() == bytes(2 * count)
        return stream.side.reading is Reading.BY_CLOCK

    @pytest.mark.parametrize("way", ["copied", "by pipe", "by clock"])
    @pytest.mark.parametrize(
        ("count", "by_clock"), [(0, False), (5, False), (50, True), (200, False)]
    )
    def test_one_that_flows_steadily_is_and_a_slower_or_faster_one_is_not(
        self, stream: Stream, way: str, count: int, by_clock: bool
    ) -> None:
        set_way(stream, way)
        self.flow(stream, 1)
        assert self.flow(stream, count) is by_clock
        readers = [stream.other] if by_clock else [stream.other, stream.side]
        assert set(stream.reactor.getReaders()) == set(readers)
        assert len(stream.reactor.getDelayedCalls()) == by_clock

    def test_a_unix_socket_never_is(self, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BY_EVENT_ONLY", (socket.AF_UNIX,))
        assert not self.flow(stream, 50)

    def test_it_is_left_when_one_read_does_not_get_all(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.flow(stream, 50)
        monkeypatch.setattr(module, "LARGE", 60)
        stream.splice.clock.streams = 1 << 30
        stream.come(bytes(70))
        assert stream.side.reading is Reading.BY_EVENT
        assert stream.moved[True] == 160
        stream.read()
        assert stream.remote.take() == bytes(70)
        stream.splice.clock.streams = 1

    def test_it_is_not_while_the_other_side_is_full(self, stream: Stream) -> None:
        assert self.flow(stream, 50)
        stream.remote.fill()
        stream.come(bytes(50))
        assert stream.splice.is_blocked
        assert stream.reactor.getDelayedCalls() == []
        stream.run()
        assert stream.side in stream.reactor.getReaders()

    def test_a_tick_that_somebody_cancelled_keeps_no_later_one(self, stream: Stream) -> None:
        """trial cancels what a test has left in the reactor."""
        set_way(stream, "by clock")
        stream.reactor.getDelayedCalls()[0].cancel()
        stream.splice.clock.add(stream.side)
        assert len(stream.reactor.getDelayedCalls()) == 1
        stream.reactor.getDelayedCalls()[0].cancel()
        stream.splice.clock.discard(stream.side)

    def test_one_tick_reads_all_even_if_one_has_a_fault(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch, logged_failures: list[LogEvent]
    ) -> None:
        end = End()
        end.reactor = stream.reactor
        second = Stream(end)
        for each in (stream, second):
            set_way(each, "by clock")
        real = Side.tick

        def tick(side: Side) -> None:
            if side is stream.side:
                raise RuntimeError
            real(side)

        monkeypatch.setattr(Side, "tick", tick)
        second.client.far.send(b"hello")
        stream.reactor.advance(TICK)
        assert second.remote.take() == b"hello"
        assert not stream.is_spliced
        [event] = logged_failures
        assert event["log_format"] == "a fault of this server; the stream is reset"
        logged_failures.clear()
        second.close()


class TestTurn:
    """How many bytes of a bulk stream one event moves: the more streams, the fewer."""

    @pytest.mark.parametrize("way", ["copied", "by pipe"])
    @pytest.mark.parametrize(("streams", "expected"), [(1, 40), (4, 20), (100, 10)])
    def test_it_is_bounded(
        self, stream: Stream, way: str, streams: int, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"LARGE": 10, "MOST_AT_ONCE": 40, "ALL_AT_ONCE": 80}.items():
            monkeypatch.setattr(module, name, value)
        assert stream.splice.clock.streams == 1
        stream.splice.clock.streams = streams
        set_way(stream, way)
        stream.come(bytes(50))
        assert stream.moved[True] == expected
        while stream.moved[True] < 50:
            stream.read()
        stream.run()
        stream.splice.clock.streams = 1
        stream.splice.stop()
        assert stream.splice.clock.streams == 0
