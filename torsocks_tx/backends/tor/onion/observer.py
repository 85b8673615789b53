"""Follows tor's events while onion services are tried, and explains why they were not reached.

It listens from the first attempt on (control-spec: HS_DESC, CIRC, CIRC_MINOR, SIGNAL), on whatever
control connection there is; without one, or after a loss, clients get tor's own reply codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf

from twisted.internet.defer import Deferred, DeferredLock, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.onion.client_auth import InstalledKeys, Keyring
from torsocks_tx.backends.tor.onion.diagnosis import Diagnosis, Finding, diagnose, no_rendezvous
from torsocks_tx.backends.tor.onion.events import parse_circuit, parse_hs_desc
from torsocks_tx.backends.tor.onion.queries import TorQueries
from torsocks_tx.backends.tor.onion.tracker import AttemptLog, AttemptTracker
from torsocks_tx.backends.tor.waiting import Waiters, limit
from torsocks_tx.errors import (
    DescriptorNotFound,
    HostUnreachable,
    InvalidOnionAddress,
    SOCKSError,
    without_text,
)
from torsocks_tx.limits import RENDEZVOUS_TIMEOUT, check_arguments, check_limit
from torsocks_tx.relay.timeouts import Deadline, turns_of
from torsocks_tx.socks.constants import Reply5
from torsocks_tx.socks.onion_address import check_onion, has_public_key

FOLLOW_TIMEOUT = 2.0
"""Seconds for which a client waits until tor's events are followed."""

RETRY_SECONDS = 60.0
"""Seconds until a tor that would not tell its events is asked again."""

CHECK_TIMEOUT = 1.0
"""Seconds for which a client waits until the public key in its address is checked."""

DIAGNOSED = (Reply5.GENERAL_FAILURE, Reply5.HOST_UNREACHABLE, Reply5.TTL_EXPIRED)
"""tor's plain reply codes that may stand for an onion failure."""


