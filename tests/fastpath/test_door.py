"""Which ports get a door, what it accepts, and when it leaves that to Twisted."""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor, tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import TCP6ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.fastpath.conftest import over_tcp
from tests.support.fakes import plain
from tests.support.ground import Ground, WatchedServer, WatchedVisitor
from tests.support.peers import GRANTED, named, turn
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.fastpath import door
from torsocks_tx.fastpath.door import attach, opens
from torsocks_tx.fastpath.visitor import Visitor
from torsocks_tx.limits import Limits
from torsocks_tx.server.factory import SOCKS4Factory, SOCKS5Factory, SOCKSFactory
from torsocks_tx.server.protocol import SOCKSProtocol
from torsocks_tx.socks.messages import Request
from torsocks_tx.twistd.listen import parse_listener
from torsocks_tx.twistd.service import TorsocksService

REQUEST = named("example.com", 80)


class OwnFactory(SOCKSFactory):
    """Makes protocols in a way of its own."""

    def buildProtocol(self, addr: Any) -> SOCKSProtocol | None:
        return super().buildProtocol(addr)


class OwnProtocol(SOCKSProtocol):
    """Somebody's."""


class OwnPort(tcp.Port):
    """Accepts in a way of its own."""

    def doRead(self) -> None:
        super().doRead()


class WithOwnProtocol(SOCKSFactory):
    """Makes somebody's protocols."""

    protocol = OwnProtocol


def port_of(factory: Factory) -> tcp.Port:
    """A port that does not listen."""
    return tcp.Port(0, factory, reactor=reactor)


def served(kind: Callable[..., SOCKSFactory] = SOCKSFactory) -> SOCKSFactory:
    return kind(MemoryBackend(), clock=Clock())


class TestWhatOpens:
    @pytest.mark.parametrize("kind", [SOCKSFactory, SOCKS4Factory, SOCKS5Factory])
    def test_ports_of_our_own_factories(self, kind: type[SOCKSFactory]) -> None:
        assert opens(port_of(served(kind)))
        assert opens(unix.Port("/nowhere", served(kind), reactor=reactor))

    @pytest.mark.parametrize("kind", [OwnFactory, WithOwnProtocol])
    def test_not_those_of_a_factory_that_is_somebodys(self, kind: type[SOCKSFactory]) -> None:
        assert not opens(port_of(served(kind)))

    def test_not_those_of_a_wrapper(self) -> None:
        assert not opens(port_of(WrappingFactory(served())))
        assert not opens(port_of(TLSMemoryBIOFactory(CertificateOptions(), False, served())))
        assert not opens(port_of(Factory.forProtocol(SOCKSProtocol)))

    def test_not_a_port_that_accepts_by_itself(self) -> None:
        assert not opens(OwnPort(0, served(), reactor=reactor))

    def test_not_one_in_memory(self) -> None:
        memory = MemoryReactorClock()
        assert not opens(memory.listenTCP(0, served()))
        assert not opens(tcp.Port(0, served(), reactor=Clock()))

    def test_none_without_epoll(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(select, "epoll")
        assert not opens(port_of(served()))

    def test_to_others_nothing_is_done(self) -> None:
        port = port_of(served(OwnFactory))
        attach(port)
        assert "doRead" not in port.__dict__


class Failing:
    """A listening socket whose next calls of ``accept`` fail."""

    def __init__(self, sock: socket.socket, *errors: int) -> None:
        self._sock = sock
        self.errors = list(errors)

    def accept(self) -> Any:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def connected(ground: Ground, endpoint: Any) -> socket.socket:
    """A client whose connection the reactor has not seen yet."""
    client = socket.socket(socket.AF_UNIX if ground.kind == "unix" else socket.AF_INET)
    client.connect(ground.address(endpoint))
    return client


def is_reset(client: socket.socket) -> bool:
    """Close a client, and say whether it was closed upon, over TCP with a reset."""
    with client:
        if client.family == socket.AF_UNIX:
            return client.recv(1, socket.MSG_DONTWAIT) == b""
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


def options_of(sock: socket.socket) -> tuple[bool, bool]:
    return (
        bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)),
        bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
    )


def visitor_of(server: WatchedServer) -> Visitor:
    [visitor] = server.connections
    assert isinstance(visitor, Visitor)
    return visitor


