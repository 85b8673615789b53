"""Listening sockets behind a proxy that tells in a PROXY header who its client is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.logger import LogEvent, eventAsText, globalLogPublisher

from tests.support.peers import Peer, PeerFactory, named, refused
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.twistd.binding import bind
from torsocks_tx.twistd.listen import parse_listener

V2 = b"\r\n\r\n\0\r\nQUIT\n"
REQUEST = b"\5\1\0" + named("example.com", 80)
BAD_HEADERS = [
    pytest.param(b"PROXY TCP4 192.0.2.77 127.0.0.1 canary 80\r\n", id="port"),
    pytest.param(b"PROXY TCP4 \xffcanary 127.0.0.1 1 80\r\n", id="no-ascii"),
    pytest.param(b"PROXY TCP9 192.0.2.77 canary 1 80\r\n", id="protocol"),
    pytest.param(b"PROXY TCP4 192.0.2.77\r\n", id="short"),
    pytest.param(V2 + b"\x21\xf3\0\x0c" + b"canary" * 2, id="v2-family"),
    pytest.param(V2 + b"\x21\x11\0\2ca", id="v2-short"),
    pytest.param(b"canary canary canary", id="none"),
]


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Give every line that is logged, tracebacks included."""
    lines: list[str] = []

    def keep(event: LogEvent) -> None:
        lines.append(eventAsText(event))

    globalLogPublisher.addObserver(keep)
    yield lines
    globalLogPublisher.removeObserver(keep)


async def hear(said: bytes) -> bytes:
    """Return all that a server behind the PROXY protocol answers to these bytes."""
    # As with tor, whose credentials tell clients apart.
    backend = MemoryBackend(lambda outbound: outbound.isolation.credentials)
    listener = parse_listener("haproxy:tcp:0:interface=127.0.0.1 AllowPublic")
    port = bind(reactor, listener, SOCKSFactory(backend), authenticated=False)
    client: Peer = await TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(
        PeerFactory()
    )
    client.send(said)
    answer = await client.take_rest()
    client.close()
    await port.stopListening()
    return answer


@pytest.mark.parametrize("header", BAD_HEADERS)
@pytest_twisted.ensureDeferred
async def test_a_bad_proxy_header_is_refused_without_a_traceback(
    header: bytes, log: list[str]
) -> None:
    assert await hear(header + REQUEST) == b""
    ours = "".join(log)
    assert "Traceback" not in ours
    assert "canary" not in ours
    assert "192.0.2.77" not in ours


@pytest_twisted.ensureDeferred
async def test_a_client_address_that_is_none_is_refused_without_a_traceback(
    log: list[str],
) -> None:
    header = b"PROXY TCP4 canary 127.0.0.1 1 80\r\n"
    assert await hear(header + REQUEST) == b"\5\0" + refused(2)
    ours = "".join(log)
    assert "the client's address, from a PROXY header, is none" in ours
    assert "Traceback" not in ours
    assert "canary" not in ours
