"""An agent of twisted.web in front of our server, over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor
from twisted.web.client import HTTPConnectionPool, readBody
from twisted.web.error import SchemeNotSupported

from tests.web.conftest import Proxy
from torsocks_tx import ClientOptions, ProxyFault, SOCKSError
from torsocks_tx.errors import DescriptorNotFound
from torsocks_tx.web import socks_agent

# Twisted's own: the transport of a response has no such method (its ticket 8227).
pytestmark = pytest.mark.filterwarnings("ignore:Using readBody:DeprecationWarning")


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
    proxy.refusal = DescriptorNotFound("as the test wants it")
    agent = socks_agent(reactor, proxy.endpoint, options=ClientOptions(optimistic=optimistic))
    with pytest.raises(SOCKSError) as caught:
        await agent.request(b"GET", b"http://example.com/")
    assert caught.value.reply == 4


async def test_other_schemes_are_refused(proxy: Proxy) -> None:
    with pytest.raises(SchemeNotSupported):
        await socks_agent(reactor, proxy.endpoint).request(b"GET", b"ftp://example.com/")


async def test_a_proxy_that_is_gone_is_a_fault_of_the_proxy(proxy: Proxy) -> None:
    await proxy.server.close()
    with pytest.raises(ProxyFault):
        await socks_agent(reactor, proxy.endpoint).request(b"GET", b"http://example.com/")


def test_what_is_no_endpoint_is_refused() -> None:
    with pytest.raises(TypeError, match="wanted a client endpoint"):
        socks_agent(reactor, "127.0.0.1:9050")  # type: ignore[arg-type]
