"""The rules that find out why tor refused a stream to an onion service. Pure.

socks-extensions, section 6, says what each code means. Where events are missing there is no
finding, and tor's plain code goes out: a code that is only likely would sometimes be wrong.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from math import inf

from torsocks_tx import errors
from torsocks_tx.backends.tor.onion.events import Fetch, Step
from torsocks_tx.backends.tor.onion.tracker import (
    INTRODUCTION_DOUBT,
    AttemptLog,
    Introductions,
    ServiceHistory,
)
from torsocks_tx.socks.constants import Reply5

UNREACHABLE_AFTER = 5
"""Circuits to an introduction point that tor lets break before it gives the point up."""


class Finding(Enum):
    """What is proven: the value is the class of failure that it is, or None.

    UNDECRYPTABLE: tor cannot decrypt the descriptor; the keys that it holds tell why.
    INVALID_ADDRESS: follows from the address alone.
    """

    NOTHING = None
    DESCRIPTOR_NOT_FOUND = errors.DescriptorNotFound
    DESCRIPTOR_INVALID = errors.DescriptorInvalid
    INTRODUCTION_FAILED = errors.IntroductionFailed
    INTRODUCTION_TIMED_OUT = errors.IntroductionTimedOut
    RENDEZVOUS_FAILED = errors.RendezvousFailed
    UNDECRYPTABLE = "undecryptable"
    MISSING_CLIENT_AUTH = errors.MissingClientAuth
    WRONG_CLIENT_AUTH = errors.WrongClientAuth
    INVALID_ADDRESS = errors.InvalidOnionAddress


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A finding and, in words without any address, what it rests on.

    ``unless_joined``: it holds only if no older circuit to the service is open, over which the
    service itself may have said no.
    """

    finding: Finding
    words: str
    unless_joined: bool = False

    @property
    def refused(self) -> errors.OnionRefused | None:
        """The failure to report to the client; None: report tor's plain code."""
        kind = self.finding.value
        return kind(self.words) if isinstance(kind, type) else None


def diagnose(
    code: int, log: AttemptLog, history: ServiceHistory, now: float, followed: float = inf
) -> Diagnosis:
    """Find out why tor refused with this plain ``code``.

    ``now``: in seconds of the clock of ``history``. ``followed``: for how many seconds all events
    of tor were followed.
    """
    if not log.complete:
        return Diagnosis(Finding.NOTHING, "events of tor may have been lost")
    if log.joined:
        return Diagnosis(Finding.NOTHING, "the service came to the rendezvous point")
    match code:
        case Reply5.HOST_UNREACHABLE:
            return _unreachable(log, history, now, followed)
        case Reply5.GENERAL_FAILURE:
            return _general(log)
        case Reply5.TTL_EXPIRED:
            return _timed_out(log)
    return Diagnosis(Finding.NOTHING, "tor's answer says it")


def _unreachable(
    log: AttemptLog, history: ServiceHistory, now: float, followed: float
) -> Diagnosis:
    """04: no directory has it, it cannot be read, or no introduction point is left."""
    if log.round:
        return _not_fetched(log.round)
    introductions = log.introductions
    if introductions[Step.NACKED] or introductions[Step.TIMED_OUT]:
        return _no_introduction(log, introductions, history, now)
    if log.received:
        return _nothing_to_try(log, history, now, followed)
    if log.fetches:
        return Diagnosis(Finding.NOTHING, "no directory answered")
    if history.is_undecryptable(now) and not log.steps:
        return Diagnosis(Finding.UNDECRYPTABLE, "tor has asked every directory already", True)
    return Diagnosis(Finding.NOTHING, "nothing was seen")


def _not_fetched(outcomes: Counter[Fetch]) -> Diagnosis:
    """A directory keeps only what the service's own key has signed: one bad answer outweighs 404s.

    So F0 says that all who answered had nothing, and F1 that somebody had something unreadable.
    """
    finding, total = Finding.NOTHING, outcomes.total()
    if outcomes[Fetch.BAD_DESC]:
        finding = Finding.DESCRIPTOR_INVALID
    elif outcomes[Fetch.NOT_FOUND]:
        finding = Finding.DESCRIPTOR_NOT_FOUND
    plural = "directory" if total == 1 else "directories"
    counts = ", ".join(f"{count} {fetch.name}" for fetch, count in outcomes.items())
    return Diagnosis(finding, f"{total} {plural} answered: {counts}")


