"""The status page as HTML: one function makes it from the value that ``/status.json`` has.

The page is made of sections, each with a name of its own. The events that keep an open page up to
date carry the same sections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from math import floor, log10
from string import Template
from typing import Any

from torsocks_tx.status.html import Html, count, duration, element, flag, join, rate, share, size

Value = Mapping[str, Any]

MOST_CIRCUITS = 24
"""Circuits that the page shows; it counts the others."""

MOST_EXITS = 12
"""Exits that the page shows, those with the most circuits."""

SPAN = 600
"""Seconds that the charts show, and the width of their drawings."""

MEAN_OF = 5
"""Samples that make one point of a chart."""

BY_EXITS = ("GENERAL", "CONFLUX_LINKED")
"""The purposes of circuits whose streams leave tor."""

GOOD = ("open", "resolved")
"""The outcomes of requests that were carried out."""

PAGE = Template(files(__package__).joinpath("static", "page.html").read_text(encoding="utf-8"))
"""What is around the sections."""

FORM = """<form method="post" action="new-identity">
<input type="hidden" name="token" value="%s">
<button>New identity</button>
</form>"""

GRID = '<path class="grid" d="M0 0H600M0 50H600M0 100H600M0 0V100M150 0V100M300 0V100M450 0V100"/>'

STATES = {
    "ready": ("Ready", "Clients are served."),
    "starting": ("Starting", "Clients wait until it is ready."),
    "down": ("Down", "There is no tor: clients are refused."),
    "stopping": ("Stopping", "No new clients are taken."),
}


def nothing(text: str) -> Html:
    """Return what a section says that has nothing to show."""
    return element("p", text, class_="empty")


def state(value: Value) -> Html:
    """Render the state of the server, and of each tor with its progress."""
    name, meaning = STATES.get(value["state"], (value["state"], ""))
    head = element("p", element("strong", name, class_=value["state"]), " ", meaning)
    tors = [_tor(it, len(value["tors"]) == 1) for it in value["tors"]]
    return join(head, *(tors or [element("p", "Without Tor.")]))


def _tor(tor: Value, is_only: bool) -> Html:
    percent, summary = tor["bootstrap"]["percent"], tor["bootstrap"]["summary"]
    name, _ = STATES.get(tor["state"], (tor["state"], ""))
    who = "tor" if is_only else tor["name"]
    said = [f"{who}: {name.lower()}", f"version {tor['version']}" if tor["version"] else ""]
    if tor["reconnects"]:
        said.append(f"reconnects: {count(tor['reconnects'])}")
    line = element("p", " · ".join(filter(None, said)))
    if tor["state"] != "starting":
        return line
    label = f"{who}: {percent} %, {summary}"
    bar = element("progress", f"{percent} %", max=100, value=percent, aria_label=label)
    return join(line, element("p", bar, f"{percent} % · {summary}"))


def figures(value: Value) -> Html:
    """Render the numbers of this moment."""
    listeners, rates, total = value["listeners"], value["rates"], value["bytes"]
    requests = sum(it["count"] for it in value["outcomes"])
    good = sum(it["count"] for it in value["outcomes"] if it["code"] in GOOD)
    shown = [
        ("Clients", count(sum(it["connections"] for it in listeners)), "connected"),
        ("Streams", count(sum(it["streams"] for it in listeners)), "open"),
        ("New streams", f"{rate(_now(rates, 'streams'))}/s", "just now"),
        ("To clients", f"{size(_now(rates, 'bytes_to_clients'))}/s", size(total["to_clients"])),
        ("From clients", f"{size(_now(rates, 'bytes_from_clients'))}/s",
         size(total["from_clients"])),
        ("Requests", count(requests), f"{share(good, requests)} ok" if requests else "so far"),
    ]  # fmt: skip
    return _facts(
        (name, join(element("b", number), element("span", unit))) for name, number, unit in shown
    )


def _facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Return a list of names, each with what is to be said of it."""
    return element("dl", *(
        element("div", element("dt", name), element("dd", text)) for name, text in pairs
    ))  # fmt: skip


def _now(rates: Value, name: str) -> float:
    """Return the mean of the last three samples, for each second."""
    last = rates[name][-3:]
    return sum(last) / len(last) / rates["interval"] if last else 0.0


def charts(value: Value) -> Html:
    """Render the rates of the last ten minutes."""
    rates, age = value["rates"], int(value["uptime"])
    both = [(name, means(rates, f"bytes_{name.replace(' ', '_')}", age))
            for name in ("to clients", "from clients")]  # fmt: skip
    return join(
        chart("New streams a second", [("", means(rates, "streams", age))], 2, rate),
        chart("Bytes a second", both, 1000, size),
    )


