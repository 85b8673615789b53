"""Outgoing connections over real sockets: how they succeed, fail, and are given up."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import error, reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.support.ground import Ground
from tests.support.peers import Peer, PeerFactory, turn
from torsocks_tx.relay.connector import Attempt, Target, endpoint_from_string


@pytest_twisted.async_yield_fixture(params=["tcp", "unix"])
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    """Give sockets, and leave none behind."""
    ground = Ground(request.param, tmp_path)
    yield ground
    await ground.close()


class Dialling:
    """An attempt, its protocol, and what became of it."""

    def __init__(self, *targets: Target, **options: Any) -> None:
        self.peer = Peer()
        self.failures: list[Failure] = []
        self.attempt = Attempt(reactor, self.peer, self._failed, **options)
        self.attempt.begin(targets)

    def _failed(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.peer.notice()

    @property
    def is_connected(self) -> bool:
        return self.peer.transport is not None

    async def outcome(self) -> Any:
        await self.peer.until(lambda: self.is_connected or bool(self.failures))
        return self.failures[0].value if self.failures else None


async def origin(ground: Ground) -> tuple[Target, PeerFactory]:
    factory = PeerFactory()
    return ground.by_socket(await ground.listen(factory)).target, factory


async def nobody(ground: Ground) -> Target:
    """Where nobody listens any more."""
    target, _ = await origin(ground)
    await ground.stop_listening()
    return target


async def test_a_connection_carries_bytes(ground: Ground) -> None:
    target, factory = await origin(ground)
    dialling = Dialling(target)
    assert not dialling.is_connected
    assert await dialling.outcome() is None
    far = await factory.peer()
    far.send(b"hello")
    assert await dialling.peer.take(5) == b"hello"
    transport = dialling.peer.transport
    if ground.kind == "tcp":
        assert transport.getPeer() == IPv4Address("TCP", *target.address)
        assert transport.getHost().host == "127.0.0.1"
    else:
        assert transport.getPeer() == UNIXAddress(target.address.encode())
        assert isinstance(transport.getHost(), UNIXAddress)
    dialling.peer.close()
    assert await far.ended_well()


async def test_a_refusal_is_told_as_one(ground: Ground) -> None:
    outcome = await Dialling(await nobody(ground)).outcome()
    assert isinstance(outcome, error.ConnectError)
    assert outcome.osError in (errno.ECONNREFUSED, errno.ENOENT)


@pytest.mark.parametrize("ground", ["unix"], indirect=True)
async def test_a_unix_listener_that_is_busy_is_tried_again(ground: Ground) -> None:
    target, _ = await origin(ground)
    tries = []

    def busy_twice(sock: socket.socket, address: Any) -> int:
        tries.append(address)
        return errno.EAGAIN if len(tries) < 3 else sock.connect_ex(address)

    dialling = Dialling(target, connect=busy_twice)
    assert await dialling.outcome() is None
    dialling.peer.close()


async def test_targets_are_tried_in_turn(ground: Ground) -> None:
    dead = await nobody(ground)
    target, factory = await origin(ground)
    dialling = Dialling(dead, dead, target)
    assert await dialling.outcome() is None
    await factory.peer()
    dialling.peer.close()


async def test_given_up_it_leaves_nothing(ground: Ground) -> None:
    target, _ = await origin(ground)
    dialling = Dialling(target, target)
    dialling.attempt.cancel()
    await turn()
    assert not dialling.is_connected
    assert dialling.failures == []


class Waiting:
    """An attempt in a reactor in memory, at targets that do not answer."""

    def __init__(self, *ports: int, status: int = errno.EINPROGRESS) -> None:
        self.clock = MemoryReactorClock()
        self.failures: list[Failure] = []
        self.attempt = Attempt(self.clock, Peer(), self.failures.append, connect=lambda *_: status)
        self.attempt.begin([Target(socket.AF_INET, ("127.0.0.1", port)) for port in ports])


def test_an_attempt_is_what_a_reactor_watches_and_ignores_events_of_others() -> None:
    waiting = Waiting(9)
    attempt = waiting.attempt
    assert verifyObject(IReadWriteDescriptor, attempt)
    assert attempt.logPrefix() == "Attempt"
    attempt.doRead()
    attempt.doWrite()
    [poller] = waiting.clock.getReaders()
    assert poller.getWriters() == [attempt]
    attempt.cancel()
    for event in (attempt.doRead, attempt.doWrite, attempt.cancel):
        event()
    attempt.connectionLost(Failure(error.ConnectionLost()))
    assert attempt.fileno() == -1
    assert waiting.clock.getReaders() == []
    assert waiting.failures == []


def test_a_failure_that_comes_with_the_connections_loss() -> None:
    """epoll tells of a refusal by an error event, which Twisted takes for a loss."""
    waiting = Waiting(9)
    waiting.attempt.connectionLost(Failure(error.ConnectionLost()))
    assert waiting.failures[0].check(error.ConnectionRefusedError)


def test_a_silent_target_is_left_for_the_next() -> None:
    waiting = Waiting(9, 10)
    waiting.clock.advance(10)
    assert waiting.attempt._target.address == ("127.0.0.1", 10)
    assert waiting.clock.getDelayedCalls() == []
    waiting.attempt.cancel()
    assert waiting.clock.getReaders() == []
    assert waiting.failures == []


@pytest.mark.parametrize(
    ("module", "name", "status"),
    [
        (socket, "socket", errno.EINPROGRESS),
        (select, "epoll", errno.EINPROGRESS),
        (select, "epoll", 0),
    ],
    ids=["for the socket", "for the poller", "for the poller once it is connected"],
)
def test_without_descriptors_it_fails(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, status: int
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(module, name, none_left)
    waiting = Waiting(9, status=status)
    waiting.clock.advance(0)
    assert waiting.failures[0].check(OSError)
    assert waiting.attempt.fileno() == -1
    assert waiting.clock.getDelayedCalls() == []


def test_a_target_is_written_as_the_socket_module_does() -> None:
    assert Target.of("::1", 80) == (socket.AF_INET6, ("::1", 80, 0, 0))


@pytest.mark.parametrize(
    ("description", "target"),
    [
        ("tcp:127.0.0.1:9050", Target(socket.AF_INET, ("127.0.0.1", 9050))),
        ("unix:/run/tor/socks", Target(socket.AF_UNIX, "/run/tor/socks")),
        ("tcp:localhost:9050", None),
        ("tcp:127.0.0.1:9050:timeout=5", None),
        ("tcp:host=127.0.0.1:port=9050", None),
        ("unix:/run/tor\\:/socks", None),
        ("unix:path=/run/tor/socks", None),
    ],
)
def test_a_string_with_one_address_gives_an_endpoint_with_its_target(
    description: str, target: Target | None
) -> None:
    endpoint = endpoint_from_string(reactor, description)
    assert getattr(endpoint, "target", None) == target
