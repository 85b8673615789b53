"""What clients reach through the private network: small servers on loopback, and a name server.

Each origin listens on 127.0.0.1, where the machine has it on ::1, and at each exit's own address if
there are such, with one port for all. The exits ask the name server, so what it was asked is what
left the network as DNS.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, fail, gatherResults, maybeDeferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.names import dns, error, server
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from torsocks_tx.testing.tornet.node import NetworkError
from torsocks_tx.testing.tornet.torrc import Exit

LOOPBACK = "127.0.0.1"
LOOPBACK6 = "::1"

BANNER = b"220 this server speaks first\r\n"
"""What the banner origin sends before the client does."""

MAX_BYTES = 2**30
"""The longest body that ``/bytes/N`` gives."""

_LISTEN_ATTEMPTS = 50
_CHUNK = b"x" * 65536

DOCUMENTATION_ADDRESS = "203.0.113.9"
"""An address that is nobody's (RFC 5737); clients of the network reach 127.0.0.1 by it."""

DOCUMENTATION_ADDRESS6 = "2001:db8::9"
"""An address that is nobody's (RFC 3849); clients of the network reach ::1 by it."""

DEFAULT_NAMES: Mapping[str, Sequence[str]] = {
    "web.test": ["127.0.0.1"],
    "web6.test": ["::1"],
    "both.test": ["127.0.0.1", "::1"],
    "doc.test": [DOCUMENTATION_ADDRESS],
    "doc6.test": [DOCUMENTATION_ADDRESS6],
    "docs.test": [DOCUMENTATION_ADDRESS, DOCUMENTATION_ADDRESS6],
}
"""What clients of the private network can ask for, if nothing else is given.

The servers are at ``web.test``, ``web6.test`` and ``both.test``. A client maps (MapAddress) the
other two addresses to 127.0.0.1 and ::1 for a CONNECT; their names are for clients that look a name
up, and then connect to the address. A CONNECT by such a name fails: exits reach loopback only.
"""

DEFAULT_POINTERS: Mapping[str, str] = {
    DOCUMENTATION_ADDRESS: "doc.test",
    DOCUMENTATION_ADDRESS6: "doc6.test",
}

EXIT_NAME = "exit.test"
"""Where there are countries: at each exit, this name is the exit's own address, where the servers
are too. So is any name below it, such as ``1.exit.test``."""

CHECK_NAME = "exit-check.test"
"""What the network itself asks for when it starts, at 127.0.0.1; never among ``asked``."""

TTL = 60


class PortReservations:
    """Free ports of loopback for daemons that must know their ports before they start.

    A port is held by a socket that is bound and never listens. A daemon that sets SO_REUSEADDR, as
    tor does, can listen on it all the same; a program that asks the kernel for a free port never
    gets it. So a daemon can be stopped and started again without losing its port.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def take(self, address: str = LOOPBACK) -> int:
        """Return a port that stays free until :meth:`release`."""
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sockets.append(holder)
        holder.bind((address, 0))
        # Set after bind(): the port was chosen among those that nobody uses in any way.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port: int = holder.getsockname()[1]
        return port

    def release(self) -> None:
        """Give all the ports back."""
        while self._sockets:
            self._sockets.pop().close()


def has_ipv6_loopback() -> bool:
    """Return whether this machine has ::1; some containers do not."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((LOOPBACK6, 0))
    except OSError:
        return False
    return True


