"""An application that uses tor by txtorcon, and serves SOCKS clients over it.

    python examples/over_txtorcon.py [CONTROL [LISTEN]]

CONTROL is tor's control port, as an endpoint of Twisted; LISTEN is where clients connect.
"""

import sys
from typing import Any

import txtorcon
from twisted.internet import endpoints, task

from torsocks_tx import OnionObserver, TorBackend, serve


async def connect(reactor: Any, control: str) -> Any:
    """Return the application's own ``Tor``; try until there is one."""
    while True:
        try:
            return await txtorcon.connect(reactor, endpoints.clientFromString(reactor, control))
        except Exception as error:
            print(f"no tor at {control}: {error}", flush=True)
            await task.deferLater(reactor, 5, lambda: None)


async def main(
    reactor: Any,
    control: str = "unix:/run/tor/control",
    listen: str = "tcp:1080:interface=127.0.0.1",
) -> None:
    """Serve until interrupted; go on with another control connection when one is lost."""
    tor = await connect(reactor, control)
    # Say why onion services could not be reached.
    observer = OnionObserver(reactor, on_diagnosis=lambda _, found: print(found.words, flush=True))
    backend = TorBackend.from_tor(reactor, tor, onion_observer=observer)
    server = serve(reactor, listen, backend)
    reactor.addSystemEventTrigger("before", "shutdown", server.shutdown)
    print(f"SOCKS at {server}", flush=True)
    while True:
        await tor.protocol.when_disconnected().addErrback(lambda _: None)
        tor = await connect(reactor, control)
        backend.replace_tor(tor)


task.react(main, sys.argv[1:])
