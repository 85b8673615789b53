"""What is counted, and that sums stay right when processes come and go."""

from __future__ import annotations

import os

import pytest

from torsocks_tx import errors
from torsocks_tx.errors import SOCKSError
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Request
from torsocks_tx.status.registry import (
    BUCKETS,
    CONNECTIONS,
    LINGERING,
    OUTCOMES,
    STREAMS,
    Registry,
    map_memory,
    outcome_of,
)


def request(version: Version, host: str = "example.com") -> Request:
    return Request(version, Command.CONNECT, Address.of(host, 80))


def test_clients_are_counted_by_protocol_and_those_that_ask_nothing_too() -> None:
    registry = Registry()
    counts = registry.add("one")
    asked = {
        "socks4": request(Version.SOCKS4, "192.0.2.1"),
        "socks4a": request(Version.SOCKS4),
        "socks5": request(Version.SOCKS5, "192.0.2.1"),
        "http": request(Version.HTTP),
    }
    for each in asked.values():
        counts.connected()
        counts.request(each)
    counts.connected()
    assert registry.snapshot().numbers[CONNECTIONS] == 5
    for _ in asked:
        counts.disconnected(asked=True)
    counts.disconnected(asked=False)
    assert registry.snapshot().protocols == dict.fromkeys([*asked, "none"], 1)
    assert registry.snapshot().numbers[CONNECTIONS] == 0


def test_no_two_listeners_have_one_name() -> None:
    registry = Registry()
    for _ in range(3):
        registry.add("one")
    assert [info.name for info in registry.listeners] == ["one", "one (2)", "one (3)"]


def test_streams_are_counted_until_they_close() -> None:
    registry = Registry()
    counts = registry.add("one")
    counts.opened(0.2, 7, onion=False)
    counts.opened(1000.0, 0, onion=True)
    counts.lingers()
    now = registry.snapshot()
    assert (now.numbers[STREAMS], now.numbers[LINGERING], now.outcomes["open"]) == (2, 1, 2)
    counts.closed(lingered=True)
    counts.closed(lingered=False)
    now = registry.snapshot()
    assert (now.numbers[STREAMS], now.numbers[LINGERING], now.outcomes["open"]) == (0, 0, 2)
    quick, slow = now.open_seconds["clearnet"], now.open_seconds["onion"]
    assert quick["buckets"] == [[bound, int(bound >= 0.2)] for bound in BUCKETS]
    assert slow["buckets"] == [[bound, 0] for bound in BUCKETS]
    assert [(it["count"], it["sum"]) for it in (quick, slow)] == [(1, 0.2), (1, 1000.0)]


@pytest.mark.parametrize(
    ("reason", "version", "code"),
    [
        (errors.ConnectionRefused, Version.SOCKS5, "05"),
        (errors.ConnectionRefused, Version.SOCKS4, "05"),
        (errors.ConnectionRefused, Version.HTTP, "http_4xx"),
        (errors.TimedOut, Version.HTTP, "http_5xx"),
        (errors.TorDown, Version.SOCKS5, "01"),
        (errors.IntroductionFailed, Version.SOCKS5, "F2"),
        (errors.IntroductionFailed, Version.SOCKS4, "F2"),
        (errors.IntroductionFailed, Version.HTTP, "F2"),
        (errors.OnionNotFound, Version.SOCKS5, "F0"),
    ],
)
def test_outcome_is_the_reason_and_not_what_the_protocol_can_say(
    reason: type[SOCKSError], version: Version, code: str
) -> None:
    assert outcome_of(reason("detail"), version) == code


def test_every_failure_has_an_outcome_with_a_meaning() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    failures = [k for k in kinds if issubclass(k, SOCKSError) and k is not errors.OnionRefused]
    assert len(failures) > 25
    for kind in failures:
        for version in Version:
            assert OUTCOMES[outcome_of(kind(), version)].endswith(".")


def test_memory_of_a_process_that_is_gone_is_kept_but_for_what_was_open() -> None:
    ours = Registry()
    for name in ("one", "two"):
        ours.add(name)
    lent = [ours.lend(), ours.lend()]
    for memory in lent:
        theirs = Registry(map_memory(os.dup(memory.descriptor)))
        memory.close()
        for name, times in (("one", 1), ("two", 2)):
            counts = theirs.add(name)
            for _ in range(times):
                counts.connected()
                counts.request(request(Version.SOCKS5))
                counts.opened(1.0, 0, onion=False)
                counts.meter[1] += 10
    before = ours.snapshot()
    assert (before.numbers[STREAMS], before.outcomes["open"]) == (6, 6)
    ours.take_back(lent[0])
    after = ours.snapshot()
    assert (after.numbers[STREAMS], after.numbers[CONNECTIONS]) == (3, 3)
    assert after.outcomes == before.outcomes
    assert after.protocols == before.protocols
    assert after.open_seconds == before.open_seconds
    assert [each.outcomes["open"] for each in ours.snapshots()] == [2, 4]


def test_registry_of_lent_memory_has_room_for_the_listeners_only() -> None:
    ours = Registry()
    ours.add("one")
    lent = ours.lend()
    theirs = Registry(lent.slots)
    theirs.add("one")
    with pytest.raises((IndexError, ValueError)):
        theirs.add("two").connected()
    lent.close()
