"""Draws ``docs/isolation.svg``: which streams share a circuit, as the code decides it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from torsocks_tx.policy.isolation import isolation_key
from torsocks_tx.policy.listener import ListenerPolicy, parse_flags
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "isolation.svg"


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
COLOURS = ["#3465a4", "#c4a000", "#4e9a06", "#75507b", "#ce5c00", "#a40000", "#06989a", "#555753"]
WIDTH, ROW, TOP = 900, 44, 56
STREAM_X, LISTENER_X, CIRCUIT_X = 16, 372, 748


def circuits() -> list[int]:
    """Return the number of each stream's circuit, from 0, by what its isolation key is."""
    keys: dict[tuple[bytes, ...], int] = {}
    found = []
    for place, login, port, number in STREAMS:
        endpoint, flags = LISTENERS[number]
        policy: ListenerPolicy = parse_flags(flags.split())[0]
        credentials = Credentials(login.encode(), b"x") if login else None
        address = Address.of("example.com", port)
        request = Request(Version.SOCKS5, Command.CONNECT, address, credentials)
        key = isolation_key(policy.isolation, endpoint, place or None, request)
        found.append(keys.setdefault(key, len(keys)))
    return found


def box(x: int, y: float, width: int, lines: Sequence[str], colour: str) -> Iterator[str]:
    """Yield a box with lines of text, around the height ``y``."""
    height = 18 * len(lines) + 12
    yield (
        f'<rect x="{x}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="6"'
        f' fill="#fff" stroke="{colour}" stroke-width="1.5"/>'
    )
    for number, line in enumerate(lines):
        baseline = y - height / 2 + 19 + 18 * number
        yield f'<text x="{x + 10}" y="{baseline:g}">{escape(line)}</text>'


def curve(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    """Return a line between two points."""
    (x, y), (to_x, to_y) = start, end
    middle = (x + to_x) / 2
    return (
        f'<path d="M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"'
        f' fill="none" stroke="{colour}" stroke-width="2.5"/>'
    )


def heights(groups: Sequence[int]) -> list[float]:
    """Return for each group the middle of the rows of its streams."""
    rows = [TOP + ROW * (number + 0.5) for number in range(len(groups))]
    members = [[row for row, g in zip(rows, groups, strict=True) if g == group]
               for group in range(max(groups) + 1)]  # fmt: skip
    return [sum(some) / len(some) for some in members]


def picture() -> str:
    """Return the picture."""
    groups = circuits()
    circuit_at = heights(groups)
    listener_at = heights([stream.listener for stream in STREAMS])
    height = TOP + ROW * len(STREAMS) + 12
    parts = []
    for x, title in ((STREAM_X, "clients' streams"), (LISTENER_X, "listeners"),
                     (CIRCUIT_X, "circuits of tor")):  # fmt: skip
        parts.append(f'<text x="{x}" y="32" font-weight="bold">{title}</text>')
    for number, (stream, group) in enumerate(zip(STREAMS, groups, strict=True)):
        row, colour = TOP + ROW * (number + 0.5), COLOURS[group % len(COLOURS)]
        # The lines of a listener are close together, in the order of their streams.
        through = listener_at[stream.listener] + (row - listener_at[stream.listener]) / 9
        parts.append(curve((STREAM_X + 272, row), (LISTENER_X, through), colour))
        parts.append(curve((LISTENER_X + 272, through), (CIRCUIT_X, circuit_at[group]), colour))
        who = f"{stream.login or 'no login'} at {stream.place or 'the socket file'}"
        parts += box(STREAM_X, row, 272, [f"{who}, to :{stream.port}"], colour)
    for (endpoint, flags), y in zip(LISTENERS, listener_at, strict=True):
        parts += box(LISTENER_X, y, 272, [endpoint, flags] if flags else [endpoint], "#2e3436")
    for group, y in enumerate(circuit_at):
        colour = COLOURS[group % len(COLOURS)]
        parts += box(CIRCUIT_X, y, 120, [f"circuit {group + 1}"], colour)
    title = "Which streams share a circuit"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' font-family="sans-serif" font-size="14" fill="#2e3436"><title>{title}</title>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    DOCUMENT.write_text(picture(), encoding="utf-8")
