"""Outward connections of a transport: source addresses, and proxies over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from tests.support.ground import Ground
from tests.support.peers import Peer, PeerFactory, talk
from tests.support.tables import at, table
from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.client.failures import destination_failed
from torsocks_tx.errors import (
    ConnectionRefused,
    GeneralFailure,
    InvalidBridge,
    ProxyUnreachable,
    SOCKSError,
)
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.pt.spec import ProxyKind, UpstreamProxy
from torsocks_tx.pt.transport import Dialer
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks.constants import Version
from torsocks_tx.socks.messages import Address, Credentials, Request

PLACE = at("192.0.2.1", 4000)
SOURCES = table(
    ("none", {}, "192.0.2.1", None),
    ("IPv4", {"bind_v4": "203.0.113.4"}, "192.0.2.1", ("203.0.113.4", 0)),
    ("IPv4 for IPv6", {"bind_v4": "203.0.113.4"}, "2001:db8::1", None),
    ("IPv6", {"bind_v6": "2001:db8::4"}, "2001:db8::1", ("2001:db8::4", 0)),
    ("IPv6 for IPv4", {"bind_v6": "2001:db8::4"}, "192.0.2.1", None),
    ("not for loopback", {"bind_v4": "203.0.113.4"}, "127.0.0.2", None),
    ("nor for that of IPv6", {"bind_v6": "2001:db8::4"}, "::1", None),
)


@pytest.mark.parametrize(("binds", "host", "source"), SOURCES)
def test_connection_leaves_from_the_source_address_of_its_family(
    binds: dict[str, str], host: str, source: Any
) -> None:
    memory = MemoryReactorClock()
    Dialer(memory, **binds).endpoint(at(host, 4000)).connect(PeerFactory())  # type: ignore[arg-type]
    [client] = memory.tcpClients
    assert (client[0], client[1], client[4]) == (host, 4000, source)


def test_connection_to_a_proxy_leaves_from_the_source_address() -> None:
    memory = MemoryReactorClock()
    proxy = UpstreamProxy(ProxyKind.HTTP, at("198.51.100.7", 3128))
    dialer = Dialer(memory, proxy=proxy, bind_v4="203.0.113.4")
    for host in ("192.0.2.1", "127.0.0.1", "2001:db8::1", "front.example.com"):
        dialer.endpoint(at(host, 443)).connect(PeerFactory())
    for client in memory.tcpClients:
        assert (client[0], client[1], client[4]) == ("198.51.100.7", 3128, ("203.0.113.4", 0))
    assert len(memory.tcpClients) == 4


@pytest.mark.parametrize("kind", [None, *ProxyKind])
@pytest.mark.parametrize(
    "host", ["", "a b", "a:443 HTTP/1.1\r\nX: y", "a\0b", "b\u00fccher.example", "x" * 256]
)
def test_invalid_host_name_is_refused(kind: ProxyKind | None, host: str) -> None:
    """A host name may come from a bridge line: it must not add headers to a proxy's request."""
    proxy = None if kind is None else UpstreamProxy(kind, at("198.51.100.7", 3128))
    dialer = Dialer(MemoryReactorClock(), proxy=proxy)
    with pytest.raises(InvalidBridge, match="invalid host name"):
        dialer.endpoint(at(host, 443))


@pytest.mark.parametrize("bind", [None, "127.0.0.1"])
async def test_name_without_a_proxy_is_looked_up_here(ground: Ground, bind: str | None) -> None:
    """A transport may connect to a host that it knows by name."""
    _, port = ground.address(await ground.listen(PeerFactory()))
    dialer = Dialer(reactor, bind_v4=bind)
    client = await ground.connect(dialer.endpoint(at("localhost", int(port))))
    assert client.transport.getPeer().port == int(port)


class Proxy(SOCKSFactory):
    """A proxy that connects every request to one origin."""

    def __init__(self, origin: Any, refusal: SOCKSError | None = None) -> None:
        self.requests: list[Request] = []

        def choose(request: Request, isolation: Isolation) -> Any:
            self.requests.append(request)
            if refusal is not None:
                raise refusal
            return origin

        super().__init__(EndpointBackend(reactor, choose))


async def through(
    ground: Ground, kind: ProxyKind, endpoint: Any, to: Address, who: Credentials | None = None
) -> Peer:
    """Connect to a place through a proxy of this kind."""
    host, port = ground.address(endpoint)
    dialer = Dialer(reactor, proxy=UpstreamProxy(kind, at(str(host), int(port)), who))
    return await ground.connect(dialer.endpoint(to))


KINDS = {
    ProxyKind.SOCKS5: (Version.SOCKS5, Credentials(b"me", b"you"), ConnectionRefused),
    ProxyKind.SOCKS4A: (Version.SOCKS4, Credentials(b"me"), GeneralFailure),
    ProxyKind.HTTP: (Version.HTTP, Credentials(b"me", b"you"), ConnectionRefused),
}
"""What is spoken with each kind of proxy, who asks, and what its refusal of a port means."""


@pytest.mark.parametrize("kind", ProxyKind)
@pytest.mark.parametrize(
    ("has_login", "to"),
    table(
        ("IPv4", False, PLACE),
        ("IPv6", False, at("2001:db8::1", 4000)),
        ("a name", False, at("front.example.com", 443)),
        ("with a login", True, PLACE),
    ),
)
async def test_stream_through_a_proxy(
    ground: Ground, kind: ProxyKind, has_login: bool, to: Address
) -> None:
    version, login, _ = KINDS[kind]
    origin = PeerFactory()
    proxy = Proxy(await ground.listen(origin))
    who = login if has_login else None
    client = await through(ground, kind, await ground.listen(proxy), to, who)
    [request] = proxy.requests
    assert (request.version, request.address.literal()) == (version, to)
    if has_login:
        assert request.credentials == login
    far = await origin.peer()
    await talk(client, far)
    far.shut()
    await client.until(lambda: client.eof)
    client.send(b"more")
    client.shut()
    assert await far.take_rest() == b"more"


@pytest.mark.parametrize("kind", ProxyKind)
async def test_refusal_of_a_proxy_keeps_its_meaning(ground: Ground, kind: ProxyKind) -> None:
    endpoint = await ground.listen(Proxy(None, ConnectionRefused("no")))
    with pytest.raises(SOCKSError) as caught:
        await through(ground, kind, endpoint, PLACE)
    assert type(destination_failed(Failure(caught.value))) is KINDS[kind][2]


async def test_nothing_goes_around_a_proxy_that_is_gone(ground: Ground) -> None:
    origin = PeerFactory()
    host, port = ground.address(await ground.listen(origin))
    gone = await ground.listen(PeerFactory())
    await ground.stop_listening()
    for kind in ProxyKind:
        with pytest.raises(ProxyUnreachable):
            await through(ground, kind, gone, at(str(host), int(port)))
    assert origin.peers == []
