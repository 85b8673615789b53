"""Draws the pictures of the documents: ``make docs`` writes those that follow from the code.

Each is an SVG for light and dark pages, without a font or a script of its own. What streams share a
circuit is decided by the code; what is slow and what is fast is read from bench/results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
sys.path.insert(0, str(ROOT))

from bench.report import chart  # noqa: E402
from torsocks_tx.policy.isolation import isolation_key  # noqa: E402
from torsocks_tx.policy.listener import parse_flags  # noqa: E402
from torsocks_tx.socks.constants import Command, Version  # noqa: E402
from torsocks_tx.socks.messages import Address, Credentials, Request  # noqa: E402

COLOURS = [
    *(
        ("#3465a4", "#7aa7e0"),
        ("#a07c00", "#e3c33c"),
        ("#3f7d05", "#8ae234"),
        ("#75507b", "#c59ccb"),
    ),
    *(
        ("#b84f00", "#fca85b"),
        ("#a40000", "#f57979"),
        ("#067a7d", "#4fd0d4"),
        ("#555753", "#babdb6"),
    ),
]
"""Of lines: each for a light and for a dark page."""
STYLE = """text{fill:#24292f}.soft{fill:#57606a}.ground{fill:#fff}.box{fill:#f6f8fa;stroke:#57606a}
.line{fill:none;stroke-width:2.5}.yes{fill:#dcefdc}.no{fill:#f6dcdc}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9aa4af}.ground{fill:#131416}
.box{fill:#22262b;stroke:#9aa4af}.yes{fill:#1d3a22}.no{fill:#4a2326}}"""


def style(parts: str) -> str:
    """Return the rules of the colours that a picture uses."""
    used = [number for number in range(len(COLOURS)) if f"c{number}" in parts]
    light = "".join(f".c{number}{{stroke:{COLOURS[number][0]}}}" for number in used)
    dark = "".join(f".c{number}{{stroke:{COLOURS[number][1]}}}" for number in used)
    return f"{STYLE}{light}@media(prefers-color-scheme:dark){{{dark}}}"


def picture(width: int, height: float, title: str, words: str, parts: Iterator[str]) -> str:
    """Return an SVG; ``words`` say to those who cannot see it what it shows."""
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" role="img"'
        f' aria-labelledby="title words" font-family="sans-serif" font-size="14">\n'
        f'<title id="title">{escape(title)}</title><desc id="words">{escape(words)}</desc>\n'
        f"<style>{style(inside)}</style>\n"
        f'<rect class="ground" width="{width}" height="{height:g}"/>\n{inside}\n</svg>\n'
    )


def label(x: float, y: float, text: str, more: str = "") -> str:
    """Return a line of text."""
    return f'<text x="{x:g}" y="{y:g}"{more and " "}{more}>{escape(text)}</text>'


def box(x: float, middle: float, width: int, lines: Sequence[str], kind: str = "") -> Iterator[str]:
    """Yield a box with lines of text, around the height ``middle``."""
    height = 18 * len(lines) + 12
    top = middle - height / 2
    yield (
        f'<rect class="box {kind}" x="{x:g}" y="{top:g}" width="{width}" height="{height}" rx="6"'
        ' stroke-width="1.5"/>'
    )
    yield from (label(x + 10, top + 19 + 18 * n, line) for n, line in enumerate(lines))


def curve(start: tuple[float, float], end: tuple[float, float], colour: int) -> str:
    """Return a line between two points."""
    (x, y), (to_x, to_y) = start, end
    middle = (x + to_x) / 2
    path = f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"
    return f'<path class="line c{colour % len(COLOURS)}" d="{path}"/>'


class Stream(NamedTuple):
    """One stream: where its client is, the login that it sends, and where it goes."""

    place: str
    login: str
    port: int
    listener: int


LISTENERS = [
    ("tcp:1080:interface=127.0.0.1", ""),
    ("tcp:1081:interface=127.0.0.1", "IsolateDestPort"),
    ("unix:/run/torsocks/socks", ""),
]
STREAMS = [
    Stream("127.0.0.1", "alice", 443, 0),
    Stream("127.0.0.1", "alice", 80, 0),
    Stream("127.0.0.1", "bob", 443, 0),
    Stream("127.0.0.1", "", 443, 0),
    Stream("127.0.0.2", "", 443, 0),
    Stream("127.0.0.1", "alice", 443, 1),
    Stream("127.0.0.1", "alice", 80, 1),
    Stream("", "", 443, 2),
    Stream("", "", 80, 2),
    Stream("", "bob", 443, 2),
]


def request(login: str = "", port: int = 443) -> Request:
    """Return a request of a client by SOCKS5."""
    credentials = Credentials(login.encode(), b"x") if login else None
    address = Address.of("example.com", port)
    return Request(Version.SOCKS5, Command.CONNECT, address, credentials)


def circuits() -> list[int]:
    """Return the number of each stream's circuit, from 0, by what its isolation key is."""
    keys: dict[tuple[bytes, ...], int] = {}
    found = []
    for place, login, port, number in STREAMS:
        endpoint, flags = LISTENERS[number]
        policy, _ = parse_flags(flags.split())
        key = isolation_key(policy.isolation, endpoint, place or None, request(login, port))
        found.append(keys.setdefault(key, len(keys)))
    return found


TOP, ROW = 56, 44


def heights(groups: Sequence[int]) -> list[float]:
    """Return for each group the middle of the rows of its streams."""
    rows = [TOP + ROW * (number + 0.5) for number in range(len(groups))]
    members = [[row for row, g in zip(rows, groups, strict=True) if g == group]
               for group in range(max(groups) + 1)]  # fmt: skip
    return [sum(some) / len(some) for some in members]


def sharing() -> str:
    """Draw which streams share a circuit."""
    stream_x, listener_x, circuit_x = 16, 372, 748
    groups = circuits()
    circuit_at = heights(groups)
    listener_at = heights([stream.listener for stream in STREAMS])

    def parts() -> Iterator[str]:
        for x, title in (
            *((stream_x, "clients' streams"), (listener_x, "listeners")),
            (circuit_x, "circuits of tor"),
        ):
            yield label(x, 32, title, 'font-weight="bold"')
        for number, (stream, group) in enumerate(zip(STREAMS, groups, strict=True)):
            row = TOP + ROW * (number + 0.5)
            # The lines of a listener are close together, in the order of their streams.
            through = listener_at[stream.listener] + (row - listener_at[stream.listener]) / 9
            yield curve((stream_x + 272, row), (listener_x, through), group)
            yield curve((listener_x + 272, through), (circuit_x, circuit_at[group]), group)
            who = f"{stream.login or 'no login'} at {stream.place or 'the socket file'}"
            yield from box(stream_x, row, 272, [f"{who}, to :{stream.port}"], f"c{group}")
        for (endpoint, flags), y in zip(LISTENERS, listener_at, strict=True):
            yield from box(listener_x, y, 272, [endpoint, flags] if flags else [endpoint])
        for group, y in enumerate(circuit_at):
            yield from box(circuit_x, y, 120, [f"circuit {group + 1}"], f"c{group}")

    words = "Ten streams of clients pass three listeners and end in " + ", ".join(
        f"circuit {group + 1}: streams {[n + 1 for n, g in enumerate(groups) if g == group]}"
        for group in range(max(groups) + 1)
    )
    height = TOP + ROW * len(STREAMS) + 12
    return picture(900, height, "Which streams share a circuit", f"{words}.", parts())


FIRST = request("alice")


class Case(NamedTuple):
    """What differs between two streams: the second one's request, place and listener."""

    words: str
    request: Request
    place: str = "127.0.0.1"
    listener: str = "one"


CASES = [
    Case("nothing", FIRST),
    Case("the listener", FIRST, listener="another"),
    Case("the user of --auth", replace(FIRST, avatar=b"bob")),
    Case("the address of the client", FIRST, "127.0.0.2"),
    Case("the login, or none", request("bob")),
    Case("the protocol: SOCKS5 and 4", replace(FIRST, version=Version.SOCKS4)),
    Case("the port", request("alice", 80)),
    Case("the destination", replace(FIRST, address=Address.of("example.org", 443))),
]
FLAG_SETS = [
    "",
    "NoIsolateClientAddr",
    "NoIsolateSOCKSAuth",
    "IsolateClientProtocol",
    "IsolateDestPort",
    "IsolateDestAddr",
    "SessionGroup=1",
]


def may_share(flags: str, case: Case) -> bool:
    """Whether the code lets two streams that differ in this share a circuit."""
    isolation = parse_flags(flags.split())[0].isolation
    first = isolation_key(isolation, "one", "127.0.0.1", FIRST)
    return first == isolation_key(isolation, case.listener, case.place, case.request)


def matrix() -> str:
    """Draw for each difference of two streams, and each flag, whether they may share a circuit."""
    left, top, width, row = 232, 140, 84, 34

    def parts() -> Iterator[str]:
        yield label(16, top - 12, "two streams differ in", 'font-weight="bold"')
        for column, flags in enumerate(FLAG_SETS):
            x = left + width * (column + 0.5)
            turned = f'transform="rotate(-32 {x:g} {top - 12})"'
            yield label(x, top - 12, flags or "no flag", turned)
        for number, case in enumerate(CASES):
            y = top + row * number
            yield label(16, y + 22, case.words)
            for column, flags in enumerate(FLAG_SETS):
                x, shares = left + width * column, may_share(flags, case)
                kind, word = ("yes", "shared") if shares else ("no", "apart")
                yield (
                    f'<rect class="{kind}" x="{x + 2}" y="{y + 2}" width="{width - 4}"'
                    f' height="{row - 4}" rx="4"/>'
                )
                yield label(x + width / 2, y + 22, word, 'text-anchor="middle"')

    words = " ".join(
        f"With {flags or 'no flag'}, streams share a circuit though they differ in: "
        + "; ".join(case.words for case in CASES if may_share(flags, case))
        + "."
        for flags in FLAG_SETS
    )
    height = top + row * len(CASES) + 14
    return picture(left + width * len(FLAG_SETS) + 90, height, "What isolates", words, parts())


def data_path() -> str:
    """Draw the way of the bytes, from programs to destinations."""
    alice, bob = 0, 4

    def parts() -> Iterator[str]:
        yield '<rect class="box" x="210" y="44" width="300" height="256" rx="10"/>'
        titles = {16: "programs", 210: "torsocks_tx", 566: "tor", 706: "the Tor network"}
        for x, title in titles.items():
            yield label(x, 30, title, 'font-weight="bold"')
        for y, who, colour in ((104, "curl, as alice", alice), (164, "git, as bob", bob)):
            yield curve((150, y), (226, 134), colour)
            yield from box(16, y, 134, [who], f"c{colour}")
        for line, text in enumerate(("SOCKS4, 4a, 5,", "HTTP CONNECT")):
            yield label(16, 216 + 20 * line, text, 'class="soft"')
        for y, shift, colour in ((104, -4, alice), (164, 4, bob)):
            yield curve((330, 134 + shift), (374, 134 + shift), colour)
            yield curve((494, 134 + shift), (566, 134 + shift), colour)
            yield curve((650, 134 + shift), (706, y), colour)
            yield curve((750, y), (782, y), colour)
            yield curve((826, y), (858, y), colour)
        yield from box(226, 134, 104, ["handshake,", "policy,", "isolation"])
        yield from box(374, 134, 120, ["relay: bytes,", "by splice(2)", "when many"])
        yield from box(566, 134, 84, ["SocksPort"])
        yield from box(706, 104, 196, ["circuit 1: exit"], f"c{alice}")
        yield from box(706, 164, 196, ["circuit 2: onion service"], f"c{bob}")
        yield from box(
            226, 254, 268, ["why onion services fail: F0 to F7,", "state of tor, chosen exits"]
        )
        yield from box(566, 254, 110, ["control port"])
        yield curve((494, 254), (566, 254), 7)
        for line, text in enumerate(("Names are looked up", "by exits, never on", "this machine.")):
            yield label(706, 236 + 20 * line, text, 'class="soft"')

    words = (
        "Programs connect by SOCKS or HTTP CONNECT. torsocks_tx reads the request, checks the rules"
        " of the listener, and gives each client and login a circuit of its own; its relay hands"
        " the bytes to tor's SocksPort. By tor's control port it learns why onion services fail."
    )
    return picture(918, 316, "The way of the bytes", words, parts())


def bench() -> str:
    """Draw the main measures of the last benchmark."""
    return chart(json.loads((RESULTS / "results.json").read_text(encoding="utf-8"))["samples"])


PICTURES: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "pictures" / "data-path.svg": data_path,
    ROOT / "docs" / "pictures" / "sharing.svg": sharing,
    ROOT / "docs" / "pictures" / "isolation.svg": matrix,
    RESULTS / "results.svg": bench,
}


if __name__ == "__main__":
    for path, draw in PICTURES.items():
        path.write_text(draw(), encoding="utf-8")
