"""The backend without Tor: which addresses it refuses, and which it connects to.

Names come from a table, connections are recorded, and all of them lead to loopback.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, NoReturn

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP6ServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.backends.ends import Receiver
from tests.support.clients import IPV6
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import GRANTED, PeerFactory, Watcher, named, refused
from tests.support.relaying import ISOLATION, REQUEST
from tests.support.tables import table
from torsocks_tx.backends import direct
from torsocks_tx.backends.direct import DirectBackend, is_internal, is_own
from torsocks_tx.backends.names import NameResolver
from torsocks_tx.errors import HostUnreachable, Refused
from torsocks_tx.interfaces import IBackend
from torsocks_tx.testing.tornet.servers import has_ipv6_loopback

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:2800:220:1:248:1893:25c8:1946"
CLOSED = ("127.0.0.2", "127.0.0.3")
"""Where connections lead to port 1: another program may listen there at the origin's."""


class FakeNames(Watcher, NameResolver):
    """A resolver of few names, and a ``connect`` to loopback; it records both.

    Public addresses lead to this machine, and nothing leaves it.
    """

    def __init__(self, names: dict[str, list[str]] | None = None) -> None:
        super().__init__()
        self.names = names or {}
        self.dialled: list[str] = []
        self.looked_up: list[str] = []
        self.waiting: list[Deferred[list[str]]] | None = None
        self._sockets: list[socket.socket] = []

    def addresses(self, name: str) -> Deferred[list[str]]:
        self.looked_up.append(name)
        if self.waiting is not None:
            self.waiting.append(Deferred())
            self.notice()
            return self.waiting[-1]
        found = self.names.get(name)
        return fail(HostUnreachable("no address")) if found is None else succeed(found)

    def name_of(self, ip: str) -> Deferred[str]:
        return self.addresses(ip).addCallback(lambda names: names[0])

    def connect(self, sock: socket.socket, address: Any) -> int:
        host = address[0]
        if sock not in self._sockets:
            self._sockets.append(sock)
            self.dialled.append(host)
        local = host if host.startswith("127.") or host == "::1" else "127.0.0.1"
        port = 1 if host in CLOSED else address[1]
        return sock.connect_ex((local, port, *address[2:]))


class Site:
    """A server over the direct backend, and an origin on 127.0.0.1."""

    def __init__(self, ground: Ground, world: FakeNames, allow_internal: bool) -> None:
        self.ground = ground
        self.origin = PeerFactory()
        backend = DirectBackend(
            reactor, allow_internal=allow_internal, resolver=world, connect=world.connect
        )
        self.server = WatchedServer(backend)
        self.port = 0
        self._endpoint: Any = None

    async def ask(self, host: str, command: int = 1) -> bytes:
        """Make one request, for the origin's port, and return the reply."""
        if not self.port:
            _, self.port = self.ground.address(await self.ground.listen(self.origin))
            self._endpoint = await self.ground.listen(self.server)
        client = await self.ground.connect(self._endpoint)
        self.client = client
        return await client.negotiate(named(host, self.port, command))