class TestAccepting:
    @over_tcp
    @pytest_twisted.ensureDeferred
    async def test_both_sides_are_without_delay_and_kept_alive(self, ground: Ground) -> None:
        server, _ = await plain(ground)
        client = await ground.client(server)
        assert await client.negotiate(REQUEST) == GRANTED
        visitor = visitor_of(server)
        assert visitor.far is not None
        assert options_of(visitor.near) == (True, True)
        assert options_of(visitor.far) == (True, True)

    @pytest_twisted.ensureDeferred
    async def test_one_too_many_is_closed_at_once(self, ground: Ground) -> None:
        server, origin = await plain(ground, limits=Limits(max_connections=1))
        endpoint = await ground.listen(server)
        most = ground._ports[-1].numberAccepts
        client = await ground.connect(endpoint)
        assert await client.negotiate(REQUEST) == GRANTED
        turned_away = await ground.connect(endpoint)
        assert await turned_away.take_rest() == b""
        client.close()
        (await origin.peer()).close()
        await server.emptied()
        # The door is open again, and as wide as before.
        client = await ground.connect(endpoint)
        assert await client.negotiate(REQUEST) == GRANTED
        visitor_of(server)
        assert ground._ports[-1].numberAccepts == most

    @pytest_twisted.ensureDeferred
    async def test_one_that_lingers_makes_room(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torsocks_tx.server.connections.SILENCE", 0)
        server, origin = await plain(ground, limits=Limits(max_connections=1))
        endpoint = await ground.listen(server)
        first = await ground.connect(endpoint)
        assert await first.negotiate(REQUEST) == GRANTED
        first.shut()
        await server.until(lambda: server.ended == 1)
        second = await ground.connect(endpoint)
        assert await second.negotiate(REQUEST) == GRANTED
        assert len(server.connections) == len(server._limiter) == 1
        far = await origin.peer()
        await far.until(lambda: far.over)

    @pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.ENOBUFS])
    @pytest_twisted.ensureDeferred
    async def test_what_fails_is_left_to_twisted_once(self, ground: Ground, number: int) -> None:
        server, origin = await plain(ground)
        endpoint = await ground.listen(server)
        port = ground._ports[-1]
        most = port.numberAccepts
        failing = port.socket = Failing(port.socket, number)
        client = await ground.connect(endpoint)
        assert await client.negotiate(REQUEST) == GRANTED
        assert failing.errors == []
        assert [type(one) for one in server.connections] == [server.protocol]
        client.close()
        (await origin.peer()).close()
        await server.emptied()
        client = await ground.connect(endpoint)
        assert await client.negotiate(REQUEST) == GRANTED
        visitor_of(server)
        assert port.numberAccepts == most

    @pytest_twisted.ensureDeferred
    async def test_without_descriptors_clients_are_turned_away(self, ground: Ground) -> None:
        server, _ = await plain(ground)
        endpoint = await ground.listen(server)
        port = ground._ports[-1]
        lines: list[LogEvent] = []
        globalLogPublisher.addObserver(lines.append)
        for _ in range(2):
            port.socket = Failing(port.socket, errno.EMFILE)
            client = await ground.connect(endpoint)
            assert await client.take_rest() == b""
        client = await ground.connect(endpoint)
        assert await client.negotiate(REQUEST) == GRANTED
        globalLogPublisher.removeObserver(lines.append)
        # Once, and without saying whom: Twisted's own lines have the address of each.
        [line] = [formatEvent(line) for line in lines if line["log_level"] is not LogLevel.debug]
        assert line == "no file descriptors are left: clients are turned away"

    @pytest_twisted.ensureDeferred
    async def test_nobody_is_asked_to_make_room_for_nobody(self, ground: Ground) -> None:
        """Of a full crowd somebody who lingers is reset for a client that is there."""
        server, _ = await plain(ground, limits=Limits(max_connections=1))
        client = await ground.client(server)
        assert await client.negotiate(REQUEST) == GRANTED
        client.shut()
        await server.until(lambda: server.ended == 1)
        ground._ports[-1].doRead()
        assert len(server.connections) == 1

    @pytest_twisted.ensureDeferred
    async def test_a_closed_port_leaves_nothing(self, ground: Ground) -> None:
        server, _ = await plain(ground)
        await ground.listen(server)
        port = ground._ports.pop()
        gone = weakref.ref(port.doRead.__self__)
        gc.disable()
        try:
            await port.stopListening()
            await turn()
            assert gone() is None
        finally:
            gc.enable()

    @pytest_twisted.ensureDeferred
    async def test_one_turn_accepts_so_many(self, ground: Ground) -> None:
        server, _ = await plain(ground)
        endpoint = await ground.listen(server)
        port = ground._ports[-1]
        port.numberAccepts = 2
        clients = [connected(ground, endpoint) for _ in range(3)]
        port.doRead()
        assert len(server.connections) == 2
        port.doRead()
        assert len(server.connections) == 3
        port.doRead()
        for client in clients:
            client.close()
        await server.emptied()

    @pytest_twisted.ensureDeferred
    async def test_a_fault_at_the_beginning_resets_one_client_only(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch, logged_failures: list[LogEvent]
    ) -> None:
        broken = [True]

        class Broken(WatchedVisitor):
            __slots__ = ()

            def _converse(self) -> None:
                if broken.pop():
                    raise ZeroDivisionError

        monkeypatch.setattr(door, "Visitor", Broken)
        server, _ = await plain(ground)
        endpoint = await ground.listen(server)
        first = connected(ground, endpoint)
        ground._ports[-1].doRead()
        assert is_reset(first)
        assert not server.connections
        monkeypatch.setattr(door, "Visitor", WatchedVisitor)
        client = await ground.connect(endpoint)
        assert await client.negotiate(REQUEST) == GRANTED
        [event] = logged_failures
        assert event["log_failure"].check(ZeroDivisionError)
        logged_failures.clear()

    @pytest_twisted.ensureDeferred
    async def test_one_that_cannot_be_watched_is_not_counted(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch, logged_failures: list[LogEvent]
    ) -> None:
        server, _ = await plain(ground)
        endpoint = await ground.listen(server)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr("torsocks_tx.fastpath.poller.Poller.watch", full)
            client = connected(ground, endpoint)
            ground._ports[-1].doRead()
            assert is_reset(client)
        assert not server.connections
        assert len(server._limiter) == 0
        assert [event["log_failure"].value.errno for event in logged_failures] == [errno.ENOSPC]
        logged_failures.clear()

    @pytest_twisted.ensureDeferred
    async def test_a_default_timeout_of_sockets_holds_up_nobody(self, ground: Ground) -> None:
        server, _ = await plain(ground)
        endpoint = await ground.listen(server)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(0.01)
        try:
            client = await ground.connect(endpoint)
            await server.until(lambda: len(server.connections) == 1)
        finally:
            socket.setdefaulttimeout(before)
        assert await client.negotiate(REQUEST) == GRANTED

    @pytest_twisted.ensureDeferred
    async def test_after_the_port_closed_its_clients_go_on(self, ground: Ground) -> None:
        server, origin = await plain(ground)
        client = await ground.client(server)
        assert await client.negotiate(REQUEST) == GRANTED
        await ground.stop_listening()
        far = await origin.peer()
        client.send(b"ping")
        assert await far.take(4) == b"ping"


