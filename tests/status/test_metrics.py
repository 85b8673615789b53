"""``/metrics``: the names, that Prometheus can read them, and what there is without the library."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock

from tests.support.processes import ROOT
from torsocks_tx import Registry
from torsocks_tx.status import metrics
from torsocks_tx.status.metrics import NoLibrary, exposition
from torsocks_tx.status.report import Monitor

CIRCUIT = {"purpose": "GENERAL", "age": 1, "streams": 0, "path": []}
TORS: list[dict[str, Any]] = [
    {
        "name": "tor",
        "state": "ready",
        "bootstrap": {"percent": 100, "summary": "Done"},
        "version": "0.4.9.11",
        "reconnects": 2,
        "circuits": [CIRCUIT, CIRCUIT],
    }
]


def report_of(registry: Registry) -> dict[str, Any]:
    # Without a tor nothing is waited for.
    report = asyncio.run(Monitor(Clock(), registry).report())
    return {**report, "tors": TORS}


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Read the text; return each value by its name and the values of its labels."""
    families = text_string_to_metric_families(text)
    every = [sample for family in families for sample in family.samples]
    found = {(each.name, tuple(each.labels.values())): each.value for each in every}
    assert len(found) == len(every)
    return found


def test_metrics_have_the_names_and_labels_that_are_documented() -> None:
    registry = Registry()
    for name in ("one", "two"):
        counts = registry.add(name)
        counts.connected()
        counts.opened(0.3, 5, onion=name == "two")
        counts.ended("F2")
        counts.lingers()
        counts.meter[0] += 11
    found = samples(exposition(report_of(registry)))
    assert {
        ("torsocks_connections", ("one",)): 1,
        ("torsocks_connections_total", ("two", "socks5")): 0,
        ("torsocks_streams", ("two",)): 1,
        ("torsocks_streams_total", ("one", "open")): 1,
        ("torsocks_streams_total", ("one", "F2")): 1,
        ("torsocks_stream_open_seconds_count", ("clearnet",)): 1,
        ("torsocks_stream_open_seconds_bucket", ("onion", "0.25")): 0,
        ("torsocks_stream_open_seconds_bucket", ("onion", "0.5")): 1,
        ("torsocks_stream_open_seconds_bucket", ("onion", "+Inf")): 1,
        ("torsocks_stream_open_seconds_sum", ("onion",)): 0.3,
        ("torsocks_bytes_total", ("from_clients",)): 22,
        ("torsocks_lingering", ()): 2,
        ("torsocks_early_data_bytes_total", ()): 10,
        ("torsocks_circuits", ("GENERAL",)): 2,
        ("torsocks_tor_up", ()): 1,
        ("torsocks_tor_bootstrap_ratio", ()): 1,
        ("torsocks_control_reconnects_total", ()): 2,
        ("torsocks_worker_restarts_total", ()): 0,
    }.items() <= found.items()
    text = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(torsocks_\w+)", text, re.MULTILINE))
    assert {re.sub("_(bucket|count|sum)$", "", name) for name, _ in found} == documented
    assert found["torsocks_open_descriptors", ()] > 0
    assert [value for (name, _), value in found.items() if name == "torsocks_build_info"] == [1]


def test_each_tor_of_a_pool_has_metrics_of_its_own() -> None:
    other = {**TORS[0], "name": "tor-2", "state": "down", "circuits": [CIRCUIT], "reconnects": 0}
    found = samples(exposition({**report_of(Registry()), "tors": [*TORS, other]}))
    assert {
        ("torsocks_circuits", ("GENERAL", "tor")): 2,
        ("torsocks_circuits", ("GENERAL", "tor-2")): 1,
        ("torsocks_tor_up", ("tor",)): 1,
        ("torsocks_tor_up", ("tor-2",)): 0,
        ("torsocks_tor_bootstrap_ratio", ("tor-2",)): 1,
        ("torsocks_control_reconnects_total", ("tor",)): 2,
    }.items() <= found.items()


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("prometheus_client", "prometheus_client.core", "prometheus_client.exposition"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NoLibrary, match=r"pip install 'torsocks_tx\[metrics\]'"):
        exposition(report_of(Registry()))
    assert metrics.TEXT_FORMAT.startswith("text/plain")
