"""What HS_DESC, CIRC and CIRC_MINOR events (control-spec 4.1) say of an onion service. Pure.

Nothing here remembers anything. An event says by itself which service it concerns, and a circuit
event also whose streams the circuit carries: tor prints the SOCKS password, and ours is the
isolation key.
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
    """What a circuit towards an onion service did. SEEN: it exists, and no more is to be said.

    The last two end a rendezvous circuit: ABANDONED before anybody came, LEFT after that.
    """

    SEEN = auto()
    ACKNOWLEDGED = auto()
    NACKED = auto()
    TIMED_OUT = auto()
    BROKEN = auto()
    JOINED = auto()
    ABANDONED = auto()
    LEFT = auto()


@dataclass(frozen=True, slots=True)
class HSDescEvent:
    """``address``: the 56 characters before ``.onion``, in lower case. ``directory`` was asked."""

    address: str
    fetch: Fetch
    directory: str = ""


@dataclass(frozen=True, slots=True)
class HSCircuitEvent:
    """``token``: the SOCKS password of its streams; None where tor has not attached any yet.

    ``relay``: the last of its path.
    """

    address: str
    token: str | None = field(repr=False)
    step: Step
    proof_of_work: bool = False
    relay: str = ""


_FAILURES = {"NOT_FOUND": Fetch.NOT_FOUND, "BAD_DESC": Fetch.BAD_DESC}
_PURPOSES = ("HS_CLIENT_INTRO", "HS_CLIENT_REND")
_ENDS = ("CLOSED", "FAILED")
# Ends of an introduction circuit that tor or we brought about: they say nothing of the service.
_QUIET_ENDS = ("FINISHED", "REQUESTED", "NONE", "IP_NOW_REDUNDANT", "MEASUREMENT_EXPIRED")


def parse_hs_desc(text: str) -> HSDescEvent | None:
    """Read an HS_DESC event; None for the upload of a service and for what cannot be read."""
    event = _read(text)
    if event is None or len(event.positional) < 2:
        return None
    action, address = event.positional[:2]
    directory = event.positional[3] if len(event.positional) > 3 else ""
    if action == "FAILED":
        # A failed upload has a reason of its own; those of a fetch are told apart by it.
        reason = event.keywords.get("REASON", "")
        if reason == "UPLOAD_REJECTED":
            return None
        fetch = _FAILURES.get(reason, Fetch.OTHER_FAILURE)
        return HSDescEvent(address.lower(), fetch, directory)
    if action in ("REQUESTED", "RECEIVED"):
        return HSDescEvent(address.lower(), Fetch[action], directory)
    return None


def parse_circuit(text: str) -> HSCircuitEvent | None:
    """Read a CIRC or CIRC_MINOR event; None if no client of an onion service uses the circuit."""
    if "REND_QUERY=" not in text:  # most circuits: spare the parsing
        return None
    event = _read(text)
    if event is None or len(event.positional) < 2 or "REND_QUERY" not in event.keywords:
        return None
    words = event.keywords
    if words.get("PURPOSE") not in _PURPOSES:
        return None
    return HSCircuitEvent(
        words["REND_QUERY"].lower(),
        words.get("SOCKS_PASSWORD"),
        _step(event.positional[1], words),
        "HS_POW" in words,
        event.positional[2].rpartition(",")[2] if len(event.positional) > 2 else "",
    )


def _step(status: str, words: Mapping[str, str]) -> Step:
    state, before = words.get("HS_STATE", ""), words.get("OLD_HS_STATE", "")
    if words["PURPOSE"] == "HS_CLIENT_REND":
        joined = state == "HSCR_JOINED"
        if status in _ENDS:
            return Step.LEFT if joined else Step.ABANDONED
        return Step.JOINED if joined else Step.SEEN
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
