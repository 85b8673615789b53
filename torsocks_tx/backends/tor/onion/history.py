"""What was seen of an onion service: during one attempt to reach it, and shortly before. Pure.

Everything is a count, a last outcome or a time, so that no stream of events can make it grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from torsocks_tx.backends.tor.onion.events import Fetch, HSCircuitEvent, HSDescEvent, Step

INTRODUCTION_MEMORY = 120.0
"""Seconds for which tor does not try an introduction point again that failed (hs_cache.c)."""

INTRODUCTION_DOUBT = 150.0
"""Seconds after which it certainly tries again: it forgets in rounds of half a minute."""

UNDECRYPTABLE_MEMORY = 900.0
"""Seconds for which tor does not ask a directory again for the same descriptor (hs_common.c)."""

MOST_ACKNOWLEDGED = 64
"""Tokens of one address that are remembered because their rendezvous circuit waits."""

_ENDS = (Step.ACKNOWLEDGED, Step.NACKED, Step.TIMED_OUT, Step.BROKEN)


@dataclass(slots=True)
class ServiceHistory:
    """What earlier attempts on one service showed, kept for as long as tor remembers it.

    Times are those of the last such event, in seconds of the server's clock. ``undecryptable_at``:
    a descriptor came that tor could not decrypt; ``silent_at``: every introduction point was
    silent. ``acknowledged``: tokens whose introduction was acknowledged, and whose rendezvous
    circuit still waits: tor uses it for the next stream, too.
    """

    nacked_at: float | None = None
    timed_out_at: float | None = None
    silent_at: float | None = None
    undecryptable_at: float | None = None
    acknowledged: dict[str | None, bool] = field(default_factory=dict)

    def note(self, event: HSCircuitEvent, now: float) -> None:
        """Remember how an introduction ended, whoever made it, and who waits for a rendezvous."""
        step, token = event.step, event.token
        if step is Step.NACKED:
            self.nacked_at = now
        elif step is Step.TIMED_OUT:
            self.timed_out_at = now
        elif step is Step.ACKNOWLEDGED:
            if len(self.acknowledged) >= MOST_ACKNOWLEDGED:
                del self.acknowledged[next(iter(self.acknowledged))]
            self.acknowledged[token] = event.proof_of_work
        elif step in (Step.JOINED, Step.ABANDONED):
            self.acknowledged.pop(token, None)

    def is_sure(self, now: float) -> bool:
        """Whether tor either shuns all that failed, or has forgotten all of it."""
        return not any(INTRODUCTION_MEMORY < age <= INTRODUCTION_DOUBT for age in self._ages(now))

    def is_recent(self, now: float) -> bool:
        """Whether tor may still remember an introduction that failed."""
        return any(age <= INTRODUCTION_DOUBT for age in self._ages(now))

    def _ages(self, now: float) -> list[float]:
        times = (self.nacked_at, self.timed_out_at)
        return [now - moment for moment in times if moment is not None]

    def is_nacked(self, now: float) -> bool:
        """Whether tor still shuns an introduction point that refused."""
        return _is_within(self.nacked_at, now, INTRODUCTION_MEMORY)

    def is_timed_out(self, now: float) -> bool:
        """Whether tor still shuns an introduction point that was silent."""
        return _is_within(self.timed_out_at, now, INTRODUCTION_MEMORY)

    def is_silent(self, now: float) -> bool:
        """Whether tor still shuns all introduction points, each because it was silent."""
        return _is_within(self.silent_at, now, INTRODUCTION_MEMORY)

    def is_undecryptable(self, now: float) -> bool:
        """Whether tor may have asked all directories already for what it cannot decrypt."""
        return _is_within(self.undecryptable_at, now, UNDECRYPTABLE_MEMORY)


def _is_within(moment: float | None, now: float, seconds: float) -> bool:
    return moment is not None and now - moment <= seconds


@dataclass(slots=True)
class Introductions:
    """How introductions to one service ended, whoever made them: tor keeps that by service, too.

    ``broken``: circuits that broke, by introduction point.
    """

    ends: Counter[Step] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def note(self, event: HSCircuitEvent) -> None:
        """Count a circuit event."""
        if event.step in _ENDS:
            self.ends[event.step] += 1
        if event.step is Step.BROKEN:
            self.broken[event.relay] += 1

    def copy(self) -> Introductions:
        """Return a copy, which is not counted on."""
        return Introductions(self.ends.copy(), self.broken.copy())

    def since(self, before: Introductions) -> Introductions:
        """Return those that came after ``before`` was copied."""
        return Introductions(self.ends - before.ends, self.broken - before.broken)


@dataclass(slots=True, eq=False)
class AttemptLog:
    """What was seen since one attempt began, or several that nothing has happened between.

    ``complete``: False if events may have been lost; then nothing follows from what is missing.
    ``round``: the outcomes of the descriptor fetch that is under way or over, since the last
    descriptor was received. ``asked``: directories that have not answered yet. ``steps``: of the
    circuits that may carry it. ``everybody``: all introductions to the service, shared with other
    attempts. ``changed`` is called when an event changes how long to wait for the service.
    """

    address: str
    token: str | None = field(repr=False)
    complete: bool = True
    fetches: int = 0
    received: int = 0
    round: Counter[Fetch] = field(default_factory=Counter)
    asked: set[str] = field(default_factory=set)
    steps: Counter[Step] = field(default_factory=Counter)
    everybody: Introductions = field(default_factory=Introductions)
    _before: Introductions = field(init=False, repr=False)
    proof_of_work: bool = False
    changed: Callable[[], None] = field(default=lambda: None, repr=False)

    def __post_init__(self) -> None:
        """Count introductions from here on."""
        self._before = self.everybody.copy()

    @property
    def introductions(self) -> Introductions:
        """Introductions to the service that ended since this attempt began."""
        return self.everybody.since(self._before)

    @property
    def circuits(self) -> bool:
        """Whether a circuit towards the service was seen that may carry this attempt."""
        return bool(self.steps)

    @property
    def joined(self) -> bool:
        """Whether the service came to the rendezvous point."""
        return self.steps[Step.JOINED] > 0

    @property
    def awaits_service(self) -> bool:
        """Whether an introduction point took the message on, and the service has not come yet."""
        return self.steps[Step.ACKNOWLEDGED] > 0 and not self.joined

    def note_fetch(self, event: HSDescEvent) -> None:
        """Count an event of the descriptor's fetch."""
        if event.fetch is Fetch.REQUESTED:
            self.fetches += 1
            self.asked.add(event.directory)
        elif event.fetch is Fetch.RECEIVED:
            self.received += 1
            self.round.clear()
            self.asked.discard(event.directory)
        elif event.directory in self.asked:  # else it is an upload of a service of this tor
            self.round[event.fetch] += 1
            self.asked.discard(event.directory)

    def join(self, other: AttemptLog) -> None:
        """Take over the state of a fetch that began before this attempt."""
        self.fetches, self.round = other.fetches, other.round.copy()
        self.asked = set(other.asked)

    def note_circuit(self, event: HSCircuitEvent) -> None:
        """Count a circuit event; only of circuits that may carry this attempt."""
        self.steps[event.step] += 1
        self.proof_of_work = self.proof_of_work or event.proof_of_work
        if event.proof_of_work or event.step in (Step.ACKNOWLEDGED, Step.JOINED):
            self.changed()
