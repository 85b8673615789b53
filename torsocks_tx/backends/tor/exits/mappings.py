"""The names under which tor knows a destination at a chosen exit (MAPADDRESS, control-spec 3.12).

The name is a random label under ``.invalid``: to a tor that has forgotten it, it leads nowhere. A
mapping changes no option of tor, and no other user of that tor can guess its name.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.commands import MAP_ADDRESS
from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.errors import AddressTypeNotSupported, Busy, GeneralFailure, SOCKSError, TorDown
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address

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
    """One mapping: ``alias`` is the name for tor, ``made`` whether tor knows it.

    ``error``: why it cannot be made.
    """

    __slots__ = ("_waiters", "alias", "error", "made", "users")

    def __init__(self) -> None:
        self.alias = f"{secrets.token_hex(16)}.invalid"
        self.made = False
        self.error: SOCKSError | None = None
        self.users = 0
        self._waiters: Waiters[None] = Waiters()

    def wait(self) -> Deferred[None]:
        """Fire when tor knows it; errback ``SOCKSError``. Can be cancelled."""
        return self._waiters.wait()

    def settle(self, failure: Failure | None) -> None:
        """Tell those who wait, and those who come later."""
        self.made = failure is None
        if failure is None:
            self._waiters.settle(None)
            return
        is_refused = isinstance(failure.value, ControlError) and failure.value.code
        self.error = (GeneralFailure if is_refused else TorDown)("tor has not made a mapping")
        self._waiters.settle(Failure(self.error))


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
            target = "{}.{}.exit".format(*place)
            asked = Deferred.fromCoroutine(
                self._control.command(MAP_ADDRESS.line(pairs=f"{mapping.alias}={target}"))
            )
            asked.addCallbacks(
                lambda _: mapping.settle(None),
                lambda failure: self._failed(place, mapping, failure),
            )
            if mapping.error is not None:
                raise mapping.error
        elif not mapping.users:
            del self._unused[place]
        mapping.users += 1
        return mapping

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

    def _failed(self, place: tuple[str, str], mapping: Mapping, failure: Failure) -> None:
        if self._by_place.get(place) is mapping:
            del self._by_place[place]
            self._unused.pop(place, None)
        mapping.settle(failure)

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
        aliases = []
        for place in places:
            del self._unused[place]
            aliases.append(self._by_place.pop(place).alias)
        self._take_away(aliases)

    def _take_away(self, aliases: list[str]) -> Deferred[Any]:
        controls = dict.fromkeys((self._control, self._current()))
        return DeferredList(
            Deferred.fromCoroutine(_remove(control, aliases)) for control in controls if control
        )


async def _remove(control: Control, aliases: list[str]) -> None:
    try:
        for start in range(0, len(aliases), _AT_ONCE):
            pairs = " ".join(f"{alias}={alias}" for alias in aliases[start : start + _AT_ONCE])
            await control.command(MAP_ADDRESS.line(pairs=pairs))
    except ControlError:
        return  # tor is gone, and they with it
