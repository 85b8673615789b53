"""One attempt to reach an onion service: stands by its stream until that is open or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.evidence import Evidence
from torsocks_tx.backends.tor.onion.journal import Journal
from torsocks_tx.backends.tor.onion.verdict import Finding, Verdict, judge, no_rendezvous
from torsocks_tx.codes import Reply5
from torsocks_tx.errors import Refused
from torsocks_tx.transports import Deadline

JUDGED = (Reply5.GENERAL_FAILURE, Reply5.HOST_UNREACHABLE, Reply5.TTL_EXPIRED)
"""tor's plain answers behind which an onion failure may stand."""


class Witness(Protocol):
    """What an attempt asks of :class:`~torsocks_tx.backends.tor.onion.witness.OnionWitness`."""

    clock: IReactorTime
    journal: Journal
    rendezvous_timeout: float

    async def fence(self) -> None:
        """Wait for the events."""

    def judged(self, address: str, verdict: Verdict) -> None:
        """Tell of a verdict."""

    async def has_joined_circuit(self, address: str, token: str | None) -> bool:
        """Look for an open circuit."""

    async def has_key(self, address: str) -> bool:
        """Look for a client authorization key."""


class Attempt:
    """An ``Opening`` of a stream; ``give_up`` is called if its time for the rendezvous is over."""

    _log = Logger()

    def __init__(self, witness: Witness, evidence: Evidence) -> None:
        self._witness = witness
        self._evidence = evidence
        self._deadline = Deadline(witness.clock)
        self._give_up: Callable[[Refused], None] | None = None
        evidence.changed = self._changed

    def watch(self, give_up: Callable[[Refused], None]) -> None:
        """Begin to count the time for the rendezvous as soon as the service was told."""
        self._give_up = give_up
        self._changed()

    def opened(self) -> None:
        """The service is reached."""
        self._witness.journal.memory(self._evidence.address).locked_at = None
        self.over()

    def over(self) -> None:
        """The stream is given up, or open."""
        self._give_up = None
        self._deadline.stop()
        self._witness.journal.end(self._evidence)

    def refused(self, reason: Refused) -> Deferred[Refused]:
        """Fire with the reason for a client: tor's own, or the one that the events prove."""
        self._give_up = None
        self._deadline.stop()
        return Deferred.fromCoroutine(self._explain(reason))

    def _changed(self) -> None:
        evidence = self._evidence
        if evidence.proof_of_work or not evidence.awaits_service:
            self._deadline.stop()
        elif self._give_up is not None and not self._deadline.is_waiting:
            self._deadline.start(self._witness.rendezvous_timeout, self._no_rendezvous)

    def _no_rendezvous(self) -> None:
        give_up, evidence = self._give_up, self._evidence
        self.over()
        verdict = no_rendezvous(evidence)
        if give_up is not None and evidence.complete and verdict.refused is not None:
            self._witness.judged(evidence.address, verdict)
            give_up(verdict.refused)

    async def _explain(self, reason: Refused) -> Refused:
        try:
            if reason.code not in JUDGED or not self._evidence.complete:
                return reason
            await self._witness.fence()
            verdict = await self._checked(self._judge(reason.code))
        except (ControlError, TimeoutError) as error:
            self._log.debug("onion service: tor does not say why ({error})", error=error)
            return reason
        finally:
            self._witness.journal.end(self._evidence)
        self._witness.judged(self._evidence.address, verdict)
        return verdict.refused or reason

    def _judge(self, code: int) -> Verdict:
        memory = self._witness.journal.memory(self._evidence.address)
        return judge(code, self._evidence, memory, self._witness.clock.seconds())

    async def _checked(self, verdict: Verdict) -> Verdict:
        """Ask tor for what no event tells."""
        address, token = self._evidence.address, self._evidence.token
        if verdict.unless_joined and await self._witness.has_joined_circuit(address, token):
            return Verdict(Finding.NOTHING, "an older circuit to the service is open")
        if verdict.finding is not Finding.LOCKED:
            return verdict
        if self._evidence.received:
            memory = self._witness.journal.memory(address)
            memory.locked_at = self._witness.clock.seconds()
        if await self._witness.has_key(address):
            return Verdict(Finding.WRONG_CLIENT_AUTH, f"{verdict.words}; tor has a key for it")
        return Verdict(Finding.MISSING_CLIENT_AUTH, f"{verdict.words}; tor has no key for it")
