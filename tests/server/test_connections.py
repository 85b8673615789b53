"""How many clients there may be over all listeners, and which one is reset for another."""

from __future__ import annotations

import os
import random
import resource
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.selectreactor import SelectReactor

from tests.support.clocks import TurnClock
from torsocks_tx.relay.timeouts import WORK
from torsocks_tx.server import connections
from torsocks_tx.server.connections import (
    ONIONS_AT_ONCE,
    SILENCE,
    WARNING_PAUSE,
    ConnectionLimiter,
    client_network,
    raise_descriptor_limit,
)

ATTACKER, VICTIM = b"\x7f\0\0\x09", b"\x7f\0\0\x02"
LOOPBACK = bytes([127, 0, 0, 1])


class FakeConnection:
    """A connection that knows whether it was reset."""

    was_reset = False
    received = 0

    def __init__(self, network: bytes | None = None) -> None:
        self.network = network

    def reset(self) -> None:
        self.was_reset = True


class Limited:
    """A limiter with a clock, and its connections."""

    def __init__(self, most: int | None = None, per_client: int | None = None) -> None:
        self.clock = TurnClock()
        self.limiter = ConnectionLimiter(most, per_client, self.clock)

    def come(self, client: bytes | None = None, *, served: bool = False) -> FakeConnection | None:
        if not self.limiter.has_room(client):
            return None
        connection = FakeConnection(client)
        self.limiter.join(connection)
        if served:
            self.limiter.serve(connection, lambda: None)
        return connection

    def serve(self, count: int, client: bytes | None = None) -> list[FakeConnection]:
        connections = [self.come(client, served=True) for _ in range(count)]
        return [connection for connection in connections if connection is not None]


def test_without_a_bound_any_number_may_come() -> None:
    assert len(Limited().serve(1000, ATTACKER)) == 1000


def test_a_full_server_says_so_at_most_once_a_minute(log_lines: list[str]) -> None:
    limited = Limited(1)
    [connection] = limited.serve(1)
    assert limited.serve(2) == []
    assert log_lines == ["warn: 1 clients are connected: more are turned away"]
    limited.clock.advance(WARNING_PAUSE - 1)
    assert limited.serve(1) == []
    assert len(log_lines) == 1
    limited.clock.advance(1)
    assert limited.serve(1) == []
    assert len(log_lines) == 2
    for _ in range(2):
        limited.limiter.leave(connection)
    assert len(limited.limiter) == 0
    assert len(limited.serve(2)) == 1


def test_the_oldest_connection_without_a_request_makes_room_first() -> None:
    limited = Limited(3)
    [done] = limited.serve(1)
    waiting = [limited.come(), limited.come()]
    limited.limiter.linger(done)
    limited.clock.advance(SILENCE)
    assert len(limited.serve(2)) == 2
    assert [connection.was_reset for connection in waiting if connection] == [True, True]
    assert not done.was_reset
    assert len(limited.serve(2)) == 1
    assert done.was_reset


def test_a_half_closed_stream_makes_room_only_when_it_is_silent() -> None:
    limited = Limited(3)
    connections = limited.serve(3)
    limited.limiter.linger(connections[2])
    limited.limiter.linger(connections[0])
    limited.limiter.linger(FakeConnection())
    for _ in range(10):
        limited.clock.advance(SILENCE - 0.1)
        for connection in connections:
            connection.received += 1
        assert limited.come() is None
        limited.clock.advance(0.1)
        assert limited.come() is None
    connections[0].received += 1
    limited.clock.advance(SILENCE)
    assert len(limited.serve(2)) == 1
    assert [connection.was_reset for connection in connections] == [False, False, True]
    limited.clock.advance(SILENCE)
    assert len(limited.serve(2)) == 1
    assert [connection.was_reset for connection in connections] == [True, False, True]


def test_one_address_gets_a_quarter_of_all_connections(log_lines: list[str]) -> None:
    limited = Limited(200)
    assert len(limited.serve(220, ATTACKER)) == 50
    assert log_lines == ["warn: 50 clients of one address are connected: more are turned away"]
    assert len(limited.serve(20, VICTIM)) == 20
    assert len(Limited(2).serve(2, ATTACKER)) == 1


def test_an_address_without_requests_makes_room_only_among_its_own() -> None:
    limited = Limited(50)
    [victim] = limited.serve(1, VICTIM)
    limited.limiter.linger(victim)
    limited.clock.advance(SILENCE)
    attackers = [limited.come(ATTACKER) for _ in range(55)]
    assert None not in attackers
    assert len(limited.limiter) == 1 + 12
    assert not victim.was_reset