def means(rates: Value, name: str, age: int) -> list[tuple[float, float]]:
    """Return points of a line: how many seconds ago, and the rate in some seconds until then.

    These seconds begin at multiples of ``MEAN_OF`` since the start, so that a point stays as it is.
    """
    interval, samples = rates["interval"], rates[name][-SPAN:]
    found = []
    end = len(samples)
    length = int(age / interval) % MEAN_OF + 1
    while end > 0:
        some = samples[max(end - length, 0) : end]
        found.append(((len(samples) - end) * interval, sum(some) / len(some) / interval))
        end, length = end - length, MEAN_OF
    return found[::-1]


def chart(
    title: str,
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    least: float,
    show: Callable[[float], str],
) -> Html:
    """Render line charts over one axis of time, with what they show in words."""
    most = [max((rate for _, rate in points), default=0.0) for _, points in lines]
    top = ceiling(max(least, *most))
    words = "; ".join(
        f"{name} now {show(points[-1][1])}, at most {show(peak)}".strip()
        for (name, points), peak in zip(lines, most, strict=True)
        if points
    )
    drawn = (
        element("polyline", points=_points(points, top), class_=f"line{number}")
        for number, (_, points) in enumerate(lines)
    )
    keys = (
        element("span", name, class_=f"key line{number}")
        for number, (name, _) in enumerate(lines)
        if name
    )
    plot = element(
        "svg", Html(GRID), *drawn, viewBox=f"0 0 {SPAN} 100", preserveAspectRatio="none",
        role="img", aria_label=f"{title}, the last ten minutes: {words or 'no samples yet'}.",
    )  # fmt: skip
    return element(
        "figure", element("figcaption", title, *keys),
        element("div", _spans(show(top), show(top / 2), "0"), class_="up", aria_hidden="true"),
        plot,
        element("div", _spans("10 min ago", "5 min", "now"), class_="along", aria_hidden="true"),
    )  # fmt: skip


def _spans(*texts: str) -> Html:
    return join(*(element("span", text) for text in texts))


def ceiling(number: float) -> float:
    """Return the least 1, 2 or 5 times a power of ten that is not below this."""
    power = 10.0 ** floor(log10(number))
    return next(it * power for it in (1, 2, 5, 10) if it * power >= number)


def _points(points: Sequence[tuple[float, float]], top: float) -> str:
    return " ".join(f"{SPAN - ago:g},{100 - 100 * rate / top:.1f}" for ago, rate in points)


def outcomes(value: Value) -> Html:
    """Render how requests ended, as bars with the meaning of each reply code."""
    found = [it for it in value["outcomes"] if it["count"]]
    if not found:
        return nothing("No request has been answered yet.")
    found.sort(key=lambda it: (it["code"] not in GOOD, -it["count"]))
    total = sum(it["count"] for it in found)
    rows = (_outcome(it["code"], it["meaning"], it["count"], total) for it in found)
    return _table(("Code", "Meaning", "Requests"), rows)


def _outcome(code: str, meaning: str, number: int, total: int) -> tuple[str, Html, Html]:
    bar = element("rect", width=f"{max(100 * number / total, 0.4):.1f}%", height=6, rx=3)
    kind = "bar good" if code in GOOD else "bar"
    return (
        code,
        join(meaning, element("svg", bar, class_=kind, aria_hidden="true")),
        join(count(number), element("small", share(number, total))),
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 1) -> Html:
    """Return a table whose first column names the rows, and whose last ones are numbers."""
    kinds = [None] * (len(heads) - numbers) + ["number"] * numbers
    head = (
        element("th", it, scope="col", class_=kind) for it, kind in zip(heads, kinds, strict=True)
    )
    body = (
        element("tr", element("th", first, scope="row"), *(
            element("td", it, class_=kind) for it, kind in zip(rest, kinds[1:], strict=True)
        ))
        for first, *rest in rows
    )  # fmt: skip
    return element("table", element("thead", element("tr", *head)), element("tbody", *body))


def _relay(hop: Value) -> Html:
    name, fingerprint = hop["nickname"], hop["fingerprint"]
    shown = element("span", name or fingerprint[:8], title=f"{name} {fingerprint}")
    return join(flag(hop["country"] or ""), shown)


def circuits(value: Value) -> Html:
    """Render circuits as rows of hops."""
    several = len(value["tors"]) > 1
    known = [(it, tor["name"] if several else "")
             for tor in value["tors"] for it in tor["circuits"]]  # fmt: skip
    if not known:
        return nothing("No circuit is open.")
    known.sort(key=lambda it: (-(it[0]["streams"] or 0), it[0]["age"]))
    rows = (_circuit(*it) for it in known[:MOST_CIRCUITS])
    table = _table(("Guard, middle, exit", "Purpose", "Streams", "Age"), rows, numbers=2)
    left = len(known) - MOST_CIRCUITS
    return join(table, nothing(f"… and {count(left)} more.") if left > 0 else "")


