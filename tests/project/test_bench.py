"""The bench: one small scenario of it, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from bench.measure import Bench, Plan
from bench.report import chart, recall, write_report
from bench.scenarios import OURS, SCENARIOS

TINY = Plan(1, 10**6, 10**5, 5, 5, 5, 1, 1000, 0.1)


def test_scenario_writes_its_report(tmp_path: Path) -> None:
    bench = Bench(TINY)
    try:
        SCENARIOS["held connections"](bench)
    finally:
        bench.close()
    text = write_report(bench, tmp_path)
    assert "| 5 connections held, then all used: lost or refused | 0 | <= 0 | met |" in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["samples"]["held connections"]["lost"][OURS] == [0]
    assert (tmp_path / "results.md").read_text() == text


def measured(directory: Path, what: str, value: float) -> Bench:
    bench = Bench(TINY)
    bench.close()
    recall(bench, directory)
    bench.add(what, "MB/s", OURS, value)
    bench.bar(what, value, 1)
    return bench


def test_results_of_other_scenarios_are_kept(tmp_path: Path) -> None:
    for what, value in (("one", 3), ("two", 5), ("one", 7)):
        text = write_report(measured(tmp_path, what, value), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [results["samples"][what]["MB/s"][OURS] for what in ("one", "two")] == [[7], [5]]
    assert [(row["what"], row["value"]) for row in results["bars"]] == [("one", 7), ("two", 5)]
    assert "From an earlier run, as they were: two." in text
    # Results of another plan are not comparable.
    other = Bench(TINY._replace(rounds=2))
    other.close()
    recall(other, tmp_path)
    assert other.samples == {}


def test_ratios_are_taken_within_a_round_and_drawn(tmp_path: Path) -> None:
    bench = Bench(TINY)
    bench.close()
    for ours, other in ((10, 5), (30, 10), (4, 4)):
        bench.add("bulk, 1 stream", "MB/s", OURS, ours)
        bench.add("bulk, 1 stream", "MB/s", "other", other)
    share = bench.share("bulk, 1 stream", "MB/s", OURS, "other")
    assert share == 2
    assert bench.share("bulk, 1 stream", "MB/s", OURS, "missing") is None
    bench.bar("what", share, 3)
    bench.bar("what else", share, 3, most=True)
    bench.bar("what", None, 3)
    assert [row.holds for row in bench.rows] == [False, True]
    drawing = ElementTree.fromstring(chart(bench.samples))
    assert len(drawing.findall("{http://www.w3.org/2000/svg}rect")) == 3
