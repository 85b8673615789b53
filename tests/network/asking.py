"""A SOCKS client and our server, for tests on the private network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, clientFromString
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from torsocks_tx import SOCKSFactory, TorBackend
from torsocks_tx.backends.tor.provider import TorProvider
from torsocks_tx.backends.tor.providers import RunningTorProvider
from torsocks_tx.http.client import HTTPClientHandshake
from torsocks_tx.policy.listener import parse_flags
from torsocks_tx.socks.client import ClientHandshake, Failed, Opened
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request
from torsocks_tx.socks.server import Send
from torsocks_tx.testing.tornet import Client

DEADLINE = 120.0


class Asker(Protocol):
    """Makes one request; ``outcome`` fires with the reply, or fails with the refusal.

    ``heard`` is what the server has sent up to then.
    """

    transport: Any = None

    def __init__(self, request: Request) -> None:
        self._handshake: ClientHandshake | HTTPClientHandshake = ClientHandshake(request)
        if request.version is Version.HTTP:
            self._handshake = HTTPClientHandshake(request.address, request.credentials)
        self.heard = b""
        self.outcome: Deferred[Opened] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.received = b""

    def connectionMade(self) -> None:
        self.transport.write(self._handshake.start())

    def dataReceived(self, data: bytes) -> None:
        if self.outcome.called:
            self.received += data
            return
        self.heard += data
        self._follow(self._handshake.receive(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.outcome.called:
            self._follow(self._handshake.eof())
        self.lost.callback(None)

    def _follow(self, steps: list[Any]) -> None:
        for step in steps:
            match step:
                case Send(data):
                    self.transport.write(data)
                case Opened():
                    self.received = step.rest
                    self.outcome.callback(step)
                case Failed(reason):
                    self.outcome.errback(reason)


def request(
    host: str,
    port: int,
    *,
    version: Version = Version.SOCKS5,
    user: bytes | None = None,
    password: bytes = b"",
    command: Command = Command.CONNECT,
) -> Request:
    """A request as a client makes it."""
    credentials = None if user is None else Credentials(user, password)
    return Request(version, command, Address.of(host, port), credentials)


async def ask(
    server: str, what: Request, *, source: str | None = None, deadline: float = DEADLINE
) -> Asker:
    """Connect to the server at ``host:port`` and make the request; raise if it is refused."""
    host, _, port = server.rpartition(":")
    bind = None if source is None else (source, 0)
    endpoint = TCP4ClientEndpoint(reactor, host, int(port), bindAddress=bind)
    asker = Asker(what)
    await endpoint.connect(Factory.forProtocol(lambda: asker))
    await asker.outcome.addTimeout(deadline, reactor)
    return asker


def becomes_true(condition: Callable[[], Awaitable[bool]]) -> Deferred[None]:
    """Fire when this holds; it is asked again and again."""

    async def wait() -> None:
        while not await condition():
            await deferLater(reactor, 0.05)

    return Deferred.fromCoroutine(wait()).addTimeout(2 * DEADLINE, reactor)


async def hang_up(asker: Asker) -> None:
    """Close, and wait until it is closed."""
    asker.transport.abortConnection()
    await asker.lost


class Serving:
    """Our server over one tor, on as many listeners as a test asks for."""

    def __init__(self, provider: TorProvider) -> None:
        self.provider = provider
        self.backend = TorBackend(reactor, provider)
        self._listening: list[tuple[Any, SOCKSFactory]] = []

    def listen(self, *flags: str) -> str:
        """Listen with these flags; return ``host:port``."""
        factory = SOCKSFactory(self.backend, policy=parse_flags(flags)[0])
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self._listening.append((port, factory))
        return f"127.0.0.1:{port.getHost().port}"

    async def stop(self) -> None:
        """Stop listening, and close every connection."""
        for port, factory in self._listening:
            await port.stopListening()
            factory.abort_all()
            await factory.when_empty()
        await self.provider.stop()


@asynccontextmanager
async def serving(tor: TorProvider | Client) -> AsyncIterator[Serving]:
    """Serve over a provider, or over a client of the network, once tor is ready."""
    if isinstance(tor, Client):
        tor = RunningTorProvider(reactor, clientFromString(reactor, tor.control_endpoint))
    await tor.start()
    await tor.when_ready()
    server = Serving(tor)
    await server.backend.observer.follow(tor.control)
    try:
        yield server
    finally:
        await server.stop()
