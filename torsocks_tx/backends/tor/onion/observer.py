"""Follows tor's events while onion services are tried, and says why they could not be reached.

It listens from the first attempt on (control-spec: HS_DESC, CIRC, CIRC_MINOR, SIGNAL), on whatever
control connection there is; without one, or after a loss, tor's own answers stand.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.events import EventError, parse_event
from torsocks_tx.backends.tor.onion.attempt import OnionAttempt
from torsocks_tx.backends.tor.onion.client_auth import Keyring
from torsocks_tx.backends.tor.onion.diagnosis import Diagnosis
from torsocks_tx.backends.tor.onion.events import parse_circuit, parse_hs_desc
from torsocks_tx.backends.tor.onion.queries import KeyChecker, TorQueries
from torsocks_tx.backends.tor.onion.tracker import AttemptTracker
from torsocks_tx.backends.tor.waiters import Waiters
from torsocks_tx.limits import RENDEZVOUS_TIMEOUT

FOLLOW_TIMEOUT = 2.0
"""Seconds for which a client waits until tor's events are followed."""

RETRY_SECONDS = 60.0
"""Seconds until a tor that would not tell its events is asked again."""


class Following(Enum):
    """Whether tor's events are followed."""

    NO = auto()
    STARTING = auto()
    YES = auto()


