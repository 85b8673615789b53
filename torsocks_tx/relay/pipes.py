"""Pipes for ``splice(2)``: bytes go from socket to pipe to socket without being copied here.

A pipe is borrowed while bytes are in it, so that few serve many streams. The kernel gives the pipes
of one ordinary user 64 MiB in all: the pool stays far below, looks at what it was granted, and says
no when there is none to have. Callers then copy.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from enum import Enum, auto
from typing import NamedTuple

LEAST = 128 * 1024
"""With a pipe of less than this many bytes, copying is cheaper than splicing."""

_SIZES = (1 << 20, 1 << 19, 1 << 18, LEAST)

MOST = 16
"""Pipes of one process at one time."""

TOGETHER = 32
"""Pipes of all the processes of one server: half of what the kernel gives one user."""

IDLE = 4
"""Empty pipes that are kept for the next stream."""


class Means(Enum):
    """How bytes are carried."""

    COPY = auto()
    SPLICE = auto()
    COPY_ONLY = auto()


class Pipe(NamedTuple):
    """Both ends, and how many bytes fit in between."""

    reader: int
    writer: int
    size: int

    def close(self) -> None:
        """Give both descriptors back to the system."""
        os.close(self.reader)
        os.close(self.writer)


def splice(source: int, sink: int, count: int) -> int:
    """Move up to ``count`` bytes without waiting; 0 is the end. Raises ``OSError``."""
    assert sys.platform == "linux"
    return os.splice(source, sink, count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)


def can_splice() -> bool:
    """Whether this system moves bytes from socket to pipe to socket; tried once."""
    try:
        return hasattr(os, "splice") and tried()
    except OSError:
        # No descriptors: it is tried again.
        return False


@functools.cache
def tried() -> bool:
    """Whether a byte came through. Raises ``OSError`` if that cannot be tried."""
    with contextlib.ExitStack() as stack:
        pipe = Pipe(*os.pipe(), 0)
        stack.callback(pipe.close)
        ours, theirs = map(stack.enter_context, socket.socketpair())
        theirs.send(b"?")
        try:
            splice(ours.fileno(), pipe.writer, 1)
            splice(pipe.reader, ours.fileno(), 1)
            return theirs.recv(1) == b"?"
        except OSError:
            return False


class PipePool:
    """Lends empty pipes; ``lent`` counts those that are out.

    ``flows`` counts the flows in bulk, whether they are spliced already or about to be.
    """

    def __init__(self, most: int = MOST, idle: int = IDLE) -> None:
        self._most = most
        self._idle = idle
        self._pipes: list[Pipe] = []
        self.lent = 0
        self.flows = 0

    def enter(self) -> bool:
        """Count a flow from now on; whether it is the only one."""
        self.flows += 1
        return self.flows == 1

    def leave(self) -> None:
        """Count a flow no more that has entered."""
        self.flows -= 1

    def borrow(self) -> Pipe | None:
        """An empty pipe of useful size, or None if there is none to have."""
        if self._pipes:
            pipe: Pipe | None = self._pipes.pop()
        elif self.lent < self._most:
            pipe = _make()
        else:
            return None
        self.lent += pipe is not None
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take an empty pipe back."""
        self.lent -= 1
        if len(self._pipes) < self._idle:
            self._pipes.append(pipe)
        else:
            pipe.close()

    def discard(self, pipe: Pipe) -> None:
        """Take a pipe back that has bytes nobody wants any more."""
        self.lent -= 1
        pipe.close()

    def limit(self, most: int) -> None:
        """Lend no more than this from now on."""
        self._most = most

    def clear(self) -> None:
        """Close the pipes that are kept; those that are out come back later."""
        while self._pipes:
            self._pipes.pop().close()


def _make() -> Pipe | None:
    import fcntl

    try:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # No descriptors.
        return None
    for size in _SIZES:
        try:
            granted = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)
        except OSError:
            # More than this user may have.
            continue
        return Pipe(reader, writer, granted)
    Pipe(reader, writer, 0).close()
    return None


pool = PipePool()
"""The pipes of this process: what bounds them is bounded for each process."""


def share_pool(processes: int) -> None:
    """Leave room for other processes of this server: what the user gets is for all of them."""
    pool.limit(max(1, min(MOST, TOGETHER // processes)))