@pytest.mark.parametrize("client", [LOOPBACK, bytes(8), None], ids=["127.0.0.1", "::1", "unix"])
def test_the_default_share_does_not_bound_a_whole_machine(client: bytes | None) -> None:
    assert len(Limited(40).serve(50, client)) == 40
    asked_for = Limited(40, per_client=10)
    assert len(asked_for.serve(50, client)) == (40 if client is None else 10)


def test_nothing_is_kept_of_clients_that_left() -> None:
    limited = Limited(40)
    for number in range(100):
        for connection in limited.serve(2, number.to_bytes(4, "big")):
            limited.limiter.leave(connection)
    assert limited.limiter._clients == {}
    assert limited.limiter._groups == {}


PER_TURN = 4


class TestTurns:
    """How many requests are begun in one turn of the reactor, and whose.

    In these tests the fourth one uses up what there is for a turn.
    """

    def setup_method(self) -> None:
        self.limited = Limited()
        self.begun: list[FakeConnection] = []

    def ask(
        self, count: int, client: bytes | None = None, *, onion: bool = False
    ) -> list[FakeConnection]:
        connections = [FakeConnection(client) for _ in range(count)]
        for connection in connections:
            self.limited.limiter.join(connection)
            begin = partial(self.begin, connection)
            self.limited.limiter.serve(connection, begin, onion=onion)
        return connections

    def begin(self, connection: FakeConnection) -> None:
        self.begun.append(connection)
        self.limited.clock.rightNow += WORK / (PER_TURN - 0.5)

    def turn(self) -> list[FakeConnection]:
        """Make one turn; return whose requests were begun in it."""
        before = len(self.begun)
        self.limited.clock.turn()
        return self.begun[before:]

    def test_a_few_requests_are_begun_in_one_turn_and_the_others_in_the_next(self) -> None:
        connections = self.ask(3 * PER_TURN)
        for turns in (1, 2, 3, 3):
            assert self.begun == connections[: turns * PER_TURN]
            self.turn()

    def test_requests_of_a_later_turn_do_not_count(self) -> None:
        for _ in range(3 * PER_TURN):
            self.limited.clock.advance(WORK * 1.1)
            assert self.ask(1) == self.begun[-1:]
        assert self.limited.clock.getDelayedCalls() == []

    def test_addresses_take_turns(self) -> None:
        self.ask(100, ATTACKER)
        victims = self.ask(2, VICTIM)
        assert {*victims} < {*self.turn()}

    def test_a_client_that_left_is_not_served(self) -> None:
        connections = self.ask(PER_TURN + 3)
        for connection in connections:
            self.limited.limiter.leave(connection)
        assert self.all_turns() == connections[:PER_TURN]
        assert self.limited.clock.getDelayedCalls() == []
        assert self.ask(1) == self.begun[-1:]

    def all_turns(self) -> list[FakeConnection]:
        """Make turns as long as there is something to do; return whose requests were begun."""
        while self.limited.clock.turn():
            pass
        return self.begun

    def test_an_address_may_be_on_the_way_to_few_onion_services(self) -> None:
        connections = self.ask(ONIONS_AT_ONCE + 5, ATTACKER, onion=True)
        [other] = self.ask(1, VICTIM, onion=True)
        [clearnet] = self.ask(1, ATTACKER)
        assert {*self.all_turns()} == {*connections[:ONIONS_AT_ONCE], other, clearnet}
        limiter = self.limited.limiter
        for done in (connections[0], connections[-1]):  # the last one has not been begun
            limiter.leave(done)
        limiter.reached(connections[1])
        limiter.reached(connections[1])
        assert self.all_turns()[-2:] == connections[ONIONS_AT_ONCE : ONIONS_AT_ONCE + 2]
        for connection in connections:
            limiter.leave(connection)
        assert self.begun[-1] is connections[ONIONS_AT_ONCE + 1]
        assert self.ask(1, ATTACKER, onion=True) == self.all_turns()[-1:]

    @pytest.mark.parametrize("client", [LOOPBACK, None], ids=["127.0.0.1", "unix"])
    def test_programs_of_this_machine_may_be_on_the_way_to_any_number(
        self, client: bytes | None
    ) -> None:
        connections = self.ask(ONIONS_AT_ONCE + 5, client, onion=True)
        assert self.all_turns() == connections

    def test_a_request_that_raises_does_not_keep_the_others(self) -> None:
        def fail() -> None:
            raise RuntimeError("out of order")

        self.ask(PER_TURN)
        broken = FakeConnection()
        self.limited.limiter.serve(broken, fail)
        [last] = self.ask(1)
        with pytest.raises(RuntimeError):
            self.turn()
        assert self.turn() == [last]


