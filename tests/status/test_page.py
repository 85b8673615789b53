"""The status page as HTML, from the value of ``/status.json``."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.statuses import circuit, status
from torsocks_tx.status.html import count, duration, flag, rate, share, size
from torsocks_tx.status.page import (
    MEAN_OF,
    MOST_CIRCUITS,
    SECTIONS,
    ceiling,
    document,
    means,
    sections,
)

NONE: dict[str, Any] = {
    "streams": [], "bytes_from_clients": [], "bytes_to_clients": [], "interval": 1,
}  # fmt: skip


def tor(**changes: Any) -> dict[str, Any]:
    return {**status()["tors"][0], **changes}


STARTING = tor(
    name="tcp:9051", state="starting", bootstrap={"percent": 45, "summary": "Loading"}, circuits=[]
)
VALUES = {
    "usual": status(),
    "starting": status(state="starting", tors=[STARTING], outcomes=[], rates=NONE),
    "without tor": status(tors=[], listeners=[]),
    "with workers": status(
        tors=[tor(version=None, circuits=[circuit(3, None)])],
        descriptors={"open": None, "limit": 9},
    ),
    "slow": status(open_seconds={"onion": {"count": 3, "buckets": [[0.5, 0], [80.0, 1]]}}),
    "a pool": status(tors=[tor(), tor(name="tor-2", circuits=[circuit(3)])]),
    "building": status(tors=[tor(circuits=[{**circuit(3), "path": []}])]),
}


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{html}</div>")


def text_of(html: str) -> str:
    return "".join(parsed(html).itertext())


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_every_section_is_well_formed_and_in_the_page(value: dict[str, Any]) -> None:
    shown = sections(value)
    assert shown.keys() == SECTIONS.keys()
    page = document(value, "token")
    for name, html in shown.items():
        parsed(html)
        assert f'id="{name}"' in page
        assert html in page


@pytest.mark.parametrize("hostile", ["<b onclick='x'>", "</div>", '"><script>', "&amp;"])
def test_all_text_of_the_value_is_escaped(hostile: str) -> None:
    def poison(value: Any) -> Any:
        match value:
            case dict():
                return {key: poison(each) for key, each in value.items()}
            case list():
                return [poison(each) for each in value]
            case str():
                return value + hostile
            case _:
                return value

    value = status(tors=[STARTING, tor()])
    known = {each.tag for html in sections(value).values() for each in parsed(html).iter()}
    shown = sections(poison(value))
    assert {each.tag for html in shown.values() for each in parsed(html).iter()} <= known
    for name in ("state", "outcomes", "listeners", "circuits", "process"):
        assert hostile in text_of(shown[name])
    assert "&quot;&gt;" in document(value, '">')


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("state", "usual", "Ready Clients are served.tor: ready · version 0.4.9.3 · reconnects: 1"),
        ("state", "starting", "tor: starting · version 0.4.9.3 · reconnects: 145 %45 % · Loading"),
        ("state", "a pool", "tor: ready · version 0.4.9.3 · reconnects: 1tor-2: ready"),
        ("state", "without tor", "Ready Clients are served.Without Tor."),
        ("figures", "usual", "To clients2.0 kB/s5.6 MB"),
        ("figures", "usual", "New streams2/sjust now"),
        ("figures", "usual", "Requests2\u202f00099.9 % ok"),
        ("figures", "starting", "Requests0so far"),
        ("outcomes", "usual", "openOpened.1\u202f99999.9 %F2Not at its introduction points.1under"),
        ("outcomes", "starting", "No request has been answered yet."),
        ("listeners", "usual", "tcp:1080:interface=127.0.0.1ExtendedErrors329"),
        ("listeners", "without tor", "There is no listener."),
        ("circuits", "usual", "DErelay1relay2🇳🇱NLrelay4general21 min🇩🇪DErelay1relay2🇳🇱NLrelay5hs"),
        ("circuits", "with workers", "general\u20131 min"),
        ("circuits", "a pool", "general · tor-2"),
        ("state", "a pool", "tor-2: ready"),
        ("circuits", "building", "being built"),
        ("circuits", "without tor", "No circuit is open."),
        ("exits", "usual", "ExitCircuits🇳🇱NLrelay41"),
        ("exits", "with workers", "NLrelay31"),
        ("exits", "building", "No stream is open through an exit."),
        ("process", "usual", "Half of the streams opened within1 s clearnet · \u2013 onion"),
        ("process", "slow", "opened withinlonger onion"),
        ("process", "with workers", "Descriptors\u2013 of 9"),
    ],
)
def test_section_says(name: str, value: str, words: str) -> None:
    assert words in text_of(sections(VALUES[value])[name])


def test_button_for_fresh_circuits_is_there_where_there_is_tor() -> None:
    shown = {name: "<form" in document(value, "token") for name, value in VALUES.items()}
    assert shown == {name: name != "without tor" for name in VALUES}


def test_circuits_are_bounded() -> None:
    html = sections(status(tors=[tor(circuits=[circuit(n) for n in range(1000)])]))["circuits"]
    assert html.count("<tr>") == MOST_CIRCUITS + 1
    assert f"… and {1000 - MOST_CIRCUITS} more." in html


def test_charts_say_in_words_what_they_show() -> None:
    charts = parsed(sections(status())["charts"])
    labels = [each.get("aria-label") for each in charts.iter("svg")]
    assert labels == [
        "New streams a second, the last ten minutes: now 3, at most 3.",
        "Bytes a second, the last ten minutes: to clients now 1.0 kB, at most 1.2 kB; "
        "from clients now 10 B, at most 10 B.",
    ]
    assert "no samples yet" in sections(VALUES["starting"])["charts"]


@given(samples=st.lists(st.integers(0, 10**9), min_size=1, max_size=700), age=st.integers(0, 10**6))
def test_points_of_a_chart_stay_as_they_are(samples: list[int], age: int) -> None:
    points = means({"interval": 1, "x": samples}, "x", age)
    assert points[-1][0] == 0
    # Each is MEAN_OF seconds before the next; only the newest is still in the making.
    assert {a - b for (a, _), (b, _) in pairwise(points[:-1])} <= {MEAN_OF}
    later = means({"interval": 1, "x": [*samples, 5]}, "x", age + 1)
    moved = {ago + 1: rate for ago, rate in points[1:-1]}
    assert moved.items() <= dict(later).items() or len(samples) >= 600


@pytest.mark.parametrize(
    ("made", "words"),
    [
        *((size(number), words) for number, words in [
            (0, "0 B"), (0.3, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12345, "12 kB"),
            (10**6, "1.0 MB"), (123 * 10**9, "123 GB"), (10**20, "100000 PB"),
        ]),
        *((rate(number), words) for number, words in [
            (0, "0"), (0.25, "0.2"), (3, "3"), (3.5, "3.5"), (1234.5, "1\u202f234"),
        ]),
        *((duration(number), words) for number, words in [
            (0, "under 1 min"), (59, "under 1 min"), (60, "1 min"), (7199, "119 min"),
            (7200, "2 h"), (172800, "2 d"),
        ]),
        *((share(*of), words) for of, words in [
            ((0, 9), "0.0 %"), ((1999, 2000), "99.9 %"), ((1, 9999), "under 0.1 %"),
            ((1, 3), "33.3 %"), ((3, 3), "100.0 %"),
        ]),
        *((ceiling(number), top) for number, top in [
            (1, 1), (1.5, 2), (3, 5), (7, 10), (1000, 1000), (1001, 2000),
        ]),
        *((flag(country), html) for country, html in [
            ("??", ""), ("", ""), ("a1", ""), ("üb", ""),
            ("de", '<span class="flag" aria-hidden="true">🇩🇪</span><abbr>DE</abbr>'),
        ]),
        (count(1234567), "1\u202f234\u202f567"),
    ],
)  # fmt: skip
def test_in_words(made: object, words: object) -> None:
    assert made == words


def test_value_is_what_json_can_say() -> None:
    assert sections(json.loads(json.dumps(VALUES["usual"]))) == sections(VALUES["usual"])
