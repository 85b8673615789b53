"""A server that strangers reach, over a name server and a SOCKS server that hardly ever answer.

It says where it listens, and ends with its standard input.
``python -m tests.loopback.exposed direct|socks``
"""

from __future__ import annotations

import sys
from itertools import cycle
from typing import Any

from twisted.internet import reactor, stdio
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from tests.loopback.crowded import UntilTheEnd
from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.backends.names import NameResolver
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.server.factory import SOCKSFactory


class Upstream(Protocol):
    """Grants a request, refuses it, hangs up in its midst, or is silent: in turn."""

    outcomes = cycle(["grant", "refuse", "hang up", "silent"])

    def dataReceived(self, data: bytes) -> None:
        if len(data) <= 4:
            self.transport.write(b"\5\2")
        elif data[0] == 1:
            self.transport.write(b"\1\0")
        else:
            outcome = next(self.outcomes)
            if outcome in ("grant", "refuse"):
                code = b"\0" if outcome == "grant" else b"\4"
                self.transport.write(b"\5" + code + b"\0\1\0\0\0\0\0\0")
            if outcome != "silent":
                self.transport.loseConnection()


def backend(kind: str) -> Any:
    if kind == "direct":
        udp = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
        where = ("127.0.0.1", udp.getHost().port)
        return DirectBackend(reactor, resolver=NameResolver(reactor, servers=[where]))
    upstream = reactor.listenTCP(0, Factory.forProtocol(Upstream), 500, "127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", upstream.getHost().port)
    return TorBackend(reactor, FixedTorProvider(endpoint))


def main(kind: str) -> None:
    stdio.StandardIO(UntilTheEnd())
    port = reactor.listenTCP(0, SOCKSFactory(backend(kind)), 500, "127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