class Origin:
    """One server on both loopback addresses, and at the addresses of these exits.

    Attributes:
        port: the TCP port, once started.
        peers: the address (host, port) of every connection so far, oldest first.
        exits: for each of ``peers`` the name of the exit at whose own address it arrived; "" if at
            an address that all exits share.
    """

    def __init__(self, factory: Any, exits: Iterable[Exit] = ()) -> None:
        factory.noisy = False
        self.port = 0
        self.peers: list[tuple[str, int]] = []
        self.exits: list[str] = []
        self._factory = factory
        self._places = {LOOPBACK: ""} | ({LOOPBACK6: ""} if has_ipv6_loopback() else {})
        self._places |= {exit.address: exit.name for exit in exits if exit.country}
        self._listening: list[Any] = []

    def start(self, reactor: Any) -> int:
        """Listen; return the port. Raises ``NetworkError`` where there is none for each address."""
        failed: OSError | None = None
        for _ in range(_LISTEN_ATTEMPTS):
            self.port = 0
            try:
                for address, exit in self._places.items():
                    entrance = _Entrance(self._factory, partial(self._note, exit))
                    port = _listen(reactor, (address, self.port), entrance)
                    self._listening.append(port)
                    self.port = port.getHost().port
            except OSError as error:
                failed = error
                self.stop()
            else:
                return self.port
        raise NetworkError(f"a server has no port at every address: {failed}")

    def stop(self) -> Deferred[None]:
        """Stop listening; connections go on until their end."""
        listening, self._listening = self._listening, []
        return _stopped(listening)

    def _note(self, exit: str, peer: tuple[str, int]) -> None:
        self.peers.append(peer)
        self.exits.append(exit)


def _listen(reactor: Any, where: tuple[str, int], factory: Factory) -> Any:
    """Listen; raise OSError. ``listenTCP`` of Twisted 22.4 does not close what it cannot bind."""
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    with socket.create_server(where, family=family, backlog=50) as listening:
        listening.setblocking(False)
        return reactor.adoptStreamPort(listening.fileno(), family, factory)


