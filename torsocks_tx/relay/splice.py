"""Bulk streams: bytes go from socket to socket, past the transports of both sides.

While a stream is spliced, the two transports rest (``pauseProducing``), and a ``Side`` of ours
stands in the reactor for each socket. It reads into one buffer that all share, or moves large
amounts through a pipe (``splice(2)``). What the other side does not take waits here, and this side
is not read meanwhile. At an end, or an error, both sockets go back to their transports.

A stream that flows steadily but not fast, as through tor, is read by a clock: one read finds what
would have been several events.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from enum import Enum, auto
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IReadWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.errors import without_text
from torsocks_tx.relay.pipes import Pipe, pool
from torsocks_tx.relay.sockets import abort, note_partly_spliced, note_unsent, send
from torsocks_tx.relay.timeouts import one_for

READ = 1024 * 1024
"""Bytes that are copied at one time."""

LARGE = 64 * 1024
"""After a read of so many bytes, the next goes through a pipe."""

MOST_AT_ONCE, ALL_AT_ONCE = 1024 * 1024, 3 * 1024 * 1024
"""Bytes that one event moves at most, and what all streams together may move in a turn of the
reactor: what one stream takes, the others wait for."""

TICK = 0.04
"""Seconds between two reads by the clock: each wake-up costs more than what it reads."""

PERIOD, LEAST, MOST = 0.05, 64 * 1024, 1024 * 1024
"""A side through which so many bytes come in each period, in seconds, is read by the clock. Less is
not worth it; more would not fit in one read."""

BY_EVENT_ONLY = (socket.AF_UNIX,)
"""Families of sockets that are never read by the clock: a unix socket holds so little that its
writer, tor, would stop for most of the time between two reads."""

_log = Logger()
_CANNOT_SPLICE = (errno.EINVAL, errno.ENOSYS)

# Every side reads into the same bytes, and has no use for them once it returns.
_block = memoryview(bytearray(READ))


class SplicedStream(Interface):
    """What a splice tells the stream that it is for."""

    def spliced(self, by_client: bool, count: int) -> None:
        """So many bytes have left one side for the other."""

    def unspliced(self) -> None:
        """The transports have their sockets again."""


class Reading(Enum):
    """How a side is read. BLOCKED: not until the other side has taken what waits for it."""

    BY_EVENT = auto()
    BY_CLOCK = auto()
    BLOCKED = auto()
    OVER = auto()


@implementer(IReadWriteDescriptor)
class Side:
    """One socket of a spliced stream, in the reactor in place of its transport.

    ``has_ended``: its peer has sent its last byte before, so that it is never read again.
    """

    __slots__ = ("_came", "_pipe", "_since", "_splice", "_untaken", "_uses_pipe", "fd",
                 "has_ended", "is_client", "peer", "reactor", "reading",
                 "sock", "transport")  # fmt: skip

    def __init__(self, splice: Splice, transport: Any, *, is_client: bool, has_ended: bool) -> None:
        self.transport = transport
        # Its transport's own, which forgets us too when it closes the socket.
        self.reactor = transport.reactor
        self.sock = transport.getHandle()
        self.fd: int = self.sock.fileno()
        self.is_client = is_client
        self.has_ended = has_ended
        self.peer: Side
        self.reading = Reading.OVER
        self._splice = splice
        # What was read here and the peer has not taken: bytes, or what is in a pipe.
        self._untaken: bytes | memoryview = b""
        self._pipe: Pipe | None = None
        self._uses_pipe = False
        # How many bytes have come since when.
        self._came, self._since = 0, 0.0

    # What the reactor calls: any of it may be meant for a descriptor that had this number before.

    def fileno(self) -> int:
        """The socket's descriptor, -1 once it is its transport's again."""
        return self.fd

    def logPrefix(self) -> str:
        """What heads log lines."""
        return type(self).__name__

    def doRead(self) -> None:
        """Move what has come, up to a bound: if there is more, the reactor asks again."""
        if self.reading is Reading.BY_EVENT:
            most = self._splice.most_at_once
            count = self._move_by_pipe(most) if self._uses_pipe else self._move_by_copy(most)
            if count and self.reading is Reading.BY_EVENT:
                self._uses_pipe = count >= LARGE
                self._choose_reading(count)

    def doWrite(self) -> None:
        """The socket takes more: what waits for it goes out."""
        if self.fd != -1 and self.peer._has_untaken:
            self.peer._pass_on()

    def connectionLost(self, reason: Failure) -> None:
        """The connection is lost, or the reactor has stopped: as if the transport had heard it."""
        if self._splice.stop():
            self.transport.connectionLost(reason)

    def tick(self) -> None:
        """Read by the clock."""
        most = self._splice.most_at_once
        count = self._move_by_copy(most)
        if self.reading is Reading.BY_CLOCK:
            if count >= min(most, READ):
                # There is more, which is not to wait for the clock.
                self._uses_pipe = True
                self.read(Reading.BY_EVENT)
            else:
                self._choose_reading(count)

    # How it is read.

    def read(self, reading: Reading) -> None:
        """Be read in this way from now on."""
        before, self.reading = self.reading, reading
        if before is Reading.BY_EVENT:
            self.reactor.removeReader(self)
        elif before is Reading.BY_CLOCK:
            self._splice.clock.discard(self)
            self._set_lowat(1)
        if reading is Reading.BY_EVENT:
            self.reactor.addReader(self)
        elif reading is Reading.BY_CLOCK:
            self._splice.clock.add(self)
            # Linux makes its receive buffer wide enough for this, and goes on to let it grow.
            self._set_lowat(READ)

    def _set_lowat(self, size: int) -> None:
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _choose_reading(self, count: int) -> None:
        """Note that so many bytes have come; after each period, choose how to read."""
        now = self.reactor.seconds()
        self._came += count
        passed = now - self._since
        if passed < PERIOD:
            return
        is_steady = not self._uses_pipe and LEAST * passed <= self._came * PERIOD <= MOST * passed
        by_clock = is_steady and self.sock.family not in BY_EVENT_ONLY
        reading = Reading.BY_CLOCK if by_clock else Reading.BY_EVENT
        if reading is not self.reading:
            self.read(reading)
        self._came, self._since = 0, now

    # How bytes are moved: so many, 0 if there are none now or this is the end.

    def _move_by_copy(self, most: int) -> int:
        try:
            count = int(self.sock.recv_into(_block, min(most, READ)))
        except BlockingIOError:
            return 0
        except OSError:
            # The kernel tells once: read again, it would say that this is an orderly end.
            self._splice.fail(self.transport)
            return 0
        if not count:
            # The transport finds the same, and tells of it.
            self._splice.stop()
            return 0
        self._untaken = _block[:count]
        self._pass_on()
        self._splice.stream.spliced(self.is_client, count)
        return count

    def _move_by_pipe(self, most: int) -> int:
        pipe = pool.borrow()
        if pipe is None:
            return self._move_by_copy(most)
        reason = None
        try:
            pipe.fill(self.fd, most)
        except BlockingIOError:
            pass  # it is not the pipe: that was empty
        except OSError as error:
            reason = error.errno
        count = pipe.filled
        if count:
            self._pipe = pipe
            self._pass_on()
            self._splice.stream.spliced(self.is_client, count)
            return count
        pool.give_back(pipe)
        if reason in _CANNOT_SPLICE:
            pool.most = 0
        elif reason is not None:
            self._splice.fail(self.transport)
            return 0
        # A splice never gets past urgent data: it finds nothing, or an end, whatever follows.
        return self._move_by_copy(most)

    def _pass_on(self) -> None:
        """Let the peer take what it has not taken; what it leaves is kept."""
        reason = None
        try:
            if self._pipe is not None:
                self._pipe.drain(self.peer.fd)
                if self._pipe.filled:
                    note_partly_spliced(self.peer.transport)
            else:
                self._untaken = self._untaken[self.peer.sock.send(self._untaken) :]
        except BlockingIOError:
            pass
        except OSError as error:
            reason = error.errno
        if not self._has_untaken:
            self._forget_untaken()
            if self.reading is Reading.BLOCKED:
                self.peer.reactor.removeWriter(self.peer)
                self.read(Reading.BY_EVENT)
            return
        self._untaken = bytes(self._untaken)
        if reason is not None:
            self._peer_is_gone(reason)
        elif self.reading is not Reading.BLOCKED:
            self.read(Reading.BLOCKED)
            self.peer.reactor.addWriter(self.peer)

    @property
    def _has_untaken(self) -> bool:
        return bool(self._untaken) or (self._pipe is not None and self._pipe.filled > 0)

    def _peer_is_gone(self, reason: int) -> None:
        """The peer takes no more. What it had said before is still heard, and then its end.

        What waits for it shows its transport the same error later.
        """
        note_unsent(self.peer.transport, reason)
        self.read(Reading.OVER)
        self.peer.reactor.removeWriter(self.peer)
        if self.peer.reading is Reading.OVER:
            self._splice.fail(self.peer.transport)

    def _forget_untaken(self) -> None:
        self._untaken = b""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pool.give_back(pipe)

    def leave(self) -> bytes:
        """Give the socket back to its transport; returns what the peer has not taken."""
        self.read(Reading.OVER)
        self.reactor.removeWriter(self)
        self.fd = -1
        rest = bytes(self._untaken) if self._pipe is None else self._pipe.read()
        self._forget_untaken()
        return rest


class Clock:
    """Reads the sides that flow steadily, all at one time, while there are any.

    ``streams``: how many are spliced, however they are read.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._sides: dict[Side, None] = {}
        self._call: IDelayedCall | None = None
        self.streams = 0

    def add(self, side: Side) -> None:
        """Read this one from now on."""
        self._sides[side] = None
        # trial cancels what a test has left in the reactor.
        if self._call is None or not self._call.active():
            self._call = self._reactor.callLater(TICK, self._tick)

    def discard(self, side: Side) -> None:
        """Read it no more; harmless for one that is not read here."""
        self._sides.pop(side, None)
        if not self._sides:
            call, self._call = self._call, None
            if call is not None and call.active():
                call.cancel()

    def _tick(self) -> None:
        self._call = None
        for side in list(self._sides):
            if side in self._sides:
                try:
                    side.tick()
                except Exception:
                    text = "a fault of this server; the stream is reset"
                    _log.failure(text, without_text(Failure()))
                    side.connectionLost(Failure())
        if self._sides:
            self._call = self._reactor.callLater(TICK, self._tick)


