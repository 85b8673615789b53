"""One attempt to reach an onion service: stands by its stream until that is open or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.evidence import Evidence
from torsocks_tx.backends.tor.onion.inquiries import Inquiries
from torsocks_tx.backends.tor.onion.journal import Journal
from torsocks_tx.backends.tor.onion.stalls import limit
from torsocks_tx.backends.tor.onion.verdict import Finding, Verdict, judge, no_rendezvous
from torsocks_tx.errors import DescriptorNotFound, HostUnreachable, Refused
from torsocks_tx.relay.transports import Deadline
from torsocks_tx.socks.constants import Reply5

JUDGING_TIMEOUT = 1.0
"""Seconds for tor to say what it has seen, once it has refused; it takes under a millisecond."""

JUDGED = (Reply5.GENERAL_FAILURE, Reply5.HOST_UNREACHABLE, Reply5.TTL_EXPIRED)
"""tor's plain answers behind which an onion failure may stand."""


class Witness(Protocol):
    """What an attempt asks of :class:`~torsocks_tx.backends.tor.onion.witness.OnionWitness`."""

    clock: IReactorTime
    journal: Journal
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
            judging = Deferred.fromCoroutine(self._find_out(reason.code))
            verdict = await limit(judging, JUDGING_TIMEOUT, self._witness.clock)
        except CancelledError:
            raise
        except (ControlError, TimeoutError) as error:
            self._log.debug("onion service: tor does not say why ({error})", error=error)
            return reason
        except Exception:
            self._log.failure("a fault while judging a failure; tor's own answer goes out")
            return reason
        finally:
            self._witness.journal.end(self._evidence)
        self._witness.judged(self._evidence.address, verdict)
        return verdict.refused or self._unproven(reason)

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
