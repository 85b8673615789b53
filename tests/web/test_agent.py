"""An agent of twisted.web in front of our server, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.web.client import HTTPConnectionPool, readBody
from twisted.web.error import SchemeNotSupported

from torsocks_tx import ClientOptions, EndpointBackend, ProxyFault, SOCKSError, SOCKSFactory
from torsocks_tx.errors import DescriptorNotFound
from torsocks_tx.testing.tornet.servers import web_origin
from torsocks_tx.web import socks_agent

# Twisted's own: the transport of a response has no such method (its ticket 8227).
pytestmark = pytest.mark.filterwarnings("ignore:Using readBody:DeprecationWarning")


class Proxy:
    """A SOCKS server whose every destination is one web server; it notes what it was asked."""

    endpoint: TCP4ClientEndpoint

    def __init__(self) -> None:
        self.origin = web_origin()
        self.asked: list[tuple[str, int, bytes]] = []
        self.refuse = False

    async def start(self) -> TCP4ClientEndpoint:
        self.web = self.origin.start(reactor)
        factory = SOCKSFactory(EndpointBackend(reactor, self.choose))
        self.factory = factory
        self.port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)

    def choose(self, request: Any, isolation: Any) -> TCP4ClientEndpoint:
        self.asked.append(
            (request.address.host, request.address.port, isolation.credentials.password)
        )
        if self.refuse:
            raise DescriptorNotFound("as the test wants it")
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.web)

    async def stop(self) -> None:
        await maybeDeferred(self.port.stopListening)
        await self.factory.when_empty()
        await self.origin.stop()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    made.endpoint = pytest_twisted.blockon(Deferred.fromCoroutine(made.start()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


async def get(agent: Any, uri: bytes) -> bytes:
    response = await agent.request(b"GET", uri)
    body: bytes = await readBody(response)
    return body


async def test_a_page_arrives_by_name_ipv4_and_ipv6(proxy: Proxy) -> None:
    agent = socks_agent(reactor, proxy.endpoint)
    for host in ("example.com", "192.0.2.1", "[2001:db8::1]"):
        assert await get(agent, f"http://{host}:8080/bytes/5".encode()) != b""
    assert [asked[:2] for asked in proxy.asked] == [
        ("example.com", 8080),
        ("192.0.2.1", 8080),
        ("2001:db8::1", 8080),
    ]


async def test_two_identities_never_share_a_connection_of_one_pool(proxy: Proxy) -> None:
    pool = HTTPConnectionPool(reactor)
    alice, bob = (
        socks_agent(reactor, proxy.endpoint, isolation=who, pool=pool) for who in (b"a", b"b")
    )
    for agent in (alice, bob, alice, bob):
        await get(agent, b"http://example.com/bytes/5")
    assert len(proxy.asked) == 2
    assert len({password for *_, password in proxy.asked}) == 2
    await pool.closeCachedConnections()


@pytest.mark.parametrize("optimistic", [False, True])
async def test_a_refusal_is_the_socks_error_itself(proxy: Proxy, optimistic: bool) -> None:
    proxy.refuse = True
    agent = socks_agent(reactor, proxy.endpoint, options=ClientOptions(optimistic=optimistic))
    with pytest.raises(SOCKSError) as caught:
        await agent.request(b"GET", b"http://example.com/")
    assert caught.value.reply == 4


async def test_other_schemes_are_refused(proxy: Proxy) -> None:
    with pytest.raises(SchemeNotSupported):
        await socks_agent(reactor, proxy.endpoint).request(b"GET", b"ftp://example.com/")


async def test_a_proxy_that_is_gone_is_a_fault_of_the_proxy(proxy: Proxy) -> None:
    await proxy.port.stopListening()
    with pytest.raises(ProxyFault):
        await socks_agent(reactor, proxy.endpoint).request(b"GET", b"http://example.com/")
