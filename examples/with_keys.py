"""A SOCKS server whose clients choose a country, by a key of extended authentication (0x97).

    python examples/with_keys.py DE=SOCKSPORT [FR=SOCKSPORT ...]

Each SOCKSPORT is that of a tor whose exits are in this country. A client that asks for a country
that is not served is refused with the list of those that are.
"""

import sys
from typing import Any

from twisted.internet import defer, endpoints, interfaces, task

from torsocks_tx import (
    ClientOptions,
    EndpointBackend,
    Isolation,
    KeyValues,
    Request,
    SOCKSClientEndpoint,
    serve,
)
from torsocks_tx.errors import InvalidArguments

COUNTRY = "X-example.country"


async def main(reactor: Any, *countries: str) -> None:
    """Serve until interrupted."""
    tors = {
        name: endpoints.clientFromString(reactor, text)
        for name, _, text in (country.partition("=") for country in countries)
    }

    def check(pairs: KeyValues) -> KeyValues:
        # Called when a client sends the key; what it returns goes into the answer.
        if (pairs.get(COUNTRY) or b"").decode("latin-1") not in tors:
            served = ",".join(tors).encode()
            raise InvalidArguments("no such country", KeyValues.of({"X-example.countries": served}))
        return KeyValues()

    def choose(request: Request, isolation: Isolation) -> interfaces.IStreamClientEndpoint:
        country = request.pairs.get(COUNTRY)
        tor = tors[country.decode()] if country else next(iter(tors.values()))
        # Streams with different credentials must not share a circuit: hand them on to tor.
        options = ClientOptions(credentials=isolation.credentials)
        address = request.address
        return SOCKSClientEndpoint(reactor, tor, address.host, address.port, options)

    backend = EndpointBackend(reactor, choose)
    server = serve(reactor, "tcp:0:interface=127.0.0.1", backend, keys={COUNTRY: check})
    reactor.addSystemEventTrigger("before", "shutdown", server.shutdown)
    print(f"SOCKS at {server}", flush=True)
    await defer.Deferred()


if len(sys.argv) < 2:
    raise SystemExit(f"{sys.argv[0]}: give COUNTRY=SOCKSPORT, once or more")
task.react(main, sys.argv[1:])
