"""A SOCKS server over a running tor, in ten lines of Twisted.

    python examples/embed.py [CONTROL [LISTEN]]

CONTROL is tor's control port and LISTEN where clients connect, as endpoints of Twisted.
"""

import sys
from typing import Any

from twisted.internet import defer, endpoints, task

from torsocks_tx import RunningTorProvider, SOCKSFactory, TorBackend


async def main(
    reactor: Any,
    control: str = "unix:/run/tor/control",
    listen: str = "tcp:1080:interface=127.0.0.1",
) -> None:
    """Serve until interrupted; if tor is restarted, go on when it is back."""
    tor = RunningTorProvider(reactor, endpoints.clientFromString(reactor, control))
    await tor.start()
    factory = SOCKSFactory(TorBackend(reactor, tor))
    port = await endpoints.serverFromString(reactor, listen).listen(factory)
    print(f"SOCKS at {port.getHost().host}:{port.getHost().port}", flush=True)
    await defer.Deferred()


task.react(main, sys.argv[1:])
