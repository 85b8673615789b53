"""Outward connections of a transport: source addresses, and proxies over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from tests.support.ground import Ground
from tests.support.peers import Peer, PeerFactory, talk, turn
from tests.support.tables import at, table
from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.client.failures import destination_failed
from torsocks_tx.errors import (
    ConnectionRefused,
    GeneralFailure,
    HostUnreachable,
    InvalidBridge,
    LoginRequired,
    NotAllowed,
    ProxyBroken,
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
    """A SOCKS proxy that connects every request to one origin."""

    def __init__(self, origin: Any, refusal: SOCKSError | None = None, user: str = "") -> None:
        self.requests: list[Request] = []
        self.refusal = refusal

        def choose(request: Request, isolation: Isolation) -> Any:
            self.requests.append(request)
            if self.refusal is not None:
                raise self.refusal
            return origin

        super().__init__(EndpointBackend(reactor, choose))


async def through(
    ground: Ground, kind: ProxyKind, endpoint: Any, to: Address, who: Credentials | None = None
) -> Peer:
    """Connect to a place through a proxy of this kind."""
    host, port = ground.address(endpoint)
    dialer = Dialer(reactor, proxy=UpstreamProxy(kind, at(str(host), int(port)), who))
    return await ground.connect(dialer.endpoint(to))


@pytest.mark.parametrize(
    ("kind", "who", "to"),
    table(
        ("SOCKS5", ProxyKind.SOCKS5, None, PLACE),
        ("SOCKS5 to IPv6", ProxyKind.SOCKS5, None, at("2001:db8::1", 4000)),
        ("SOCKS5 to a name", ProxyKind.SOCKS5, None, at("front.example.com", 443)),
        ("SOCKS5 with a password", ProxyKind.SOCKS5, Credentials(b"me", b"you"), PLACE),
        ("SOCKS4a", ProxyKind.SOCKS4A, None, PLACE),
        ("SOCKS4a to IPv6", ProxyKind.SOCKS4A, None, at("2001:db8::1", 4000)),
        ("SOCKS4a to a name", ProxyKind.SOCKS4A, None, at("front.example.com", 443)),
        ("SOCKS4a with a user", ProxyKind.SOCKS4A, Credentials(b"me"), PLACE),
    ),
)
async def test_stream_through_a_socks_proxy(
    ground: Ground, kind: ProxyKind, who: Credentials | None, to: Address
) -> None:
    origin = PeerFactory()
    proxy = Proxy(await ground.listen(origin))
    client = await through(ground, kind, await ground.listen(proxy), to, who)
    [request] = proxy.requests
    assert request.address.literal() == to
    expected = Version.SOCKS5 if kind is ProxyKind.SOCKS5 else Version.SOCKS4
    assert request.version is expected
    if who is not None:
        assert request.credentials == who
    far = await origin.peer()
    await talk(client, far)
    far.shut()
    await client.until(lambda: client.eof)
    client.send(b"more")
    client.shut()
    assert await far.take_rest() == b"more"


async def test_refusal_of_a_socks_proxy_keeps_its_meaning(ground: Ground) -> None:
    endpoint = await ground.listen(Proxy(None, ConnectionRefused("no")))
    for kind, meaning in (
        (ProxyKind.SOCKS5, ConnectionRefused),
        (ProxyKind.SOCKS4A, GeneralFailure),
    ):
        with pytest.raises(SOCKSError) as caught:
            await through(ground, kind, endpoint, PLACE)
        assert type(destination_failed(Failure(caught.value))) is meaning


HEAD = b"CONNECT 192.0.2.1:4000 HTTP/1.1\r\nHost: 192.0.2.1:4000\r\n"


@pytest.mark.parametrize(
    ("who", "more"),
    [(None, b""), (Credentials(b"me", b"you"), b"Proxy-Authorization: Basic bWU6eW91\r\n")],
    ids=["nobody", "a user"],
)
async def test_stream_through_an_http_proxy(
    ground: Ground, who: Credentials | None, more: bytes
) -> None:
    proxy = PeerFactory()
    endpoint = await ground.listen(proxy)
    connecting = Deferred.fromCoroutine(through(ground, ProxyKind.HTTP, endpoint, PLACE, who))
    far = await proxy.peer()
    expected = HEAD + more + b"\r\n"
    assert await far.take(len(expected)) == expected
    far.send(b"HTTP/1.1 200 OK\r\n")
    await turn()
    far.send(b"\r\nearly")
    client = await connecting
    assert await client.take(5) == b"early"
    client.send(b"hello")
    assert await far.take(5) == b"hello"
    far.send(b"later")
    assert await client.take(5) == b"later"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", NotAllowed),
        (b"HTTP/1.1 407 Who\r\n\r\n", LoginRequired),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", HostUnreachable),
        (b"\5\0", ProxyBroken),
        (b"", ProxyBroken),
    ],
)
async def test_refusal_of_an_http_proxy_keeps_its_meaning(
    ground: Ground, answer: bytes, kind: type[SOCKSError]
) -> None:
    proxy = PeerFactory()
    connecting = Deferred.fromCoroutine(
        through(ground, ProxyKind.HTTP, await ground.listen(proxy), PLACE)
    )
    far = await proxy.peer()
    await far.take(len(HEAD) + 2)  # a close with unread bytes is a reset
    far.send(answer)
    far.close()
    with pytest.raises(SOCKSError) as caught:
        await connecting
    assert type(caught.value) is kind


async def test_nothing_goes_around_a_proxy_that_is_gone(ground: Ground) -> None:
    origin = PeerFactory()
    host, port = ground.address(await ground.listen(origin))
    gone = await ground.listen(PeerFactory())
    await ground.stop_listening()
    for kind in ProxyKind:
        with pytest.raises(ProxyUnreachable):
            await through(ground, kind, gone, at(str(host), int(port)))
    assert origin.peers == []
