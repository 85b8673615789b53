"""A SOCKS server over a running tor, with a control connection of its own.

    python examples/embed.py [CONTROL [LISTEN]]

CONTROL is tor's control port, as an endpoint of Twisted. LISTEN is where clients connect, followed
by the flags of the listener.
"""

import sys
from typing import Any

from twisted.internet import defer, endpoints, task

from torsocks_tx import RunningTorProvider, TorBackend, serve


async def main(
    reactor: Any,
    control: str = "unix:/run/tor/control",
    listen: str = "tcp:1080:interface=127.0.0.1 IsolateDestAddr",
) -> None:
    """Serve until interrupted; if tor is restarted, go on when it is back."""
    tor = RunningTorProvider(reactor, endpoints.clientFromString(reactor, control))
    await tor.start()
    server = serve(reactor, listen, TorBackend(reactor, tor))
    # Clients that are still there get five seconds to finish.
    reactor.addSystemEventTrigger("before", "shutdown", server.shutdown)
    print(f"SOCKS at {server}", flush=True)
    await defer.Deferred()


task.react(main, sys.argv[1:])
