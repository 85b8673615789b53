"""A destination that takes its time: what may happen until its outcome is there."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock

from tests.fastpath.conftest import over_tcp
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import GRANTED, Peer, PeerFactory, refused
from tests.support.rows import rows
from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.fastpath.handover import Stage
from torsocks_tx.fastpath.visitor import Visitor
from torsocks_tx.limits import Limits

pytestmark = over_tcp


def late(sock: socket.socket, address: Any) -> int:
    """Connect, and let the outcome come as an event."""
    sock.connect_ex(address)
    return errno.EINPROGRESS


def request(port: int) -> bytes:
    return b"\5\1\0\1\x7f\0\0\1" + port.to_bytes(2, "big")


def direct(connect: Any = late, **options: Any) -> WatchedServer:
    backend = DirectBackend(reactor, allow_internal=True, connect=connect)
    return WatchedServer(backend, **options)


class Greeter(Peer):
    """Speaks first."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.send(b"220 hello")


class Leaver(Greeter):
    """And leaves."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.close()


async def origin_of(ground: Ground, kind: Callable[[], Peer] = Peer) -> tuple[PeerFactory, int]:
    origin = PeerFactory(kind)
    endpoint: Any = await ground.listen(origin)
    return origin, endpoint._port


def stage_of(server: WatchedServer) -> Stage | None:
    """How far the only client is on the short way; None if it is there no more."""
    [visitor] = server.connections
    return visitor.stage if isinstance(visitor, Visitor) else None


async def waiting(ground: Ground, server: WatchedServer, port: int, early: bytes = b"") -> Peer:
    """A client whose destination says nothing yet."""
    client = await ground.client(server)
    client.send(b"\5\1\0" + request(port) + early)
    await server.until(lambda: server.heard == 13 + len(early))
    assert await client.take(2) == b"\5\0"
    return client


@rows("S-02")
@pytest_twisted.ensureDeferred
async def test_the_outcome_is_told_when_it_comes(ground: Ground) -> None:
    origin, port = await origin_of(ground)
    server = direct()
    client = await waiting(ground, server, port)
    assert await client.take(10) == GRANTED
    assert stage_of(server) is Stage.OPEN
    far = await origin.peer()
    for _ in range(3):
        client.send(b"ping")
        assert await far.take(4) == b"ping"
        far.send(b"pong")
        assert await client.take(4) == b"pong"
    assert stage_of(server) is Stage.OPEN
    assert len(origin.peers) == 1


@rows("S-03")
@pytest.mark.parametrize("kind", [Greeter, Leaver])
@pytest_twisted.ensureDeferred
async def test_a_server_that_speaks_first(ground: Ground, kind: Callable[[], Peer]) -> None:
    _, port = await origin_of(ground, kind)
    client = await waiting(ground, direct(), port)
    assert await client.take(19) == GRANTED + b"220 hello"
    if kind is Leaver:
        assert await client.take_rest() == b""


@rows("S-03")
@pytest_twisted.ensureDeferred
async def test_a_server_that_has_spoken_when_the_outcome_comes(ground: Ground) -> None:
    """One event tells of both."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []

        def connect(sock: socket.socket, address: Any) -> int:
            status = late(sock, address)
            if not accepted:
                accepted.append(listener.accept()[0])
                accepted[0].send(b"220 hello")
            return status

        server = direct(connect)
        client = await waiting(ground, server, listener.getsockname()[1])
        assert await client.take(19) == GRANTED + b"220 hello"
        assert stage_of(server) is Stage.OPEN
        accepted[0].close()


@rows("S-02")
@pytest.mark.parametrize("connect", [late, socket.socket.connect_ex, lambda *_: errno.EINPROGRESS])
@pytest_twisted.ensureDeferred
async def test_a_refusal_is_told_as_one(ground: Ground, connect: Any) -> None:
    _, port = await origin_of(ground)
    await ground.stop_listening()
    clock = Clock()
    server = direct(connect, clock=clock)
    # Nobody tries a second time.
    server.backend.open = None  # type: ignore[method-assign, assignment]
    client = await waiting(ground, server, port)
    assert await client.take_rest() == refused(5)
    client.close()
    await server.emptied()
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_fault_while_connecting_is_left_to_the_ordinary_way(ground: Ground) -> None:
    faults = [True]

    def raising_once(sock: socket.socket, address: Any) -> int:
        if faults:
            faults.pop()
            raise OverflowError
        return sock.connect_ex(address)

    _, port = await origin_of(ground)
    server = direct(raising_once)
    client = await waiting(ground, server, port)
    assert await client.take(10) == GRANTED
    assert stage_of(server) is None


