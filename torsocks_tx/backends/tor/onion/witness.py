"""Follows tor's events while onion services are tried, and says why they could not be reached.

It listens from the first attempt on (control-spec: HS_DESC, CIRC, CIRC_MINOR, SIGNAL), on whatever
control connection there is; without one, or after a loss, tor's own answers stand.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.events import EventError, parse_event
from torsocks_tx.backends.tor.onion.attempt import Attempt
from torsocks_tx.backends.tor.onion.journal import Journal, may_carry
from torsocks_tx.backends.tor.onion.keyring import Keyring
from torsocks_tx.backends.tor.onion.sightings import Step, circuit_sighting, fetch_sighting
from torsocks_tx.backends.tor.onion.verdict import Verdict
from torsocks_tx.backends.tor.waiters import Waiters
from torsocks_tx.limits import RENDEZVOUS_TIMEOUT

FENCE_TIMEOUT = 1.0
"""Seconds for tor to say what it has seen, once it has refused; it takes under a millisecond."""


class Sight(Enum):
    """Whether tor's events are followed."""

    BLIND = auto()
    OPENING = auto()
    SEEING = auto()


class OnionWitness:
    """What is known of the onion services that one backend tries to reach.

    Args:
        clock: tells the time.
        rendezvous_timeout: seconds until an attempt is given up as F3.
        keyring: client authorization keys to keep in tor.
        on_verdict: called with the address (56 characters) and the ``Verdict`` on each attempt that
            failed and was judged.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        *,
        rendezvous_timeout: float = RENDEZVOUS_TIMEOUT,
        keyring: Keyring | None = None,
        on_verdict: Callable[[str, Verdict], None] | None = None,
    ) -> None:
        self.journal = Journal(clock.seconds)
        self.clock = clock
        self.rendezvous_timeout = rendezvous_timeout
        self.sight = Sight.BLIND
        self._keyring = keyring
        self._on_verdict = on_verdict
        self._control: Control | None = None
        self._waiters: Waiters[None] = Waiters()
        self._listeners = (
            ("HS_DESC", lambda text: self.journal.note_fetch(fetch_sighting(text))),
            ("CIRC", lambda text: self.journal.note_circuit(circuit_sighting(text))),
            ("CIRC_MINOR", lambda text: self.journal.note_circuit(circuit_sighting(text))),
            ("SIGNAL", self._note_signal),
        )

    def is_ready(self, control: Control | None) -> bool:
        """Whether an attempt may begin now: events are followed, or cannot be."""
        return control is self._control and self.sight is not Sight.OPENING

    def follow(self, control: Control | None) -> Deferred[None]:
        """Follow the events on this connection; fires, and never fails, when that is settled."""
        if self.is_ready(control):
            return succeed(None)
        if control is not self._control:
            self._lost(self._control)
            self._control = control
        if control is None:
            return succeed(None)
        waiting = self._waiters.wait()
        if self.sight is Sight.BLIND:
            self.sight = Sight.OPENING
            control.when_lost().addCallback(lambda _: self._lost(control))
            opening = Deferred.fromCoroutine(self._open(control))
            opening.addErrback(self._fault).addCallback(lambda _: self._waiters.fire(None))
        return waiting

    def attempt(self, address: str, token: str | None) -> Attempt:
        """Begin an attempt on ``address`` (56 characters) by a stream with this SOCKS password.

        None: tor's SocksPort does not keep circuits apart by it.
        """
        evidence = self.journal.begin(address, token)
        evidence.complete = self.sight is Sight.SEEING
        return Attempt(self, evidence)

    def judged(self, address: str, verdict: Verdict) -> None:
        """Tell whom it concerns; the log has the words and not the address."""
        self._log.debug(
            "onion service: {finding}: {words}", finding=verdict.finding.name, words=verdict.words
        )
        if self._on_verdict is not None:
            self._on_verdict(address, verdict)

    async def fence(self) -> None:
        """Return when all events that tor had for us are here.

        Raises:
            ControlError, TimeoutError: they are not, and it will not be known when.
        """
        answer = Deferred.fromCoroutine(self._connected().get_info("version"))
        await answer.addTimeout(FENCE_TIMEOUT, self.clock)

    async def has_joined_circuit(self, address: str, token: str | None) -> bool:
        """Whether a circuit to the service is open that streams with this token use.

        Raises:
            ControlError: tor does not say.
        """
        for line in (await self._connected().get_info("circuit-status")).splitlines():
            sighting = circuit_sighting(line)
            if sighting is None or sighting.step is not Step.JOINED:
                continue
            if sighting.address == address and may_carry(sighting, token):
                return True
        return False

    async def has_key(self, address: str) -> bool:
        """Whether tor holds a client authorization key for the service.

        Raises:
            ControlError: tor does not say.
        """
        answer = await self._connected().command(f"ONION_CLIENT_AUTH_VIEW {address}")
        return any(line.startswith("CLIENT ") for line in answer.splitlines())

    def reload_keys(self) -> Deferred[None]:
        """Read the client authorization keys again; fails with ``OSError`` if that cannot be."""
        return Deferred.fromCoroutine(self._reload_keys())

    def detach(self) -> None:
        """Leave the control connection as it was: it may be an application's own."""
        control, self._control = self._control, None
        self._lost(None)
        if control is None:
            return
        for event, callback in self._listeners:
            control.unlisten(event, callback).addErrback(self._ignore)

    def _connected(self) -> Control:
        if self._control is None or self.sight is not Sight.SEEING:
            raise ControlLost
        return self._control

    async def _open(self, control: Control) -> None:
        try:
            if self._keyring is not None:
                await self._keyring.install(control)
            for event, callback in self._listeners:
                await control.listen(event, callback)
        except ControlError as error:
            self._log.warn(
                "tor does not tell its events ({error}): failures of onion services keep tor's"
                " own codes",
                error=error,
            )
            self.sight = Sight.BLIND
            return
        if self._control is control:
            self.sight = Sight.SEEING

    def _lost(self, control: Control | None) -> None:
        """Events are followed no more."""
        if control is not self._control:
            return
        self._control = None
        self.sight = Sight.BLIND
        self.journal.lose()
        self._waiters.fire(None)

    def _note_signal(self, text: str) -> None:
        try:
            event = parse_event(text)
        except EventError:
            return
        if event.positional[:1] != ("NEWNYM",):
            return
        self.journal.forget()
        if self._keyring is not None and self._control is not None:
            installing = Deferred.fromCoroutine(self._keyring.install(self._control))
            installing.addErrback(self._ignore)

    async def _reload_keys(self) -> None:
        if self._keyring is None:
            return
        self._keyring.reload()
        if self._control is not None and self.sight is Sight.SEEING:
            try:
                await self._keyring.install(self._control)
            except ControlLost:
                return  # the next connection gets them

    def _ignore(self, failure: Failure) -> None:
        failure.trap(ControlError)

    def _fault(self, failure: Failure) -> None:
        self._log.failure("following tor's events failed", failure)
        self.sight = Sight.BLIND
