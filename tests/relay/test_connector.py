"""Outgoing connections over real sockets: how they succeed, fail, and are given up."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import error, reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from tests.support.ground import Ground
from tests.support.peers import Peer, PeerFactory, turn
from torsocks_tx.relay.connector import Attempt, Dialled, Target, target_of


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
    target = target_of(await ground.listen(factory))
    assert target is not None
    return target, factory


async def nobody(ground: Ground) -> Target:
    """Where nobody listens any more."""
    target, _ = await origin(ground)
    await ground.stop_listening()
    return target


@pytest.mark.parametrize("at_once", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_connection_carries_bytes(ground: Ground, at_once: bool) -> None:
    target, factory = await origin(ground)
    dialling = Dialling(target, at_once=at_once)
    assert dialling.is_connected == at_once
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


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_told_as_one(ground: Ground) -> None:
    outcome = await Dialling(await nobody(ground)).outcome()
    assert isinstance(outcome, error.ConnectError)
    assert outcome.osError in (errno.ECONNREFUSED, errno.ENOENT)


@pytest_twisted.ensureDeferred
async def test_a_refusal_may_come_at_once(ground: Ground) -> None:
    dialling = Dialling(await nobody(ground), at_once=True)
    assert isinstance(dialling.failures[0].value, error.ConnectError)


@pytest_twisted.ensureDeferred
async def test_targets_are_tried_in_turn(ground: Ground) -> None:
    dead = await nobody(ground)
    target, factory = await origin(ground)
    dialling = Dialling(dead, dead, target)
    assert await dialling.outcome() is None
    await factory.peer()
    dialling.peer.close()


@pytest_twisted.ensureDeferred
async def test_given_up_it_leaves_nothing(ground: Ground) -> None:
    target, _ = await origin(ground)
    dialling = Dialling(target, target, at_once=False)
    dialling.attempt.cancel()
    await turn()
    assert not dialling.is_connected
    assert dialling.failures == []


def test_a_failure_that_comes_with_the_connections_loss() -> None:
    """epoll tells of a refusal by an error event, which Twisted takes for a loss."""
    failures: list[Failure] = []
    attempt = Attempt(MemoryReactorClock(), Peer(), failures.append, connect=in_progress)
    attempt.begin([Target(socket.AF_INET, ("127.0.0.1", 9))])
    assert attempt._dialled is not None
    attempt._dialled.connectionLost(Failure(error.ConnectionLost()))
    assert failures[0].check(error.ConnectionRefusedError)


def test_a_silent_target_is_left_for_the_next() -> None:
    clock = MemoryReactorClock()
    failures: list[Failure] = []
    attempt = Attempt(clock, Peer(), failures.append, connect=in_progress)
    first, second = (Target(socket.AF_INET, ("127.0.0.1", port)) for port in (9, 10))
    attempt.begin([first, second])
    clock.advance(10)
    assert attempt._dialled is not None
    assert attempt._dialled._target == second
    assert clock.getDelayedCalls() == []
    attempt.cancel()
    assert clock.getWriters() == []
    assert failures == []


def in_progress(_socket: socket.socket, _address: Any) -> int:
    return errno.EINPROGRESS


def test_without_descriptors_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Dialled, "__init__", none_left)
    failures: list[Failure] = []
    attempt = Attempt(MemoryReactorClock(), Peer(), failures.append)
    attempt.begin([Target(socket.AF_INET, ("127.0.0.1", 9))])
    assert failures[0].check(OSError)


class TestTargets:
    def test_of_addresses(self) -> None:
        assert Target.of("192.0.2.1", 80) == (socket.AF_INET, ("192.0.2.1", 80))
        assert Target.of("::1", 80) == (socket.AF_INET6, ("::1", 80, 0, 0))

    def test_of_endpoints(self) -> None:
        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", 9050)
        assert target_of(tcp) == (socket.AF_INET, ("127.0.0.1", 9050))
        unix = UNIXClientEndpoint(reactor, "/run/tor/socks")
        assert target_of(unix) == (socket.AF_UNIX, "/run/tor/socks")

    @pytest.mark.parametrize(
        "endpoint",
        [
            TCP4ClientEndpoint(reactor, "localhost", 9050),
            TCP4ClientEndpoint(reactor, "127.0.0.1", 9050, bindAddress=("127.0.0.2", 0)),
            TCP4ClientEndpoint(reactor, "127.0.0.1", 9050, timeout=5),
            TCP6ClientEndpoint(reactor, "::1", 9050),
            UNIXClientEndpoint(reactor, "/run/tor/socks", checkPID=True),
            TCP4ClientEndpoint(MemoryReactorClock(), "127.0.0.1", 9050),
            HostnameEndpoint(reactor, "localhost", 9050),
            object(),
        ],
    )
    def test_others_are_left_to_twisted(self, endpoint: object) -> None:
        assert target_of(endpoint) is None
