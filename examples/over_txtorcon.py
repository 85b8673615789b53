"""An application that uses tor by txtorcon, and serves SOCKS clients over it: in two lines.

    python examples/over_txtorcon.py [CONTROL [LISTEN]]

CONTROL is tor's control port and LISTEN where clients connect, as endpoints of Twisted.
"""

import sys
from typing import Any

import txtorcon
from twisted.internet import defer, endpoints, task

from torsocks_tx import SOCKSFactory, TorBackend


async def main(
    reactor: Any,
    control: str = "unix:/run/tor/control",
    listen: str = "tcp:1080:interface=127.0.0.1",
) -> None:
    """Serve until interrupted."""
    # The application has its own connection to tor.
    tor = await txtorcon.connect(reactor, endpoints.clientFromString(reactor, control))
    print(f"connected to tor {tor.version}", flush=True)

    # The two lines. They change neither tor's configuration nor the control connection.
    factory = SOCKSFactory(TorBackend.from_tor(reactor, tor))
    port = await endpoints.serverFromString(reactor, listen).listen(factory)

    print(f"SOCKS at {port.getHost().host}:{port.getHost().port}", flush=True)
    await defer.Deferred()


task.react(main, sys.argv[1:])
