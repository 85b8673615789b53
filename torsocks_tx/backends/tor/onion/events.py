"""What HS_DESC, CIRC and CIRC_MINOR events (control-spec 4.1) say of an onion service. Pure.

Nothing here remembers anything. An event says by itself which service it concerns, and a circuit
event also whose streams the circuit carries: tor prints the SOCKS password, and ours is the
isolation key.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
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
_ENDS = ("CLOSED", "FAILED")
_ANSWERS = {"HSCI_DONE": Step.ACKNOWLEDGED, "HSCI_CONNECTING": Step.NACKED}
# Ends of an introduction circuit that tor or we brought about: they say nothing of the service.
_QUIET_ENDS = ("FINISHED", "REQUESTED", "NONE", "IP_NOW_REDUNDANT", "MEASUREMENT_EXPIRED")


def read_event(text: str, fields: int) -> Event | None:
    """Parse an event; None if it cannot be read or has fewer positional fields."""
    with suppress(EventError):
        event = parse_event(text)
        return event if len(event.positional) >= fields else None
    return None


def parse_hs_desc(text: str) -> HSDescEvent | None:
    """Read an HS_DESC event; None for the upload of a service and for what cannot be read."""
    event = read_event(text, 2)
    if event is None:
        return None
    action, address = event.positional[:2]
    reason = event.keywords.get("REASON", "")
    if action in ("REQUESTED", "RECEIVED"):
        fetch = Fetch[action]
    elif action == "FAILED" and reason != "UPLOAD_REJECTED":
        # Other uploads that fail are told apart by their directory.
        fetch = _FAILURES.get(reason, Fetch.OTHER_FAILURE)
    else:
        return None
    return HSDescEvent(address.lower(), fetch, "".join(event.positional[3:4]))


def parse_circuit(text: str) -> HSCircuitEvent | None:
    """Read a CIRC or CIRC_MINOR event; None if no client of an onion service uses the circuit."""
    if "REND_QUERY=" not in text:  # most circuits: spare the parsing
        return None
    event = read_event(text, 2)
    if event is None or "REND_QUERY" not in event.keywords:
        return None
    words = event.keywords
    match words.get("PURPOSE"):
        case "HS_CLIENT_REND":
            step = _rendezvous_step(event.positional[1], words)
        case "HS_CLIENT_INTRO":
            step = _introduction_step(event.positional[1], words)
        case _:
            return None
    return HSCircuitEvent(
        words["REND_QUERY"].lower(),
        words.get("SOCKS_PASSWORD"),
        step,
        "HS_POW" in words,
        "".join(event.positional[2:3]).rpartition(",")[2],
    )


def _rendezvous_step(status: str, words: Mapping[str, str]) -> Step:
    is_over = status in _ENDS
    if words.get("HS_STATE") == "HSCR_JOINED":
        return Step.LEFT if is_over else Step.JOINED
    return Step.ABANDONED if is_over else Step.SEEN


def _introduction_step(status: str, words: Mapping[str, str]) -> Step:
    state, reason = words.get("HS_STATE", ""), words.get("REASON", "NONE")
    if status not in _ENDS:
        was_sent = words.get("OLD_HS_STATE") == "HSCI_INTRO_SENT"
        return _ANSWERS.get(state, Step.SEEN) if was_sent else Step.SEEN
    if state == "HSCI_DONE" or reason in _QUIET_ENDS:  # acknowledged ones have done their work
        return Step.SEEN
    if reason == "TIMEOUT":
        # Before the introduction was sent it is the circuit that was slow, not the service's relay.
        return Step.TIMED_OUT if state == "HSCI_INTRO_SENT" else Step.SEEN
    return Step.BROKEN
