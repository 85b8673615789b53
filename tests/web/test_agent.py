"""An agent of twisted.web in front of our server, over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.web.client import HTTPConnectionPool, ResponseNeverReceived, readBody
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IPolicyForHTTPS
from twisted.web.server import Site
from twisted.web.static import Data
from zope.interface import implementer

from tests.support.certificates import certificate
from tests.web.conftest import Proxy
from torsocks_tx import ClientOptions, ProxyFault, SOCKSError
from torsocks_tx.errors import DescriptorNotFound
from torsocks_tx.web import socks_agent

# Twisted's own: the transport of a response has no such method (its ticket 8227), and it hands
# certificates to pyOpenSSL in an older way.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using readBody:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning"),
]


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


async def test_identities_and_proxies_never_share_a_connection_of_one_pool(proxy: Proxy) -> None:
    pool = HTTPConnectionPool(reactor)
    alice, bob = (
        socks_agent(reactor, proxy.endpoint, isolation=who, pool=pool) for who in (b"a", b"b")
    )
    # By another proxy: here it is the same one, but the agent cannot know that.
    there = TCP4ClientEndpoint(reactor, "127.0.0.1", proxy.server.addresses[0].port)
    carol = socks_agent(reactor, there, isolation=b"a", pool=pool)
    for agent in (alice, bob, carol, alice, bob, carol):
        await get(agent, b"http://example.com/bytes/5")
    assert len(proxy.asked) == 3
    assert len({password for *_, password in proxy.asked}) == 2
    await pool.closeCachedConnections()


@pytest.mark.parametrize("optimistic", [False, True])
async def test_a_refusal_is_the_socks_error_itself(proxy: Proxy, optimistic: bool) -> None:
    proxy.refusal = DescriptorNotFound("as the test wants it")
    agent = socks_agent(reactor, proxy.endpoint, options=ClientOptions(optimistic=optimistic))
    with pytest.raises(SOCKSError) as caught:
        await agent.request(b"GET", b"http://example.com/")
    assert caught.value.reply == 4


@implementer(IPolicyForHTTPS)
class Trusting:
    """Trusts one certificate, and notes for which hosts it was asked."""

    def __init__(self, trusted: Certificate) -> None:
        self.trusted = trusted
        self.asked: list[bytes] = []

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        self.asked.append(hostname)
        return optionsForClientTLS(hostname.decode(), trustRoot=self.trusted)


@pytest.mark.parametrize("optimistic", [False, True])
async def test_https_is_verified_and_its_refusals_are_the_socks_error(
    proxy: Proxy, optimistic: bool
) -> None:
    private, trusted = certificate()
    page = Data(b"secret", "text/plain")
    page.isLeaf = True
    site = Site(page)
    site.noisy = False
    listening = reactor.listenSSL(0, site, private.options(), interface="127.0.0.1")
    proxy.web = listening.getHost().port
    policy, options = Trusting(trusted), ClientOptions(optimistic=optimistic)
    agent = socks_agent(reactor, proxy.endpoint, options=options, policy=policy)
    assert await get(agent, b"https://example.com/") == b"secret"
    with pytest.raises(ResponseNeverReceived):
        await get(socks_agent(reactor, proxy.endpoint), b"https://example.com/")
    proxy.refusal = DescriptorNotFound("as the test wants it")
    with pytest.raises(SOCKSError):
        await get(agent, b"https://[2001:db8::1]:8443/")
    assert proxy.asked[-1][:2] == ("2001:db8::1", 8443)
    assert policy.asked == [b"example.com", b"2001:db8::1"]
    await listening.stopListening()


async def test_other_schemes_are_refused(proxy: Proxy) -> None:
    with pytest.raises(SchemeNotSupported):
        await socks_agent(reactor, proxy.endpoint).request(b"GET", b"ftp://example.com/")


async def test_a_proxy_that_is_gone_is_a_fault_of_the_proxy(proxy: Proxy) -> None:
    await proxy.server.close()
    with pytest.raises(ProxyFault):
        await socks_agent(reactor, proxy.endpoint).request(b"GET", b"http://example.com/")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"proxy": "127.0.0.1:9050"}, "proxy must be a client endpoint"),
        ({"options": {}}, "options must be of the class ClientOptions, not dict"),
        ({"pool": 8}, "pool must be of the class HTTPConnectionPool, not int"),
    ],
    ids=["proxy", "options", "pool"],
)
def test_wrong_arguments_are_refused_at_the_call(
    change: dict[str, Any], wanted: str, proxy: Proxy
) -> None:
    with pytest.raises(TypeError, match=wanted):
        socks_agent(reactor, **{"proxy": proxy.endpoint, **change})
