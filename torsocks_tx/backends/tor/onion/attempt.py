"""One attempt to reach an onion service: stands by its stream until that is open or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.evidence import Evidence
from torsocks_tx.backends.tor.onion.journal import Journal
from torsocks_tx.backends.tor.onion.keys import KeyChecker
from torsocks_tx.backends.tor.onion.questions import Inquiries
from torsocks_tx.backends.tor.onion.verdict import Finding, Verdict, judge, no_rendezvous
from torsocks_tx.backends.tor.stalls import limit
from torsocks_tx.errors import DescriptorNotFound, HostUnreachable, InvalidOnionAddress, Refused
from torsocks_tx.relay.transports import Deadline
from torsocks_tx.socks.constants import Reply5

CHECK_TIMEOUT = 1.0
"""Seconds that a client waits for its turn to have the key in the address looked at."""

JUDGED = (Reply5.GENERAL_FAILURE, Reply5.HOST_UNREACHABLE, Reply5.TTL_EXPIRED)
"""tor's plain answers behind which an onion failure may stand."""


class Witness(Protocol):
    """What an attempt asks of :class:`~torsocks_tx.backends.tor.onion.witness.OnionWitness`."""

    clock: IReactorTime
    journal: Journal
    keys: KeyChecker
    rendezvous_timeout: float

    def inquire(self) -> Inquiries:
        """What tor can be asked now."""

    def judged(self, address: str, verdict: Verdict) -> None:
        """Tell of a verdict."""


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
        self._witness.journal.refused(self._evidence)
        self._deadline.stop()
        return Deferred.fromCoroutine(self._explain(reason))

    def _changed(self) -> None:
        evidence = self._evidence
        if evidence.proof_of_work or not evidence.awaits_service:
            self._deadline.stop()
        elif self._give_up is not None and not self._deadline.is_waiting:
            self._deadline.start(self._witness.rendezvous_timeout, self._no_rendezvous)

    def _no_rendezvous(self) -> None:
        Deferred.fromCoroutine(self._give_up_late())

    async def _give_up_late(self) -> None:
        """Give up, unless tor has told by now that the service came: we may have been busy."""
        try:
            await self._witness.inquire().fence()
        except (ControlError, TimeoutError):
            self._changed()
            return
        give_up, evidence = self._give_up, self._evidence
        if give_up is None or not evidence.awaits_service or not evidence.complete:
            return
        self.over()
        verdict = no_rendezvous(evidence)
        if verdict.refused is not None:
            self._witness.judged(evidence.address, verdict)
            give_up(verdict.refused)

    async def _explain(self, reason: Refused) -> Refused:
        evidence = self._evidence
        if reason.code not in JUDGED:
            self._witness.journal.end(evidence)
            return reason
        try:
            if evidence.complete:
                reason = await self._judged(reason)
            if not evidence.received and not evidence.circuits:
                reason = await self._key_checked(reason)
        except CancelledError:
            raise
        except Exception:
            self._log.failure("a fault while judging a failure; tor's own answer goes out")
        finally:
            self._witness.journal.end(evidence)
        return reason

    async def _judged(self, reason: Refused) -> Refused:
        try:
            verdict = await self._find_out(reason.code)
        except (ControlError, TimeoutError) as error:
            self._log.debug("onion service: tor does not say why ({error})", error=error)
            return reason
        self._witness.judged(self._evidence.address, verdict)
        return verdict.refused or self._unproven(reason)

    async def _key_checked(self, reason: Refused) -> Refused:
        """Return F6 where there can be no such service; there was no sign of one."""
        address, clock = self._evidence.address, self._witness.clock
        try:
            if await limit(self._witness.keys.is_valid(address), CHECK_TIMEOUT, clock):
                return reason
        except TimeoutError:
            return reason
        return InvalidOnionAddress("not a public key of ed25519")

    def _unproven(self, reason: Refused) -> Refused:
        """Return tor's own answer, but for F0: it sticks to streams that end for another reason."""
        if isinstance(reason, DescriptorNotFound):
            return HostUnreachable("tor says F0, and its events do not")
        return reason

    async def _find_out(self, code: int) -> Verdict:
        await self._witness.inquire().fence()
        return await self._checked(self._judge(code))

    def _judge(self, code: int) -> Verdict:
        journal = self._witness.journal
        memory, now = journal.memory(self._evidence.address), self._witness.clock.seconds()
        return judge(code, self._evidence, memory, now, journal.followed)

    async def _checked(self, verdict: Verdict) -> Verdict:
        """Ask tor for what no event tells."""
        address, token = self._evidence.address, self._evidence.token
        inquiries = self._witness.inquire()
        if verdict.unless_joined and await inquiries.has_joined_circuit(address, token):
            return Verdict(Finding.NOTHING, "an older circuit to the service is open")
        memory, now = self._witness.journal.memory(address), self._witness.clock.seconds()
        if verdict.finding is Finding.INTRODUCTION_TIMED_OUT and not verdict.unless_joined:
            memory.silent_at = now
        if verdict.finding is not Finding.LOCKED:
            return verdict
        if self._evidence.received:
            memory.locked_at = now
        if await inquiries.has_key(address):
            return Verdict(Finding.WRONG_CLIENT_AUTH, f"{verdict.words}; tor has a key for it")
        return Verdict(Finding.MISSING_CLIENT_AUTH, f"{verdict.words}; tor has no key for it")