class OnionObserver:
    """Follows tor's events for one backend, and knows what they say of each onion service.

    Args:
        clock: tells the time.
        rendezvous_timeout: seconds until an attempt is given up as F3.
        keyring: client authorization keys to keep in tor.
        on_diagnosis: called with the address (what stands before ``.onion``) and the ``Diagnosis``
            of each attempt that failed.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        *,
        rendezvous_timeout: float = RENDEZVOUS_TIMEOUT,
        keyring: Keyring | None = None,
        on_diagnosis: Callable[[str, Diagnosis], None] | None = None,
    ) -> None:
        check_arguments(IReactorTime, clock=clock)
        check_arguments(Keyring, None, keyring=keyring)
        check_arguments(Callable, None, on_diagnosis=on_diagnosis)
        check_limit("rendezvous_timeout", rendezvous_timeout)
        self.tracker = AttemptTracker(clock.seconds)
        self.clock = clock
        self.rendezvous_timeout = rendezvous_timeout
        self.key_checks = DeferredLock()
        self._keyring = keyring
        self._installed = None if keyring is None else InstalledKeys(keyring)
        self._on_diagnosis = on_diagnosis
        self._control: Control | None = None
        self._queries: TorQueries | None = None
        self._retry_at = inf
        self._settled: Waiters[None] = Waiters()
        self._settled.settle(None)
        self._turns = turns_of(clock)
        self._changed: dict[OnionAttempt, None] = {}
        self._listeners = (
            ("HS_DESC", lambda text: self.tracker.note_fetch(parse_hs_desc(text))),
            ("CIRC", lambda text: self.tracker.note_circuit(parse_circuit(text))),
            ("CIRC_MINOR", lambda text: self.tracker.note_circuit(parse_circuit(text))),
            ("SIGNAL", self._note_signal),
        )

    @property
    def is_following(self) -> bool:
        """Whether events are followed."""
        return self._queries is not None

    def is_ready(self, control: Control | None) -> bool:
        """Whether an attempt may begin now: events are followed, or cannot be."""
        is_settled = control is self._control and self._settled.is_settled
        return is_settled and self.clock.seconds() < self._retry_at

    def follow(self, control: Control | None) -> Deferred[None]:
        """Follow the events on this connection; fires, and never fails, when that is settled.

        Where tor hangs, it fires after ``FOLLOW_TIMEOUT`` all the same.
        """
        if control is not self._control or self.clock.seconds() >= self._retry_at:
            self._lost(self._control)
            if control is not None:
                self._control = control
                self._settled = Waiters(self.clock)
                Deferred.fromCoroutine(self._begin_to_follow(control, self._settled))
        return self._settled.wait()

    async def _begin_to_follow(self, control: Control, settled: Waiters[None]) -> None:
        control.when_lost().addCallback(lambda _: self._lost(control))
        timeout = self.clock.callLater(FOLLOW_TIMEOUT, settled.settle, None)
        try:
            await self._listen(control)
            if self._control is control:
                await self.install_keys()
        finally:
            if timeout.active():
                timeout.cancel()
            settled.settle(None)

    async def _listen(self, control: Control) -> None:
        try:
            for event, callback in self._listeners:
                try:
                    await control.listen(event, callback)
                except ControlError as error:
                    if event != "SIGNAL" or not error.code:
                        raise
                if self._control is not control:
                    self._unlisten(control)
                    return
        except Exception as error:
            self._unlisten(control)
            if self._control is control:
                self._retry_at = self.clock.seconds() + RETRY_SECONDS
                if not isinstance(error, ControlError):
                    self._log.failure("following tor's events failed", without_text(Failure()))
                elif not error.code:  # of what is refused, ``control`` has said what is lost
                    text = "failures of onion services keep tor's own reply codes"
                    control.log.say(f"tor does not tell its events ({error}): {text}")
            return
        self._queries = TorQueries(control, self.clock)
        self.tracker.follow()

    def attempt(self, address: str, token: str | None) -> OnionAttempt:
        """Begin an attempt on ``address`` (56 characters) by a stream with this SOCKS password.

        None: tor's SocksPort does not keep circuits apart by it.
        """
        log = self.tracker.begin(address, token)
        log.complete = self.is_following
        log.changed = self._log_changed
        attempt = OnionAttempt(self, log)
        log.attempts[attempt] = None
        return attempt

    def end(self, attempt: OnionAttempt) -> None:
        """End an attempt; harmless when done before."""
        attempt.log.attempts.pop(attempt, None)
        self._changed.pop(attempt, None)
        if not attempt.log.attempts:
            self.tracker.end(attempt.log)

    def _log_changed(self, log: AttemptLog) -> None:
        was_idle = not self._changed
        self._changed.update(log.attempts)
        if was_idle:
            self._turns.each(self._take_changed(), OnionAttempt.log_changed)

    def _take_changed(self) -> Iterator[OnionAttempt]:
        while self._changed:
            yield self._changed.popitem()[0]

    def diagnosed(self, address: str, diagnosis: Diagnosis) -> None:
        """Tell the application of a diagnosis."""
        if self._on_diagnosis is None:
            return
        try:
            self._on_diagnosis(address, diagnosis)
        except Exception:
            text = "on_diagnosis failed; the client gets the diagnosis all the same"
            self._log.failure(text, without_text(Failure()))

    def check_address(self, host: str) -> None:
        """Raise ``InvalidOnionAddress`` for a name that is no address of an onion service."""
        try:
            check_onion(host)
        except InvalidOnionAddress as error:
            self.diagnosed(host.split(".")[-2], Diagnosis(Finding.INVALID_ADDRESS, error.detail))
            raise

    def queries(self) -> TorQueries:
        """Return the questions to ask over the connection in use. Raises ``ControlLost``."""
        if self._queries is None:
            raise ControlLost
        return self._queries

    def reload_keys(self) -> Deferred[None]:
        """Read the client authorization keys again, and give tor what has changed.

        A key whose file is gone is taken away: streams that are open go on. Fails as ``Keyring``
        raises where the directory cannot be read; the keys are then those of before.
        """
        return Deferred.fromCoroutine(self._reload_keys())

    def detach(self) -> None:
        """Leave the control connection as it was: it may be an application's own."""
        control, self._control = self._control, None
        self._lost(None)
        if control is not None:
            self._unlisten(control)

    async def _reload_keys(self) -> None:
        if self._keyring is not None:
            self._keyring.reload()
            await self.install_keys()

    async def install_keys(self) -> None:
        """Give tor what has changed in the keyring, which others may have read again."""
        if self._installed is not None and self._control is not None:
            with suppress(ControlError):  # tor is silent or gone: the next connection gets them
                await self._installed.install(self._control)

    def _unlisten(self, control: Control) -> None:
        for event, callback in self._listeners:
            control.unlisten(event, callback)

    def _lost(self, control: Control | None) -> None:
        """Note that events are no longer followed on this connection."""
        if control is not self._control:
            return
        self._control = self._queries = None
        self._retry_at = inf
        self.tracker.lose()
        self._settled.settle(None)

    def _note_signal(self, text: str) -> None:
        if text.partition(" ")[0] == "NEWNYM":
            self.tracker.forget()
            Deferred.fromCoroutine(self.install_keys())


