"""A SOCKS server over tor for users with passwords, checked by ``twisted.cred``.

    python examples/with_passwords.py PASSWORDS [SOCKSPORT [LISTEN]]

PASSWORDS is a file with a line ``name:password`` for each user. SOCKSPORT is tor's, as an endpoint
of Twisted; LISTEN is where clients connect.
"""

import sys
from typing import Any

from twisted.internet import defer, endpoints, task

from torsocks_tx import CredAuthenticator, FixedTorProvider, PasswordFile, TorBackend, serve


async def main(
    reactor: Any,
    passwords: str,
    socks_port: str = "tcp:127.0.0.1:9050",
    listen: str = "tcp:1080:interface=127.0.0.1",
) -> None:
    """Serve until interrupted."""
    # A tor whose SocksPort is known, without a control port.
    tor = FixedTorProvider(endpoints.clientFromString(reactor, socks_port))
    await tor.start()
    # Any checkers of user names and passwords may be given. Streams of different users never share
    # a circuit, and tor gets neither names nor passwords.
    users = CredAuthenticator([PasswordFile(passwords)])
    server = serve(reactor, listen, TorBackend(reactor, tor), authenticator=users)
    reactor.addSystemEventTrigger("before", "shutdown", server.shutdown)
    print(f"SOCKS at {server}", flush=True)
    await defer.Deferred()


if len(sys.argv) < 2:
    raise SystemExit(f"{sys.argv[0]}: give a file with a line name:password for each user")
task.react(main, sys.argv[1:])
