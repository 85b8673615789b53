"""Our client through our server, and directly to real tor: which circuits tor uses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, clientFromString

from tests.network.asking import DEADLINE, serving
from tests.support.fakes import connected
from tests.support.peers import PeerFactory
from tests.support.rows import rows
from torsocks_tx import ClientOptions, Credentials, SOCKSError, resolve, resolve_ptr
from torsocks_tx.errors import HostUnreachable, NotIsolated
from torsocks_tx.testing.tornet import PrivateNetwork

pytestmark = pytest.mark.network

PAGE = b"GET / HTTP/1.0\r\n\r\n"
LONG = b"0123456789" * 6000

Proxy = TCP4ClientEndpoint | UNIXClientEndpoint


@pytest_twisted.async_yield_fixture
async def ours(private_network: PrivateNetwork) -> AsyncIterator[Proxy]:
    """Our server in front of the network's tor."""
    async with serving(private_network.client) as server:
        host, _, port = server.listen().partition(":")
        yield TCP4ClientEndpoint(reactor, host, int(port))


async def circuit_of(network: PrivateNetwork, proxy: Proxy, options: ClientOptions) -> int:
    """Fetch a page; return the circuit that tor chose for it."""
    watch = await network.client.watch_streams()
    peer = await connected(proxy, "web.test", network.web.port, options, DEADLINE)
    peer.send(PAGE)
    assert b"origin" in await peer.take_rest()
    peer.reset()
    (event,) = await watch.wait_for("SUCCEEDED", f"web.test:{network.web.port}")
    await watch.close()
    return event.circuit_id


def isolated(token: bytes, **more: Any) -> ClientOptions:
    return ClientOptions(isolation=token, **more)


PAIRS_OF_WISHES = [
    ("the same", isolated(b"a"), isolated(b"a"), True),
    ("others", isolated(b"a"), isolated(b"b"), False),
    ("long ones", isolated(LONG), isolated(LONG), True),
    ("long ones that end otherwise", isolated(LONG), isolated(LONG + b"x"), False),
    ("some and none", isolated(b"a"), ClientOptions(), False),
    ("by 97 and by 02", isolated(b"a"), isolated(b"a", extended=False), False),
    ("by 02", isolated(b"a", extended=False), isolated(b"b", extended=False), False),
    ("by SOCKS4", isolated(b"a", version=4), isolated(b"b", version=4), False),
    ("by SOCKS4, the same", isolated(b"a", version=4), isolated(b"a", version=4), True),
    ("by HTTP", isolated(b"a", protocol="http"), isolated(b"b", protocol="http"), False),
    ("by HTTP, the same", isolated(b"a", protocol="http"), isolated(b"a", protocol="http"), True),
]


@rows("P-01", "P-03", "P-05", "P-17", "S-17", "S-23", "H-08")
@pytest.mark.parametrize(
    ("one", "other", "together"),
    [wishes[1:] for wishes in PAIRS_OF_WISHES],
    ids=[wishes[0] for wishes in PAIRS_OF_WISHES],
)
async def test_isolation_gives_each_identity_its_own_circuit(
    private_network: PrivateNetwork,
    ours: Proxy,
    one: ClientOptions,
    other: ClientOptions,
    together: bool,
) -> None:
    first = await circuit_of(private_network, ours, one)
    second = await circuit_of(private_network, ours, other)
    assert (first == second) is together


def straight(network: PrivateNetwork, place: str) -> Proxy:
    """Return one of tor's own SocksPorts."""
    if place == "unix":
        return UNIXClientEndpoint(reactor, network.client.socks_unix)
    return TCP4ClientEndpoint(reactor, *network.client.socks_tcp)


@rows("R-34", "P-35", "S-23")
@pytest.mark.parametrize("place", ["tcp", "unix"])
async def test_client_connects_to_the_socks_port_of_tor(
    private_network: PrivateNetwork, place: str
) -> None:
    """C Tor ignores the offer of 97: isolation goes by user name and password."""
    proxy = straight(private_network, place)
    circuits = [
        await circuit_of(private_network, proxy, options)
        for options in (
            isolated(b"a"),
            isolated(b"a"),
            isolated(b"b"),
            isolated(b"a", version=4),
            ClientOptions(credentials=Credentials(b"me", b"you"), optimistic=True),
        )
    ]
    assert circuits[0] == circuits[1]
    assert len(set(circuits)) == 4


@rows("H-20")
async def test_client_goes_through_the_http_port_of_tor(private_network: PrivateNetwork) -> None:
    tor = await private_network.add_client(["HTTPTunnelPort 127.0.0.1:auto"])
    control = await tor.node.control()
    host, _, port = (await control.get_info("net/listeners/httptunnel")).strip('"').partition(":")
    proxy = TCP4ClientEndpoint(reactor, host, int(port))
    login = ClientOptions(protocol="http", credentials=Credentials(b"tor-iso", b"a"))
    peer = await connected(proxy, "web.test", private_network.web.port, login, DEADLINE)
    peer.send(PAGE)
    assert b"origin" in await peer.take_rest()
    peer.reset()
    # It announces no header, and of a failure it says tor's own reason.
    for options, kind in (isolated(b"a", protocol="http"), NotIsolated), (login, HostUnreachable):
        with pytest.raises(SOCKSError) as caught:
            await connected(proxy, "nx.test", 80, options, DEADLINE)
        assert type(caught.value) is kind


@rows("S-24", "S-26", "S-27", "S-30")
@pytest.mark.parametrize("through", ["ours", "tor"])
async def test_client_resolves_names_and_addresses(
    private_network: PrivateNetwork, ours: Proxy, through: str
) -> None:
    proxy = ours if through == "ours" else straight(private_network, "tcp")
    for options in (ClientOptions(), isolated(b"a"), ClientOptions(version=4)):
        assert await resolve(reactor, proxy, "doc.test", options) == "203.0.113.9"
    name = await resolve_ptr(reactor, proxy, "203.0.113.9")
    assert name == "doc.test"
    with pytest.raises(SOCKSError) as caught:
        await resolve(reactor, proxy, "nx.test")
    assert type(caught.value) is HostUnreachable


async def test_endpoint_string_connects(private_network: PrivateNetwork) -> None:
    host, port = private_network.client.socks_tcp
    text = f"socks:web.test:{private_network.web.port}:socksHost={host}:socksPort={port}"
    endpoint = clientFromString(reactor, f"{text}:isolation=alice")
    peer: Any = await endpoint.connect(PeerFactory()).addTimeout(DEADLINE, reactor)
    peer.send(PAGE)
    assert b"origin" in await peer.take_rest()
    peer.reset()