class OnionAttempt:
    """The ``FailureExplainer`` of one stream to an onion service; ``log``: what was seen of it."""

    def __init__(self, observer: OnionObserver, log: AttemptLog) -> None:
        self.log = log
        self._observer = observer
        self._deadline = Deadline(observer.clock)
        self._give_up: Callable[[SOCKSError], None] | None = None

    def watch(self, give_up: Callable[[SOCKSError], None]) -> None:
        """Call ``give_up`` if the service does not come to the rendezvous in time.

        The time begins when an introduction is acknowledged.
        """
        self._give_up = give_up
        self.log_changed()

    def opened(self) -> None:
        """The service is reached."""
        self._observer.tracker.history(self.log.address).undecryptable_at = -inf
        self.over()

    def over(self) -> None:
        """The stream is given up, or open."""
        self._give_up = None
        self._deadline.stop()
        self._observer.end(self)

    def refused(self, reason: SOCKSError) -> Deferred[SOCKSError]:
        """Fire with the failure to report: tor's own, or the one that the events prove."""
        self._give_up = None
        self._observer.tracker.refused(self.log)
        self._deadline.stop()
        return Deferred.fromCoroutine(self._explain(reason))

    def log_changed(self) -> None:
        """Wait for the service from now on, or no more."""
        if self.log.proof_of_work or not self.log.awaits_service:
            self._deadline.stop()
        elif self._give_up is not None and not self._deadline.is_waiting:
            self._deadline.start(self._observer.rendezvous_timeout, self._rendezvous_is_late)

    def _rendezvous_is_late(self) -> None:
        Deferred.fromCoroutine(self._no_rendezvous())

    async def _no_rendezvous(self) -> None:
        """Give up, unless events that were not read yet say that the service came."""
        log = self.log
        try:
            await self._observer.queries().fence()
        except (ControlError, TimeoutError):
            if log.complete:
                self.log_changed()
            return
        give_up, diagnosis = self._give_up, no_rendezvous(log)
        if give_up is not None and log.awaits_service and log.complete and diagnosis.refused:
            self.over()
            self._observer.diagnosed(log.address, diagnosis)
            give_up(diagnosis.refused)

    async def _explain(self, reason: SOCKSError) -> SOCKSError:
        log = self.log
        try:
            if reason.code not in DIAGNOSED:
                return reason
            diagnosis = await self._diagnosis(reason.code) if log.complete else None
            if not (log.received or log.steps) and not await self._may_be_key():
                diagnosis = Diagnosis(Finding.INVALID_ADDRESS, "not a public key of ed25519")
        finally:
            self._observer.end(self)
        if diagnosis is None:
            return reason
        self._observer.diagnosed(log.address, diagnosis)
        if diagnosis.refused is None and isinstance(reason, DescriptorNotFound):
            # tor also gives F0 to streams that fail otherwise.
            return HostUnreachable("tor says F0, and its events do not")
        return diagnosis.refused or reason

    async def _diagnosis(self, code: int) -> Diagnosis | None:
        log, tracker = self.log, self._observer.tracker
        try:
            await self._observer.queries().fence()
            history, now = tracker.history(log.address), self._observer.clock.seconds()
            return await self._checked(diagnose(code, log, history, now, tracker.followed))
        except (ControlError, TimeoutError):
            return None

    async def _may_be_key(self) -> bool:
        """Whether a service can have this address; asked where no sign of one was seen."""
        clock, host = self._observer.clock, f"{self.log.address}.onion"
        # It takes 2 ms, so there is one check in a turn of the reactor.
        checked = self._observer.key_checks.run(deferLater, clock, 0.0, has_public_key, host)
        try:
            return await limit(checked, CHECK_TIMEOUT, clock)
        except TimeoutError:
            return True

    async def _checked(self, diagnosis: Diagnosis) -> Diagnosis:
        """Complete a diagnosis by what tor has to be asked for."""
        address, queries = self.log.address, self._observer.queries()
        if diagnosis.unless_joined and await queries.has_joined_circuit(address, self.log.token):
            return Diagnosis(Finding.NOTHING, "an older circuit to the service is open")
        history, now = self._observer.tracker.history(address), self._observer.clock.seconds()
        if diagnosis.finding is Finding.INTRODUCTION_TIMED_OUT and not diagnosis.unless_joined:
            history.silent_at = now
        if diagnosis.finding is not Finding.UNDECRYPTABLE:
            return diagnosis
        if self.log.received:
            history.undecryptable_at = now
        if await queries.has_key(address):
            return Diagnosis(Finding.WRONG_CLIENT_AUTH, f"{diagnosis.words}; tor has a key for it")
        return Diagnosis(Finding.MISSING_CLIENT_AUTH, f"{diagnosis.words}; tor has no key for it")
