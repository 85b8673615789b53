"""Recordings of what real tor sent in every scenario: whole, in other orders, and cut short.

``make onion-table ARGS=--record`` makes the recordings.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.onion.recording import ADDRESS, TOKEN, Recording, load
from tests.support.rows import rows
from torsocks_tx.backends.tor.onion.diagnosis import Finding, diagnose
from torsocks_tx.backends.tor.onion.events import parse_circuit, parse_hs_desc
from torsocks_tx.backends.tor.onion.tracker import AttemptLog, AttemptTracker

FILES = sorted((Path(__file__).parent / "recordings").glob("*.txt"))
SHUFFLES = 50

Line = tuple[str, str]

recordings = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def play(lines: Iterable[Line]) -> tuple[AttemptTracker, AttemptLog]:
    tracker = AttemptTracker(lambda: 0.0)
    log = tracker.begin(ADDRESS, TOKEN)
    for name, text in lines:
        if name == "HS_DESC":
            tracker.note_fetch(parse_hs_desc(text))
        else:
            tracker.note_circuit(parse_circuit(text))
    return tracker, log


def finding_of(recording: Recording, lines: Iterable[Line]) -> Finding:
    """Diagnose a recording; the keys that tor held decide between F4 and F5."""
    tracker, log = play(lines)
    found = diagnose(recording.plain, log, tracker.history(ADDRESS), 0.0).finding
    if found is Finding.UNDECRYPTABLE:
        return Finding.WRONG_CLIENT_AUTH if recording.key else Finding.MISSING_CLIENT_AUTH
    return found


def right(recording: Recording) -> Finding:
    """The finding that the scenario should give; NOTHING if it is no onion failure."""
    if recording.code < 0xF0 or recording.code == 0xF6:
        return Finding.NOTHING
    return next(
        finding
        for finding in Finding
        if isinstance(finding.value, type) and finding.value.onion_code == recording.code
    )


def shuffled(lines: list[Line], seed: int) -> list[Line]:
    """Mix the events of circuits and of fetches; each of these keeps its own order."""
    chance = random.Random(seed)
    queues: dict[str, deque[Line]] = {}
    for name, text in lines:
        source = name if name == "HS_DESC" else text.split(" ", 1)[0]
        queues.setdefault(source, deque()).append((name, text))
    mixed = []
    while queues:
        source = chance.choice(sorted(queues))
        mixed.append(queues[source].popleft())
        if not queues[source]:
            del queues[source]
    return mixed


def test_every_code_was_recorded() -> None:
    codes = {load(path).code for path in FILES}
    assert codes >= {0, 1, 5, *range(0xF0, 0xF8)}


def test_the_descriptor_that_some_directories_lack_was_recorded_so() -> None:
    (path,) = (path for path in FILES if "some-directories" in path.stem)
    events = [text for name, text in load(path).events if name == "HS_DESC"]
    assert any("REASON=NOT_FOUND" in text for text in events)
    assert events[-1].startswith("RECEIVED ")


@rows("S-43", "S-44", "S-45", "S-46", "S-47", "S-48", "S-50")
@recordings
def test_a_recording_gives_the_right_finding(path: Path) -> None:
    recording = load(path)
    assert finding_of(recording, recording.events) is right(recording)


@recordings
def test_the_finding_does_not_depend_on_the_order_of_events(path: Path) -> None:
    recording = load(path)
    for seed in range(SHUFFLES):
        assert finding_of(recording, shuffled(recording.events, seed)) is right(recording), seed


@recordings
def test_a_recording_cut_short_gives_no_wrong_finding(path: Path) -> None:
    """Missing events may hide the finding, or make F7 an F2, but give no other finding."""
    recording = load(path)
    for end in range(len(recording.events)):
        assert finding_of(recording, recording.events[:end]) in allowed(recording)


@recordings
@pytest.mark.parametrize(
    "suppressed",
    [{"HS_DESC"}, {"CIRC"}, {"CIRC_MINOR"}, {"CIRC", "CIRC_MINOR"}],
    ids=lambda names: " and ".join(sorted(names)),
)
def test_events_that_a_filter_suppresses_give_no_wrong_finding(
    path: Path, suppressed: set[str]
) -> None:
    recording = load(path)
    left = [event for event in recording.events if event[0] not in suppressed]
    assert finding_of(recording, left) in allowed(recording)


def allowed(recording: Recording) -> set[Finding]:
    """Return the findings that may come of a part of the events."""
    found = {Finding.NOTHING, right(recording)}
    if right(recording) in (Finding.INTRODUCTION_TIMED_OUT, Finding.INTRODUCTION_FAILED):
        found.add(Finding.INTRODUCTION_FAILED)
    if recording.plain == 1:
        # Without its events a circuit is not seen; the attempt would ask tor for it.
        found.add(Finding.MISSING_CLIENT_AUTH)
    return found


@recordings
def test_no_recording_names_anything_but_relays(path: Path) -> None:
    text = path.read_text(encoding="ascii")
    assert "$" not in text
    assert TOKEN in text or "SOCKS_PASSWORD" not in text
