"""The exits of the network: how they are read, chosen by weight, and at what cost."""

from __future__ import annotations

import base64
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import LoopingCall, deferLater

from tests.backends.tor.fake_tor import FakeTor
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.exits.circuits import Hop, parse_circuit_line
from torsocks_tx.backends.tor.exits.directory import (
    CANDIDATES,
    MOST_CHOSEN,
    Exit,
    ExitDirectory,
    RelayReader,
)
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.errors import NoSuchExit
from torsocks_tx.policy.circuits import ANY_EXIT, ExitChoice

RELAYS, EXITS = 8_000, 2_000
GOOD = "s Exit Fast Running Stable Valid"


def relay(number: int, flags: str, bandwidth: str) -> list[str]:
    """The lines of one relay, as tor 0.4.9.11 gives them."""
    key = base64.b64encode(number.to_bytes(20, "big")).decode().rstrip("=")
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    digest = "V9pwdqN1+WEp/5EGKOCT49U5To8"
    first = f"r relay{number} {key} {digest} 2038-01-01 00:00:00 {address} 9001 0"
    return [first, "a [2001:db8::1]:9001", flags, bandwidth]


def fingerprint(number: int) -> str:
    return f"{number:040X}"


def test_only_exits_that_run_and_are_not_bad_are_kept() -> None:
    reader = RelayReader()
    lines = [
        *relay(1, GOOD, "w Bandwidth=70 Measured=3"),
        *relay(2, "s BadExit Exit Running Valid", "w Bandwidth=1"),
        *relay(3, "s Fast Running Valid", "w Bandwidth=1"),
        *relay(4, "s Exit Valid", "w Bandwidth=1"),
        *relay(5, GOOD, "w Bandwidth=0"),
        *relay(6, GOOD, "w Unmeasured=1"),
        *relay(7, GOOD, "w Bandwidth=x"),
        "r broken", GOOD, "w Bandwidth=1", "r x !!! d t t 192.0.2.1 1 0", GOOD, "w Bandwidth=1",
        "r x QQ d 2038 00 192.0.2.1 1 0 0", GOOD, "w Bandwidth=1", "", "OK", "CONF_CHANGED",
    ]  # fmt: skip
    for line in lines:
        reader.take(line)
    assert reader.exits == {
        fingerprint(1): ("10.0.0.1", 70),
        fingerprint(5): ("10.0.0.5", 1),
        fingerprint(6): ("10.0.0.6", 1),
        fingerprint(7): ("10.0.0.7", 1),
    }


def directory(*weights: int) -> ExitDirectory:
    exits = [Exit(fingerprint(n), weight, "de") for n, weight in enumerate(weights)]
    return ExitDirectory(exits, knows_countries=True)


def first(known: ExitDirectory, seed: int) -> int:
    return int(known.candidates(ANY_EXIT, b"%d" % seed).exits[0].fingerprint, 16)


def test_keys_are_spread_over_the_exits_by_their_bandwidth() -> None:
    known = directory(100, 200, 700)
    count = Counter(first(known, seed) for seed in range(3000))
    for number, share in enumerate((300, 600, 2100)):
        assert abs(count[number] - share) < 120, "more than five standard deviations"


def test_a_key_has_its_exit_in_every_process_and_by_the_next_consensus() -> None:
    weights = [random.Random(1).randrange(1, 1000) for _ in range(50)]
    before, after = directory(*weights), directory(*weights[:-1])
    for seed in range(300):
        assert first(directory(*weights), seed) == first(before, seed)
        if first(before, seed) != 49:
            assert first(after, seed) == first(before, seed)


def test_what_is_kept_of_keys_is_bounded() -> None:
    known = directory(*[1] * 40)
    for seed in range(MOST_CHOSEN + 50):
        assert len(known.candidates(ANY_EXIT, b"%d" % seed).exits) == CANDIDATES
    assert len(known._chosen) == MOST_CHOSEN
    choice = ExitChoice(frozenset({"de"}), frozenset({fingerprint(3), fingerprint(99)}))
    assert [each.fingerprint for each in known.candidates(choice, b"x").exits] == [fingerprint(3)]
    with pytest.raises(NoSuchExit):
        known.candidates(ExitChoice(frozenset({"fr"})), b"x")


@pytest.fixture
def turns() -> Iterator[list[float]]:
    """Record the seconds of CPU of each turn of the reactor."""
    found, last = [], [time.process_time()]

    def note() -> None:
        now = time.process_time()
        found.append(now - last[0])
        last[0] = now

    loop: Any = LoopingCall(note)
    loop.start(0)
    yield found
    loop.stop()


def answer_by(fake_tor: FakeTor, known: Callable[[str], list[str] | None]) -> None:
    """Have tor know countries, and answer each GETINFO by the lines for its first key, if any."""
    answer = fake_tor.answer

    def told(command: str) -> str | None:
        keys = command.split(" ")[1:]
        lines = known(keys[0])
        if keys[0].startswith("ip-to-country/10."):
            lines = [f"250-{key}=de" for key in keys]
        return answer(command) if lines is None else "\n".join([*lines, "250 OK"])

    fake_tor.info["ip-to-country/ipv4-available"] = "1"
    fake_tor.answer = told  # type: ignore[method-assign]


