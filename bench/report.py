"""The results: JSON with every sample, a table in Markdown, a chart in SVG."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bench.measure import Bench, Row
from bench.processes import identity
from bench.scenarios import OURS

CHARTS = (
    ("bulk, 1 stream", "MB/s", "One stream: MB/s, more is better"),
    ("bulk, 1 stream", "CPU s/GB", "One stream: CPU seconds per GB, less is better"),
    ("bulk, 8 streams", "MB/s", "Eight streams: MB/s, more is better"),
    ("set-up", "connections/s", "Connections set up in a second, more is better"),
    ("memory", "KiB per idle connection", "KiB of memory per idle connection, less is better"),
)
STYLE = """text{fill:#24292f}.ground{fill:#fff}.ours{fill:#7d4698}.bar{fill:#8c959f}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ground{fill:#131416}.ours{fill:#b98ad0}}"""


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


def chart(samples: Mapping[str, dict[str, dict[str, list[float]]]]) -> str:
    """Return a bar chart in SVG, one group for each main measure."""
    parts: list[str] = []
    words = []
    top = 10
    for scenario, measure, title in CHARTS:
        values = samples.get(scenario, {}).get(measure, {})
        medians = {name: statistics.median(numbers) for name, numbers in values.items()}
        if medians:
            parts.append(f'<text x="10" y="{top + 14}" font-weight="bold">{escape(title)}</text>')
            parts += _bars(medians, top + 24)
            words.append(f"{title}: {', '.join(f'{n} {_short(v)}' for n, v in medians.items())}.")
            top += 38 + 21 * len(medians)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {top}" role="img"'
        ' aria-labelledby="title words" font-family="sans-serif" font-size="13">'
        f'<title id="title">How fast it is</title><desc id="words">{escape(" ".join(words))}</desc>'
        f'<style>{STYLE}</style><rect class="ground" width="100%" height="100%"/>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _bars(medians: dict[str, float], top: int) -> list[str]:
    parts = []
    greatest = max(medians.values()) or 1
    for name, value in medians.items():
        width = max(1, round(420 * value / greatest))
        kind = "ours" if name.startswith(OURS) else "bar"
        parts.append(f'<text x="185" y="{top + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="{kind}" x="195" y="{top}" width="{width}" height="17"/>')
        parts.append(f'<text x="{200 + width}" y="{top + 13}">{_short(value)}</text>')
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
    (directory / "results.svg").write_text(chart(bench.samples))
    return text
