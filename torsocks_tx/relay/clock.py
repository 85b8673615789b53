"""The one clock that all sides of a reactor are read by which flow steadily (``splice``)."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.errors import without_text

TICK = 0.02
"""Seconds between two reads by the clock: each wake-up costs more than what it reads."""

_log = Logger()


class Ticking(Protocol):
    """What the clock reads."""

    def tick(self) -> None:
        """Read."""

    def connectionLost(self, reason: Failure) -> None:
        """There was a fault: close."""


class Clock:
    """Reads the sides that flow steadily, all at one time, while there are any.

    ``streams``: how many are spliced, however they are read.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._sides: dict[Ticking, None] = {}
        self._call: IDelayedCall | None = None
        self.streams = 0

    def add(self, side: Ticking) -> None:
        """Read this one from now on."""
        self._sides[side] = None
        # trial cancels what a test has left in the reactor.
        if self._call is None or not self._call.active():
            self._call = self._reactor.callLater(TICK, self._tick)

    def discard(self, side: Ticking) -> None:
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


_clocks: dict[Any, Clock] = {}


def clock_of(reactor: Any) -> Clock:
    """The one clock of a reactor."""
    clock = _clocks.get(reactor)
    if clock is None:
        clock = _clocks[reactor] = Clock(reactor)
    return clock
