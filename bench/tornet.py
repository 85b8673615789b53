"""A private Tor network for the bench: ``python -m bench.tornet``; prints its facts in JSON.

``python -m bench.tornet 2 LINE ...``: with two more clients, which have these lines in their torrc.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from twisted.internet import reactor, stdio, task
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from torsocks_tx.testing.tornet import PrivateNetwork


class _UntilTheEnd(Protocol):
    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ended.called:
            self.ended.callback(None)


async def serve(reactor: Any) -> None:
    """Run a network until standard input ends."""
    network = PrivateNetwork(reactor)
    end = _UntilTheEnd()
    stdio.StandardIO(end)
    try:
        await network.start()
        client = network.client
        socks = "{}:{}".format(*client.socks_tcp)
        place = {"control": client.control_endpoint, "socks": socks, "pid": client.node.pid}
        count, *lines = sys.argv[1:] or ["0"]
        more = [await network.add_client(lines) for _ in range(int(count))]
        place["more"] = [each.control_endpoint for each in more]
        print(json.dumps(place), flush=True)
        await end.ended
    finally:
        await network.stop()


if __name__ == "__main__":
    task.react(lambda _: ensureDeferred(serve(reactor)))