NAMES = {
    "loopback.example": ["127.0.0.1"],
    "private.example": ["10.0.0.1", "fe80::1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "mixed.example": ["10.0.0.1", PUBLIC, "127.0.0.1"],
    # Nothing listens on those of ``CLOSED``.
    "many.example": ["127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.1", "127.0.0.4"],
    "closed.example": ["127.0.0.2", "127.0.0.3"],
    "x.onion": ["127.0.0.1"],
}
OUTCOMES = table(
    # The host, whether internal addresses are allowed, the reply, and what was connected to.
    ("internal address", "127.0.0.1", False, refused(2), []),
    ("internal IPv6 address", "[::1]", False, refused(2), []),
    ("private address", "10.0.0.1", False, refused(2), []),
    ("mapped address", "[::ffff:127.0.0.1]", False, refused(2), []),
    ("name of loopback", "loopback.example", False, refused(4), []),
    ("name of private addresses", "private.example", False, refused(4), []),
    ("name of NAT64", "nat64.example", False, refused(4), []),
    ("name with a public address", "mixed.example", False, GRANTED, [PUBLIC]),
    ("unknown name", "nowhere.example", False, refused(4), []),
    ("internal address, allowed", "127.0.0.1", True, GRANTED, ["127.0.0.1"]),
    ("name of loopback, allowed", "loopback.example", True, GRANTED, ["127.0.0.1"]),
    (
        "addresses in order, once each",
        "many.example",
        True,
        GRANTED,
        ["127.0.0.2", "127.0.0.3", "127.0.0.1"],
    ),
    ("closed ports", "closed.example", True, refused(5), ["127.0.0.2", "127.0.0.3"]),
    ("onion name", "x.onion", True, refused(4), []),
)


@pytest.mark.parametrize(("host", "allow_internal", "reply", "dialled"), OUTCOMES)
async def test_connect_is_granted_or_refused(
    ground: Ground, host: str, allow_internal: bool, reply: bytes, dialled: list[str]
) -> None:
    world = FakeNames(NAMES)
    assert await Site(ground, world, allow_internal).ask(host) == reply
    assert world.dialled == dialled
    assert world.looked_up == ([host] if host.endswith(".example") else [])


@pytest.mark.parametrize(
    "host", ["loopback.example", "private.example", "nat64.example", "nowhere.example", "x.onion"]
)
async def test_resolve_hides_internal_addresses(ground: Ground, host: str) -> None:
    world = FakeNames(NAMES)
    assert await Site(ground, world, host == "x.onion").ask(host, 0xF0) == refused(4)
    assert world.looked_up == ([host] if host.endswith(".example") else [])


INTERNAL = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254"),
    *("172.16.0.1", "192.168.1.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12:3456::1", "ff02::1"),
    *("2001:db8::1", "fec0::1", "::127.0.0.1", "100::1", "4000::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a00:1::"),
    # Other special blocks of IANA: anycast, documentation, segment routing, AS112.
    *("192.0.0.8", "192.0.0.9", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1"),
    *("198.51.100.1", "203.0.113.1", "100:0:0:1::1", "2001:1::1", "2001:2::1", "2001:3::1"),
    *("2001:4:112::1", "2001:10::1", "2001:20::1", "2001:30::1", "2620:4f:8000::1", "3fff::1"),
    *("5f00::1", "::ffff:0:808:808", "::808:808", "64:ff9b::c000:8"),
    # ISATAP.
    *("2606:2800::5efe:10.0.0.1", "2606:2800::200:5efe:127.0.0.1", "fe80::5efe:8.8.8.8"),
    # Teredo, with an internal server, and an internal client (inverted bits).
    *("2001:0:a00:1::", "2001:0:808:808:0:0:80ff:fffe"),
]
EXTERNAL = [
    *("8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"),
    *("::ffff:93.184.216.34", "64:ff9b::808:808", "2002:808:808::1"),
    *("2001:0:808:808:0:0:f7f7:f7f7", "2606:2800::5efe:8.8.8.8", "192.0.1.1", "2001:200::1"),
]


def test_addresses_outside_the_public_internet_are_recognised() -> None:
    assert [host for host in INTERNAL if not is_internal(host)] == []
    assert [host for host in EXTERNAL if is_internal(host)] == []
    assert is_internal("fe80::1%lo")


@pytest.mark.parametrize("nonlocal_bind", [False, True])
def test_own_addresses_are_recognised(monkeypatch: pytest.MonkeyPatch, nonlocal_bind: bool) -> None:
    if nonlocal_bind:
        monkeypatch.setattr(direct, "_can_bind", lambda host: True)
    assert is_own("127.0.0.1")
    assert is_own("::1") is has_ipv6_loopback()
    assert is_own("127.1.2.3") is not nonlocal_bind
    assert not is_own(PUBLIC)
    assert not is_own(PUBLIC_6)


def test_every_address_counts_as_own_without_free_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_socket(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr(socket, "socket", no_socket)
    assert is_own(PUBLIC)


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", 2), ("me.example", 4)])
async def test_a_public_address_of_this_machine_is_refused(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, host: str, code: int
) -> None:
    monkeypatch.setattr(direct, "is_internal", lambda host: False)
    world = FakeNames({"me.example": ["127.0.0.1"]})
    assert await Site(ground, world, False).ask(host) == refused(code)
    assert world.dialled == []


async def test_bytes_of_the_remote_reach_the_client(ground: Ground) -> None:
    site = Site(ground, FakeNames(NAMES), False)
    assert await site.ask("mixed.example") == GRANTED
    far = await site.origin.peer()
    far.send(b"hello")
    assert await site.client.take(5) == b"hello"


@pytest.mark.clients(IPV6)
async def test_ipv6_address_is_connected_to(ground: Ground) -> None:
    world = FakeNames()
    site = Site(ground, world, True)
    port = await TCP6ServerEndpoint(reactor, 0, interface="::1").listen(site.origin)
    client = await ground.client(site.server)
    assert await client.negotiate(named("[::1]", port.getHost().port)) == GRANTED
    assert world.dialled == ["::1"]
    far = await site.origin.peer()
    far.close()
    assert await client.take_rest() == b""
    client.close()
    await port.stopListening()


@pytest.mark.parametrize("command", [1, 0xF0, 0xF1])
async def test_client_that_leaves_cancels_its_look_up(ground: Ground, command: int) -> None:
    world = FakeNames()
    world.waiting = []
    site = Site(ground, world, True)
    client = await ground.client(site.server)
    client.send(b"\5\1\0" + named("slow.example" if command != 0xF1 else PUBLIC, 80, command))
    await world.until(lambda: bool(world.waiting))
    client.reset()
    await site.server.emptied()
    cancelled: list[Failure] = []
    world.waiting[0].addErrback(cancelled.append)
    assert world.waiting[0].called
    assert world.dialled == []


def test_next_address_is_tried_after_ten_seconds() -> None:
    clock: Any = MemoryReactorClock()
    world = FakeNames({REQUEST.address.host: [PUBLIC, PUBLIC_6]})
    dialled: list[Any] = []

    def connect(sock: socket.socket, address: Any) -> int:
        dialled.append(address[:2])
        return errno.EINPROGRESS

    receiver = Receiver()
    backend = DirectBackend(clock, resolver=world, connect=connect)
    assert verifyObject(IBackend, backend)
    stream = backend.open(REQUEST, ISOLATION, receiver)
    clock.advance(0)
    clock.advance(9.9)
    assert {address for address, _ in dialled} == {PUBLIC}
    clock.advance(0.1)
    assert {address for address, _ in dialled} == {PUBLIC, PUBLIC_6}
    # The last one may take as long as the server's own deadline lets it.
    assert clock.getDelayedCalls() == []
    assert receiver.heard == []
    assert len(clock.getReaders()) == 1
    stream.abort()
    assert clock.getReaders() == []


def test_fault_of_the_resolver_is_logged(logged_failures: list[LogEvent]) -> None:
    clock: Any = MemoryReactorClock()

    class Broken(FakeNames):
        def addresses(self, name: str) -> NoReturn:
            raise ZeroDivisionError

    receiver = Receiver()
    DirectBackend(clock, resolver=Broken()).open(REQUEST, ISOLATION, receiver)
    clock.advance(0)
    [reason] = receiver.heard
    assert isinstance(reason, Refused)
    assert logged_failures.pop()["log_failure"].check(ZeroDivisionError)


class TestLookUps:
    async def test_resolve_prefers_ipv4(self, ground: Ground) -> None:
        world = FakeNames({"www.example": [PUBLIC_6, PUBLIC]})
        reply = await Site(ground, world, False).ask("www.example", 0xF0)
        assert reply == b"\5\0\0\1" + socket.inet_aton(PUBLIC) + b"\0\0"
        assert world.dialled == []

    async def test_resolve_answers_ipv6_where_there_is_no_ipv4(self, ground: Ground) -> None:
        site = Site(ground, FakeNames({"www.example": [PUBLIC_6]}), False)
        reply = await site.ask("www.example", 0xF0) + await site.client.take(12)
        assert reply == b"\5\0\0\4" + socket.inet_pton(socket.AF_INET6, PUBLIC_6) + b"\0\0"

    async def test_resolve_ptr_answers_a_name(self, ground: Ground) -> None:
        world = FakeNames({"8.8.8.8": ["dns.google"]})
        site = Site(ground, world, False)
        reply = await site.ask("8.8.8.8", 0xF1)
        assert reply + await site.client.take(7) == b"\5\0\0\3\x0adns.google\0\0"
        assert await site.ask("8.8.4.4", 0xF1) == refused(4)
        assert await site.ask("10.0.0.1", 0xF1) == refused(2)
        assert world.looked_up == ["8.8.8.8", "8.8.4.4"]


@pytest.mark.parametrize(
    ("flags", "order"),
    [
        ((), [PUBLIC, PUBLIC_6]),
        (("PreferIPv6",), [PUBLIC_6, PUBLIC]),
        (("NoIPv4Traffic",), [PUBLIC_6]),
        (("NoIPv6Traffic",), [PUBLIC]),
    ],
)
def test_port_flags_choose_and_order_addresses(flags: tuple[str, ...], order: list[str]) -> None:
    assert direct._chosen([PUBLIC_6, PUBLIC], frozenset(flags)) == order
