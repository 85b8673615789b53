"""Bytes in a pipe that a sink has not taken.

They outlive their source, and go with the sink: until they are out, what is here stands in for
``doWrite`` and ``connectionLost`` of the sink's transport.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import main
from twisted.python.failure import Failure

from torsocks_tx.relay.pipes import Pipe, PipePool, splice
from torsocks_tx.relay.sockets import not_all_spliced, not_sent


def pour(pipe: Pipe, sink: Any, count: int) -> int:
    """Move what is in a pipe, ``count`` bytes, to a transport; how many it has taken."""
    try:
        # Exactly what is there: asked for more, the kernel waits with the last segment.
        sent = splice(pipe.reader, sink.fileno(), count)
    except OSError as error:
        not_sent(sink, error.errno)
        return 0
    if sent < count:
        not_all_spliced(sink)
    return sent


class HeldPipe:
    """A borrowed pipe with ``left`` bytes for ``sink``; ``lost`` is called if that goes first."""

    __slots__ = ("_lost", "_pipe", "_pool", "_sink", "left")

    def __init__(
        self, sink: Any, pipe: Pipe, left: int, pool: PipePool, lost: Callable[[], None]
    ) -> None:
        self._sink = sink
        self._pipe: Pipe | None = pipe
        self._pool = pool
        self._lost: Callable[[], None] | None = lost
        self.left = left
        sink.doWrite = self.drain
        sink.connectionLost = self.sink_lost

    def drain(self) -> Any:
        """The sink takes bytes: stands in for its ``doWrite``."""
        if self._pipe is not None:
            try:
                self.left -= splice(self._pipe.reader, self._sink.fileno(), self.left)
            except BlockingIOError:
                return None
            except OSError:
                return main.CONNECTION_LOST
            if self.left:
                not_all_spliced(self._sink)
                return None
            self._pool.give_back(self._pipe)
            self._let_go()
        # Resumes the source, or closes what was to be closed once all is out.
        return self._sink.doWrite()

    def sink_lost(self, reason: Failure) -> None:
        """The sink is gone, and nobody else will look after the pipe."""
        if self._pipe is not None:
            self._pool.discard(self._pipe)
        if self._lost is not None:
            self._lost()
        self._let_go()
        self._sink.connectionLost(reason)

    def _let_go(self) -> None:
        self._pipe, self.left = None, 0
        # Whoever holds this is what that leads to: no cycle is to outlive the stream.
        self._lost = None
        leave(self._sink, "doWrite", self.drain)
        leave(self._sink, "connectionLost", self.sink_lost)


def leave(transport: Any, name: str, method: Callable[..., Any]) -> None:
    """Take a method of ours back; ``abortConnection`` may have put its own there."""
    if transport.__dict__.get(name) == method:
        delattr(transport, name)
