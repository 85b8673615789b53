"""What was seen of an onion service: during one attempt to reach it, and shortly before. Pure.

Everything is a count, a last outcome or a time, so that no stream of events can make it grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from torsocks_tx.backends.tor.onion.sightings import (
    CircuitSighting,
    Fetch,
    FetchSighting,
    Step,
)

INTRODUCTION_MEMORY = 120.0
"""Seconds for which tor does not try an introduction point again that failed (hs_cache.c)."""

LOCKED_MEMORY = 900.0
"""Seconds for which tor does not ask a directory again for the same descriptor (hs_common.c)."""


def _do_nothing() -> None:
    """Nobody wants to hear of changes."""


@dataclass(slots=True)
class Memory:
    """What earlier attempts on one address have left; tor remembers it just as long.

    Times are those of the last such event, in seconds of the server's clock. ``locked_at``: a
    descriptor came that tor could not decrypt.
    """

    nacked_at: float | None = None
    timed_out_at: float | None = None
    locked_at: float | None = None

    def note(self, step: Step, now: float) -> None:
        """Remember how an introduction ended, whoever made it."""
        if step is Step.NACKED:
            self.nacked_at = now
        elif step is Step.TIMED_OUT:
            self.timed_out_at = now

    def is_nacked(self, now: float) -> bool:
        """Whether tor still shuns an introduction point that refused."""
        return _is_within(self.nacked_at, now, INTRODUCTION_MEMORY)

    def is_timed_out(self, now: float) -> bool:
        """Whether tor still shuns an introduction point that was silent."""
        return _is_within(self.timed_out_at, now, INTRODUCTION_MEMORY)

    def is_locked(self, now: float) -> bool:
        """Whether tor may have asked all directories already for what it cannot decrypt."""
        return _is_within(self.locked_at, now, LOCKED_MEMORY)


def _is_within(moment: float | None, now: float, seconds: float) -> bool:
    return moment is not None and now - moment <= seconds


@dataclass(slots=True, eq=False)
class Evidence:
    """What was seen since one attempt began.

    ``complete``: False if events may have been lost; then nothing follows from what is missing.
    ``round``: the outcomes of the descriptor fetch that is under way or over, since the last
    descriptor was received. ``changed`` is called after each circuit event.
    """

    address: str
    token: str | None = field(repr=False)
    complete: bool = True
    fetches: int = 0
    received: int = 0
    round: Counter[Fetch] = field(default_factory=Counter)
    steps: Counter[Step] = field(default_factory=Counter)
    proof_of_work: bool = False
    changed: Callable[[], None] = field(default=_do_nothing, repr=False)

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

    def note_fetch(self, sighting: FetchSighting) -> None:
        """Take what happened to the descriptor."""
        if sighting.fetch is Fetch.REQUESTED:
            self.fetches += 1
        elif sighting.fetch is Fetch.RECEIVED:
            self.received += 1
            self.round.clear()
        else:
            self.round[sighting.fetch] += 1

    def note_circuit(self, sighting: CircuitSighting) -> None:
        """Take what a circuit did; the caller has seen to it that it may be this attempt's."""
        self.steps[sighting.step] += 1
        self.proof_of_work = self.proof_of_work or sighting.proof_of_work
        self.changed()
