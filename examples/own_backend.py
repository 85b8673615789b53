"""A SOCKS server whose destinations are inside this program: no Tor, and no network.

    python examples/own_backend.py [LISTEN]

LISTEN is where clients connect. ``echo.test`` sends back what it gets, ``time.test`` sends the time
and closes, and any other destination is not allowed.
"""

import sys
import time
from typing import Any

from twisted.internet import defer, endpoints, interfaces, task
from twisted.internet.protocol import Factory, Protocol

from torsocks_tx import EndpointBackend, Isolation, Request, serve
from torsocks_tx.errors import NotAllowed


class Echo(Protocol):
    """Sends everything back."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


class Time(Protocol):
    """Sends the time, and closes."""

    transport: Any

    def connectionMade(self) -> None:
        """Send the time, and close."""
        self.transport.write(time.ctime().encode() + b"\n")
        self.transport.loseConnection()


async def main(reactor: Any, listen: str = "tcp:1080:interface=127.0.0.1") -> None:
    """Serve until interrupted."""
    servers: dict[str, interfaces.IStreamClientEndpoint] = {}
    for name, protocol in (("echo.test", Echo), ("time.test", Time)):
        origin = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        listening = await origin.listen(Factory.forProtocol(protocol))
        servers[name] = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", listening.getHost().port)

    def choose(request: Request, isolation: Isolation) -> interfaces.IStreamClientEndpoint:
        # Called for each CONNECT. What it raises decides the reply code: here 02.
        endpoint = servers.get(request.address.host.lower())
        if endpoint is None:
            raise NotAllowed("not a destination of this program")
        return endpoint

    server = serve(reactor, listen, EndpointBackend(reactor, choose))
    reactor.addSystemEventTrigger("before", "shutdown", server.shutdown)
    print(f"SOCKS at {server}", flush=True)
    await defer.Deferred()


task.react(main, sys.argv[1:])