def _circuit(circuit: Value, tor: str) -> tuple[str, Html, str, str]:
    hops = element("ol", *(element("li", _relay(hop)) for hop in circuit["path"]))
    purpose = " · ".join(filter(None, (circuit["purpose"].lower().replace("_", " "), tor)))
    return (
        hops if circuit["path"] else "being built",
        element("span", purpose, class_="purpose"),
        count(circuit["streams"]),
        duration(circuit["age"]),
    )


def exits(value: Value) -> Html:
    """Render the exits of circuits that have streams."""
    seen: dict[str, Value] = {}
    used: Counter[str] = Counter()
    for circuit in (it for tor in value["tors"] for it in tor["circuits"]):
        # Where workers serve, nobody knows of the streams: any circuit may have some.
        if circuit["path"] and circuit["streams"] != 0 and circuit["purpose"] in BY_EXITS:
            last = circuit["path"][-1]
            seen[last["fingerprint"]] = last
            used[last["fingerprint"]] += 1
    if not seen:
        return nothing("No stream is open through an exit.")
    rows = ((_relay(seen[it]), count(number)) for it, number in used.most_common(MOST_EXITS))
    return _table(("Exit", "Circuits"), rows)


def listeners(value: Value) -> Html:
    """Render the listeners, their flags and who is there."""
    if not value["listeners"]:
        return nothing("There is no listener.")
    rows = (
        (join(element("code", it["endpoint"]), element("div", _spans(*it["flags"]))),
         count(it["connections"]), count(it["streams"]),
         count(sum(it["connections_total"].values())))
        for it in value["listeners"]
    )  # fmt: skip
    return _table(("Listener", "Clients", "Streams", "In all"), rows, numbers=3)


def process(value: Value) -> Html:
    """Render what the process uses, and how long streams take to open."""
    used, limit = value["descriptors"]["open"], value["descriptors"]["limit"]
    meter = element("meter", min=0, max=limit, value=used or 0, high=limit * 8 // 10,
                    optimum=0, aria_label="Open descriptors")  # fmt: skip
    return _facts([
        ("Descriptors", join(f"{count(used)} of {count(limit)}", meter)),
        ("Running for", duration(value["uptime"])),
        ("Workers", count(value["workers"])),
        ("Early data", size(value["early_data_bytes"])),
        ("Half of the streams opened within", " · ".join(
            f"{_median(known)} {kind}" for kind, known in value["open_seconds"].items()
        )),
        ("Version", value["version"]),
    ])  # fmt: skip


def _median(histogram: Value) -> str:
    """Return the bound of the bucket that has the middle of all; buckets count what is below."""
    if not histogram["count"]:
        return count(None)
    enough = (bound for bound, number in histogram["buckets"] if 2 * number >= histogram["count"])
    return next((f"{bound:g} s" for bound in enough), "longer")


SECTIONS: dict[str, tuple[str, Callable[[Value], Html]]] = {
    "state": ("State", state),
    "figures": ("Now", figures),
    "charts": ("The last ten minutes", charts),
    "outcomes": ("Outcomes of requests", outcomes),
    "listeners": ("Listeners", listeners),
    "exits": ("Exits in use", exits),
    "circuits": ("Circuits", circuits),
    "process": ("Server", process),
}
"""The sections by the names that they have in the page, with their headings."""

COLUMNS = (("outcomes", "listeners", "exits"), ("circuits",))
"""The sections that stand side by side where there is room; the last of all is below them."""


def sections(value: Value) -> dict[str, Html]:
    """Render every section from the value of ``/status.json``."""
    return {name: render(value) for name, (_, render) in SECTIONS.items()}


def document(value: Value, token: str) -> str:
    """Return the whole page; ``token`` goes with the button for fresh circuits, if there is Tor."""
    made = {name: _section(name, html) for name, html in sections(value).items()}
    columns = [element("div", *map(made.pop, names), class_="column") for names in COLUMNS]
    *above, below = made.values()
    button = FORM % escape(token) if value["tors"] else ""
    return PAGE.substitute(button=button, sections=join(*above, *columns, below))


def _section(name: str, content: Html) -> Html:
    heading = element("h2", SECTIONS[name][0], id=f"{name}-title")
    live = {"aria_live": "polite"} if name == "state" else {}
    body = element("div", content, id=name, **live)
    return element("section", heading, body, class_=name, aria_labelledby=f"{name}-title")
