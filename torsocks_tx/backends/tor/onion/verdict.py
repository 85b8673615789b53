"""From what was seen, and tor's plain answer, to the reason. Pure: the rules, and nothing else.

socks-extensions, section 6, says what each code means. Where the evidence is missing there is no
finding, and tor's plain code goes out: a code that is only likely would be a lie now and then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from math import inf

from torsocks_tx.backends.tor.onion.evidence import (
    INTRODUCTION_DOUBT,
    Evidence,
    Introductions,
    Memory,
)
from torsocks_tx.backends.tor.onion.sightings import Fetch, Step
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
from torsocks_tx.socks.constants import Reply5

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


def judge(
    code: int, evidence: Evidence, memory: Memory, now: float, followed: float = inf
) -> Verdict:
    """Find out why tor refused with this plain ``code``.

    ``now``: in seconds of the clock of ``memory``. ``followed``: for how many seconds all events of
    tor were followed.
    """
    if not evidence.complete:
        return Verdict(Finding.NOTHING, "events of tor may have been lost")
    if evidence.joined:
        return Verdict(Finding.NOTHING, "the service came to the rendezvous point")
    match code:
        case Reply5.HOST_UNREACHABLE:
            return _unreachable(evidence, memory, now, followed)
        case Reply5.GENERAL_FAILURE:
            return _general(evidence)
        case Reply5.TTL_EXPIRED:
            return _timed_out(evidence)
    return Verdict(Finding.NOTHING, "tor's answer says it")


def _unreachable(evidence: Evidence, memory: Memory, now: float, followed: float) -> Verdict:
    """04: no directory has it, it cannot be read, or no introduction point is left."""
    if evidence.round:
        return _not_fetched(evidence.round)
    introductions = evidence.introductions
    if introductions.ends[Step.NACKED] or introductions.ends[Step.TIMED_OUT]:
        return _no_introduction(evidence, introductions, memory, now)
    if evidence.received:
        return _nothing_to_try(evidence, memory, now, followed)
    if evidence.fetches:
        return Verdict(Finding.NOTHING, "no directory answered")
    if memory.is_locked(now) and not evidence.circuits:
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


def _no_introduction(
    evidence: Evidence, introductions: Introductions, memory: Memory, now: float
) -> Verdict:
    """Introductions were seen to fail; tor has none left that it would try (again).

    Where those were other streams', this one may have been refused by the service itself.
    """
    ends, others = introductions.ends, _were_others(evidence)
    words = f"introductions: {_counts(ends, Step.NACKED, Step.TIMED_OUT, Step.BROKEN)}"
    if others and evidence.steps[Step.LEFT]:
        return Verdict(Finding.NOTHING, "a circuit to the service ended")
    if ends[Step.NACKED] or _unreached(introductions) or memory.is_nacked(now):
        return Verdict(Finding.INTRODUCTION_FAILED, words, others)
    if not memory.is_sure(now):
        return Verdict(Finding.NOTHING, f"{words}; tor may remember others")
    return Verdict(Finding.INTRODUCTION_TIMED_OUT, words, others)


def _were_others(evidence: Evidence) -> bool:
    """Whether all introductions that failed were made for other streams."""
    return not (evidence.steps[Step.NACKED] or evidence.steps[Step.TIMED_OUT])


def _unreached(introductions: Introductions) -> bool:
    """Whether tor has given up an introduction point because it cannot get there."""
    return any(count >= UNREACHABLE_AFTER for count in introductions.broken.values())


def _nothing_to_try(evidence: Evidence, memory: Memory, now: float, followed: float) -> Verdict:
    """Tor has a descriptor, and tried no introduction point in it: it shuns them, or there is none.

    Which of these it is, follows only from having seen all that tor remembers.
    """
    known = followed >= INTRODUCTION_DOUBT and memory.is_sure(now)
    if evidence.steps[Step.LEFT]:
        finding, words = Finding.NOTHING, "a circuit to the service ended"
    elif _unreached(evidence.introductions):
        finding, words = Finding.INTRODUCTION_FAILED, "introduction points could not be reached"
    elif memory.is_nacked(now):
        finding, words = Finding.INTRODUCTION_FAILED, "introductions were refused before"
    elif memory.is_silent(now) or (known and memory.is_timed_out(now)):
        finding, words = Finding.INTRODUCTION_TIMED_OUT, "introductions timed out before"
    elif known:
        finding, words = Finding.INTRODUCTION_FAILED, "no introduction point in the descriptor"
    else:
        finding, words = Finding.NOTHING, "tor may remember what was not seen here"
    return Verdict(finding, words, unless_joined=finding is not Finding.NOTHING)


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
    ends = evidence.introductions.ends
    if set(+ends) == {Step.TIMED_OUT}:
        words = f"introductions: {_counts(ends, Step.TIMED_OUT)}"
        return Verdict(Finding.INTRODUCTION_TIMED_OUT, words, _were_others(evidence))
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
