"""A private Tor network for the bench: ``python -m bench.tornet``; prints its facts in JSON."""

from __future__ import annotations

import json
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
        print(json.dumps(place), flush=True)
        await end.ended
    finally:
        await network.stop()


if __name__ == "__main__":
    task.react(lambda _: ensureDeferred(serve(reactor)))
