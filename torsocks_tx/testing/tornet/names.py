"""A name server on loopback that knows a handful of names and remembers who was asked for.

The exits of the private network ask it, so what it was asked is what left the network as DNS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.names import dns, error, server

DOCUMENTATION_ADDRESS = "203.0.113.9"
"""An address that is nobody's (RFC 5737); clients of the network reach 127.0.0.1 by it."""

DOCUMENTATION_ADDRESS6 = "2001:db8::9"
"""An address that is nobody's (RFC 3849); clients of the network reach ::1 by it."""

DEFAULT_NAMES: Mapping[str, Sequence[str]] = {
    "web.test": ["127.0.0.1"],
    "web6.test": ["::1"],
    "both.test": ["127.0.0.1", "::1"],
    "doc.test": [DOCUMENTATION_ADDRESS],
    "doc6.test": [DOCUMENTATION_ADDRESS6],
    "docs.test": [DOCUMENTATION_ADDRESS, DOCUMENTATION_ADDRESS6],
}
"""What clients of the private network can ask for, if nothing else is given.

- ``web.test`` (IPv4), ``web6.test`` (IPv6), ``both.test``: an exit looks the name up and connects
  to 127.0.0.1 or ::1, where the servers are.
- ``203.0.113.9`` and ``2001:db8::9``: each client maps them (MapAddress) to 127.0.0.1 and ::1 and
  has an exit connect there. A RESOLVE of such an address gives the mapped one.
- ``doc.test``, ``doc6.test``, ``docs.test``: an exit answers a RESOLVE with those addresses, and a
  RESOLVE_PTR of them with the first two names. For clients that look a name up and then connect to
  the address. A CONNECT by such a name fails: the exits reach loopback only.
"""

DEFAULT_POINTERS: Mapping[str, str] = {
    DOCUMENTATION_ADDRESS: "doc.test",
    DOCUMENTATION_ADDRESS6: "doc6.test",
}

CHECK_NAME = "exit-check.test"
"""What the network itself asks for when it starts, at 127.0.0.1; never among ``asked``."""

TTL = 60


class Asked(NamedTuple):
    """One question that the name server was asked: the name in lower case, and A, AAAA or PTR."""

    name: str
    type: str


class NameServer:
    """Answers A, AAAA and PTR; anything that it does not know does not exist (NXDOMAIN).

    Args:
        names: the addresses, of both kinds, of each name.
        pointers: the name of each address.

    Attributes:
        asked: every question so far, oldest first; a test may clear it.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[str]] = DEFAULT_NAMES,
        pointers: Mapping[str, str] = DEFAULT_POINTERS,
    ) -> None:
        self.asked: list[Asked] = []
        self.table = {name: list(addresses) for name, addresses in names.items()}
        self.pointers = dict(pointers)
        self._records: dict[str, list[Any]] = {}
        for name, addresses in {**names, CHECK_NAME: ["127.0.0.1"]}.items():
            self._records[name.lower()] = [_address_record(text) for text in addresses]
        for address, name in pointers.items():
            pointer = ipaddress.ip_address(address).reverse_pointer
            self._records[pointer] = [dns.Record_PTR(name, ttl=TTL)]
        self._port: Any = None

    def start(self, reactor: Any) -> int:
        """Listen on 127.0.0.1; return the UDP port."""
        factory = server.DNSServerFactory(authorities=[self])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory, reactor=reactor)
        protocol.noisy = False
        self._port = reactor.listenUDP(0, protocol, interface="127.0.0.1")
        port: int = self._port.getHost().port
        return port

    def stop(self) -> Deferred[None]:
        """Stop listening."""
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)

    def query(self, query: dns.Query, timeout: object = None) -> Deferred[Any]:
        """Answer one question, as ``twisted.names`` asks an authority."""
        name = query.name.name.decode("ascii", "replace").lower()
        if name != CHECK_NAME:
            self.asked.append(Asked(name, dns.QUERY_TYPES.get(query.type, str(query.type))))
        if name not in self._records:
            return fail(error.DomainError(name))
        answers = [
            dns.RRHeader(query.name.name, record.TYPE, dns.IN, TTL, record, auth=True)
            for record in self._records[name]
            if query.type == record.TYPE
        ]
        return succeed((answers, [], []))


def _address_record(text: str) -> Any:
    if ipaddress.ip_address(text).version == 4:
        return dns.Record_A(text, ttl=TTL)
    return dns.Record_AAAA(text, ttl=TTL)
