"""The circuits that a tor has, as an application or a status page shows them.

They are asked for when somebody wants to know (``GETINFO circuit-status``, whose lines are those of
CIRC events): nothing is followed, and nothing is logged. SOCKS_PASSWORD is our isolation token, so
it is known whose streams a circuit carries without looking at streams.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from torsocks_tx.backends.tor.commands import CIRCUITS, RELAY
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.events import EventError, parse_event
from torsocks_tx.backends.tor.exits.directory import UNKNOWN, countries_of, has_countries

MOST_RELAYS = 4096
"""Relays whose countries are remembered."""

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
    backend have its isolation key; streams of other programs are not counted.
    """

    number: int
    path: tuple[Hop, ...]
    purpose: str
    age: float
    streams: int


@dataclass(frozen=True, slots=True)
class CircuitLine:
    """One line of tor's list: ``path`` is fingerprints and nicknames, ``token`` SOCKS_PASSWORD."""

    number: int
    path: tuple[tuple[str, str], ...]
    purpose: str
    created: str
    token: str | None

    def leads_to(self, fingerprint: str, token: str) -> bool:
        """Whether streams with this token may use it to leave by this exit."""
        ends_there = bool(self.path) and self.path[-1][0] == fingerprint
        return ends_there and self.token in (token, None)

    def as_circuit(
        self, countries: Mapping[str, str], streams: Mapping[tuple[str, str], int], now: float
    ) -> Circuit:
        """Return it for whoever shows it.

        ``streams``: how many are open, by token and the exit that was chosen ("" for any).
        """
        path = tuple(Hop(key, name, countries.get(key, UNKNOWN)) for key, name in self.path)
        token, last = self.token or "", path[-1].fingerprint if path else ""
        count = streams.get((token, ""), 0) + (streams.get((token, last), 0) if last else 0)
        return Circuit(self.number, path, self.purpose, _age_of(self.created, now), count)


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
    try:
        event = parse_event(line.removeprefix("circuit-status="))
    except EventError:
        return None
    words = event.keywords
    if len(event.positional) < 3 or not event.positional[0].isdecimal():
        return None
    return CircuitLine(
        int(event.positional[0]),
        tuple(_HOP.findall(event.positional[2])),
        words.get("PURPOSE", ""),
        words.get("TIME_CREATED", ""),
        words.get("SOCKS_PASSWORD"),
    )


async def read_circuits(control: Control) -> list[CircuitLine]:
    """Ask tor for its circuits that are built. Raises ``ControlError``."""
    found: list[CircuitLine] = []

    def take(line: str) -> None:
        circuit = parse_circuit_line(line)
        if circuit is not None:
            found.append(circuit)

    await control.read_lines(CIRCUITS.line(), take)
    return found


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
        try:
            line = await self._control.get_info(RELAY.key(fingerprint=fingerprint))
        except ControlLost:
            raise
        except ControlError:
            return ""
        words = line.split("\n")[0].split(" ")
        return words[6] if len(words) > 6 else ""
