"""What clients reach through the private network: small servers on loopback.

Each listens on 127.0.0.1 and, where the machine has it, on ::1, with one port for both.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from torsocks_tx.testing.tornet.ports import LOOPBACK, LOOPBACK6, has_ipv6_loopback

BANNER = b"220 this server speaks first\r\n"
"""What the banner origin says before it hears anything."""

MAX_BYTES = 2**30
"""The longest body that ``/bytes/N`` gives."""

_LISTEN_ATTEMPTS = 50
_CHUNK = b"x" * 65536


class Origin(Factory):
    """One server on both loopback addresses.

    Attributes:
        port: the TCP port, once started.
        peers: the address (host, port) of every connection so far, oldest first.
    """

    noisy = False

    def __init__(self, factory: Any) -> None:
        factory.noisy = False
        self.port = 0
        self.peers: list[tuple[str, int]] = []
        self._factory = factory
        self._listening: list[Any] = []

    def start(self, reactor: Any) -> int:
        """Listen; return the port."""
        for _ in range(_LISTEN_ATTEMPTS):
            ipv4 = reactor.listenTCP(0, self, interface=LOOPBACK)
            self._listening.append(ipv4)
            self.port = ipv4.getHost().port
            try:
                if has_ipv6_loopback():
                    ipv6 = reactor.listenTCP(self.port, self, interface=LOOPBACK6)
                    self._listening.append(ipv6)
            except CannotListenError:
                self._listening.pop().stopListening()
            else:
                return self.port
        raise CannotListenError(LOOPBACK, 0, OSError("no port is free for IPv4 and IPv6"))

    def stop(self) -> Deferred[None]:
        """Stop listening; connections go on until their end."""
        listening, self._listening = self._listening, []
        stopping = gatherResults([maybeDeferred(port.stopListening) for port in listening])
        return stopping.addCallback(lambda _: None)

    def startFactory(self) -> None:
        """Start the server behind it."""
        self._factory.doStart()

    def stopFactory(self) -> None:
        """Stop the server behind it."""
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """Record the connection and hand it to the server."""
        self.peers.append((addr.host, addr.port))
        protocol: Protocol | None = self._factory.buildProtocol(addr)
        return protocol


def web_origin() -> Origin:
    """Return an HTTP server: ``/``, ``/bytes/N`` and ``POST /echo``."""
    root = _Root()
    root.putChild(b"", _Front())
    root.putChild(b"bytes", _Bytes())
    root.putChild(b"echo", _Echo())
    return Origin(_QuietSite(root))


def echo_origin() -> Origin:
    """Return a server that sends back what it gets, until the client has sent all."""
    return Origin(Factory.forProtocol(EchoProtocol))


def banner_origin() -> Origin:
    """Return a server that says :data:`BANNER` first and then echoes."""
    return Origin(Factory.forProtocol(BannerProtocol))


@implementer(IHalfCloseableProtocol)
class EchoProtocol(Protocol):
    """Echoes with backpressure: a client that does not read is not read."""

    transport: Any

    def connectionMade(self) -> None:
        """Let the transport pause itself while it cannot write."""
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        """Send the rest, then close."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing to do: this side closes as a whole."""


class BannerProtocol(EchoProtocol):
    """Speaks first."""

    def connectionMade(self) -> None:
        """Say the banner."""
        super().connectionMade()
        self.transport.write(BANNER)


class _QuietSite(Site):
    """Logs no requests."""

    def log(self, request: object) -> None:
        """Keep silent."""


class _Root(Resource):
    """The pages; what is not one of them is missing."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return _Missing()


class _Front(Resource):
    """A page that says how it was reached."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        family = "IPv6" if ":" in request.getHost().host else "IPv4"
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        page = f"<!DOCTYPE html>\n<title>origin</title>\n<p>This is the {family} origin.\n"
        return page.encode("ascii")


class _Bytes(Resource):
    """``/bytes/N``: N times the letter x."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return _Body(int(path)) if path.isdigit() and int(path) <= MAX_BYTES else _Missing()


class _Missing(Resource):
    """What is not there."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        request.setResponseCode(404)
        return b"there is no such page here\n"


@implementer(IPullProducer)
class _Body(Resource):
    """A body of some length, made as fast as the client takes it."""

    isLeaf = True

    def __init__(self, length: int) -> None:
        super().__init__()
        self._left = length

    def render_GET(self, request: Request) -> int:
        request.setHeader(b"content-type", b"application/octet-stream")
        request.setHeader(b"content-length", str(self._left).encode("ascii"))
        self._request = request
        request.registerProducer(self, False)
        return NOT_DONE_YET

    def resumeProducing(self) -> None:
        chunk = _CHUNK[: self._left]
        self._left -= len(chunk)
        self._request.write(chunk)
        if not self._left:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        self._left = 0


class _Echo(Resource):
    """``POST /echo``: the body that was sent."""

    isLeaf = True

    def render_POST(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"application/octet-stream")
        assert request.content is not None
        body: bytes = request.content.read()
        return body
