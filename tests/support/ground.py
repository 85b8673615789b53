"""Where real sockets in tests live, the server under test among them.

``Ground.close`` fails if the server keeps a stream, a socket or a timer when its clients are gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from tests.support.peers import DEADLINE, Peer, PeerFactory, Watcher, turn
from torsocks_tx.relay.connector import SocketEndpoint, Target
from torsocks_tx.relay.relay import Relay
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.protocol import SOCKSProtocol
from torsocks_tx.server.request import Client, RequestHandler
from torsocks_tx.socks.messages import Request


class WatchedProtocol(SOCKSProtocol):
    """The server's end of a client, for tests that wait until something was heard there."""

    factory: WatchedServer

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.notice()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.factory.heard += len(data)
        self.factory.notice()

    def readConnectionLost(self) -> None:
        super().readConnectionLost()
        self.factory.ended += 1
        self.factory.notice()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.factory.notice()


class WatchedRelay(Relay):
    """A relay that notes what goes past the protocols."""

    __slots__ = ()

    def spliced(self, by_client: bool, count: int) -> None:
        super().spliced(by_client, count)
        server: Any = self._owner._client.factory  # type: ignore[attr-defined]
        server.heard += count if by_client else 0
        server.notice()


class WatchedServer(SOCKSFactory, Watcher):
    """A server that counts what it heard: bytes of all clients, and FINs."""

    protocol = WatchedProtocol

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        Watcher.__init__(self)
        self.heard = 0
        self.ended = 0

    def request_handler(self, client: Client, request: Request) -> RequestHandler:
        handler = super().request_handler(client, request)
        handler.relay.__class__ = WatchedRelay
        return handler

    @property
    def client(self) -> WatchedProtocol:
        """The server's end of the only client."""
        [client] = self.connections
        assert isinstance(client, WatchedProtocol)
        return client

    async def emptied(self) -> None:
        """Wait until no client is left."""
        await self.until(lambda: not self.connections)


def open_files(kind: str) -> Counter[str]:
    """Return the open files of this process of one kind: "socket", "pipe" or "anon_inode"."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return Counter(name for name in names if name.startswith(f"{kind}:"))


class Ground:
    """Where a test's sockets live; ``kind`` is "tcp" or "unix"."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self._directory = directory
        self._ports: list[Any] = []
        self._held: list[socket.socket] = []
        self._paths = 0
        self._clients: list[Peer] = []
        self._servers: list[SOCKSFactory] = []
        self._origins: list[PeerFactory] = []
        self._before = open_files("socket")
        self._timers_before = [call.func for call in reactor.getDelayedCalls()]

    async def listen(self, factory: Factory) -> IStreamClientEndpoint:
        """Listen, and return the endpoint that leads there."""
        if isinstance(factory, PeerFactory):
            self._origins.append(factory)
        if isinstance(factory, SOCKSFactory):
            self._servers.append(factory)
        if self.kind == "unix":
            self._paths += 1
            path = str(self._directory / str(self._paths))
            self._ports.append(await UNIXServerEndpoint(reactor, path).listen(factory))
            return UNIXClientEndpoint(reactor, path)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self._ports.append(port)
        return TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

    def by_socket(self, endpoint: IStreamClientEndpoint) -> SocketEndpoint:
        """Return the endpoint as that of tor's SocksPort is: an ``Attempt`` connects to it."""
        family = socket.AF_UNIX if self.kind == "unix" else socket.AF_INET
        return SocketEndpoint(reactor, Target(family, self.address(endpoint)), endpoint)

    def address(self, endpoint: Any) -> str | tuple[str, int]:
        """Return where an endpoint leads to, for a socket."""
        return endpoint._path if self.kind == "unix" else (endpoint._host, endpoint._port)

    async def connect(self, endpoint: IStreamClientEndpoint) -> Peer:
        """Connect a client."""
        peer: Peer = await endpoint.connect(PeerFactory()).addTimeout(DEADLINE, reactor)
        self._clients.append(peer)
        return peer

    async def client(self, server: SOCKSFactory) -> Peer:
        """Listen with a server, and connect a client to it."""
        return await self.connect(await self.listen(server))

    async def stop_listening(self) -> None:
        """Close all listeners that there are so far; nobody else gets their ports meanwhile."""
        while self._ports:
            port = self._ports.pop()
            host = port.getHost()
            await port.stopListening()
            if self.kind == "tcp":
                self._held.append(socket.socket())
                self._held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._held[-1].bind((host.host, host.port))

    async def close(self) -> None:
        """End all clients; fail if a server then keeps a stream, a socket or a timer."""
        await self.stop_listening()
        while self._held:
            self._held.pop().close()
        for server in self._servers:
            server.abort_all()
        for client in self._clients:
            client.reset()
        for origin in [peer for factory in self._origins for peer in factory.peers]:
            origin.transport.resumeProducing()
            await origin.until(lambda origin=origin: origin.over)  # type: ignore[misc]
            origin.reset()
        end = reactor.seconds() + DEADLINE
        while (left := self._leftovers()) and reactor.seconds() < end:
            await turn()
        assert left == []

    def _leftovers(self) -> list[Any]:
        calls = [c for c in reactor.getDelayedCalls() if c.active() and not self._had(c)]
        return calls + sorted(open_files("socket") - self._before)

    def _had(self, call: Any) -> bool:
        # One that was there may have begun again, as the clock of a server of another fixture.
        return call.func in self._timers_before


@pytest_twisted.async_yield_fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    """Give sockets over TCP, and check that none is left."""
    ground = Ground("tcp", tmp_path)
    yield ground
    await ground.close()
