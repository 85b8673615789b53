"""Waiting until a daemon knows every relay of the private network, and a client reaches each exit.

A tor that says "bootstrapped 100%" may lack a relay, or have one that cannot be used yet.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.client.endpoint import SOCKSClientEndpoint
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.messages import Credentials
from torsocks_tx.testing.tornet.client import Client
from torsocks_tx.testing.tornet.node import NetworkError, all_of

READY_DEADLINE = 90.0
"""Seconds; a relay that missed the first consensus is in the next one or the one after."""

_PAUSE = 0.2
_RELAY_LINE = "r "


async def wait_for_relays(reactor: Any, control: Control, count: int) -> dict[str, str]:
    """Return the fingerprints of all relays by name, once the daemon knows so many."""
    waiting = Deferred.fromCoroutine(_wait(control, count))
    return await waiting.addTimeout(READY_DEADLINE, reactor)


async def _wait(control: Control, count: int) -> dict[str, str]:
    news: Waiters[str] = Waiters()
    await control.listen("NEWCONSENSUS", news.fire)
    try:
        while True:
            changed = news.wait()  # before the question: news may come while it is answered
            relays = _fingerprints(await control.get_info("ns/all"))
            if len(relays) >= count:
                changed.addErrback(lambda _: None).cancel()
                return relays
            await changed
    finally:
        await control.unlisten("NEWCONSENSUS", news.fire)


def _fingerprints(statuses: str) -> dict[str, str]:
    lines = [line.split() for line in statuses.splitlines() if line.startswith(_RELAY_LINE)]
    return {name: base64.b64decode(f"{key}=").hex().upper() for _, name, key, *_ in lines}


async def reach_exits(
    reactor: Any, client: Client, exits: Mapping[str, str], host: str, port: int
) -> None:
    """Return once a stream to ``host`` has opened through each exit (fingerprints by name).

    Without exits: through any that tor picks. Raises ``NetworkError`` if that takes too long.
    """
    control = await client.node.control()
    # A mapping of tor's is the one way to name the exit of a stream (tor(1), MapAddress).
    aliases = {f"{name}.exit-check.invalid": key for name, key in exits.items()}
    mappings = [f"{alias}={host}.{key}.exit" for alias, key in aliases.items()]
    if mappings:
        await control.command(f"MAPADDRESS {' '.join(mappings)}")
    opening = all_of(_open(reactor, client, name, port) for name in aliases or [host])
    try:
        await Deferred.fromCoroutine(opening).addTimeout(READY_DEADLINE, reactor)
    except TimeoutError:
        raise NetworkError(f"{client.name} does not reach every exit") from None
    if mappings:
        await control.command(f"MAPADDRESS {' '.join(f'{alias}={alias}' for alias in aliases)}")


async def _open(reactor: Any, client: Client, host: str, port: int) -> None:
    # The credentials keep these circuits apart from those of everybody else.
    options = ClientOptions(credentials=Credentials(b"exit-check", host.encode("ascii")))
    proxy = UNIXClientEndpoint(reactor, client.socks_unix)
    endpoint = SOCKSClientEndpoint(reactor, proxy, host, port, options)
    while True:
        try:
            protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        except ConnectError:
            await deferLater(reactor, _PAUSE)
        else:
            protocol.transport.abortConnection()
            return
