"""One direction of an open stream, from socket to socket, past the protocols of both ends.

Takes over ``doRead`` of the source's transport, as Twisted itself does while it connects. Bytes go
on at once by ``send``; a stream that turns out to be bulk is spliced through a pipe instead. What
the sink does not take waits, in its transport's queue or in the pipe, and the source is paused
meanwhile: at most one read, or one pipe, is held. Ends and errors are left to the transports.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from twisted.internet import main
from twisted.python.failure import Failure

from torsocks_tx.pipes import Pipe, PipePool, can_splice, pool, splice
from torsocks_tx.sockets import is_socket
from torsocks_tx.transports import Throttle

READ = 256 * 1024
"""Bytes read at one time."""

BULK_READ = 16 * 1024
BULK_RUN = 256 * 1024
"""A stream is bulk after so many bytes in reads of at least ``BULK_READ``."""

SMALL_SPLICE = 8 * 1024
SMALL_RUN = 8
"""It is no longer bulk after so many splices of less than ``SMALL_SPLICE`` in a row."""

# Every flow reads into the same bytes, and has no use for them once it returns.
_block = memoryview(bytearray(READ))


class Means(Enum):
    """How bytes are carried."""

    COPY = auto()
    SPLICE = auto()
    COPY_ONLY = auto()


class Flow:
    """Carries bytes from ``source`` to ``sink``, both of which are plain sockets.

    ``throttle`` is the source as the sink's registered producer; ``moved`` is called with each
    number of bytes that have left the source.
    """

    __slots__ = ("_left", "_means", "_moved", "_pipe", "_pool", "_run", "_sink", "_source",
                 "_throttle")  # fmt: skip

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
        self._pipe: Pipe | None = None
        self._left = 0

    def attach(self) -> None:
        """Take the source's bytes from now on."""
        self._source.doRead = self.read

    def detach(self) -> None:
        """Leave the source to its protocol. What is held still goes to the sink."""
        _leave(self._source, "doRead", self.read)

    @property
    def means(self) -> Means:
        """How bytes are carried at the moment."""
        return self._means

    @property
    def held(self) -> int:
        """Bytes in a pipe that the sink has not taken."""
        return self._left

    def read(self) -> Any:
        """The source can be read: stands in for its ``doRead``."""
        sink = self._sink
        if (
            not sink.connected
            or sink.dataBuffer
            or sink._tempDataLen
            or sink.disconnecting
            or sink._writeDisconnecting
            or sink.producer is not self._throttle
        ):
            # What is queued goes first: the protocols keep the order.
            return type(self._source).doRead(self._source)
        return self._splice() if self._means is Means.SPLICE else self._copy()

    def _copy(self) -> Any:
        try:
            count = self._source.socket.recv_into(_block)
        except BlockingIOError:
            return None
        except OSError:
            # The kernel tells once: read again, it would say that this is an orderly end.
            return main.CONNECTION_LOST
        if not count:
            return main.CONNECTION_DONE
        try:
            sent = self._sink.socket.send(_block[:count])
        except OSError:
            # Full, or gone: the sink's own event tells.
            sent = 0
        if sent < count:
            self._sink.write(bytes(_block[sent:count]))
            self._pause()
        self._moved(count)
        if count < BULK_READ:
            self._run = 0
        elif self._means is Means.COPY:
            self._run += count
            if self._run >= BULK_RUN:
                self._means, self._run = Means.SPLICE, 0
        return None

    def _splice(self) -> Any:
        pipe = self._pool.borrow()
        if pipe is None:
            self._means, self._run = Means.COPY, -16 * BULK_RUN
            return self._copy()
        try:
            count = splice(self._source.fileno(), pipe.writer, pipe.size)
        except BlockingIOError:
            # The pipe was empty, so it is the socket that has nothing.
            self._pool.give_back(pipe)
            return None
        except OSError:
            self._pool.give_back(pipe)
            return main.CONNECTION_LOST
        if not count:
            self._pool.give_back(pipe)
            return main.CONNECTION_DONE
        self._pass_on(pipe, count)
        self._moved(count)
        self._run = self._run + 1 if count < SMALL_SPLICE else 0
        if self._run == SMALL_RUN:
            self._means, self._run = Means.COPY, 0
        return None

    def _pass_on(self, pipe: Pipe, count: int) -> None:
        try:
            # Exactly what is there: asked for more, the kernel waits with the last segment.
            sent = splice(pipe.reader, self._sink.fileno(), count)
        except OSError:
            # Full, or gone: the sink's own event tells.
            sent = 0
        if sent == count:
            self._pool.give_back(pipe)
            return
        self._pipe, self._left = pipe, count - sent
        self._sink.doWrite = self.drain
        self._sink.connectionLost = self.sink_lost
        self._pause()
        self._sink.startWriting()

    def _pause(self) -> None:
        if not self._sink.producerPaused:
            self._sink.producerPaused = True
            self._throttle.pauseProducing()

    # While a pipe is held.

    def drain(self) -> Any:
        """The sink takes bytes: stands in for its ``doWrite``."""
        if self._pipe is not None:
            try:
                self._left -= splice(self._pipe.reader, self._sink.fileno(), self._left)
            except BlockingIOError:
                return None
            except OSError:
                return main.CONNECTION_LOST
            if self._left:
                return None
            self._pool.give_back(self._pipe)
            self._let_go()
        # Resumes the source, or closes what was to be closed once all is out.
        return self._sink.doWrite()

    def sink_lost(self, reason: Failure) -> None:
        """The sink is gone, and nobody else will look after the pipe."""
        if self._pipe is not None:
            self._pool.discard(self._pipe)
        self._let_go()
        self._sink.connectionLost(reason)

    def _let_go(self) -> None:
        self._pipe, self._left = None, 0
        _leave(self._sink, "doWrite", self.drain)
        _leave(self._sink, "connectionLost", self.sink_lost)


Way = tuple[Throttle, Callable[[int], None]]
"""The source of one direction as a producer, and what counts its bytes."""


def join(near: Any, far: Any, up: Way, down: Way) -> tuple[Flow, ...]:
    """Let bytes flow both ways between two transports, if both are plain sockets; the flows."""
    if not (is_socket(near) and is_socket(far)):
        return ()
    flows = Flow(near, far, *up), Flow(far, near, *down)
    for flow in flows:
        flow.attach()
    return flows


def _leave(transport: Any, name: str, method: Callable[..., Any]) -> None:
    """Take a method of ours back; ``abortConnection`` may have put its own there."""
    if transport.__dict__.get(name) == method:
        delattr(transport, name)
