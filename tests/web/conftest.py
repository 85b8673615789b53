"""A SOCKS server in front of one web server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from torsocks_tx import Address, EndpointBackend, Isolation, Request, Server, serve
from torsocks_tx.errors import Refused
from torsocks_tx.testing.tornet.servers import web_origin


class Proxy:
    """A SOCKS server whose every destination is one web server; it notes what it was asked.

    ``refusal``: what it refuses each request with.
    """

    endpoint: TCP4ClientEndpoint
    server: Server

    def __init__(self) -> None:
        self.origin = web_origin()
        self.asked: list[tuple[str, int, bytes]] = []
        self.refusal: Refused | None = None

    async def start(self) -> None:
        self.web = self.origin.start(reactor)
        backend = EndpointBackend(reactor, self.choose)
        self.server = serve(reactor, "tcp:0:interface=127.0.0.1", backend)
        [address] = self.server.addresses
        self.endpoint = TCP4ClientEndpoint(reactor, address.host, address.port)

    @property
    def text(self) -> str:
        """Its endpoint as a string."""
        [address] = self.server.addresses
        return f"tcp:{address.host}:{address.port}"

    def choose(self, request: Request, isolation: Isolation) -> TCP4ClientEndpoint:
        address: Address = request.address
        self.asked.append((address.host, address.port, isolation.credentials.password))
        if self.refusal is not None:
            raise self.refusal
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.web)

    async def stop(self) -> None:
        await self.server.shutdown(0)
        await self.origin.stop()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    pytest_twisted.blockon(Deferred.fromCoroutine(made.start()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))
