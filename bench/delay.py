"""A slow link: ``python -m bench.delay PORT MILLISECONDS``; it prints its port.

Bytes to and from 127.0.0.1:PORT come so much later, in order, and as fast as they would otherwise.
For each line of its input it prints how many round trips there were since the last one: how often
something came back after something had been sent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor, stdio
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure


class _Side(Protocol):
    """One end of the link; ``other`` is set once the other end is connected."""

    transport: Any

    def __init__(self, delay: float, passes: Callable[[], None]) -> None:
        self.delay = delay
        self.other: _Side | None = None
        self._passes = passes
        self._early = b""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self._passes()
        reactor.callLater(self.delay, self._pass, data)

    def _pass(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
        else:
            self.other.transport.write(data)

    def join(self, other: _Side) -> None:
        """Link both ends."""
        self.other, other.other = other, self
        other.transport.write(self._early)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.other is not None:
            reactor.callLater(self.delay, self.other.transport.loseConnection)


class _Link(Factory):
    noisy = False

    def __init__(self, port: int, delay: float) -> None:
        self._far = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        self._delay = delay
        self.trips = 0

    def buildProtocol(self, addr: Any) -> _Side:
        has_asked = False

        def asks() -> None:
            nonlocal has_asked
            has_asked = True

        def answers() -> None:
            nonlocal has_asked
            self.trips += has_asked
            has_asked = False

        near = _Side(self._delay, asks)
        connectProtocol(self._far, _Side(self._delay, answers)).addCallback(near.join)
        return near


class _Asker(Protocol):
    def dataReceived(self, data: bytes) -> None:
        print(link.trips, flush=True)
        link.trips = 0

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reactor.running:
            reactor.stop()


if __name__ == "__main__":
    link: Any = _Link(int(sys.argv[1]), float(sys.argv[2]) / 1000)
    listening: Any = reactor.listenTCP(0, link, interface="127.0.0.1")
    stdio.StandardIO(_Asker())
    print(listening.getHost().port, flush=True)
    reactor.run()
