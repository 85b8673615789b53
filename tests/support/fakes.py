"""A fake tor, a SOCKS server scripted by the test over real sockets, and servers in front of it.

It parses by itself, not with the package's parsers: an error in those must not meet itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet import reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IStreamClientEndpoint

from tests.support.ground import Ground, WatchedServer
from tests.support.peers import DEADLINE, GRANTED, Peer, PeerFactory, named
from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.client.endpoint import SOCKSClientEndpoint
from torsocks_tx.socks.client_options import ClientOptions


class Asked(NamedTuple):
    """A request as it reached the upstream: ``host`` is raw, 4 or 16 bytes or a name."""

    command: int
    kind: int
    host: bytes
    port: int


class Leg(Peer):
    """One connection to the fake upstream. After the request, ``received`` is payload.

    It answers as C Tor does: replies that are due at one time overwrite each other, so greeting
    and credentials in one segment are answered by ``01 00`` alone.
    """

    factory: Upstream

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[bytes] = []
        self.methods: bytes | None = None
        self.credentials: tuple[bytes, bytes] | None = None
        self.asked: Asked | None = None
        self.on_data: Callable[[], object] | None = None

    def dataReceived(self, data: bytes) -> None:
        if self.asked is not None:
            super().dataReceived(data)
            if self.on_data is not None:
                self.on_data()
            return
        self.segments.append(data)
        self.received += data
        answer = b""
        while self.asked is None and (step := self._step()) is not None:
            answer = step or answer
        if answer and not self.factory.mute:
            self.transport.write(answer)
        if self.asked is not None:
            self.factory.script(self)
        self.notice()

    def _step(self) -> bytes | None:
        """Take one message; return what is due for it, or None if it is not all there."""
        if self.methods is None:
            return self._greeting()
        if b"\2" in self.methods and self.credentials is None:
            return self._credentials()
        return self._request()

    def _greeting(self) -> bytes | None:
        data = self.received
        if len(data) < 2 or len(data) < 2 + data[1]:
            return None
        self.methods = self._cut(2 + data[1])[2:]
        return b"\5\2" if b"\2" in self.methods else b"\5\0"

    def _credentials(self) -> bytes | None:
        data = self.received
        after_name = 2 + data[1] if len(data) > 1 else 2
        if len(data) <= after_name or len(data) <= after_name + data[after_name]:
            return None
        message = self._cut(after_name + 1 + data[after_name])
        self.credentials = (message[2:after_name], message[after_name + 1 :])
        return b"\1\0"

    def _request(self) -> bytes | None:
        data = self.received
        if len(data) < 5:
            return None
        start, size = {1: (4, 4), 3: (5, data[4]), 4: (4, 16)}[data[3]]
        if len(data) < start + size + 2:
            return None
        message = self._cut(start + size + 2)
        port = int.from_bytes(message[-2:], "big")
        self.asked = Asked(message[1], message[3], message[start:-2], port)
        return b""

    def _cut(self, count: int) -> bytes:
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    async def request(self) -> Asked:
        """Wait for the whole request."""
        await self.until(lambda: self.asked is not None or self.over)
        assert self.asked is not None
        return self.asked

    def answer(self, code: int = 0, data: bytes = b"") -> None:
        """Send the reply and bytes behind it in one write: 10 bytes over TCP, 22 over unix."""
        long = isinstance(self.transport.getHost(), UNIXAddress)
        address = b"\4" + bytes(18) if long else b"\1" + bytes(6)
        self.send(bytes([5, code, 0]) + address + data)


Script = Callable[[Leg], None]


def hold(leg: Leg) -> None:
    """Leave the request unanswered: the test answers."""


def grant(leg: Leg) -> None:
    """Open the stream at once."""
    leg.answer()


def refuse(code: int) -> Script:
    """Return the script that answers with this code and closes."""

    def script(leg: Leg) -> None:
        leg.answer(code)
        leg.close()

    return script


class Upstream(PeerFactory):
    """The fake tor. ``script`` is called with each ``Leg`` whose request is there.

    ``mute``: greeting and credentials are not answered either, only by the script.
    """

    def __init__(self, script: Script = hold) -> None:
        super().__init__(Leg)
        self.script = script
        self.mute = False

    async def asked(self, number: int = 0) -> Leg:
        """Wait for a connection and the request on it, the first by default."""
        leg: Leg = await self.peer(number)
        await leg.request()
        return leg


async def tor_like(
    ground: Ground, script: Script = hold, *, pipelined: bool = True, **options: Any
) -> tuple[WatchedServer, Upstream]:
    """Return a server over a fake tor, and the fake tor; the options are the server's.

    ``pipelined``: everything in one write, as C Tor takes it, with early data behind it.
    """
    upstream = Upstream(script)
    endpoint = ground.by_socket(await ground.listen(upstream))
    provider = FixedTorProvider(endpoint, pipelined=pipelined)
    await provider.start()
    backend = TorBackend(options.get("clock", reactor), provider)
    return WatchedServer(backend, **options), upstream


async def plain(
    ground: Ground, *, kind: Callable[[], Peer] = Peer, **options: Any
) -> tuple[WatchedServer, PeerFactory]:
    """Return a server that connects every stream to an origin, without SOCKS, and the origin."""
    origin = PeerFactory(kind)
    endpoint = ground.by_socket(await ground.listen(origin))
    backend: Any = EndpointBackend(reactor, lambda *_: endpoint)
    return WatchedServer(backend, **options), origin


async def opened(
    ground: Ground, *, tor: bool = False, **options: Any
) -> tuple[WatchedServer, Peer, Any]:
    """Return a server and both ends of an open stream through it, to an origin or to a fake tor."""
    upstream: Any
    if tor:
        server, upstream = await tor_like(ground, grant, **options)
    else:
        server, upstream = await plain(ground, **options)
    client = await ground.client(server)
    assert await client.negotiate(named("example.com", 80)) == GRANTED
    return server, client, await (upstream.asked() if tor else upstream.peer())


async def connected(
    proxy: IStreamClientEndpoint,
    host: str,
    port: int,
    options: ClientOptions,
    deadline: float = DEADLINE,
) -> Peer:
    """Connect by our client, through a SOCKS server."""
    endpoint = SOCKSClientEndpoint(reactor, proxy, host, port, options)
    coming: Any = endpoint.connect(PeerFactory())
    peer: Peer = await coming.addTimeout(deadline, reactor)
    return peer
