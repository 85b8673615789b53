"""Attempts on onion services, and the memory of addresses, fed by sightings. Pure.

The memory of addresses without an attempt is bounded in number and, by the rules that use it, in
age.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from math import inf

from torsocks_tx.backends.tor.onion.evidence import Evidence, Introductions, Memory
from torsocks_tx.backends.tor.onion.sightings import (
    CircuitSighting,
    FetchSighting,
    Step,
)

REMEMBERED_ADDRESSES = 1024
"""Addresses without a live attempt whose memory is kept; the one idle for longest goes first."""


def may_carry(sighting: CircuitSighting, token: str | None) -> bool:
    """Whether this circuit may be one for streams with this token."""
    return token is None or sighting.token in (None, token)


class _Place:
    """One address: what is remembered of it, and who tries to reach it now.

    ``fetch`` is what all see that are there from the beginning of a fetch.
    """

    def __init__(self, address: str, memory: Memory) -> None:
        self.memory = memory
        self.introductions = Introductions()
        self.fetch = Evidence(address, None)
        self._attempts: dict[str | None, dict[Evidence, None]] = {}

    def __bool__(self) -> bool:
        """Whether anybody tries."""
        return bool(self._attempts)

    def __contains__(self, evidence: Evidence) -> bool:
        """Whether this is an attempt that is under way."""
        return evidence in self._attempts.get(evidence.token, {})

    def __iter__(self) -> Iterator[Evidence]:
        """Every attempt."""
        return iter([each for attempts in self._attempts.values() for each in attempts])

    def add(self, evidence: Evidence) -> None:
        """One more attempt."""
        self._attempts.setdefault(evidence.token, {})[evidence] = None

    def remove(self, evidence: Evidence) -> None:
        """One attempt less."""
        attempts = self._attempts[evidence.token]
        del attempts[evidence]
        if not attempts:
            del self._attempts[evidence.token]

    def carried_by(self, sighting: CircuitSighting) -> Iterable[Evidence]:
        """Those that this circuit may carry; a look at each would cost too much where all fail."""
        if sighting.token is None:
            return self
        mine = self._attempts.get(sighting.token, {})
        return [*mine, *self._attempts.get(None, {})]


class Journal:
    """Who tries to reach which onion service, and what was seen of it.

    ``now`` returns seconds that only grow. Other users of the same tor count too: what they have
    found out, tor remembers for us.
    """

    def __init__(self, now: Callable[[], float], remembered: int = REMEMBERED_ADDRESSES) -> None:
        self._now = now
        self._remembered = remembered
        self._followed_since: float | None = None
        self._live: dict[str, _Place] = {}
        self._idle: OrderedDict[str, Memory] = OrderedDict()

    @property
    def followed(self) -> float:
        """For how many seconds every event of tor was seen; endless since it forgot everything."""
        return 0.0 if self._followed_since is None else self._now() - self._followed_since

    def follow(self) -> None:
        """From here on every event of tor is seen."""
        self._followed_since = self._now()

    def begin(self, address: str, token: str | None) -> Evidence:
        """Begin an attempt; ``address`` is 56 characters in lower case.

        ``token``: the SOCKS password of its streams; None if tor does not isolate by it.
        """
        place = self._live.get(address)
        if place is None:
            place = self._live[address] = _Place(address, self._idle.pop(address, Memory()))
        evidence = Evidence(address, token, everybody=place.introductions)
        # Streams with one token share circuits: what those have reached holds for this one too.
        told = place.memory.told
        shared = [told[key] for key in told if token is None or key in (None, token)]
        if shared:
            evidence.steps[Step.ACKNOWLEDGED] = 1
            evidence.proof_of_work = any(shared)
        evidence.join(place.fetch)
        place.add(evidence)
        return evidence

    def refused(self, evidence: Evidence) -> None:
        """Tor has answered: then a fetch that failed is over for all who waited for it."""
        place = self._live.get(evidence.address)
        if place is not None and evidence in place:
            place.fetch = Evidence(evidence.address, None)

    def end(self, evidence: Evidence) -> None:
        """End an attempt; harmless when done before."""
        place = self._live.get(evidence.address)
        if place is None or evidence not in place:
            return
        place.remove(evidence)
        if not place:
            del self._live[evidence.address]
            self._lay_aside(evidence.address, place.memory)

    def memory(self, address: str) -> Memory:
        """What is remembered of an address."""
        place = self._live.get(address)
        return self._idle.get(address, Memory()) if place is None else place.memory

    def note_fetch(self, sighting: FetchSighting | None) -> None:
        """Take what an HS_DESC event says."""
        place = None if sighting is None else self._live.get(sighting.address)
        if sighting is not None and place is not None:
            place.fetch.note_fetch(sighting)
            for evidence in place:
                evidence.note_fetch(sighting)

    def note_circuit(self, sighting: CircuitSighting | None) -> None:
        """Take what a CIRC or CIRC_MINOR event says."""
        if sighting is None:
            return
        place = self._live.get(sighting.address)
        if place is None:
            self._remember(sighting)
            return
        place.memory.note(sighting, self._now())
        place.introductions.note(sighting)
        for evidence in place.carried_by(sighting):
            evidence.note_circuit(sighting)

    def _remember(self, sighting: CircuitSighting) -> None:
        """Nobody here tries that address now; but tor will remember how this ended."""
        memory = self._idle.get(sighting.address)
        if memory is None and sighting.step is not Step.SEEN:
            memory = Memory()
            self._lay_aside(sighting.address, memory)
        if memory is not None:
            memory.note(sighting, self._now())

    def forget(self) -> None:
        """NEWNYM: tor has forgotten what it knew of onion services, and so do we."""
        self._idle.clear()
        for place in self._live.values():
            place.memory = Memory()
        if self._followed_since is not None:
            self._followed_since = -inf

    def lose(self) -> None:
        """Events may be lost from here on: nothing can be said of any attempt under way."""
        self._followed_since = None
        self.forget()
        for place in self._live.values():
            for evidence in place:
                evidence.complete = False

    def _lay_aside(self, address: str, memory: Memory) -> None:
        self._idle[address] = memory
        if len(self._idle) <= self._remembered:
            return
        _, forgotten = self._idle.popitem(last=False)
        if self._followed_since is not None and forgotten.is_recent(self._now()):
            # What tor still remembers of that address is not known here any more.
            self._followed_since = self._now()