class Asking:
    """Clients that ask, arrive and leave at random, and what must hold of their requests."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        most, per_client = self.random.choice([(None, None), (60, 45), (200, None)])
        self.limited = Limited(most, per_client)
        self.waiting: set[FakeConnection] = set()
        self.begun: set[FakeConnection] = set()
        self.reaching: set[FakeConnection] = set()

    def ask(self) -> None:
        client = self.limited.come(self.random.choice([ATTACKER, ATTACKER, VICTIM, None]))
        if client is not None and self.random.random() < 0.9:
            self.waiting.add(client)
            onion = self.random.random() < 0.8
            self.limited.limiter.serve(client, partial(self.begin, client, onion), onion=onion)

    def begin(self, client: FakeConnection, onion: bool) -> None:
        self.waiting.remove(client)  # else it was begun twice, or has left
        self.begun.add(client)
        self.limited.clock.rightNow += WORK / (PER_TURN - 0.5)
        if onion and client.network is not None:
            self.reaching.add(client)
            own = [other for other in self.reaching if other.network == client.network]
            assert len(own) <= ONIONS_AT_ONCE
        if self.random.random() < 0.2:  # what begins one request may end another, or itself
            self.leave()

    def leave(self) -> None:
        client = self.random.choice([*self.waiting, *self.begun, FakeConnection()])
        for clients in (self.waiting, self.begun, self.reaching):
            clients.discard(client)
        self.limited.limiter.leave(client)

    def reach(self) -> None:
        if self.reaching:
            client = self.random.choice([*self.reaching])
            self.reaching.remove(client)
            self.limited.limiter.reached(client)

    def turn(self) -> None:
        before = {*self.waiting}
        self.limited.clock.turn()
        assert len(before - self.waiting) <= 2 * PER_TURN


@pytest.mark.parametrize("seed", range(20))
def test_every_request_of_a_client_that_stays_is_begun_once(seed: int) -> None:
    asking = Asking(seed)
    for _ in range(1000):
        act = asking.random.choices(
            [asking.ask, asking.leave, asking.reach, asking.turn], [6, 1, 2, 1]
        )[0]
        act()
    for _ in range(1000):
        asking.reach()
        asking.turn()
    assert not asking.waiting
    for client in [*asking.limited.limiter._groups]:
        asking.limited.limiter.leave(client)
    asking.turn()
    assert asking.limited.limiter._clients == {}
    assert asking.limited.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("address", "network"),
    [
        (IPv4Address("TCP", "192.0.2.7", 1), bytes([192, 0, 2, 7])),
        (IPv6Address("TCP", "::ffff:192.0.2.7", 1), bytes([192, 0, 2, 7])),
        (IPv6Address("TCP", "2001:db8::1", 1), bytes.fromhex("20010db800000000")),
        (IPv6Address("TCP", "2001:db8::ffff", 1), bytes.fromhex("20010db800000000")),
        (IPv6Address("TCP", "2001:db8:0:1::1", 1), bytes.fromhex("20010db800000001")),
        (IPv6Address("TCP", "fe80::1%lo", 1), bytes.fromhex("fe80000000000000")),
        (IPv4Address("TCP", "nonsense", 1), None),
        (UNIXAddress("/run/socks"), None),
        (None, None),
    ],
)
def test_client_network_of_an_address(address: Any, network: bytes | None) -> None:
    assert client_network(address) == network


def test_the_descriptor_limit_is_raised_and_says_how_many_connections_it_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 256), before[1]))
        allowed = raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
        assert allowed >= (len(os.listdir("/proc/self/fd")) - 96) // 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("kind", "most"), [(EPollReactor, 5000), (SelectReactor, 464)])
def test_no_more_clients_are_promised_than_the_reactor_can_serve(
    monkeypatch: pytest.MonkeyPatch, kind: type, most: int
) -> None:
    monkeypatch.setattr(connections, "raise_descriptor_limit", lambda: 5000)
    assert connections.allowed_connections(Mock(spec=kind)) == most
