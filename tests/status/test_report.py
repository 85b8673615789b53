"""What is said of tor: its state, its start, its circuits; and the state of the server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from torsocks_tx import Circuit, Hop, Progress, ProviderState, Registry
from torsocks_tx.errors import TorDown
from torsocks_tx.status.report import CIRCUITS_TIMEOUT, KEPT, SAMPLES, Monitor

CIRCUIT = Circuit(7, (Hop("A" * 40, "guard", "de"),), "GENERAL", 3.7, 2)
SHOWN = {
    "purpose": "GENERAL",
    "age": 3,
    "streams": 2,
    "path": [{"nickname": "guard", "fingerprint": "A" * 40, "country": "de"}],
}


class Tor:
    """A backend with one tor, whose circuits are told by the test."""

    def __init__(self, state: ProviderState = ProviderState.READY, *, control: bool = True) -> None:
        self.provider = SimpleNamespace(
            state=state,
            progress=None,
            sessions=1,
            control=SimpleNamespace(version="0.4.9.11") if control else None,
        )
        self.asked = 0
        self.answer: Deferred[list[Circuit]] = succeed([CIRCUIT])

    def circuits(self) -> Deferred[list[Circuit]]:
        self.asked += 1
        return self.answer


def monitor_of(*tors: Any, workers: Any = None) -> tuple[Monitor, Clock]:
    clock = Clock()
    named = {f"tor{number}": tor for number, tor in enumerate(tors)}
    monitor = Monitor(clock, Registry(), named, workers)
    monitor.serving()
    return monitor, clock


def report(monitor: Monitor) -> Any:
    """Return the report, which is there at once."""
    found: list[Any] = []
    Deferred.fromCoroutine(monitor.report()).addCallback(found.append)
    return found[0]


S = ProviderState


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([], "ready"),
        ([S.READY], "ready"),
        ([S.STARTING], "starting"),
        ([S.DOWN], "down"),
        ([S.STOPPED], "down"),
        ([S.DOWN, S.READY], "ready"),
        ([S.STARTING, S.READY], "ready"),
        ([S.DOWN, S.STARTING], "starting"),
    ],
)
def test_state_is_that_of_the_best_tor(states: list[ProviderState], state: str) -> None:
    monitor, _ = monitor_of(*map(Tor, states))
    assert monitor.state == state
    monitor.begin_stopping()
    assert monitor.state == "stopping"


def test_tor_is_told_with_its_circuits_which_are_asked_for_rarely() -> None:
    tor = Tor()
    monitor, clock = monitor_of(tor)
    [told] = report(monitor)["tors"]
    assert told["bootstrap"] == {"percent": 100, "summary": ""}
    assert (told["state"], told["version"], told["reconnects"]) == ("ready", "0.4.9.11", 0)
    assert told["circuits"] == [SHOWN]
    tor.provider.progress = Progress(45, "requesting", "Requesting relays")
    tor.provider.sessions = 3
    [told] = report(monitor)["tors"]
    assert (told["bootstrap"]["percent"], told["reconnects"], tor.asked) == (45, 2, 1)
    clock.advance(KEPT)
    report(monitor)
    assert tor.asked == 2


def test_circuits_are_missed_where_tor_does_not_tell_them_in_time() -> None:
    silent, refusing, without = Tor(), Tor(), Tor(control=False)
    silent.answer, refusing.answer = Deferred(), fail(TorDown("no"))
    monitor, clock = monitor_of(silent, refusing, without)
    found: list[Any] = []
    Deferred.fromCoroutine(monitor.report()).addCallback(found.append)
    assert found == []
    clock.advance(CIRCUITS_TIMEOUT)
    assert [tor["circuits"] for tor in found[0]["tors"]] == [[], [], []]
    assert found[0]["tors"][2]["version"] is None
    assert without.asked == 0


def test_workers_know_alone_which_circuits_their_streams_use() -> None:
    monitor, _ = monitor_of(Tor(), workers=lambda: [1, 1])
    told = report(monitor)
    assert told["workers"] == 2
    assert told["tors"][0]["circuits"] == [{**SHOWN, "streams": None}]


def test_rates_are_of_each_second_of_the_last_ten_minutes() -> None:
    clock, registry = Clock(), Registry()
    counts = registry.add("one")
    monitor = Monitor(clock, registry)
    monitor.begin()
    for number in range(SAMPLES + 5):
        counts.meter[1] += number
        counts.opened(0.1, 0, onion=False)
        clock.advance(1)
    rates = report(monitor)["rates"]
    assert rates["bytes_to_clients"] == list(range(5, SAMPLES + 5))
    assert rates["streams"] == [1] * SAMPLES
    assert rates["interval"] == 1
    monitor.end()
    assert clock.getDelayedCalls() == []