class OnionObserver:
    """What is known of the onion services that one backend tries to reach.

    Args:
        clock: tells the time.
        rendezvous_timeout: seconds until an attempt is given up as F3.
        keyring: client authorization keys to keep in tor.
        on_diagnosis: called with the address (56 characters) and the ``Diagnosis`` of each attempt
            that failed.
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
        self.tracker = AttemptTracker(clock.seconds)
        self.clock = clock
        self.rendezvous_timeout = rendezvous_timeout
        self.following = Following.NO
        self._keyring = keyring
        self._on_diagnosis = on_diagnosis
        self._control: Control | None = None
        self._queries: TorQueries | None = None
        self._retry_at = 0.0
        self._waiters: Waiters[None] = Waiters(clock)
        self._cooperator = one_step_a_turn(clock)
        self.keys = KeyChecker(self._cooperator)
        self._listeners = (
            ("HS_DESC", lambda text: self.tracker.note_fetch(parse_hs_desc(text))),
            ("CIRC", lambda text: self.tracker.note_circuit(parse_circuit(text))),
            ("CIRC_MINOR", lambda text: self.tracker.note_circuit(parse_circuit(text))),
            ("SIGNAL", self._note_signal),
        )

    def is_ready(self, control: Control | None) -> bool:
        """Whether an attempt may begin now: events are followed, or cannot be."""
        if control is not self._control or self.following is Following.STARTING:
            return False
        return control is None or self.following is Following.YES or self._now() < self._retry_at

    def follow(self, control: Control | None) -> Deferred[None]:
        """Follow the events on this connection; fires, and never fails, when that is settled.

        Where tor hangs, it fires after ``FOLLOW_TIMEOUT`` all the same: nobody waits for a reason
        that may never be needed.
        """
        if self.is_ready(control):
            return succeed(None)
        if control is not self._control:
            self._lost(self._control)
            self._control = control
        if control is None:
            return succeed(None)
        waiting = self._waiters.wait()
        if self.following is Following.NO:
            self._begin_to_follow(control)
        return waiting

    def _begin_to_follow(self, control: Control) -> None:
        self.following = Following.STARTING
        self._queries = TorQueries(
            lambda line: Deferred.fromCoroutine(control.command(line)),
            self.clock,
            self._cooperator,
        )
        control.when_lost().addCallback(lambda _: self._lost(control))
        timeout = self.clock.callLater(FOLLOW_TIMEOUT, self._waiters.fire, None)
        opening = Deferred.fromCoroutine(self._open(control))
        opening.addErrback(self._not_opened, control)
        opening.addBoth(lambda _: timeout.cancel() if timeout.active() else None)
        opening.addBoth(self._settled, control)

    def _settled(self, _: object, control: Control) -> None:
        if self._control is control:
            self._waiters.fire(None)

    def _now(self) -> float:
        return self.clock.seconds()

    def attempt(self, address: str, token: str | None) -> OnionAttempt:
        """Begin an attempt on ``address`` (56 characters) by a stream with this SOCKS password.

        None: tor's SocksPort does not keep circuits apart by it.
        """
        log = self.tracker.begin(address, token)
        log.complete = self.following is Following.YES
        return OnionAttempt(self, log)

    def diagnosed(self, address: str, diagnosis: Diagnosis) -> None:
        """Log a diagnosis, without the address, and tell the application."""
        self._log.debug(
            "onion service: {finding}: {words}",
            finding=diagnosis.finding.name,
            words=diagnosis.words,
        )
        if self._on_diagnosis is None:
            return
        try:
            self._on_diagnosis(address, diagnosis)
        except Exception:
            self._log.failure("on_diagnosis failed; the client hears the diagnosis all the same")

    def queries(self) -> TorQueries:
        """What tor can be asked now. Raises ``ControlLost``."""
        if self._queries is None or self.following is not Following.YES:
            raise ControlLost
        return self._queries

    def reload_keys(self) -> Deferred[None]:
        """Read the client authorization keys again; fails with ``OSError`` if that cannot be."""
        return Deferred.fromCoroutine(self._reload_keys())

    def detach(self) -> None:
        """Leave the control connection as it was: it may be an application's own."""
        control, self._control = self._control, None
        self._lost(None)
        if control is not None:
            self._unlisten(control)

    async def _open(self, control: Control) -> None:
        for event, callback in self._listeners:
            await control.listen(event, callback)
            if self._control is not control:
                self._unlisten(control)
                return
        self.following = Following.YES
        self.tracker.follow()
        if self._keyring is not None:
            await self._keyring.install(control)

    def _not_opened(self, failure: Failure, control: Control) -> None:
        """Go on without; try again when somebody asks later."""
        if self._control is not control:
            return
        if self.following is Following.YES:
            failure.trap(ControlError)  # only the keys; tor's silence is in the log
            return
        self.following = Following.NO
        self._retry_at = self._now() + RETRY_SECONDS
        self._unlisten(control)
        if failure.check(ControlError) is None:
            self._log.failure("following tor's events failed", failure)
            return
        self._log.warn(
            "tor does not tell its events ({error}): failures of onion services keep tor's own"
            " codes",
            error=failure.value,
        )

    def _unlisten(self, control: Control) -> None:
        for event, callback in self._listeners:
            control.unlisten(event, callback).addErrback(self._ignore)

    def _lost(self, control: Control | None) -> None:
        """Events are followed no more."""
        if control is not self._control:
            return
        self._control = self._queries = None
        self.following = Following.NO
        self._retry_at = 0.0
        self.tracker.lose()
        self._waiters.fire(None)

    def _note_signal(self, text: str) -> None:
        try:
            event = parse_event(text)
        except EventError:
            return
        if event.positional[:1] != ("NEWNYM",):
            return
        self.tracker.forget()
        if self._keyring is not None and self._control is not None:
            installing = Deferred.fromCoroutine(self._keyring.install(self._control))
            installing.addErrback(self._ignore)

    async def _reload_keys(self) -> None:
        if self._keyring is None:
            return
        self._keyring.reload()
        if self._control is not None:
            try:
                await self._keyring.install(self._control)
            except ControlLost:
                return  # the next connection gets them

    def _ignore(self, failure: Failure) -> None:
        failure.trap(ControlError)


def one_step_a_turn(clock: IReactorTime) -> Cooperator:
    """Return what spreads work over turns of the reactor, so that other clients wait little."""
    return Cooperator(
        terminationPredicateFactory=lambda: lambda: True,
        scheduler=lambda tick: clock.callLater(0, tick),
    )
