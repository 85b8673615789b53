"""The servers behind the private network, reached directly over loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from torsocks_tx.testing.tornet.servers import (
    BANNER,
    Origin,
    banner_origin,
    echo_origin,
    web_origin,
)

MEBIBYTE = 2**20


@implementer(IHalfCloseableProtocol)
class Peer(Protocol):
    """Collects what comes until the other side ends."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: object = None) -> None:
        self.ended.callback(self.received)


async def converse(port: int, sent: bytes, endpoint: type = TCP4ClientEndpoint) -> bytes:
    """Send all, then our FIN; return what came back until theirs."""
    peer = await connect(port, sent, endpoint)
    peer.transport.loseWriteConnection()
    return await peer.ended.addTimeout(20, reactor)


async def connect(port: int, sent: bytes, endpoint: type) -> Peer:
    host = "127.0.0.1" if endpoint is TCP4ClientEndpoint else "::1"
    peer = await connectProtocol(endpoint(reactor, host, port), Peer())
    peer.transport.write(sent)
    return peer


async def fetch(port: int, request: str, endpoint: type = TCP4ClientEndpoint) -> tuple[int, bytes]:
    """Return the status and the body."""
    peer = await connect(port, request.encode(), endpoint)
    answer = await peer.ended.addTimeout(20, reactor)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture(params=[web_origin, echo_origin, banner_origin])
def any_origin(request: pytest.FixtureRequest) -> Iterator[Origin]:
    yield from started(request.param())


@pytest.fixture
def web() -> Iterator[Origin]:
    yield from started(web_origin())


@pytest.fixture
def echo() -> Iterator[Origin]:
    yield from started(echo_origin())


def started(origin: Origin) -> Iterator[Origin]:
    assert origin.start(reactor) == origin.port
    yield origin
    pytest_twisted.blockon(origin.stop())


@pytest_twisted.ensureDeferred
async def test_origin_has_one_port_for_both_families_and_records_connections(
    any_origin: Origin,
) -> None:
    for endpoint in (TCP4ClientEndpoint, TCP6ClientEndpoint):
        await converse(any_origin.port, b"GET / HTTP/1.0\r\n\r\n", endpoint)
    assert [host for host, _ in any_origin.peers] == ["127.0.0.1", "::1"]
    await any_origin.stop()
    with pytest.raises(ConnectError):
        await converse(any_origin.port, b"")


@pytest_twisted.ensureDeferred
async def test_front_page_names_the_address_family(web: Origin) -> None:
    status, page = await fetch(web.port, "GET / HTTP/1.0\r\n\r\n")
    assert status == 200
    assert b"This is the IPv4 origin" in page
    _, page = await fetch(web.port, "GET / HTTP/1.0\r\n\r\n", TCP6ClientEndpoint)
    assert b"This is the IPv6 origin" in page


@pytest.mark.parametrize("length", [0, 1, 65536, 65537, 5 * MEBIBYTE])
@pytest_twisted.ensureDeferred
async def test_body_has_the_length_that_is_asked_for(web: Origin, length: int) -> None:
    status, body = await fetch(web.port, f"GET /bytes/{length} HTTP/1.0\r\n\r\n")
    assert status == 200
    assert body == b"x" * length


@pytest_twisted.ensureDeferred
async def test_client_may_abort_a_long_body(web: Origin) -> None:
    peer = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", web.port), Peer())
    peer.transport.write(b"GET /bytes/1073741824 HTTP/1.0\r\n\r\n")
    peer.transport.abortConnection()
    await peer.ended
    assert (await fetch(web.port, "GET / HTTP/1.0\r\n\r\n"))[0] == 200


@pytest.mark.parametrize("path", ["/bytes/x", "/bytes/-1", "/bytes/1073741825", "/bytes/", "/no"])
@pytest_twisted.ensureDeferred
async def test_other_pages_are_not_found(web: Origin, path: str) -> None:
    status, _ = await fetch(web.port, f"GET {path} HTTP/1.0\r\n\r\n")
    assert status == 404


@pytest_twisted.ensureDeferred
async def test_posted_body_is_echoed(web: Origin) -> None:
    body = "0123456789" * 50_000
    request = f"POST /echo HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    assert await fetch(web.port, request) == (200, body.encode())


@pytest_twisted.ensureDeferred
async def test_echo_is_complete_after_our_fin(echo: Origin) -> None:
    sent = bytes(range(256)) * 20_000
    assert await converse(echo.port, sent) == sent


@pytest_twisted.ensureDeferred
async def test_banner_is_sent_first() -> None:
    origin = banner_origin()
    origin.start(reactor)
    assert await converse(origin.port, b"") == BANNER
    assert await converse(origin.port, b"hello") == BANNER + b"hello"
    await origin.stop()
