"""What HS_DESC, CIRC and CIRC_MINOR events (control-spec 4.1) tell of an onion service. Pure.

One event is one sighting, or none: nothing here remembers anything. An event says by itself which
service it concerns, and a circuit event also whose streams the circuit carries: tor prints the
SOCKS password, and ours is the isolation key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from torsocks_tx.backends.tor.events import Event, EventError, parse_event


class Fetch(Enum):
    """What happened to a descriptor, as one directory has it."""

    REQUESTED = auto()
    RECEIVED = auto()
    NOT_FOUND = auto()
    BAD_DESC = auto()
    OTHER_FAILURE = auto()


class Step(Enum):
    """What a circuit towards an onion service did. SEEN: it exists, and no more is to be said."""

    SEEN = auto()
    ACKNOWLEDGED = auto()
    NACKED = auto()
    TIMED_OUT = auto()
    BROKEN = auto()
    JOINED = auto()


@dataclass(frozen=True, slots=True)
class FetchSighting:
    """``address``: the 56 characters before ``.onion``, in lower case."""

    address: str
    fetch: Fetch


@dataclass(frozen=True, slots=True)
class CircuitSighting:
    """``token``: the SOCKS password of its streams; None where tor has not attached any yet."""

    address: str
    token: str | None = field(repr=False)
    step: Step
    proof_of_work: bool = False


_FAILURES = {"NOT_FOUND": Fetch.NOT_FOUND, "BAD_DESC": Fetch.BAD_DESC}
_PURPOSES = ("HS_CLIENT_INTRO", "HS_CLIENT_REND")
_ENDS = ("CLOSED", "FAILED")
# Ends of an introduction circuit that tor or we brought about: they say nothing of the service.
_QUIET_ENDS = ("FINISHED", "REQUESTED", "NONE", "IP_NOW_REDUNDANT", "MEASUREMENT_EXPIRED")


def fetch_sighting(text: str) -> FetchSighting | None:
    """What one HS_DESC event says; None for services' own uploads and for what cannot be read."""
    event = _read(text)
    if event is None or len(event.positional) < 2:
        return None
    action, address = event.positional[:2]
    if action == "FAILED":
        # A failed upload has a reason of its own; those of a fetch are told apart by it.
        reason = event.keywords.get("REASON", "")
        if reason == "UPLOAD_REJECTED":
            return None
        return FetchSighting(address.lower(), _FAILURES.get(reason, Fetch.OTHER_FAILURE))
    if action in ("REQUESTED", "RECEIVED"):
        return FetchSighting(address.lower(), Fetch[action])
    return None


def circuit_sighting(text: str) -> CircuitSighting | None:
    """What one CIRC or CIRC_MINOR event says; None if no client of an onion service uses it."""
    if "REND_QUERY=" not in text:  # most circuits: spare the parsing
        return None
    event = _read(text)
    if event is None or len(event.positional) < 2 or "REND_QUERY" not in event.keywords:
        return None
    words = event.keywords
    if words.get("PURPOSE") not in _PURPOSES:
        return None
    return CircuitSighting(
        words["REND_QUERY"].lower(),
        words.get("SOCKS_PASSWORD"),
        _step(event.positional[1], words),
        "HS_POW" in words,
    )


def _step(status: str, words: Mapping[str, str]) -> Step:
    state, before = words.get("HS_STATE", ""), words.get("OLD_HS_STATE", "")
    if words["PURPOSE"] == "HS_CLIENT_REND":
        return Step.JOINED if state == "HSCR_JOINED" else Step.SEEN  # also at its end
    if status in _ENDS:
        return _end(state, words.get("REASON", "NONE"))
    if before == "HSCI_INTRO_SENT" and state == "HSCI_DONE":
        return Step.ACKNOWLEDGED
    if before == "HSCI_INTRO_SENT" and state == "HSCI_CONNECTING":
        return Step.NACKED
    return Step.SEEN


def _end(state: str, reason: str) -> Step:
    """What the end of an introduction circuit means; acknowledged ones have done their work."""
    if state == "HSCI_DONE" or reason in _QUIET_ENDS:
        return Step.SEEN
    if reason == "TIMEOUT":
        # Before the introduction was sent it is the circuit that was slow, not the service's relay.
        return Step.TIMED_OUT if state == "HSCI_INTRO_SENT" else Step.SEEN
    return Step.BROKEN


def _read(text: str) -> Event | None:
    try:
        return parse_event(text)
    except EventError:
        return None