class TestAddresses:
    @pytest_twisted.ensureDeferred
    async def test_the_peer_is_told_as_twisted_tells_it(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, _ = await plain(ground)
        peers = note_peers(server, monkeypatch)
        client = await ground.client(server)
        assert await client.negotiate(REQUEST) == GRANTED
        visitor_of(server)
        peer = server.client.transport.getPeer()
        if ground.kind == "tcp":
            assert isinstance(peer, IPv4Address)
            assert peers == [peer] == [client.transport.getHost()]
        else:
            assert [type(peer) for peer in [*peers, peer]] == [UNIXAddress] * 2

    @over_tcp
    @pytest_twisted.ensureDeferred
    async def test_over_ipv6(self, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
        server, origin = await plain(ground)
        peers = note_peers(server, monkeypatch)
        port = reactor.listenTCP(0, server, interface="::1")  # type: ignore[attr-defined]
        ground._add(port)
        client = await ground.connect(TCP6ClientEndpoint(reactor, "::1", port.getHost().port))
        assert await client.negotiate(REQUEST) == GRANTED
        visitor = visitor_of(server)
        assert options_of(visitor.near) == (True, True)
        transport = server.client.transport
        assert isinstance(transport.getPeer(), IPv6Address)
        assert peers == [transport.getPeer()] == [client.transport.getHost()]
        assert transport.getHost() == client.transport.getPeer()
        client.send(b"ping")
        assert await (await origin.peer()).take(4) == b"ping"


def note_peers(server: WatchedServer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that are shown to whoever judges requests."""
    peers: list[Any] = []
    admit = server.admit

    def noting(request: Request, peer: Any) -> Any:
        peers.append(peer)
        return admit(request, peer)

    monkeypatch.setattr(server, "admit", noting)
    return peers


class TestService:
    @over_tcp
    @pytest_twisted.ensureDeferred
    async def test_its_ports_have_a_door(self, ground: Ground) -> None:
        ports = []

        def bind(_: object, factory: Factory) -> Any:
            ports.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))  # type: ignore[attr-defined]
            return ports[-1]

        listener = parse_listener("tcp:0:interface=127.0.0.1")
        service = TorsocksService(
            reactor, [(listener, served())] * 2, None, bind=bind, grace=0, most=1
        )
        service.privilegedStartService()
        assert len(ports) == 2
        for port in ports:
            assert isinstance(port.doRead.__self__, door.Door)
            await port.stopListening()
        await turn()