async def test_a_directory_of_the_live_networks_size_costs_little(
    fake_tor: FakeTor, control: Control, turns: list[float]
) -> None:
    lines = ["250+ns/all="]
    for number in range(RELAYS):
        flags = GOOD if number % 4 == 0 else "s Fast Guard HSDir Running Stable V2Dir Valid"
        lines += relay(number, flags, f"w Bandwidth={number + 1}")
    answer_by(fake_tor, lambda key: None)
    fake_tor.answers["GETINFO ns/all"] = None
    reading = Deferred.fromCoroutine(ExitDirectory.read(control))
    transport: Any = fake_tor.connections[0].transport
    transport.write("\r\n".join([*lines, ".", "250 OK", ""]).encode())
    await deferLater(reactor, 0)
    turns.clear()
    began = time.process_time()
    known = await reading
    cost = time.process_time() - began
    assert len(known.exits) == EXITS
    assert {each.country for each in known.exits.values()} == {"de"}
    print(f"{cost:.3f} s of CPU, longest turn {1000 * max(turns):.1f} ms")
    assert cost < 1.0, "0.1 s here, with the side that answers"
    assert max(turns) < 0.1, "3 ms here"


async def test_a_list_of_a_thousand_circuits_leaves_time_for_clients(
    fake_tor: FakeTor, control: Control, turns: list[float]
) -> None:
    count = 1_000
    lines = ["250+circuit-status="]
    for number in range(count):
        path = ",".join(f"${fingerprint(3 * number + hop)}~relay" for hop in range(3))
        token = f'PURPOSE=GENERAL TIME_CREATED=2026-01-01T00:00:10.5 SOCKS_PASSWORD="{number:064}"'
        lines.append(f"{number} BUILT {path} BUILD_FLAGS=NEED_CAPACITY {token}")

    def known(key: str) -> list[str] | None:
        if key == "circuit-status":
            return [*lines, "."]
        if not key.startswith("ns/id/"):
            return None
        number = int(key.removeprefix("ns/id/"), 16)
        return [f"250+{key}=", *relay(number, GOOD, "w Bandwidth=1"), "."]

    answer_by(fake_tor, known)
    provider = FixedTorProvider(TCP4ClientEndpoint(reactor, "127.0.0.1", 9))
    provider.control = control
    backend = TorBackend(reactor, provider)
    for _ in range(2):
        turns.clear()
        shown = await backend.circuits()
        await deferLater(reactor, 0)
        print(f"longest turn {1000 * max(turns):.1f} ms")
        assert max(turns) < 0.1, "10 ms here, with the side that answers"
    assert {c.number for c in shown} == set(range(count))
    assert {hop.country for circuit in shown for hop in circuit.path} == {"de"}
    await backend.exits.close()


async def test_events_among_the_lines_of_an_answer_are_events(
    fake_tor: FakeTor, control: Control
) -> None:
    events: list[str] = []
    await control.listen("CONF_CHANGED", events.append)
    fake_tor.answers["GETINFO ns/all"] = None
    lines: list[str] = []
    reading = Deferred.fromCoroutine(control.read_lines("GETINFO ns/all", lines.append))
    fake_tor.change("SocksPort=9050")
    fake_tor.connections[0].send("250+ns/all=\nr a\n650 not an event\n.\n250 OK")
    await reading
    assert events == ["SocksPort=9050\nOK"]
    assert lines == ["ns/all=", "r a", "650 not an event", "OK"]


LINE = (
    f"12 BUILT ${'A' * 40}~guard,${'B' * 40},${'C' * 40}=last BUILD_FLAGS=NEED_CAPACITY"
    ' PURPOSE=GENERAL TIME_CREATED=2026-01-01T00:00:10.5 SOCKS_USERNAME="u" SOCKS_PASSWORD="t"'
)


def test_a_line_of_the_list_of_circuits() -> None:
    line = parse_circuit_line(LINE)
    assert line is not None
    used = {("t", ""): 2, ("t", "C" * 40): 3, ("t", "B" * 40): 9, ("x", ""): 7}
    shown = line.as_circuit({"A" * 40: "de"}, used, 1767225620.5)
    assert shown.path == (Hop("A" * 40, "guard", "de"), Hop("B" * 40, ""), Hop("C" * 40, "last"))
    assert (shown.number, shown.purpose, shown.age, shown.streams) == (12, "GENERAL", 10.0, 5)
    assert "t" not in repr(shown).replace("streams", "").replace("last", "").split()


OTHERS = ["", "OK", "circuit-status=", "12 LAUNCHED X=y", "x BUILT $A X=y", "12 BUILT "]


@pytest.mark.parametrize("line", [*OTHERS, '12 BUILT $A X="'])
def test_lines_that_are_no_built_circuit_are_left_out(line: str) -> None:
    assert parse_circuit_line(line) is None
