"""Servers that run as programs of their own: each says where it listens, and ends with its input.

``python -m tests.loopback.servers crowded FILES tcp|unix:PATH``: one that may open few files, where
every stream is granted and echoed.

``python -m tests.loopback.servers exposed direct|socks``: one that strangers reach, over a name
server and a SOCKS server that hardly ever answer.
"""

from __future__ import annotations

import resource
import sys
from itertools import cycle
from typing import Any

from twisted.internet import reactor, stdio
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.backends.memory import MemoryBackend, MemoryOutbound
from torsocks_tx.backends.names import NameResolver
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.server.connections import raise_descriptor_limit
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.listen import listen_function, parse_listener


class UntilTheEnd(Protocol):
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reactor.running:
            reactor.stop()


def echo(outbound: MemoryOutbound) -> None:
    outbound.on_write = outbound.receiver.data
    reactor.callLater(0, outbound.receiver.opened)


def crowded(files: str, where: str) -> None:
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    place = "tcp:0:interface=127.0.0.1" if where == "tcp" else where
    listen = listen_function(reactor, parse_listener(place))
    host = listen(SOCKSFactory(MemoryBackend(echo))).getHost()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), hard))
    print(f"listening {getattr(host, 'port', 0)}", flush=True)


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


def exposed(kind: str) -> None:
    raise_descriptor_limit()
    port = reactor.listenTCP(0, SOCKSFactory(backend(kind)), 500, "127.0.0.1")
    print(port.getHost().port, flush=True)


if __name__ == "__main__":
    stdio.StandardIO(UntilTheEnd())
    {"crowded": crowded, "exposed": exposed}[sys.argv[1]](*sys.argv[2:])
    reactor.run()
