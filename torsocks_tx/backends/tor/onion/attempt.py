"""One attempt to reach an onion service: explains why its stream failed, if it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.diagnosis import Diagnosis, Finding, diagnose, no_rendezvous
from torsocks_tx.backends.tor.onion.history import AttemptLog
from torsocks_tx.backends.tor.onion.queries import KeyChecker, TorQueries
from torsocks_tx.backends.tor.onion.tracker import AttemptTracker
from torsocks_tx.backends.tor.waiters import limit
from torsocks_tx.errors import DescriptorNotFound, HostUnreachable, InvalidOnionAddress, Refused
from torsocks_tx.relay.transports import Deadline
from torsocks_tx.socks.constants import Reply5

CHECK_TIMEOUT = 1.0
"""Seconds that a client waits for its turn to have the key in the address looked at."""

DIAGNOSED = (Reply5.GENERAL_FAILURE, Reply5.HOST_UNREACHABLE, Reply5.TTL_EXPIRED)
"""tor's plain answers behind which an onion failure may stand."""


class Observer(Protocol):
    """What an attempt asks of :class:`~torsocks_tx.backends.tor.onion.observer.OnionObserver`."""

    clock: IReactorTime
    tracker: AttemptTracker
    keys: KeyChecker
    rendezvous_timeout: float

    def queries(self) -> TorQueries:
        """What tor can be asked now."""

    def diagnosed(self, address: str, diagnosis: Diagnosis) -> None:
        """Tell of a diagnosis."""


class OnionAttempt:
    """The ``FailureExplainer`` of one stream to an onion service."""

    _log = Logger()

    def __init__(self, observer: Observer, log: AttemptLog) -> None:
        self._observer = observer
        self._attempt_log = log
        self._deadline = Deadline(observer.clock)
        self._give_up: Callable[[Refused], None] | None = None
        log.changed = self._changed

    def watch(self, give_up: Callable[[Refused], None]) -> None:
        """Call ``give_up`` if the service does not come to the rendezvous in time.

        The time begins when an introduction is acknowledged.
        """
        self._give_up = give_up
        self._changed()

    def opened(self) -> None:
        """The service is reached."""
        self._observer.tracker.history(self._attempt_log.address).undecryptable_at = None
        self.over()

    def over(self) -> None:
        """The stream is given up, or open."""
        self._give_up = None
        self._deadline.stop()
        self._observer.tracker.end(self._attempt_log)

    def refused(self, reason: Refused) -> Deferred[Refused]:
        """Fire with the reason for a client: tor's own, or the one that the events prove."""
        self._give_up = None
        self._observer.tracker.refused(self._attempt_log)
        self._deadline.stop()
        return Deferred.fromCoroutine(self._explain(reason))

    def _changed(self) -> None:
        log = self._attempt_log
        if log.proof_of_work or not log.awaits_service:
            self._deadline.stop()
        elif self._give_up is not None and not self._deadline.is_waiting:
            self._deadline.start(self._observer.rendezvous_timeout, self._no_rendezvous)

    def _no_rendezvous(self) -> None:
        Deferred.fromCoroutine(self._give_up_late())

    async def _give_up_late(self) -> None:
        """Give up, unless tor has told by now that the service came: we may have been busy."""
        log = self._attempt_log
        try:
            await self._observer.queries().fence()
        except (ControlError, TimeoutError):
            if log.complete:
                self._changed()
            return
        give_up = self._give_up
        if give_up is None or not log.awaits_service or not log.complete:
            return
        self.over()
        diagnosis = no_rendezvous(log)
        if diagnosis.refused is not None:
            self._observer.diagnosed(log.address, diagnosis)
            give_up(diagnosis.refused)

    async def _explain(self, reason: Refused) -> Refused:
        log = self._attempt_log
        if reason.code not in DIAGNOSED:
            self._observer.tracker.end(log)
            return reason
        try:
            if log.complete:
                reason = await self._diagnosed(reason)
            if not log.received and not log.circuits:
                reason = await self._key_checked(reason)
        except CancelledError:
            raise
        except Exception:
            self._log.failure("a fault while diagnosing a failure; tor's own answer goes out")
        finally:
            self._observer.tracker.end(log)
        return reason

    async def _diagnosed(self, reason: Refused) -> Refused:
        try:
            diagnosis = await self._find_out(reason.code)
        except (ControlError, TimeoutError) as error:
            self._log.debug("onion service: tor does not say why ({error})", error=error)
            return reason
        self._observer.diagnosed(self._attempt_log.address, diagnosis)
        return diagnosis.refused or self._unproven(reason)

    async def _key_checked(self, reason: Refused) -> Refused:
        """Return F6 where there can be no such service; there was no sign of one."""
        address, clock = self._attempt_log.address, self._observer.clock
        try:
            if await limit(self._observer.keys.is_valid(address), CHECK_TIMEOUT, clock):
                return reason
        except TimeoutError:
            return reason
        return InvalidOnionAddress("not a public key of ed25519")

    def _unproven(self, reason: Refused) -> Refused:
        """Return tor's own answer, but for F0: it sticks to streams that end for another reason."""
        if isinstance(reason, DescriptorNotFound):
            return HostUnreachable("tor says F0, and its events do not")
        return reason

    async def _find_out(self, code: int) -> Diagnosis:
        await self._observer.queries().fence()
        return await self._checked(self._diagnose(code))

    def _diagnose(self, code: int) -> Diagnosis:
        tracker = self._observer.tracker
        history, now = tracker.history(self._attempt_log.address), self._observer.clock.seconds()
        return diagnose(code, self._attempt_log, history, now, tracker.followed)

    async def _checked(self, diagnosis: Diagnosis) -> Diagnosis:
        """Ask tor for what no event tells."""
        address, token = self._attempt_log.address, self._attempt_log.token
        queries = self._observer.queries()
        if diagnosis.unless_joined and await queries.has_joined_circuit(address, token):
            return Diagnosis(Finding.NOTHING, "an older circuit to the service is open")
        history, now = self._observer.tracker.history(address), self._observer.clock.seconds()
        if diagnosis.finding is Finding.INTRODUCTION_TIMED_OUT and not diagnosis.unless_joined:
            history.silent_at = now
        if diagnosis.finding is not Finding.UNDECRYPTABLE:
            return diagnosis
        if self._attempt_log.received:
            history.undecryptable_at = now
        if await queries.has_key(address):
            return Diagnosis(Finding.WRONG_CLIENT_AUTH, f"{diagnosis.words}; tor has a key for it")
        return Diagnosis(Finding.MISSING_CLIENT_AUTH, f"{diagnosis.words}; tor has no key for it")
