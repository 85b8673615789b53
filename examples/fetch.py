"""A client: fetch a page through a SOCKS server, on a circuit of its own.

    python examples/fetch.py HOST [PORT [PROXY]]

PROXY is a SOCKS server (tor's, or torsocks_tx), as an endpoint of Twisted.
"""

import os
import sys
from typing import Any

from twisted.internet import defer, endpoints, protocol, task
from twisted.python.failure import Failure

from torsocks_tx import ClientOptions, SOCKSClientEndpoint, SOCKSError


class Page(protocol.Protocol):
    """Requests the front page; ``done`` fires when the server has closed."""

    transport: Any

    def __init__(self) -> None:
        self.done: defer.Deferred[None] = defer.Deferred()

    def connectionMade(self) -> None:
        """Send the request."""
        self.transport.write(b"GET / HTTP/1.0\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        """Print what is received."""
        sys.stdout.write(data.decode("utf-8", "replace"))

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        """Fire ``done``: the page is complete."""
        self.done.callback(None)


async def main(
    reactor: Any, host: str, port: str = "80", proxy: str = "tcp:127.0.0.1:9050"
) -> None:
    """Fetch the page; on failure say why, and whether to try again."""
    # With random bytes no other connection shares a circuit with this one. It is an error if the
    # server cannot isolate.
    options = ClientOptions(isolation=os.urandom(16))
    try:
        through = endpoints.clientFromString(reactor, proxy)
        endpoint = SOCKSClientEndpoint(reactor, through, host, int(port), options)
        page: Any = await endpoint.connect(protocol.Factory.forProtocol(Page))
    except SOCKSError as failed:
        raise SystemExit(f"{failed} Try again: {failed.retry.name.lower()}.") from None
    except ValueError as wrong:
        raise SystemExit(f"{host} {port} {proxy}: {wrong}") from None
    await page.done


if len(sys.argv) < 2:
    raise SystemExit(f"{sys.argv[0]}: give the name of a host")
task.react(main, sys.argv[1:])
