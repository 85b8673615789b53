"""Attempts on onion services, and the memory of addresses, fed by sightings. Pure.

Events of addresses that nobody here has asked for are dropped. The memory of addresses without an
attempt is bounded in number and, by the rules that use it, in age.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from torsocks_tx.backends.tor.onion.evidence import Evidence, Memory
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


class Journal:
    """Who tries to reach which onion service, and what was seen of it.

    ``now`` returns seconds that only grow.
    """

    def __init__(self, now: Callable[[], float], remembered: int = REMEMBERED_ADDRESSES) -> None:
        self._now = now
        self._remembered = remembered
        self._attempts: dict[str, list[Evidence]] = {}
        self._memories: OrderedDict[str, Memory] = OrderedDict()

    def begin(self, address: str, token: str | None) -> Evidence:
        """Begin an attempt; ``address`` is 56 characters in lower case.

        ``token``: the SOCKS password of its streams; None if tor does not isolate by it.
        """
        evidence = Evidence(address, token)
        others = self._attempts.setdefault(address, [])
        # Streams with one token share circuits: what those have reached holds for this one too.
        if any(other.token == token and other.awaits_service for other in others):
            evidence.steps[Step.ACKNOWLEDGED] = 1
        others.append(evidence)
        self._memories.setdefault(address, Memory())
        self._memories.move_to_end(address)
        self._shrink()
        return evidence

    def end(self, evidence: Evidence) -> None:
        """End an attempt; harmless when done before."""
        attempts = self._attempts.get(evidence.address, [])
        if evidence in attempts:
            attempts.remove(evidence)
        if not attempts:
            self._attempts.pop(evidence.address, None)
            self._shrink()

    def memory(self, address: str) -> Memory:
        """What is remembered of an address."""
        return self._memories.get(address, Memory())

    def note_fetch(self, sighting: FetchSighting | None) -> None:
        """Take what an HS_DESC event says."""
        if sighting is not None:
            for evidence in self._on(sighting.address):
                evidence.note_fetch(sighting)

    def note_circuit(self, sighting: CircuitSighting | None) -> None:
        """Take what a CIRC or CIRC_MINOR event says."""
        if sighting is None:
            return
        memory = self._memories.get(sighting.address)
        if memory is not None:
            memory.note(sighting.step, self._now())
        for evidence in self._on(sighting.address):
            if may_carry(sighting, evidence.token):
                evidence.note_circuit(sighting)

    def forget(self) -> None:
        """NEWNYM: tor has forgotten what it knew of onion services, and so do we."""
        for address in self._memories:
            self._memories[address] = Memory()
        self._shrink()

    def lose(self) -> None:
        """Events may be lost from here on: nothing can be said of any attempt under way."""
        for attempts in self._attempts.values():
            for evidence in attempts:
                evidence.complete = False
        self.forget()

    def _on(self, address: str) -> Iterable[Evidence]:
        return tuple(self._attempts.get(address, ()))

    def _shrink(self) -> None:
        """Forget addresses without attempts, the oldest first, until few enough are left."""
        excess = len(self._memories) - len(self._attempts) - self._remembered
        for address in tuple(self._memories) if excess > 0 else ():
            if excess > 0 and address not in self._attempts:
                del self._memories[address]
                excess -= 1
