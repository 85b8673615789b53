"""What is known of exits, and mapped to them, over one control connection; and over the next one.

A mapping is worth nothing once the control connection over which it was made is lost: the tor
behind the next one may be another.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.exits.circuits import CircuitList, RelayCountries
from torsocks_tx.backends.tor.exits.directory import ExitDirectory
from torsocks_tx.backends.tor.exits.mappings import Mappings
from torsocks_tx.backends.tor.provider import TorProvider
from torsocks_tx.backends.tor.providers import BOOTSTRAP_EVENT
from torsocks_tx.backends.tor.waiting import Waiters, limit
from torsocks_tx.errors import TorDown

CLOSE_TIMEOUT = 2.0
"""Seconds for tor to take the mappings away when the server stops."""

MAX_AGE = 7200.0
"""Seconds until exits are read again, where no event tells of the new consensus of each hour."""

NO_CONTROL = "exits cannot be chosen without tor's control port"


class ExitSession:
    """The exits and the mappings of one control connection."""

    def __init__(self, control: Control, clock: IReactorTime, provider: TorProvider) -> None:
        self.control = control
        self.mappings = Mappings(control, clock, lambda: provider.control)
        self.countries = RelayCountries(control)
        self._directory: ExitDirectory | None = None
        self._stale_at = 0.0
        self._reading: Waiters[ExitDirectory] | None = None
        self._follows = False
        self._clock = clock
        self.circuits = CircuitList(control, clock)

    @property
    def directory(self) -> ExitDirectory | None:
        """What was read; None where it must be read (again)."""
        return self._directory if self._clock.seconds() < self._stale_at else None

    def when_read(self) -> Deferred[ExitDirectory]:
        """Fire with the exits of the current consensus; errback ``TorDown``. Can be cancelled."""
        if self.directory is not None:
            return succeed(self.directory)
        if self._reading is not None:
            return self._reading.wait()
        waiters: Waiters[ExitDirectory] = Waiters(self._clock)
        self._reading = waiters
        waiting = waiters.wait()
        Deferred.fromCoroutine(self._read()).addBoth(self._has_read, waiters)
        return waiting

    async def _read(self) -> ExitDirectory:
        if not self._follows:
            try:
                await self.control.listen(BOOTSTRAP_EVENT, self._noted)
            except ControlError as error:
                if not error.code:
                    raise
            self._follows = True
        return await ExitDirectory.read(self.control)

    def _has_read(self, result: ExitDirectory | Failure, waiters: Waiters[ExitDirectory]) -> None:
        if self._reading is not waiters:  # a newer consensus came meanwhile
            self.when_read().addBoth(waiters.settle)
            return
        self._reading = None
        if isinstance(result, ExitDirectory):
            self._directory = result if result.exits else None
            self._stale_at = self._clock.seconds() + MAX_AGE
            waiters.settle(result)
        else:
            waiters.settle(Failure(TorDown("tor does not tell its relays")))

    def _noted(self, text: str) -> None:
        if "CONSENSUS_ARRIVED" in text:
            self._directory = self._reading = None

    def end(self) -> Deferred[Any]:
        """Leave tor as it was; fires when it has answered, and never fails."""
        self.control.unlisten(BOOTSTRAP_EVENT, self._noted)
        self.circuits.end()
        return self.mappings.remove_all()


class Exits:
    """The ``ExitSession`` of whatever control connection ``provider`` has.

    ``tokens``: the streams through this tor, by chosen exits or not, and their isolation tokens.
    """

    def __init__(self, clock: IReactorTime, provider: TorProvider) -> None:
        self.clock = clock
        self.provider = provider
        self.tokens: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()
        self._session: ExitSession | None = None

    @property
    def session(self) -> ExitSession:
        """That of the control connection of now. Raises ``TorDown``."""
        control, session = self.provider.control, self._session
        if session is not None and session.control is control:
            return session
        if control is None:
            raise TorDown(NO_CONTROL)
        self._session = ExitSession(control, self.clock, self.provider)
        if session is not None:
            session.end()
        return self._session

    def is_current(self, session: ExitSession) -> bool:
        """Whether this is the session of now."""
        return self.provider.control is session.control

    def close(self) -> Deferred[Any]:
        """Take all mappings away; fires when tor has answered, or hangs."""
        session, self._session = self._session, None
        if session is None:
            return succeed(None)
        return limit(session.end(), CLOSE_TIMEOUT, self.clock).addErrback(lambda _: None)
