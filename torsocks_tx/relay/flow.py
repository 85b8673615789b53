"""One direction of an open stream, from socket to socket, past the protocols of both ends.

Takes over ``doRead`` of the source's transport, as Twisted itself does while it connects. Bytes go
on at once by ``send``; a stream that turns out to be bulk is spliced through a pipe instead. What
the sink does not take waits, in its transport's queue or in the pipe, and the source is paused
meanwhile: at most one read, or one pipe, is held. Ends and errors are left to the transports.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Any

from twisted.internet import main

from torsocks_tx.relay import rcvbuf
from torsocks_tx.relay.held import HeldPipe, leave, pour
from torsocks_tx.relay.pipes import Means, Pipe, PipePool, can_splice, pool, splice
from torsocks_tx.relay.sockets import is_clear, is_socket, not_sent
from torsocks_tx.relay.transports import Throttle, Way

READ = 256 * 1024
"""Bytes read at one time."""

BULK_READ = 16 * 1024
BULK_RUN = 256 * 1024
"""A stream is bulk after so many bytes in reads of at least ``BULK_READ``."""

SMALL_SPLICE = 8 * 1024
SMALL_RUN = 8
"""It is no longer bulk after so many splices of less than ``SMALL_SPLICE`` in a row."""

TRIES = 9
TURN = 0.002
WORTH = 64 * 1024
"""A turn is so many splices or seconds at most, and goes on after those of this many bytes."""

GATHER = 30e-6
"""Seconds between small reads of one stream: what comes meanwhile goes on in one piece."""

# Every flow reads into the same bytes, and has no use for them once it returns.
_block = memoryview(bytearray(READ))


class Flow:
    """Carries bytes from ``source`` to ``sink``, both of which are plain sockets.

    ``throttle`` is the source as the sink's registered producer; ``moved`` is called with each
    number of bytes that have left the source.
    """

    __slots__ = ("_held", "_is_bounded", "_is_bulk", "_means", "_moved", "_not_before", "_pool",
                 "_run", "_sink", "_source", "_throttle")  # fmt: skip

    def __init__(
        self,
        source: Any,
        sink: Any,
        throttle: Throttle,
        moved: Callable[[int], None],
        pipes: PipePool = pool,
    ) -> None:
        self._source = source
        self._sink = sink
        self._throttle = throttle
        self._moved = moved
        self._pool = pipes
        self._means = Means.COPY if can_splice() else Means.COPY_ONLY
        self._run = 0
        self._held: HeldPipe | None = None
        self._is_bulk = self._is_bounded = False
        self._not_before = 0.0

    def attach(self) -> None:
        """Take the source's bytes from now on."""
        self._source.doRead = self.read

    def detach(self) -> None:
        """Leave the source to its protocol. What is held still goes to the sink."""
        leave(self._source, "doRead", self.read)
        self._end_bulk()

    @property
    def means(self) -> Means:
        """How bytes are carried at the moment."""
        return self._means

    @property
    def held(self) -> int:
        """Bytes in a pipe that the sink has not taken."""
        return self._held.left if self._held is not None else 0

    def read(self) -> Any:
        """The source can be read: stands in for its ``doRead``."""
        if is_clear(self._sink, self._throttle):
            over = self._splice() if self._means is Means.SPLICE else self._copy()
        else:
            # What is queued goes first: the protocols keep the order.
            over = type(self._source).doRead(self._source)
        if over is not None:
            self._end_bulk()
        return over

    def _copy(self) -> Any:
        now = monotonic()
        if now < self._not_before:
            return None  # The reactor asks again in its next turn.
        try:
            count = self._source.socket.recv_into(_block)
        except BlockingIOError:
            return None
        except OSError:
            # The kernel tells once: read again, it would say that this is an orderly end.
            return main.CONNECTION_LOST
        if not count:
            return main.CONNECTION_DONE
        self._weigh(count)
        self._not_before = now + GATHER if count < BULK_READ else 0.0
        try:
            sent = self._sink.socket.send(_block[:count])
        except OSError as error:
            not_sent(self._sink, error.errno)
            sent = 0
        if sent < count:
            self._sink.write(bytes(_block[sent:count]))
            self._pause()
        self._moved(count)
        return None

    def _weigh(self, count: int) -> None:
        """Choose the means for what comes behind a read of so many bytes."""
        if count < BULK_READ:
            self._end_bulk()
        elif self._means is Means.COPY:
            if not self._is_bulk:
                self._begin_bulk()
            self._run += count
            if self._run >= BULK_RUN:
                self._means, self._run = Means.SPLICE, 0

    def _begin_bulk(self) -> None:
        self._is_bulk = True
        is_lone = self._pool.enter()
        if not self._is_bounded:
            self._is_bounded = True
            rcvbuf.bound(self._source.socket, self._sink.socket, is_lone=is_lone)

    def _end_bulk(self) -> None:
        """Whatever ends it comes here, so that each flow leaves as often as it has entered."""
        self._run = 0
        if self._is_bulk:
            self._is_bulk = False
            self._pool.leave()
            self._means = Means.COPY

    def _splice(self) -> Any:
        """Go on while much comes: to sleep and be woken costs more than to ask again.

        Other streams wait meanwhile, so one turn of the reactor is at most ``TRIES`` splices, and
        it is left after ``TURN``: whoever is let run may take milliseconds. A slow stream ends it
        at once, and pays nothing. Later one try that finds little is forgiven: the source may have
        only just been let run.
        """
        begun, misses = monotonic(), 0
        for attempt in range(TRIES):
            if attempt:
                # Lets the source run, and the sink, where they share this processor.
                os.sched_yield()
            moved = self._splice_once(is_first=not attempt)
            if not isinstance(moved, int):
                return moved
            misses += moved < WORTH
            if misses > min(attempt, 1) or monotonic() - begun > TURN or not self._goes_on():
                break
        return None

    def _goes_on(self) -> bool:
        # Whoever counts the bytes may have released the stream, or lost either side.
        return bool(
            self._means is Means.SPLICE
            and not self.held
            and not self._throttle.paused
            and self._source.connected
            and not self._source.disconnecting
            and self._source.__dict__.get("doRead") == self.read
            and is_clear(self._sink, self._throttle)
        )

    def _splice_once(self, *, is_first: bool) -> Any:
        """How many bytes were moved, 0 if there are none now; or the reason why it is over."""
        pipe = self._pool.borrow()
        if pipe is None:
            self._means, self._run = Means.COPY, -16 * BULK_RUN
            return self._copy() or 0
        over: Any = None
        try:
            count = splice(self._source.fileno(), pipe.writer, pipe.size)
        except BlockingIOError:
            count, over = 0, None if is_first else 0  # it is not the pipe: that was empty
        except OSError:
            count, over = 0, main.CONNECTION_LOST
        if not count:
            self._pool.give_back(pipe)
            # A splice never gets past urgent data: it finds nothing, or an end, whatever is behind.
            return (self._copy() or 0) if over is None else over
        self._pass_on(pipe, count)
        self._moved(count)
        self._run = self._run + 1 if count < SMALL_SPLICE else 0
        if self._run == SMALL_RUN:
            self._end_bulk()
        return count

    def _pass_on(self, pipe: Pipe, count: int) -> None:
        sent = pour(pipe, self._sink, count)
        if sent == count:
            self._pool.give_back(pipe)
            return
        self._held = HeldPipe(self._sink, pipe, count - sent, self._pool, self._end_bulk)
        self._pause()
        self._sink.startWriting()

    def _pause(self) -> None:
        if not self._sink.producerPaused:
            self._sink.producerPaused = True
            self._throttle.pauseProducing()


def join(near: Any, far: Any, up: Way, down: Way) -> tuple[Flow, ...]:
    """Let bytes flow both ways between two transports, if both are plain sockets; the flows."""
    if not (is_socket(near) and is_socket(far)):
        return ()
    flows = Flow(near, far, *up), Flow(far, near, *down)
    for flow in flows:
        flow.attach()
    return flows