def _no_introduction(
    log: AttemptLog, introductions: Introductions, history: ServiceHistory, now: float
) -> Diagnosis:
    """Introductions were seen to fail; tor has none left that it would try (again).

    Where those were other streams', this one may have been refused by the service itself.
    """
    others, words = _were_others(log), _ends(introductions)
    if others and log.steps[Step.LEFT]:
        return Diagnosis(Finding.NOTHING, "a circuit to the service ended")
    if introductions[Step.NACKED] or _is_unreached(introductions) or history.is_nacked(now):
        return Diagnosis(Finding.INTRODUCTION_FAILED, words, others)
    if not history.is_sure(now):
        return Diagnosis(Finding.NOTHING, f"{words}; tor may remember others")
    return Diagnosis(Finding.INTRODUCTION_TIMED_OUT, words, others)


def _were_others(log: AttemptLog) -> bool:
    """Whether all introductions that failed were made for other streams."""
    return not (log.steps[Step.NACKED] or log.steps[Step.TIMED_OUT])


def _is_unreached(introductions: Introductions) -> bool:
    """Whether tor has given up an introduction point because it cannot get there."""
    return any(
        isinstance(key, str) and count >= UNREACHABLE_AFTER for key, count in introductions.items()
    )


def _nothing_to_try(
    log: AttemptLog, history: ServiceHistory, now: float, followed: float
) -> Diagnosis:
    """Tor has a descriptor, and tried no introduction point in it: it shuns them, or there is none.

    Which of these it is, follows only from having seen all that tor remembers.
    """
    known = followed >= INTRODUCTION_DOUBT and history.is_sure(now)
    if log.steps[Step.LEFT]:
        finding, words = Finding.NOTHING, "a circuit to the service ended"
    elif _is_unreached(log.introductions):
        finding, words = Finding.INTRODUCTION_FAILED, "introduction points could not be reached"
    elif history.is_nacked(now):
        finding, words = Finding.INTRODUCTION_FAILED, "introductions were refused before"
    elif history.is_silent(now) or (known and history.is_timed_out(now)):
        finding, words = Finding.INTRODUCTION_TIMED_OUT, "introductions timed out before"
    elif known:
        finding, words = Finding.INTRODUCTION_FAILED, "no introduction point in the descriptor"
    else:
        finding, words = Finding.NOTHING, "tor may remember what was not seen here"
    return Diagnosis(finding, words, unless_joined=finding is not Finding.NOTHING)


def _general(log: AttemptLog) -> Diagnosis:
    """01: tor could not decrypt what it received, or something that is no onion failure.

    A service that is up, and whose own server refuses, looks the same but for its circuits. Tor
    also says it where an introduction was due just as another stream made it forget the descriptor.
    """
    if log.steps[Step.NACKED] and not log.steps[Step.LEFT]:
        return Diagnosis(Finding.INTRODUCTION_FAILED, _ends(log.introductions), True)
    if not log.received or log.round:
        return Diagnosis(Finding.NOTHING, "no descriptor was received")
    if log.steps:
        return Diagnosis(Finding.NOTHING, "a circuit to the service was made")
    words = "a descriptor was received and no circuit followed"
    return Diagnosis(Finding.UNDECRYPTABLE, words, True)


def _timed_out(log: AttemptLog) -> Diagnosis:
    """06: tor has waited long enough, for the service or for its introduction points."""
    if log.awaits_service:
        return no_rendezvous(log)
    introductions = log.introductions
    if introductions.keys() == {Step.TIMED_OUT}:
        return Diagnosis(Finding.INTRODUCTION_TIMED_OUT, _ends(introductions), _were_others(log))
    return Diagnosis(Finding.NOTHING, "no introduction was acknowledged")


def no_rendezvous(log: AttemptLog) -> Diagnosis:
    """Introductions were acknowledged, and the service did not come to the rendezvous point."""
    words = f"introductions: {log.steps[Step.ACKNOWLEDGED]} ACKNOWLEDGED; nobody came"
    return Diagnosis(Finding.RENDEZVOUS_FAILED, words)


def _ends(introductions: Introductions) -> str:
    """Return in words how introductions failed."""
    kinds = (Step.NACKED, Step.TIMED_OUT, Step.BROKEN)
    found = [f"{introductions[kind]} {kind.name}" for kind in kinds if introductions[kind]]
    return f"introductions: {', '.join(found) or 'none'}"