class Splice:
    """Both sides of one stream, from ``start`` to ``stop``.

    Both transports are plain sockets to which nothing waits to be sent. ``has_ended``: whether the
    client's, and the remote's, peer has sent its last byte.
    """

    __slots__ = ("_sides", "clock", "stream")

    def __init__(
        self, stream: SplicedStream, client: Any, remote: Any, has_ended: tuple[bool, bool]
    ) -> None:
        self.stream = stream
        self.clock = one_for(client.reactor, Clock)
        ours = Side(self, client, is_client=True, has_ended=has_ended[0])
        theirs = Side(self, remote, is_client=False, has_ended=has_ended[1])
        ours.peer, theirs.peer = theirs, ours
        self._sides: tuple[Side, ...] = (ours, theirs)
        self.clock.streams += 1

    def start(self) -> None:
        """Take the sockets from their transports; where that fails, ``stop`` gives them back."""
        for side in self._sides:
            side.transport.pauseProducing()
        for side in self._sides:
            if not side.has_ended:
                side.read(Reading.BY_EVENT)

    @property
    def most_at_once(self) -> int:
        """How many bytes one event may move."""
        return max(LARGE, min(MOST_AT_ONCE, ALL_AT_ONCE // self.clock.streams))

    @property
    def is_blocked(self) -> bool:
        """Whether a side is not read, since the other takes no more."""
        return any(side.reading is Reading.BLOCKED for side in self._sides)

    def stop(self) -> bool:
        """Give the sockets back; False if that was done before."""
        sides, self._sides = self._sides, ()
        if not sides:
            return False
        self.clock.streams -= 1
        rests = [(side.peer.transport, side.leave()) for side in sides]
        for side in sides:
            # No cycle is to outlive the stream.
            del side.peer
            if not side.has_ended:
                side.transport.resumeProducing()
        self.stream.unspliced()
        for transport, rest in rests:
            if rest:
                send(transport, rest)
        return True

    def fail(self, transport: Any) -> None:
        """Give the sockets back, and end one connection as its peer did: with a reset."""
        if self.stop():
            abort(transport)
