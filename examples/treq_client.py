"""Fetch pages with treq by way of a SOCKS server, each site as another identity.

    python examples/treq_client.py PROXY URL...

PROXY is tor's SocksPort or torsocks_tx, as an endpoint of Twisted, such as tcp:127.0.0.1:9050.
"""

import sys
from typing import Any
from urllib.parse import urlsplit

from treq.client import HTTPClient
from twisted.internet import defer, endpoints, task

from torsocks_tx import Retry, SOCKSError
from torsocks_tx.web import socks_agent


async def fetch(reactor: Any, proxy: Any, url: str) -> str:
    """Return what came of one page, in a line; try again where that may help."""
    # Agents with different isolation share neither a circuit nor a connection.
    agent = socks_agent(reactor, proxy, isolation=(urlsplit(url).hostname or "").encode())
    client = HTTPClient(agent)
    tries = 3
    while True:
        try:
            response = await client.get(url, timeout=60)
            body = await response.content()
            return f"{url}: {response.code}, {len(body)} bytes"
        except SOCKSError as error:
            tries -= 1
            if error.retry is Retry.NEVER or not tries:
                return f"{url}: {error}"
            wait = 0 if error.retry is Retry.NOW else 1
        await task.deferLater(reactor, wait, lambda: None)


async def main(reactor: Any, proxy: str, *urls: str) -> None:
    """Fetch all pages at once."""
    through = endpoints.clientFromString(reactor, proxy)
    fetching = [defer.Deferred.fromCoroutine(fetch(reactor, through, url)) for url in urls]
    for line in await defer.gatherResults(fetching, consumeErrors=True):
        print(line)


if len(sys.argv) < 3:
    raise SystemExit(f"{sys.argv[0]}: give a SOCKS server and some URLs")
task.react(main, sys.argv[1:])
