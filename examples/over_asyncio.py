"""A SOCKS server in a program of asyncio.

    python examples/over_asyncio.py [SOCKSPORT [LISTEN]]

SOCKSPORT is tor's, as an endpoint of Twisted; LISTEN is where clients connect.
"""

import asyncio
import sys
from typing import Any

from twisted.internet import asyncioreactor, defer, endpoints, task

from torsocks_tx import FixedTorProvider, Server, TorBackend, serve

loop = asyncio.new_event_loop()


async def start(
    reactor: Any, tor: str = "tcp:127.0.0.1:9050", listen: str = "tcp:1080:interface=127.0.0.1"
) -> Server:
    """Start the server. In a coroutine of asyncio, a Deferred is awaited as a Future."""
    provider = FixedTorProvider(endpoints.clientFromString(reactor, tor))
    await provider.start().asFuture(loop)
    return serve(reactor, listen, TorBackend(reactor, provider))


async def main(reactor: Any, *given: str) -> None:
    """Serve until interrupted. In a coroutine of Twisted, a Future is awaited as a Deferred."""
    server = await defer.Deferred.fromFuture(loop.create_task(start(reactor, *given)))
    reactor.addSystemEventTrigger("before", "shutdown", server.shutdown)
    print(f"SOCKS at {server}", flush=True)
    await defer.Deferred()


asyncioreactor.install(loop)
try:
    task.react(main, sys.argv[1:])
finally:
    loop.close()