class _Entrance(Factory):
    """An origin's server at one address; each connection is noted first."""

    noisy = False

    def __init__(self, factory: Any, note: Callable[[tuple[str, int]], None]) -> None:
        self._factory = factory
        self._note = note

    def startFactory(self) -> None:
        self._factory.doStart()

    def stopFactory(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> Protocol | None:
        self._note((addr.host, addr.port))
        protocol: Protocol | None = self._factory.buildProtocol(addr)
        return protocol


def web_origin(exits: Collection[Exit] = ()) -> Origin:
    """Return an HTTP server: ``/``, ``/bytes/N`` and ``POST /echo``."""
    return Origin(_QuietSite(_Pages(exits)), exits)


def echo_origin(exits: Iterable[Exit] = ()) -> Origin:
    """Return a server that sends back what it gets, until the client has sent all."""
    return Origin(Factory.forProtocol(EchoProtocol), exits)


def banner_origin(exits: Iterable[Exit] = ()) -> Origin:
    """Return a server that sends :data:`BANNER` first and then echoes."""
    return Origin(Factory.forProtocol(BannerProtocol), exits)


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
    """Sends :data:`BANNER` first, then echoes."""

    def connectionMade(self) -> None:
        """Send the banner."""
        super().connectionMade()
        self.transport.write(BANNER)


class _QuietSite(Site):
    """A site that logs no requests."""

    def log(self, request: object) -> None:
        """Write nothing."""


class _Pages(Resource):
    """``/``, ``/bytes/N`` and ``POST /echo``; any other path is not found."""

    isLeaf = True

    def __init__(self, exits: Iterable[Exit]) -> None:
        super().__init__()
        self._exits = {exit.address: exit for exit in exits if exit.country}

    def render_GET(self, request: Request) -> bytes | int:
        if request.path == b"/":
            address = request.getHost().host
            family = "IPv6" if ":" in address else "IPv4"
            request.setHeader(b"content-type", b"text/html; charset=utf-8")
            page = f"<!DOCTYPE html>\n<title>origin</title>\n<p>This is the {family} origin.\n"
            if (exit := self._exits.get(address)) is not None:
                page += f"<p>You came by {exit.name}, in the country {exit.country}.\n"
            return page.encode("ascii")
        start, _, count = request.path.rpartition(b"/")
        if start != b"/bytes" or not count.isdigit() or int(count) > MAX_BYTES:
            return _not_found(request)
        request.setHeader(b"content-type", b"application/octet-stream")
        request.setHeader(b"content-length", str(int(count)).encode("ascii"))
        request.registerProducer(_Body(request, int(count)), False)
        return NOT_DONE_YET

    def render_POST(self, request: Request) -> bytes:
        if request.path != b"/echo":
            return _not_found(request)
        request.setHeader(b"content-type", b"application/octet-stream")
        assert request.content is not None
        body: bytes = request.content.read()
        return body


def _not_found(request: Request) -> bytes:
    request.setResponseCode(404)
    return b"there is no such page here\n"


@implementer(IPullProducer)
class _Body:
    """A body of ``length`` bytes, written as fast as the client takes it."""

    def __init__(self, request: Request, length: int) -> None:
        self._request = request
        self._left = length

    def resumeProducing(self) -> None:
        chunk = _CHUNK[: self._left]
        self._left -= len(chunk)
        self._request.write(chunk)
        if not self._left:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        self._left = 0


class Asked(NamedTuple):
    """One question that the name server was asked: the name in lower case, and A, AAAA or PTR.

    Where there are countries, ``exit`` is the name of the exit that asked.
    """

    name: str
    type: str
    exit: str = ""


class NameServer:
    """Answers A, AAAA and PTR queries; NXDOMAIN for a name that it does not know.

    Args:
        names: the addresses, of both kinds, of each name.
        pointers: the name of each address.

    Attributes:
        asked: every question so far, oldest first; a test may clear it.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[str]] = DEFAULT_NAMES,
        pointers: Mapping[str, str] = DEFAULT_POINTERS,
    ) -> None:
        self.asked: list[Asked] = []
        self.table = {name: list(addresses) for name, addresses in names.items()}
        self.pointers = dict(pointers)
        self._records: dict[str, list[Any]] = {}
        for name, addresses in {**names, CHECK_NAME: [LOOPBACK]}.items():
            self._records[name.lower()] = [_address_record(text) for text in addresses]
        for address, name in pointers.items():
            pointer = ipaddress.ip_address(address).reverse_pointer
            self._records[pointer] = [dns.Record_PTR(name, ttl=TTL)]
        self._ports: list[Any] = []

    def start(self, reactor: Any, exit: Exit | None = None) -> int:
        """Listen on 127.0.0.1; return the UDP port. On a port for one exit, it has its own name."""
        authority = SimpleNamespace(query=partial(self._answer, exit))
        factory = server.DNSServerFactory(authorities=[authority])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory, reactor=reactor)
        protocol.noisy = False
        self._ports.append(reactor.listenUDP(0, protocol, interface=LOOPBACK))
        port: int = self._ports[-1].getHost().port
        return port

    def stop(self) -> Deferred[None]:
        """Stop listening."""
        ports, self._ports = self._ports, []
        return _stopped(ports)

    def _answer(self, exit: Exit | None, query: dns.Query, timeout: object = None) -> Deferred[Any]:
        name = query.name.name.decode("ascii", "replace").lower()
        if name != CHECK_NAME:
            kind = dns.QUERY_TYPES.get(query.type, str(query.type))
            self.asked.append(Asked(name, kind, exit.name if exit and exit.country else ""))
        records = self._records.get(name)
        if exit and exit.country and f".{name}".endswith(f".{EXIT_NAME}"):
            records = [_address_record(exit.address)]
        if records is None:
            return fail(error.DomainError(name))
        answers = [
            dns.RRHeader(query.name.name, record.TYPE, dns.IN, TTL, record, auth=True)
            for record in records
            if query.type == record.TYPE
        ]
        return succeed((answers, [], []))


def _stopped(ports: Iterable[Any]) -> Deferred[None]:
    """Stop listening at these; fire when all have stopped."""
    stopping = gatherResults([maybeDeferred(port.stopListening) for port in ports])
    return stopping.addCallback(lambda _: None)


def _address_record(text: str) -> Any:
    if ipaddress.ip_address(text).version == 4:
        return dns.Record_A(text, ttl=TTL)
    return dns.Record_AAAA(text, ttl=TTL)
