"""The baselines that are a few lines of Twisted: ``python -m bench.baselines socks4|plain``.

``socks4`` is Twisted's own server; ``plain`` a SOCKS5 server that relays as most Twisted programs
do: ``dataReceived`` to ``write``, each side the producer of the other. Both print their port.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from twisted.internet import reactor, stdio
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.protocols.socks import SOCKSv4Factory
from twisted.python.failure import Failure


class _Side(Protocol):
    """One side of a relay."""

    transport: Any
    other: _Side | None = None

    def dataReceived(self, data: bytes) -> None:
        """Send the bytes to the other side."""
        if self.other is not None:
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Close the other side."""
        if self.other is not None:
            self.other.transport.unregisterProducer()
            self.other.transport.loseConnection()
            self.other.other = None

    def join(self, other: _Side) -> None:
        """Relay between this side and the other."""
        self.other, other.other = other, self
        self.transport.registerProducer(other.transport, True)
        other.transport.registerProducer(self.transport, True)


class _Outward(_Side):
    factory: Any

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        inward = self.factory.inward
        self.join(inward)
        inward.transport.write(b"\5\0\0\1" + bytes(6))


class _Inward(_Side):
    """A client; each of its messages is expected in one segment, as the load generator sends."""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
        elif len(data) == 3:
            self.transport.write(b"\5\0")
        else:
            factory: Any = ClientFactory()
            factory.noisy = False
            factory.protocol = _Outward
            factory.inward = self
            port = int.from_bytes(data[8:10], "big")
            reactor.connectTCP(socket.inet_ntoa(data[4:8]), port, factory)


class _UntilTheEnd(Protocol):
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reactor.running:
            reactor.stop()


def main(kind: str) -> None:
    """Serve until standard input ends."""
    factory: Any = SOCKSv4Factory(None) if kind == "socks4" else Factory.forProtocol(_Inward)
    port: Any = reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
    stdio.StandardIO(_UntilTheEnd())
    print(port.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