@rows("S-40")
@pytest_twisted.ensureDeferred
async def test_early_data_goes_out_once_it_is_open(ground: Ground) -> None:
    origin, port = await origin_of(ground)
    server = direct()
    client = await waiting(ground, server, port, b"early")
    far = await origin.peer()
    assert await far.take(5) == b"early"
    assert await client.take(10) == GRANTED
    assert len(origin.peers) == 1


class TestSilent:
    """Destinations without an outcome, on the test's clock."""

    @rows("S-40")
    @pytest_twisted.ensureDeferred
    async def test_early_data_is_kept_by_the_ordinary_way(
        self, silent_port: int, ground: Ground
    ) -> None:
        clock = Clock()
        server = direct(socket.socket.connect_ex, clock=clock)
        client = await waiting(ground, server, silent_port)
        assert stage_of(server) is Stage.CONNECTING
        client.send(b"early")
        await server.until(lambda: server.heard == 18)
        assert stage_of(server) is None
        assert not client.received
        client.reset()
        await server.emptied()
        assert clock.getDelayedCalls() == []

    @rows("R-29")
    @pytest.mark.parametrize("leave", [Peer.shut, Peer.close, Peer.reset])
    @pytest_twisted.ensureDeferred
    async def test_a_client_that_goes_is_forgotten(
        self, silent_port: int, ground: Ground, leave: Callable[[Peer], None]
    ) -> None:
        clock = Clock()
        server = direct(socket.socket.connect_ex, clock=clock)
        client = await waiting(ground, server, silent_port)
        assert stage_of(server) is Stage.CONNECTING
        leave(client)
        await server.emptied()
        assert len(server._limiter) == 0
        assert not client.received
        assert clock.getDelayedCalls() == []

    @rows("S-02")
    @pytest.mark.parametrize("handed_over", [False, True])
    @pytest_twisted.ensureDeferred
    async def test_the_deadline_is_one_from_the_request_on(
        self, silent_port: int, ground: Ground, handed_over: bool
    ) -> None:
        clock = Clock()
        limits = Limits(connect_timeout=50.0)
        server = direct(socket.socket.connect_ex, clock=clock, limits=limits)
        client = await waiting(ground, server, silent_port)
        clock.advance(20)
        if handed_over:
            client.send(b"early")
            await server.until(lambda: server.heard == 18)
        clock.advance(29.9)
        assert stage_of(server) is (None if handed_over else Stage.CONNECTING)
        assert server.connections
        assert not client.over
        assert not client.received
        clock.advance(0.1)
        assert await client.take_rest() == refused(6)
        client.close()
        await server.emptied()
        assert clock.getDelayedCalls() == []

    @pytest.mark.parametrize("ask", [WatchedServer.close_all, WatchedServer.close_unserved])
    @pytest_twisted.ensureDeferred
    async def test_a_server_that_stops(
        self, silent_port: int, ground: Ground, ask: Callable[[WatchedServer], None]
    ) -> None:
        server = direct(socket.socket.connect_ex)
        endpoint = await ground.listen(server)
        idle = await ground.connect(endpoint)
        busy = await ground.connect(endpoint)
        busy.send(b"\5\1\0" + request(silent_port))
        await server.until(lambda: server.heard == 13 and len(server.connections) == 2)
        empty = server.when_empty()
        ask(server)
        assert not await idle.ended_well()
        if ask is WatchedServer.close_unserved:
            assert not busy.over
            assert stage_of(server) is Stage.CONNECTING
            assert not empty.called
            server.close_all()
        assert not await busy.ended_well()
        assert empty.called
        assert len(server._limiter) == 0


@rows("R-30")
class TestHandshakeDeadline:
    @pytest.mark.parametrize("handed_over", [False, True])
    @pytest_twisted.ensureDeferred
    async def test_it_is_one_from_the_first_moment_on(
        self, ground: Ground, handed_over: bool
    ) -> None:
        clock = Clock()
        server = direct(clock=clock)
        client = await ground.client(server)
        client.send(b"\5")
        await server.until(lambda: server.heard == 1)
        clock.advance(20)
        if handed_over:
            assert server.client
            client.send(b"\1")
            await server.until(lambda: server.heard == 2)
        clock.advance(9.9)
        assert not client.over
        assert stage_of(server) is (None if handed_over else Stage.HANDSHAKE)
        clock.advance(0.1)
        assert await client.take_rest() == b""
        assert await client.ended_well()
        client.close()
        await server.emptied()
        assert clock.getDelayedCalls() == []

    @pytest_twisted.ensureDeferred
    async def test_a_request_ends_it(self, ground: Ground) -> None:
        clock = Clock()
        _, port = await origin_of(ground)
        server = direct(clock=clock)
        client = await waiting(ground, server, port)
        assert await client.take(10) == GRANTED
        assert clock.getDelayedCalls() == []
        clock.advance(100_000)
        assert stage_of(server) is Stage.OPEN
