"""An application that has a tor by txtorcon, and lets SOCKS clients use it too: in two lines.

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
    # What the application did before, in its own way.
    tor = await txtorcon.connect(reactor, endpoints.clientFromString(reactor, control))
    print(f"connected to tor {tor.version}", flush=True)

    # The two lines. Neither tor's configuration nor the control connection is changed by them.
    factory = SOCKSFactory(TorBackend.from_tor(reactor, tor))
    port = await endpoints.serverFromString(reactor, listen).listen(factory)

    print(f"SOCKS at {port.getHost().host}:{port.getHost().port}", flush=True)
    await defer.Deferred()


task.react(main, sys.argv[1:])
