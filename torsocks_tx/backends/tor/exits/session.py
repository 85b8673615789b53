"""What is known of exits, and mapped to them, over one control connection; and over the next one.

tor gets a random label under ``.invalid`` as the name of a destination at a chosen exit (MAPADDRESS
in control-spec 3.12): to a tor that has forgotten it, it leads nowhere. A mapping changes no option
of tor, and no other user of that tor can guess its name. It is worth nothing once the control
connection over which it was made is lost: the tor behind the next one may be another.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.commands import MAP_ADDRESS
from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.exits.circuits import CircuitList, RelayCountries
from torsocks_tx.backends.tor.exits.directory import ExitDirectory
from torsocks_tx.backends.tor.provider import TorProvider
from torsocks_tx.backends.tor.providers import BOOTSTRAP_EVENT
from torsocks_tx.backends.tor.waiting import Waiters, limit
from torsocks_tx.errors import AddressTypeNotSupported, Busy, GeneralFailure, SOCKSError, TorDown
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address

CLOSE_TIMEOUT = 2.0
"""Seconds for tor to take the mappings away when the server stops."""

MAX_AGE = 7200.0
"""Seconds until exits are read again, where no event tells of the new consensus of each hour."""

NO_CONTROL = "exits cannot be chosen without tor's control port"

UNUSED_SECONDS = 60.0
"""Seconds until a mapping that no stream needs is taken away."""

MOST_MAPPINGS = 10_000
"""Mappings at one time; tor keeps them all."""

LONGEST_NAME = 255 - len(".") - 40 - len(".exit")
"""The longest name that can be mapped: of a longer one tor would cut off the exit."""

_AT_ONCE = 100
"""Mappings that one command takes away: onion-grater takes no line of more than 10 kB."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def name_at_exit(address: Address) -> str:
    """Return a destination as it stands before the exit in a mapping. Raises ``SOCKSError``."""
    if address.type is AddressType.IPV6:
        raise AddressTypeNotSupported("tor takes no IPv6 address at a chosen exit, only names")
    host = address.host.lower().removesuffix(".")
    if not _NAME.fullmatch(host) or len(host) > LONGEST_NAME or host.endswith(".exit"):
        raise GeneralFailure("a name that cannot be mapped to an exit")
    return host


class Mapping:
    """One mapping: ``alias`` is the name for tor, ``users`` how many streams need it.

    ``known``: settled when tor knows it; errback ``error``, which says why it cannot be made.
    """

    __slots__ = ("alias", "error", "known", "users")

    def __init__(self) -> None:
        self.alias = f"{secrets.token_hex(16)}.invalid"
        self.known: Waiters[None] = Waiters()
        self.error: SOCKSError | None = None
        self.users = 0


class Mappings:
    """The mappings that were made over one control connection, one for each host and exit.

    ``current``: returns the control connection of now, if any. When no more than a connection was
    lost, tor still has what was mapped, and it is taken away over the next connection.
    """

    def __init__(
        self, control: Control, clock: IReactorTime, current: Callable[[], Control | None]
    ) -> None:
        self._control = control
        self._current = current
        self._clock = clock
        self._by_place: dict[tuple[str, str], Mapping] = {}
        self._unused: dict[tuple[str, str], float] = {}
        self._sweeping: IDelayedCall | None = None

    def take(self, place: tuple[str, str]) -> Mapping:
        """Return the mapping of host and fingerprint, for ``give_back``. Raises ``SOCKSError``."""
        mapping = self._by_place.get(place)
        if mapping is None:
            if len(self._by_place) >= MOST_MAPPINGS:
                if not self._unused:
                    raise Busy("as many mappings as there may be")
                self._remove([next(iter(self._unused))])
            mapping = self._by_place[place] = Mapping()
            pair = "{}={}.{}.exit".format(mapping.alias, *place)
            asked = Deferred.fromCoroutine(self._control.command(MAP_ADDRESS.line(pairs=pair)))
            asked.addCallbacks(lambda _: None, self._failed, errbackArgs=(place, mapping))
            asked.addBoth(mapping.known.settle)
            if mapping.error is not None:
                raise mapping.error
        elif not mapping.users:
            del self._unused[place]
        mapping.users += 1
        return mapping

    def _failed(self, failure: Failure, place: tuple[str, str], mapping: Mapping) -> Failure:
        if self._by_place.get(place) is mapping:
            del self._by_place[place]
            self._unused.pop(place, None)
        is_refused = isinstance(failure.value, ControlError) and failure.value.code
        mapping.error = (GeneralFailure if is_refused else TorDown)("tor has not made a mapping")
        return Failure(mapping.error)

    def give_back(self, place: tuple[str, str], mapping: Mapping) -> None:
        """Say that a stream does not need it any more: it is open, or given up."""
        mapping.users -= 1
        if not mapping.users and self._by_place.get(place) is mapping:
            self._unused[place] = self._clock.seconds() + UNUSED_SECONDS
            if self._sweeping is None:
                self._sweeping = self._clock.callLater(UNUSED_SECONDS, self._sweep)

    def remove_all(self) -> Deferred[Any]:
        """Take all away; fires when tor has answered, and never fails."""
        aliases = [mapping.alias for mapping in self._by_place.values()]
        self._by_place.clear()
        self._unused.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        return self._take_away(aliases)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self._clock.seconds()
        delay = UNUSED_SECONDS
        if self._current() is not None:  # else they may be in a tor that comes back
            self._remove([place for place, due in self._unused.items() if due <= now])
            delay = next(iter(self._unused.values()), now) - now
        if self._unused:
            self._sweeping = self._clock.callLater(delay, self._sweep)

    def _remove(self, places: list[tuple[str, str]]) -> None:
        for place in places:
            del self._unused[place]
        self._take_away([self._by_place.pop(place).alias for place in places])

    def _take_away(self, aliases: list[str]) -> Deferred[Any]:
        controls = dict.fromkeys(filter(None, (self._control, self._current())))
        return DeferredList(Deferred.fromCoroutine(_remove(each, aliases)) for each in controls)


async def _remove(control: Control, aliases: list[str]) -> None:
    try:
        for start in range(0, len(aliases), _AT_ONCE):
            pairs = " ".join(f"{alias}={alias}" for alias in aliases[start : start + _AT_ONCE])
            await control.command(MAP_ADDRESS.line(pairs=pairs))
    except ControlError:
        return  # tor is gone, and they with it


class ExitSession:
    """The exits and the mappings of one control connection."""

    def __init__(self, control: Control, clock: IReactorTime, provider: TorProvider) -> None:
        self.control = control
        self.mappings = Mappings(control, clock, lambda: provider.control)
        self.countries = RelayCountries(control)
        self.circuits = CircuitList(control, clock)
        self._directory: ExitDirectory | None = None
        self._stale_at = 0.0
        self._reading: Waiters[ExitDirectory] | None = None
        self._follows = False
        self._clock = clock

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
        waiters = self._reading = Waiters(self._clock)
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
