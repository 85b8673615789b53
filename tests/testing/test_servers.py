"""The servers of the private network, reached directly over loopback, and its reserved ports."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.names import dns

from tests.support.clients import IPV6
from tests.support.peers import Peer, PeerFactory
from torsocks_tx.testing.tornet import servers
from torsocks_tx.testing.tornet.node import NetworkError
from torsocks_tx.testing.tornet.servers import (
    BANNER,
    EXIT_NAME,
    LOOPBACK,
    Asked,
    NameServer,
    Origin,
    PortReservations,
    banner_origin,
    echo_origin,
    has_ipv6_loopback,
    web_origin,
)
from torsocks_tx.testing.tornet.torrc import Exit, make_exits

MEBIBYTE = 2**20


async def connect(port: int, sent: bytes, endpoint: type = TCP4ClientEndpoint) -> Peer:
    host = "127.0.0.1" if endpoint is TCP4ClientEndpoint else "::1"
    peer: Peer = await endpoint(reactor, host, port).connect(PeerFactory())
    peer.send(sent)
    return peer


async def converse(port: int, sent: bytes, endpoint: type = TCP4ClientEndpoint) -> bytes:
    """Send all, then our FIN; return what came back until theirs."""
    peer = await connect(port, sent, endpoint)
    peer.shut()
    return await peer.take_rest()


async def fetch(port: int, request: str, endpoint: type = TCP4ClientEndpoint) -> tuple[int, bytes]:
    """Return the status and the body."""
    peer = await connect(port, request.encode(), endpoint)
    answer = await peer.take_rest()
    peer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture
def origin(request: pytest.FixtureRequest) -> Iterator[Origin]:
    """Give a running server of the kind that a test asks for, by default the web server."""
    origin: Origin = getattr(request, "param", web_origin)()
    assert origin.start(reactor) == origin.port
    yield origin
    pytest_twisted.blockon(origin.stop())


@pytest.mark.clients(IPV6)
@pytest.mark.parametrize("origin", [web_origin, echo_origin, banner_origin], indirect=True)
async def test_origin_has_one_port_for_both_families_and_records_connections(
    origin: Origin,
) -> None:
    for endpoint in (TCP4ClientEndpoint, TCP6ClientEndpoint):
        await converse(origin.port, b"GET / HTTP/1.0\r\n\r\n", endpoint)
    assert [host for host, _ in origin.peers] == ["127.0.0.1", "::1"]
    await origin.stop()
    with pytest.raises(ConnectError):
        await converse(origin.port, b"")


def test_origin_that_cannot_listen_everywhere_says_where() -> None:
    origin = echo_origin([Exit("exit0", "aa", "192.0.2.1")])  # no address of this machine
    with pytest.raises(NetworkError, match=r"no port at every address: .*192\.0\.2\.1"):
        origin.start(reactor)


async def test_origin_says_by_which_exit_a_connection_came() -> None:
    exits = make_exits({"aa": 1, "bb": 1})
    origin = web_origin(exits.values())
    origin.start(reactor)
    pages = []
    for host in ("127.0.0.11", "127.0.0.1", "127.0.0.10"):
        peer: Peer = await TCP4ClientEndpoint(reactor, host, origin.port).connect(PeerFactory())
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        pages.append(await peer.take_rest())
        peer.close()
    assert origin.exits == ["exit1", "", "exit0"]
    assert len(origin.peers) == 3
    found = [re.findall(rb"You came by (\w+), in the country (\w+)", page) for page in pages]
    assert found == [[(b"exit1", b"bb")], [], [(b"exit0", b"aa")]]
    await origin.stop()


@pytest.mark.clients(IPV6)
async def test_front_page_names_the_address_family(origin: Origin) -> None:
    status, page = await fetch(origin.port, "GET / HTTP/1.0\r\n\r\n")
    assert status == 200
    assert b"This is the IPv4 origin" in page
    _, page = await fetch(origin.port, "GET / HTTP/1.0\r\n\r\n", TCP6ClientEndpoint)
    assert b"This is the IPv6 origin" in page


@pytest.mark.parametrize("length", [0, 1, 65536, 65537, 5 * MEBIBYTE])
async def test_body_has_the_length_that_is_asked_for(origin: Origin, length: int) -> None:
    status, body = await fetch(origin.port, f"GET /bytes/{length} HTTP/1.0\r\n\r\n")
    assert status == 200
    assert body == b"x" * length


async def test_client_may_abort_a_long_body(origin: Origin) -> None:
    peer = await connect(origin.port, b"GET /bytes/1073741824 HTTP/1.0\r\n\r\n")
    peer.reset()
    await peer.until(lambda: peer.over)
    assert (await fetch(origin.port, "GET / HTTP/1.0\r\n\r\n"))[0] == 200


@pytest.mark.parametrize("path", ["/bytes/x", "/bytes/-1", "/bytes/1073741825", "/bytes/", "/no"])
async def test_other_pages_are_not_found(origin: Origin, path: str) -> None:
    status, _ = await fetch(origin.port, f"GET {path} HTTP/1.0\r\n\r\n")
    assert status == 404


async def test_posted_body_is_echoed(origin: Origin) -> None:
    body = "0123456789" * 50_000
    request = f"POST /echo HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    assert await fetch(origin.port, request) == (200, body.encode())


@pytest.mark.parametrize("origin", [echo_origin], indirect=True)
async def test_echo_is_complete_after_our_fin(origin: Origin) -> None:
    sent = bytes(range(256)) * 20_000
    assert await converse(origin.port, sent) == sent


@pytest.mark.parametrize("origin", [banner_origin], indirect=True)
async def test_banner_is_sent_first(origin: Origin) -> None:
    assert await converse(origin.port, b"") == BANNER
    assert await converse(origin.port, b"hello") == BANNER + b"hello"


Ask = Callable[..., Awaitable[dns.Message]]


@pytest_twisted.async_yield_fixture
async def ask() -> AsyncIterator[Ask]:
    """Ask name servers on loopback, from one port that the system gives.

    ``client.Resolver`` draws the number of its port for each query, and leaves a socket open where
    that port is taken, or below 1024.
    """
    client = dns.DNSDatagramProtocol(None, reactor)
    client.noisy = False
    port: Any = reactor.listenUDP(0, client, interface=LOOPBACK)

    async def ask(server: int, name: str, kind: int = dns.A) -> dns.Message:
        query = dns.Query(name.encode(), kind, dns.IN)
        answer: dns.Message = await client.query((LOOPBACK, server), [query], 20)
        return answer

    yield ask
    await port.stopListening()


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[tuple[NameServer, int]]:
    server = NameServer()
    yield server, server.start(reactor)
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
async def test_addresses_of_a_name_are_answered(
    server: tuple[NameServer, int], ask: Ask, name: str, kind: int, answers: list[str]
) -> None:
    names, port = server
    found = (await ask(port, name, kind)).answers
    family = {dns.A: socket.AF_INET, dns.AAAA: socket.AF_INET6}[kind]
    assert [socket.inet_ntop(family, record.payload.address) for record in found] == answers
    assert [record.name.name for record in found] == [name.encode()] * len(answers)
    assert names.asked == [Asked(name.lower(), {dns.A: "A", dns.AAAA: "AAAA"}[kind])]


async def test_name_of_an_address_is_answered_and_an_unknown_one_is_not(
    server: tuple[NameServer, int], ask: Ask
) -> None:
    names, port = server
    for address, name in (("203.0.113.9", b"doc.test"), ("2001:db8::9", b"doc6.test")):
        pointer = ip_address(address).reverse_pointer
        found = (await ask(port, pointer, dns.PTR)).answers
        assert [record.payload.name.name for record in found] == [name]
        assert names.asked.pop() == Asked(pointer, "PTR")
    assert (await ask(port, "no.test")).rCode == dns.ENAME
    assert names.asked == [Asked("no.test", "A")]


async def test_each_exit_has_an_address_of_its_own_for_one_name(ask: Ask) -> None:
    server = NameServer()
    answers = []
    for exit in make_exits({"aa": 1, "bb": 1}).values():
        port = server.start(reactor, exit)
        for name in (EXIT_NAME, f"1.{EXIT_NAME}", "web.test"):
            [record] = (await ask(port, name)).answers
            answers.append(record.payload.dottedQuad())
        assert (await ask(port, f"x{EXIT_NAME}")).rCode == dns.ENAME
    own, other = ["127.0.0.10"] * 2, ["127.0.0.11"] * 2
    assert answers == [*own, "127.0.0.1", *other, "127.0.0.1"]
    assert Asked(EXIT_NAME, "A", "exit1") in server.asked
    assert {asked.exit for asked in server.asked} == {"exit0", "exit1"}
    await server.stop()


def test_given_table_replaces_the_default() -> None:
    names = NameServer({"mine.test": ["192.0.2.1"]}, {"192.0.2.1": "mine.test"})
    assert names.table == {"mine.test": ["192.0.2.1"]}
    assert names.pointers == {"192.0.2.1": "mine.test"}


def listen(port: int, *, reuse: bool) -> socket.socket:
    listener = socket.socket()
    try:
        if reuse:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def test_reserved_port_is_free_for_a_daemon_that_reuses_addresses() -> None:
    reservations = PortReservations()
    port = reservations.take()
    with pytest.raises(OSError, match="in use"):
        listen(port, reuse=False)
    for _ in range(2):  # the second time is a daemon that was started again
        with (
            closing(listen(port, reuse=True)) as listener,
            closing(socket.create_connection((LOOPBACK, port))) as client,
        ):
            accepted, _ = listener.accept()
            accepted.close()
            assert client.recv(1) == b""
    reservations.release()
    reservations.release()
    with closing(listen(port, reuse=True)):
        pass


def test_reserved_ports_are_all_different_and_refuse_without_a_listener() -> None:
    reservations = PortReservations()
    taken = [reservations.take() for _ in range(100)]
    assert len(set(taken)) == 100
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, taken[0]))
    reservations.release()


def test_machine_without_ipv6_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LOOPBACK6", "2001:db8::1")
    assert not has_ipv6_loopback()
