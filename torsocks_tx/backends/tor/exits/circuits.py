"""The circuits that a tor has, as an application or a status page shows them.

They are followed by CIRC events while somebody wants to know, and nothing is logged. SOCKS_PASSWORD
is our isolation token, so it is known whose streams a circuit carries without looking at streams.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakSet

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from torsocks_tx.backends.tor.commands import CIRCUITS, RELAY
from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.exits.directory import UNKNOWN, ask, countries_of, has_countries
from torsocks_tx.backends.tor.onion.events import read_event
from torsocks_tx.backends.tor.onion.queries import SharedCommands

FOLLOW_SECONDS = 60.0
"""Seconds for which circuits are followed after somebody has asked for them."""

MOST_AGE = 600.0
"""Seconds after which tor is asked for its circuits again: a filter may suppress its events."""

MOST_RELAYS = 4096
"""Relays whose countries are remembered."""

_TO_EXITS = ("GENERAL", "CONFLUX_LINKED")
_TO_ONION = "HS_CLIENT_REND"
# No circuit of another purpose carries streams, also where it has the token of some.

_HOP = re.compile(r"\$([0-9A-F]{40})(?:[~=]([A-Za-z0-9]{1,19}))?")


@dataclass(frozen=True, slots=True)
class Hop:
    """One relay of a circuit: ``nickname`` may be empty, ``country`` is ``??`` if not known."""

    fingerprint: str
    nickname: str
    country: str = UNKNOWN


@dataclass(frozen=True, slots=True)
class Circuit:
    """One circuit that is built.

    ``number`` is tor's own, ``path`` its relays from the guard on, ``purpose`` tor's word such as
    GENERAL or HS_CLIENT_REND, ``age`` its seconds, ``streams`` how many open streams of this
    backend have its isolation key and lead where it does; others' streams are not counted.
    """

    number: int
    path: tuple[Hop, ...]
    purpose: str
    age: float
    streams: int


@dataclass(frozen=True, slots=True)
class CircuitLine:
    """One line of tor's list: ``path`` is fingerprints and nicknames, ``token`` SOCKS_PASSWORD.

    ``onion``: the address of the onion service to which it leads, without ``.onion``.
    """

    number: int
    path: tuple[tuple[str, str], ...]
    purpose: str
    created: str
    token: str | None
    onion: str = ""

    def leads_to(self, fingerprint: str, token: str) -> bool:
        """Whether streams with this token may use it to leave by this exit."""
        ends_there = bool(self.path) and self.path[-1][0] == fingerprint
        return ends_there and self.token in (token, None)

    def as_circuit(
        self, countries: Mapping[str, str], streams: Mapping[tuple[str, str], int], now: float
    ) -> Circuit:
        """Return it for whoever shows it.

        ``streams``: how many are open, by token and place: the exit that was chosen, "" for any
        exit, or ``onion_place`` of an onion service.
        """
        path = tuple(Hop(key, name, countries.get(key, UNKNOWN)) for key, name in self.path)
        places: set[str] = set()
        if self.purpose in _TO_EXITS:
            places = {"", *(hop.fingerprint for hop in path[-1:])}
        elif self.purpose == _TO_ONION:
            places = {onion_place(self.onion)}
        count = sum(streams.get((self.token or "", place), 0) for place in places)
        return Circuit(self.number, path, self.purpose, _age_of(self.created, now), count)


def onion_place(address: str) -> str:
    """Return what stands for an onion service where its streams are counted."""
    return f"onion {address.lower()}"


def _age_of(created: str, now: float) -> float:
    """Return the seconds since a TIME_CREATED; 0 for what is none."""
    try:
        began = datetime.fromisoformat(created).replace(tzinfo=UTC)
    except ValueError:
        return 0.0
    return max(now - began.timestamp(), 0.0)


def parse_circuit_line(line: str) -> CircuitLine | None:
    """Read one line of the list; None for one that is not of a built circuit."""
    if " BUILT " not in line:  # spare the others the parsing
        return None
    event = read_event(line.removeprefix("circuit-status="), 3)
    if event is None or not event.positional[0].isdecimal():
        return None
    words = event.keywords
    return CircuitLine(
        int(event.positional[0]),
        tuple(_HOP.findall(event.positional[2])),
        words.get("PURPOSE", ""),
        words.get("TIME_CREATED", ""),
        words.get("SOCKS_PASSWORD"),
        words.get("REND_QUERY", ""),
    )


class CircuitList:
    """The circuits of one control connection that are built, followed while they are asked for."""

    def __init__(self, control: Control, clock: IReactorTime) -> None:
        self._control = control
        self._clock = clock
        self._shared: SharedCommands[list[CircuitLine]] = SharedCommands(
            lambda command: Deferred.fromCoroutine(self._read(command)), clock
        )
        self._lines: dict[int, CircuitLine] | None = None
        self._ending: IDelayedCall | None = None
        self._known: WeakSet[Any] = WeakSet()
        self._read_at = 0.0
        self._is_refused = False

    def ask(self) -> Deferred[list[CircuitLine]]:
        """Ask tor; one question serves all. Fires with the circuits; errback ``ControlError``."""
        return self._shared.answer_to(CIRCUITS.line())

    async def _read(self, command: str) -> list[CircuitLine]:
        found: list[CircuitLine] = []

        def take(line: str) -> None:
            circuit = parse_circuit_line(line)
            if circuit is not None:
                found.append(circuit)

        await self._control.read_lines(command, take)
        self._read_at = self._clock.seconds()
        if self._ending is not None:
            self._lines = {circuit.number: circuit for circuit in found}
        return found

    async def follow(self, streams: Collection[object]) -> list[CircuitLine]:
        """Return the circuits, and follow them for ``FOLLOW_SECONDS``. Raises ``ControlError``.

        ``streams``: those of ours that are open. A circuit that was built ahead gets the token of
        its first stream later, and no event tells of it: then tor is asked once more. A tor that
        refuses to send events is asked each time, and any tor after ``MOST_AGE``.
        """
        if self._ending is None and not self._is_refused:
            await self._begin_to_follow()
        elif self._ending is not None:
            self._ending.reset(FOLLOW_SECONDS)
        lines = self._lines
        is_old = self._clock.seconds() >= self._read_at + MOST_AGE
        if (
            lines is None
            or is_old
            or not (
                all(line.token is not None for line in lines.values())
                or self._known.issuperset(streams)
            )
        ):
            self._known = WeakSet(streams)
            return await self.ask()
        return list(lines.values())

    async def _begin_to_follow(self) -> None:
        self._ending = self._clock.callLater(FOLLOW_SECONDS, self.end)
        try:
            await self._control.listen("CIRC", self._noted)
            await self._control.listen("CIRC_MINOR", self._changed)
        except BaseException as reason:
            self.end()
            self._is_refused = isinstance(reason, ControlError) and reason.code != 0
            if not self._is_refused:
                raise

    def end(self) -> None:
        """Follow them no more."""
        self._lines = None
        if self._ending is not None and self._ending.active():
            self._ending.cancel()
        self._ending = None
        self._control.unlisten("CIRC", self._noted)
        self._control.unlisten("CIRC_MINOR", self._changed)

    def _noted(self, text: str) -> None:
        """Take a CIRC event: a circuit is built, or is not any more."""
        circuit, number = parse_circuit_line(text), text.partition(" ")[0]
        if self._lines is not None and circuit is not None:
            self._lines[circuit.number] = circuit
        elif self._lines is not None and number.isdecimal():
            self._lines.pop(int(number), None)

    def _changed(self, text: str) -> None:
        """Take a CIRC_MINOR event: a circuit has another purpose."""
        number, _, rest = text.partition(" ")
        if self._lines is not None and number.isdecimal() and int(number) in self._lines:
            self._noted(f"{number} BUILT {rest.partition(' ')[2]}")


class RelayCountries:
    """Knows the countries of relays, as far as tor has been asked for them."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._found: dict[str, str] = {}

    async def of(self, fingerprints: Mapping[str, object]) -> dict[str, str]:
        """Return the countries of these relays by fingerprint. Raises ``ControlLost``."""
        missing = [each for each in fingerprints if each not in self._found]
        if missing and await has_countries(self._control):
            if len(self._found) + len(missing) > MOST_RELAYS:
                self._found.clear()
                missing = list(fingerprints)
            addresses = {each: await self._address(each) for each in missing}
            known = await countries_of(self._control, filter(None, addresses.values()))
            self._found.update({each: known.get(ip, UNKNOWN) for each, ip in addresses.items()})
        return {each: self._found.get(each, UNKNOWN) for each in fingerprints}

    async def _address(self, fingerprint: str) -> str:
        """Return the address of a relay; "" for one that is not in the consensus, as a bridge."""
        said = await ask(self._control, RELAY.line(fingerprint=fingerprint))
        words = said.partition("\n")[2].partition("\n")[0].split(" ")
        return words[6] if len(words) > 6 else ""
