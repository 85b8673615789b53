"""Pipes for ``splice(2)``: bytes go from socket to pipe to socket without being copied here.

A pipe is borrowed while bytes are in it, so that few serve many streams. The kernel gives the pipes
of one ordinary user 64 MiB in all: the pool stays far below, and says no when there is none left.
Callers then copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import NamedTuple

LEAST_PIPE = 128 * 1024
"""With a pipe of less than this many bytes, copying is cheaper."""

MOST_PIPES, PIPES_TOGETHER, IDLE_PIPES = 16, 32, 4
"""Pipes of one process; of all processes of one server, half of what the kernel gives one user; and
empty ones that are kept for the next stream."""

_PIPE_SIZES = (1 << 20, 1 << 19, 1 << 18, LEAST_PIPE)


class Pipe(NamedTuple):
    """Both ends, and how many bytes fit in between."""

    reader: int
    writer: int
    size: int

    def close(self) -> None:
        """Give both descriptors back to the system."""
        os.close(self.reader)
        os.close(self.writer)

    @classmethod
    def make(cls) -> Pipe | None:
        """A pipe of useful size, or None if there is none to have."""
        if not hasattr(os, "splice"):
            return None
        try:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            # No descriptors.
            return None
        for size in _PIPE_SIZES:
            # More than this user may have.
            with contextlib.suppress(OSError):
                return cls(reader, writer, fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size))
        cls(reader, writer, 0).close()
        return None


class PipePool:
    """Lends empty pipes; ``lent`` counts those that are out: few serve many streams."""

    def __init__(self, most: int = MOST_PIPES) -> None:
        self._most = most
        self._pipes: list[Pipe] = []
        self.lent = 0

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None if there is none to have."""
        if self._pipes:
            pipe: Pipe | None = self._pipes.pop()
        else:
            pipe = Pipe.make() if self.lent < self._most else None
        self.lent += pipe is not None
        return pipe

    def give_back(self, pipe: Pipe, *, is_empty: bool = True) -> None:
        """Take a pipe back; one with bytes in it is of no more use."""
        self.lent -= 1
        if is_empty and len(self._pipes) < IDLE_PIPES:
            self._pipes.append(pipe)
        else:
            pipe.close()

    def limit(self, most: int) -> None:
        """Lend no more than this from now on."""
        self._most = most


pool = PipePool()
"""The pipes of this process: what bounds them is bounded for each process."""


def share_pool(processes: int) -> None:
    """Leave room for other processes of this server: what the user gets is for all of them."""
    pool.limit(max(1, min(MOST_PIPES, PIPES_TOGETHER // processes)))


def splice(source: int, sink: int, count: int) -> int:
    """Move up to ``count`` bytes without waiting. Raises ``OSError``."""
    return os.splice(source, sink, count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
