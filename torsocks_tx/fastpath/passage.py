"""The two sockets of a connection on its short way, and what goes from one to the other."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any

from torsocks_tx.fastpath.hall import Hall
from torsocks_tx.fastpath.handover import Reached, Rest, Stage, hand_over
from torsocks_tx.fastpath.waits import Waits
from torsocks_tx.relay.connector import Target
from torsocks_tx.relay.flow import BULK_READ
from torsocks_tx.socks.messages import Request
from torsocks_tx.socks.server import ServerHandshake, Step

NOW = socket.MSG_DONTWAIT
"""An accepted socket blocks, since nothing was asked of it: each call says that it does not."""

READS = 32
"""Reads of one side in one turn; on unix sockets each may be small."""

LOST = select.EPOLLERR | select.EPOLLHUP
ENDED = LOST | select.EPOLLRDHUP

_block = memoryview(bytearray(BULK_READ))
_WITH_RESET = struct.pack("ii", 1, 0)


class Passage:
    """A client and later its far side, whose sockets are its own until it hands them over.

    ``sent`` and ``received`` count the payload; ``done`` is the side that has ended, if one has.
    ``status`` is what ``connect(2)`` said of the far side, as an errno.
    """

    __slots__ = ("_waits", "address", "done", "far", "hall", "handshake", "near", "number",
                 "received", "request", "sent", "stage", "status", "target")  # fmt: skip

    def __init__(self, hall: Hall, near: socket.socket, address: Any) -> None:
        self.hall = hall
        self.near = near
        self.number = near.fileno()
        self.address = address
        self.stage = Stage.HANDSHAKE
        self.handshake: ServerHandshake | None = ServerHandshake(hall.options)
        self.request: Request | None = None
        self.target: Target | None = None
        self.far: socket.socket | None = None
        self.status = 0
        self.done: socket.socket | None = None
        self.sent = 0
        self.received = 0
        self._waits: Waits | None = None

    @property
    def is_served(self) -> bool:
        """Whether a request of this client is being carried out, or was."""
        return self.stage is not Stage.HANDSHAKE

    @property
    def client(self) -> Any:
        """Who is connected."""
        return self.hall.port._buildAddr(self.address)

    def pass_on(self, is_near: bool, events: int) -> None:
        """Take what there is from one side to the other."""
        near, far = self.near, self.far
        assert far is not None
        source, sink = (near, far) if is_near else (far, near)
        family = self.hall.family if is_near or self.target is None else self.target.family
        if self.done is source:
            self._gone(events)
            return
        for _ in range(READS):
            try:
                count = source.recv_into(_block, BULK_READ, NOW)
            except BlockingIOError:
                return
            except OSError:
                self.reset()
                return
            if not count:
                self._ended(source, sink)
                return
            # What does not go straight through, or is much, or comes after one side has ended, is
            # for the relay.
            sent, errno = 0, None
            if count < BULK_READ and self.done is None:
                try:
                    sent = sink.send(_block[:count], NOW)
                except OSError as error:
                    errno = error.errno
            if is_near:
                self.sent += sent
            else:
                self.received += sent
            if sent < count:
                self.hand_over(rest=Rest(bytes(_block[sent:count]), is_near, errno))
                return
            # A read that is not full has taken all there is. On a unix socket one ends also behind
            # a descriptor that was passed.
            if not events & ENDED and family != socket.AF_UNIX:
                return
        # There is always more, and others wait: it is not told of again here.
        self.hand_over()

    def _gone(self, events: int) -> None:
        """Something has happened to the side that has ended before."""
        if events & select.EPOLLERR:
            self.reset()
        elif events & select.EPOLLHUP:
            # A unix socket that is closed now, both ways: nobody is left to hear the other.
            self.leave()

    def _ended(self, source: socket.socket, sink: socket.socket) -> None:
        if self.done is not None:
            self.leave()
            return
        self.done = source
        # One that is gone is told of by its own event.
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        if source is self.near:
            self.hall.factory.lingers(self)
            self.wait(self.hall.clients_done)
        else:
            self.wait(self.hall.origins_done)

    # Ends.

    def wait(self, waits: Waits | None) -> float:
        """Be in this queue of deadlines, and in no other; the seconds that were left before."""
        left = 0.0 if self._waits is None else self._waits.drop(self)
        self._waits = waits
        if waits is not None:
            waits.add(self)
        return left

    def leave(self) -> None:
        """Close both sides."""
        if self.stage is Stage.OVER:
            return
        self.stage = Stage.OVER
        if self.handshake is not None:
            self.handshake.close()
        self.wait(None)
        forget = self.hall.poller.forget
        forget(self.number)
        self.near.close()
        if self.far is not None:
            forget(self.far.fileno())
            self.far.close()
        self.hall.factory.disconnected(self)

    def reset(self) -> None:
        """Close both sides with a reset."""
        if self.stage is Stage.OVER:
            return
        for sock in filter(None, (self.near, self.far)):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _WITH_RESET)
        self.leave()

    def hand_over(self, steps: Sequence[Step] = (), rest: Rest | None = None) -> None:
        """Leave everything to the protocols; these steps of the handshake are still to be taken."""
        stage, self.stage = self.stage, Stage.OVER
        left = self.wait(None)
        lingered = self.hall.factory.limits.linger_timeout - left if self.done is self.near else 0.0
        self.hall.poller.forget(self.number)
        if self.far is not None:
            self.hall.poller.forget(self.far.fileno())
        try:
            moved = self.sent, self.received
            reached = Reached(stage, left, lingered, self.near, self.address, self.handshake,
                              self.request, self.target, self.far, self.status, moved)  # fmt: skip
            hand_over(self.hall, reached, steps, rest)
        finally:
            self.hall.factory.disconnected(self)
