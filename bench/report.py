"""The results: JSON with every sample, a table in Markdown, a chart in SVG."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bench.measure import Bench, Row
from bench.processes import identity
from bench.scenarios import OURS

CHARTS = (
    ("bulk, 1 stream", "MB/s"),
    ("bulk, 1 stream", "CPU s/GB"),
    ("bulk, 8 streams", "MB/s"),
    ("set-up", "connections/s"),
    ("memory", "KiB per idle connection"),
)


def machine() -> dict[str, Any]:
    """Return a description of the machine."""
    import twisted

    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "twisted": twisted.__version__,
        "user": identity()[2],
    }


def table(bench: Bench) -> str:
    """Return the results in Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    lines = ["# Results", "", f"{facts}; {bench.plan.rounds} rounds in turns.", ""]
    lines += [f"Not here: {name} ({why})." for name, why in bench.missing.items()]
    if bench.kept:
        lines += [f"From an earlier run, as they were: {', '.join(bench.kept)}.", ""]
    lines += ["| bar | measured | asked | |", "|---|---|---|---|"]
    for row in bench.rows:
        verdict = "met" if row.holds else "NOT MET"
        lines.append(f"| {row.what} | {row.value:.3g} | {row.bar} | {verdict} |")
    lines += ["", "Each cell: the median, and the least and the greatest value.", ""]
    for scenario, measures in bench.samples.items():
        lines += _scenario(scenario, measures)
    return "\n".join(lines) + "\n"


def _scenario(scenario: str, measures: dict[str, dict[str, list[float]]]) -> list[str]:
    servers = dict.fromkeys(name for values in measures.values() for name in values)
    header = "| | " + " | ".join(measures) + " |"
    lines = [f"## {scenario}", "", header, "|---" * (len(measures) + 1) + "|"]
    for server in servers:
        cells = [_cell(values.get(server)) for values in measures.values()]
        lines.append(f"| {server} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(values: list[float] | None) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def chart(bench: Bench) -> str:
    """Return a bar chart in SVG, one group for each main measure."""
    parts: list[str] = []
    top = 10
    for scenario, measure in CHARTS:
        values = bench.samples.get(scenario, {}).get(measure, {})
        medians = {name: statistics.median(numbers) for name, numbers in values.items()}
        if medians:
            title = escape(f"{scenario}: {measure}")
            parts.append(f'<text x="10" y="{top + 14}" font-weight="bold">{title}</text>')
            parts += _bars(medians, top + 24)
            top += 38 + 21 * len(medians)
    style = 'font-family="sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="700" height="{top}" {style}>'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>"]) + "\n"


def _bars(medians: dict[str, float], top: int) -> list[str]:
    parts = []
    greatest = max(medians.values()) or 1
    for name, value in medians.items():
        width = max(1, round(420 * value / greatest))
        colour = "#7d4698" if name.startswith(OURS) else "#b9b9b9"
        parts.append(f'<text x="185" y="{top + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="195" y="{top}" width="{width}" height="17" fill="{colour}"/>')
        parts.append(f'<text x="{200 + width}" y="{top + 13}">{value:.3g}</text>')
        top += 21
    return parts


def recall(bench: Bench, directory: Path) -> None:
    """Load the earlier results, if they are of the same plan."""
    path = directory / "results.json"
    if path.exists():
        results = json.loads(path.read_text())
        if results["plan"] == bench.plan._asdict():
            bench.keep(results["samples"], [Row(**row) for row in results["bars"]])


def write_report(bench: Bench, directory: Path) -> str:
    """Write the three files; return the table."""
    directory.mkdir(parents=True, exist_ok=True)
    text = table(bench)
    rows = [row._asdict() for row in bench.rows]
    everything = {
        "machine": machine(),
        "plan": bench.plan._asdict(),
        "bars": rows,
        "kept": bench.kept,
        "samples": bench.samples,
    }
    (directory / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    (directory / "results.md").write_text(text)
    (directory / "results.svg").write_text(chart(bench))
    return text
