"""From what was seen, and tor's plain answer, to the reason. Pure: the rules, and nothing else.

socks-extensions, section 6, says what each code means. Where the evidence is missing there is no
finding, and tor's plain code goes out: a code that is only likely would be a lie now and then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from torsocks_tx.backends.tor.onion.evidence import Evidence, Memory
from torsocks_tx.backends.tor.onion.sightings import Fetch, Step
from torsocks_tx.codes import Reply5
from torsocks_tx.errors import (
    DescriptorInvalid,
    DescriptorNotFound,
    IntroductionFailed,
    IntroductionTimedOut,
    MissingClientAuth,
    OnionRefused,
    RendezvousFailed,
    WrongClientAuth,
)

UNREACHABLE_AFTER = 5
"""Circuits to an introduction point that tor lets break before it gives the point up."""


class Finding(Enum):
    """What the events prove. LOCKED: tor cannot decrypt the descriptor; whose fault, its keys say.

    The value is the ``Refused`` that it is, or None.
    """

    NOTHING = None
    DESCRIPTOR_NOT_FOUND = DescriptorNotFound
    DESCRIPTOR_INVALID = DescriptorInvalid
    INTRODUCTION_FAILED = IntroductionFailed
    INTRODUCTION_TIMED_OUT = IntroductionTimedOut
    RENDEZVOUS_FAILED = RendezvousFailed
    LOCKED = "locked"
    MISSING_CLIENT_AUTH = MissingClientAuth
    WRONG_CLIENT_AUTH = WrongClientAuth


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finding and, in words without any address, what it rests on.

    ``unless_joined``: it holds only if no older circuit to the service is open, over which the
    service itself may have said no.
    """

    finding: Finding
    words: str
    unless_joined: bool = False

    @property
    def refused(self) -> OnionRefused | None:
        """The failure that a client may hear of, None where tor's plain code stands."""
        kind = self.finding.value
        return kind(self.words) if isinstance(kind, type) else None


def judge(code: int, evidence: Evidence, memory: Memory, now: float) -> Verdict:
    """Find out why tor refused with this plain ``code``; ``now`` in seconds of the same clock."""
    if not evidence.complete:
        return Verdict(Finding.NOTHING, "events of tor may have been lost")
    if evidence.joined:
        return Verdict(Finding.NOTHING, "the service came to the rendezvous point")
    match code:
        case Reply5.HOST_UNREACHABLE:
            return _unreachable(evidence, memory, now)
        case Reply5.GENERAL_FAILURE:
            return _general(evidence)
        case Reply5.TTL_EXPIRED:
            return _timed_out(evidence)
    return Verdict(Finding.NOTHING, "tor's answer says it")


def _unreachable(evidence: Evidence, memory: Memory, now: float) -> Verdict:
    """04: no directory has it, it cannot be read, or no introduction point is left."""
    if evidence.round:
        return _not_fetched(evidence.round)
    if evidence.received or evidence.steps[Step.NACKED] or evidence.steps[Step.TIMED_OUT]:
        return _no_introduction(evidence, memory, now)
    if evidence.fetches:
        return Verdict(Finding.NOTHING, "no directory answered")
    if memory.is_locked(now):
        return Verdict(Finding.LOCKED, "tor has asked every directory already", True)
    return Verdict(Finding.NOTHING, "nothing was seen")


def _not_fetched(outcomes: Counter[Fetch]) -> Verdict:
    """A directory keeps only what the service's own key has signed: one bad answer outweighs 404s.

    So F0 says that all who answered had nothing, and F1 that somebody had something unreadable.
    """
    words = _asked(outcomes)
    if outcomes[Fetch.BAD_DESC]:
        return Verdict(Finding.DESCRIPTOR_INVALID, words)
    if outcomes[Fetch.NOT_FOUND]:
        return Verdict(Finding.DESCRIPTOR_NOT_FOUND, words)
    return Verdict(Finding.NOTHING, words)


def _no_introduction(evidence: Evidence, memory: Memory, now: float) -> Verdict:
    """Tor has a descriptor and finds no introduction point in it that it would try (again)."""
    steps = evidence.steps
    words = f"introductions: {_counts(steps, Step.NACKED, Step.TIMED_OUT, Step.BROKEN)}"
    refused = steps[Step.NACKED] > 0 or memory.is_nacked(now)
    unreachable = steps[Step.BROKEN] >= UNREACHABLE_AFTER
    silent = steps[Step.TIMED_OUT] > 0 or memory.is_timed_out(now)
    seen = steps[Step.NACKED] > 0 or steps[Step.TIMED_OUT] > 0
    if silent and not refused and not unreachable:
        return Verdict(Finding.INTRODUCTION_TIMED_OUT, words, unless_joined=not seen)
    return Verdict(Finding.INTRODUCTION_FAILED, words, unless_joined=not seen)


def _general(evidence: Evidence) -> Verdict:
    """01: tor could not decrypt what it received, or something that is no onion failure.

    A service that is up, and whose own server refuses, looks the same but for its circuits.
    """
    if not evidence.received or evidence.round:
        return Verdict(Finding.NOTHING, "no descriptor was received")
    if evidence.circuits:
        return Verdict(Finding.NOTHING, "a circuit to the service was made")
    return Verdict(Finding.LOCKED, "a descriptor was received and no circuit followed", True)


def _timed_out(evidence: Evidence) -> Verdict:
    """06: tor has waited long enough, for the service or for its introduction points."""
    if evidence.awaits_service:
        return no_rendezvous(evidence)
    steps = evidence.steps
    heard = steps[Step.NACKED] or steps[Step.BROKEN] or steps[Step.ACKNOWLEDGED]
    if steps[Step.TIMED_OUT] and not heard:
        words = f"introductions: {_counts(steps, Step.TIMED_OUT)}"
        return Verdict(Finding.INTRODUCTION_TIMED_OUT, words)
    return Verdict(Finding.NOTHING, "no introduction was acknowledged")


def no_rendezvous(evidence: Evidence) -> Verdict:
    """The service was told (by as many introductions) and did not come."""
    words = f"introductions: {_counts(evidence.steps, Step.ACKNOWLEDGED)}; nobody came"
    return Verdict(Finding.RENDEZVOUS_FAILED, words)


def _asked(outcomes: Counter[Fetch]) -> str:
    total = outcomes.total()
    plural = "directory" if total == 1 else "directories"
    return f"{total} {plural} answered: {_counts(outcomes, *outcomes)}"


def _counts(counter: Counter[Fetch] | Counter[Step], *kinds: Enum) -> str:
    found = [f"{counter[kind]} {kind.name}" for kind in kinds if counter[kind]]  # type: ignore[index]
    return ", ".join(found) or "none"
