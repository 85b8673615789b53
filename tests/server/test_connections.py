"""How many clients there may be over all listeners, and who makes room."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.limits import Limits
from torsocks_tx.server.connections import (
    SILENCE,
    WARNING_PAUSE,
    ConnectionLimiter,
    client_network,
    raise_descriptor_limit,
)
from torsocks_tx.server.factory import SOCKSFactory

ATTACKER, VICTIM = b"\x7f\0\0\x09", b"\x7f\0\0\x02"
LOOPBACK = bytes([127, 0, 0, 1])


class Guest:
    """A connection that notes whether it was reset."""

    was_reset = False
    received = 0

    def reset(self) -> None:
        self.was_reset = True


class House:
    """A limiter with its clock and those who came."""

    def __init__(self, most: int | None = None, per_client: int | None = None) -> None:
        self.clock = Clock()
        self.limiter = ConnectionLimiter(most, per_client, self.clock.seconds)

    def come(self, client: bytes | None = None, *, served: bool = False) -> Guest | None:
        if not self.limiter.has_room(client):
            return None
        guest = Guest()
        self.limiter.join(guest, client)
        if served:
            self.limiter.serve(guest)
        return guest

    def serve(self, count: int, client: bytes | None = None) -> list[Guest]:
        guests = [self.come(client, served=True) for _ in range(count)]
        return [guest for guest in guests if guest is not None]


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the limiter logs."""
    seen: list[str] = []

    def observe(event: LogEvent) -> None:
        if "turned away" in str(event.get("log_format")):
            seen.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)


def test_no_bound_lets_any_number_in() -> None:
    assert len(House().serve(1000, ATTACKER)) == 1000


def test_a_full_server_says_so_at_most_once_a_minute(warnings: list[str]) -> None:
    house = House(1)
    [guest] = house.serve(1)
    assert house.serve(2) == []
    assert warnings == ["1 clients are connected: more are turned away"]
    house.clock.advance(WARNING_PAUSE - 1)
    assert house.serve(1) == []
    assert len(warnings) == 1
    house.clock.advance(1)
    assert house.serve(1) == []
    assert len(warnings) == 2
    for _ in range(2):
        house.limiter.leave(guest)
    assert len(house.limiter) == 0
    assert len(house.serve(2)) == 1


def test_the_oldest_connection_without_a_request_makes_room_first() -> None:
    house = House(3)
    [done] = house.serve(1)
    waiting = [house.come(), house.come()]
    house.limiter.linger(done)
    house.clock.advance(SILENCE)
    assert len(house.serve(2)) == 2
    assert [guest.was_reset for guest in waiting if guest] == [True, True]
    assert not done.was_reset
    assert len(house.serve(2)) == 1
    assert done.was_reset


def test_a_half_closed_stream_makes_room_only_when_it_is_silent() -> None:
    house = House(3)
    guests = house.serve(3)
    house.limiter.linger(guests[2])
    house.limiter.linger(guests[0])
    house.limiter.linger(Guest())
    for _ in range(10):
        house.clock.advance(SILENCE - 0.1)
        for guest in guests:
            guest.received += 1
        assert house.come() is None
        house.clock.advance(0.1)
        assert house.come() is None
    guests[0].received += 1
    house.clock.advance(SILENCE)
    assert len(house.serve(2)) == 1
    assert [guest.was_reset for guest in guests] == [False, False, True]
    house.clock.advance(SILENCE)
    assert len(house.serve(2)) == 1
    assert [guest.was_reset for guest in guests] == [True, False, True]


def test_one_address_gets_a_quarter_of_all_connections(warnings: list[str]) -> None:
    house = House(200)
    assert len(house.serve(220, ATTACKER)) == 50
    assert warnings == ["50 clients of one address are connected: more are turned away"]
    assert len(house.serve(20, VICTIM)) == 20
    assert len(House(2).serve(2, ATTACKER)) == 1


def test_an_address_that_never_makes_a_request_pushes_out_only_its_own() -> None:
    house = House(50)
    [victim] = house.serve(1, VICTIM)
    house.limiter.linger(victim)
    house.clock.advance(SILENCE)
    attackers = [house.come(ATTACKER) for _ in range(55)]
    assert None not in attackers
    assert len(house.limiter) == 1 + 12
    assert not victim.was_reset


@pytest.mark.parametrize("client", [LOOPBACK, bytes(8), None], ids=["127.0.0.1", "::1", "unix"])
def test_the_default_share_does_not_bound_a_whole_machine(client: bytes | None) -> None:
    assert len(House(40).serve(50, client)) == 40
    asked_for = House(40, per_client=10)
    assert len(asked_for.serve(50, client)) == (40 if client is None else 10)


def test_an_address_that_has_left_is_forgotten() -> None:
    house = House(40)
    for number in range(100):
        for guest in house.serve(2, number.to_bytes(4, "big")):
            house.limiter.leave(guest)
    assert house.limiter._clients == {}
    assert house.limiter._groups == {}


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
def test_what_counts_as_one_client(address: Any, network: bytes | None) -> None:
    assert client_network(address) == network


def test_listeners_share_one_bound(warnings: list[str]) -> None:
    house = House(1)
    one, other = (
        SOCKSFactory(MemoryBackend(), limits=Limits(), limiter=house.limiter, clock=Clock())
        for _ in range(2)
    )
    house.serve(1)
    assert one.buildProtocol(None) is None
    assert other.buildProtocol(None) is None
    assert len(warnings) == 1


def test_the_descriptor_limit_is_raised_and_says_how_many_connections_it_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 256), before[1]))
        allowed = raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
        assert allowed >= (len(os.listdir("/proc/self/fd")) - 96) // 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
