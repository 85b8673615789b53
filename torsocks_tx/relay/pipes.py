"""Pipes for ``splice(2)``: bytes go from socket to pipe to socket without being copied here.

A pipe is borrowed while bytes are in it, so that few serve many streams. The kernel gives the pipes
of one ordinary user 64 MiB in all: the pool stays far below, and says no when there is none left.
Callers then copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

LEAST_PIPE = 128 * 1024
"""With a pipe of less than this many bytes, copying is cheaper."""

MOST_PIPES, PIPES_TOGETHER, IDLE_PIPES = 16, 32, 4
"""Pipes of one process; of all processes of one server, half of what the kernel gives one user; and
empty ones that are kept for the next stream."""

_SIZES = (1 << 20, 1 << 19, 1 << 18, LEAST_PIPE)


class Pipe:
    """A pipe and how many bytes are in it. Raises ``OSError`` if there is none of useful size."""

    __slots__ = ("filled", "reader", "writer")

    def __init__(self) -> None:
        self.filled = 0
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for size in _SIZES:
            # More than this user may have.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, size)
                return
        self.close()
        raise OSError("no room for a pipe")

    def close(self) -> None:
        """Give both descriptors back to the system."""
        os.close(self.reader)
        os.close(self.writer)

    def fill(self, source: int, most: int) -> None:
        """Move up to so many bytes from a socket into the empty pipe. Raises ``OSError``."""
        self.filled = _splice(source, self.writer, most)

    def drain(self, sink: int) -> None:
        """Move what the socket takes out of the pipe. Raises ``OSError``."""
        # Exactly what is there: asked for more, the kernel waits with the last segment.
        self.filled -= _splice(self.reader, sink, self.filled)

    def read(self) -> bytes:
        """Take all bytes out of the pipe."""
        data = os.read(self.reader, self.filled) if self.filled else b""
        self.filled -= len(data)
        return data


def _splice(source: int, sink: int, count: int) -> int:
    return os.splice(source, sink, count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)


class PipePool:
    """Lends empty pipes; ``lent`` counts those that are out, ``most`` bounds it."""

    def __init__(self, most: int = MOST_PIPES) -> None:
        self.most = most if hasattr(os, "splice") else 0
        self.idle: list[Pipe] = []
        self.lent = 0

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None if there is none to have."""
        if self.idle:
            pipe = self.idle.pop()
        elif self.lent < self.most:
            try:
                pipe = Pipe()
            except OSError:
                return None
        else:
            return None
        self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take a pipe back; one with bytes in it is of no more use."""
        self.lent -= 1
        if not pipe.filled and len(self.idle) < IDLE_PIPES:
            self.idle.append(pipe)
        else:
            pipe.close()


pool = PipePool()
"""The pipes of this process: what bounds them is bounded for each process."""


def share_pool(processes: int) -> None:
    """Leave room for other processes of this server: what the user gets is for all of them."""
    pool.most = min(pool.most, max(1, PIPES_TOGETHER // processes))
