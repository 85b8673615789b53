"""The name server, asked over UDP as the exits do."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.names import client, dns
from twisted.names.error import DNSNameError

from torsocks_tx.testing.tornet.servers import Asked, NameServer


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[tuple[NameServer, client.Resolver]]:
    server = NameServer()
    resolver = client.Resolver(servers=[("127.0.0.1", server.start(reactor))], timeout=(5,))
    resolver.noisy = False
    yield server, resolver
    await server.stop()
    await server.stop()


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        ("web.test", dns.A, ["127.0.0.1"]),
        ("WEB.tESt", dns.A, ["127.0.0.1"]),
        ("web.test", dns.AAAA, []),
        ("web6.test", dns.AAAA, ["::1"]),
        ("both.test", dns.A, ["127.0.0.1"]),
        ("both.test", dns.AAAA, ["::1"]),
        ("doc.test", dns.A, ["203.0.113.9"]),
        ("doc6.test", dns.AAAA, ["2001:db8::9"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_addresses_of_a_name_are_answered(
    server: tuple[NameServer, client.Resolver], name: str, kind: int, answers: list[str]
) -> None:
    names, resolver = server
    found, _, _ = await resolver.query(dns.Query(name.encode(), kind, dns.IN))
    family = {dns.A: socket.AF_INET, dns.AAAA: socket.AF_INET6}[kind]
    assert [socket.inet_ntop(family, record.payload.address) for record in found] == answers
    assert [record.name.name for record in found] == [name.encode()] * len(answers)
    assert names.asked == [Asked(name.lower(), {dns.A: "A", dns.AAAA: "AAAA"}[kind])]


@pytest.mark.parametrize(
    ("address", "name"), [("203.0.113.9", b"doc.test"), ("2001:db8::9", b"doc6.test")]
)
@pytest_twisted.ensureDeferred
async def test_name_of_an_address_is_answered(
    server: tuple[NameServer, client.Resolver], address: str, name: bytes
) -> None:
    names, resolver = server
    pointer = ip_address(address).reverse_pointer
    found, _, _ = await resolver.query(dns.Query(pointer.encode(), dns.PTR, dns.IN))
    assert [record.payload.name.name for record in found] == [name]
    assert names.asked == [Asked(pointer, "PTR")]


@pytest_twisted.ensureDeferred
async def test_unknown_name_is_nxdomain(
    server: tuple[NameServer, client.Resolver],
) -> None:
    names, resolver = server
    with pytest.raises(DNSNameError):
        await resolver.query(dns.Query(b"no.test", dns.A, dns.IN))
    assert names.asked == [Asked("no.test", "A")]


def test_given_table_replaces_the_default() -> None:
    names = NameServer({"mine.test": ["192.0.2.1"]}, {"192.0.2.1": "mine.test"})
    assert names.table == {"mine.test": ["192.0.2.1"]}
    assert names.pointers == {"192.0.2.1": "mine.test"}
