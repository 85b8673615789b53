"""The exit relays of the network: read from tor when they are first needed, and chosen by weight.

``GETINFO ns/all`` is 2 MB on the live network, so its lines are parsed as they come. Countries are
those of tor's GeoIPFile. A relay with the flag BadExit is never taken.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

from torsocks_tx.backends.tor.commands import AUTOMAP, COUNTRIES, HAS_COUNTRIES, RELAYS
from torsocks_tx.backends.tor.control import Control, unless_refused
from torsocks_tx.errors import NoSuchExit
from torsocks_tx.policy.circuits import ExitChoice

UNKNOWN = "??"
"""The country of an address that tor's GeoIPFile does not have."""

NO_GEOIP = (
    "tor has no GeoIPFile, so it does not know the countries of exits: install tor-geoipdb, or set"
    " GeoIPFile in tor's torrc"
)

NO_EXIT = "no exit relay is in the choice that was asked for: the client is refused"
AUTOMAPS = (
    "look-ups at a chosen exit are refused: tor would answer with an address of its own, for it has"
    " AutomapHostsOnResolve"
)

CANDIDATES = 16
"""Exits that are kept for each key and choice."""

MOST_CHOSEN = 4096
"""Keys whose exits are kept; one that is forgotten gets the same again."""

_AT_ONCE = 100
"""Addresses in one question for their countries."""

_WANTED = {"Exit", "Running", "Valid"}
_COUNTRY = "ip-to-country/"


@dataclass(frozen=True, slots=True)
class Exit:
    """One exit relay: ``weight`` is its bandwidth in the consensus, ``country`` in lower case."""

    fingerprint: str
    weight: int
    country: str = UNKNOWN


class RelayReader:
    """Takes the lines of ``GETINFO ns/all`` and keeps the exits: address and weight by fingerprint.

    Lines that are not understood are skipped.
    """

    def __init__(self) -> None:
        self.exits: dict[str, tuple[str, int]] = {}
        self._relay = ""
        self._fingerprint = ""

    def take(self, line: str) -> None:
        """Take one line. It never raises."""
        kind = line[:2]
        if kind == "r ":
            self._relay, self._fingerprint = line, ""
        elif kind == "s " and " Exit" in line:
            flags = set(line.split())
            if flags >= _WANTED and "BadExit" not in flags:
                self._add(self._relay.split(" "))
        elif kind == "w " and self._fingerprint:
            bandwidth = line.partition("Bandwidth=")[2].partition(" ")[0]
            if bandwidth.isdecimal() and len(bandwidth) < 16:
                address, _ = self.exits[self._fingerprint]
                self.exits[self._fingerprint] = address, max(int(bandwidth), 1)

    def _add(self, words: list[str]) -> None:
        if len(words) < 9:
            return
        try:
            digest = base64.b64decode(words[2] + "=", validate=True)
        except binascii.Error:
            return
        if len(digest) == 20:
            self._fingerprint = digest.hex().upper()
            self.exits[self._fingerprint] = words[6], 1


async def ask(control: Control, line: str) -> str:
    """Return tor's answer; "" where it refuses the question. Raises ``ControlLost``."""
    return await unless_refused(control.command(line)) or ""


async def has_countries(control: Control) -> bool:
    """Whether this tor knows the countries of addresses."""
    return (await ask(control, HAS_COUNTRIES.line())).endswith("=1")


async def countries_of(control: Control, addresses: Iterable[str]) -> dict[str, str]:
    """Return the country of each address, by tor's GeoIPFile; ``??`` where that has none."""
    wanted = list(dict.fromkeys(addresses))
    found = dict.fromkeys(wanted, UNKNOWN)
    for start in range(0, len(wanted), _AT_ONCE):
        keys = f" {_COUNTRY}".join(wanted[start : start + _AT_ONCE])
        for line in (await control.command(COUNTRIES.line(addresses=keys))).splitlines():
            address, equals, country = line.removeprefix(_COUNTRY).partition("=")
            if equals and address in found:
                found[address] = country.lower()
    return found


@dataclass(slots=True)
class Candidates:
    """Exits in the order in which a key is to try them.

    ``is_good``: a stream of this key was opened since an exit was last left in vain; None: neither
    has been.
    """

    exits: list[Exit]
    is_good: bool | None = None

    def put_last(self, dead: Exit) -> None:
        """Have this key, and no other, try this exit after the others: it does not answer."""
        self.is_good = False
        if dead in self.exits:
            self.exits.remove(dead)
            self.exits.append(dead)


class ExitDirectory:
    """The exits of one consensus.

    ``knows_countries``: tor has a GeoIPFile. ``automaps``: tor answers look-ups at an exit itself,
    with an address that stands for the name at that exit, whichever was chosen later.
    """

    def __init__(
        self, exits: Iterable[Exit], *, knows_countries: bool, automaps: bool = False
    ) -> None:
        self.exits = {each.fingerprint: each for each in exits}
        self.knows_countries = knows_countries
        self.automaps = automaps
        self._chosen: dict[tuple[ExitChoice, bytes], Candidates] = {}

    @classmethod
    async def read(cls, control: Control) -> ExitDirectory:
        """Ask tor. Raises ``ControlError``."""
        reader = RelayReader()
        await control.read_lines(RELAYS.line(), reader.take)
        knows = await has_countries(control)
        addresses = [address for address, _ in reader.exits.values()] if knows else []
        found = await countries_of(control, addresses)
        automaps = (await ask(control, AUTOMAP.line())).endswith("=1")
        if automaps:
            control.log.say(AUTOMAPS)
        exits = [
            Exit(fingerprint, weight, found.get(address, UNKNOWN))
            for fingerprint, (address, weight) in reader.exits.items()
        ]
        return cls(exits, knows_countries=knows, automaps=automaps)

    def candidates(self, choice: ExitChoice, seed: bytes) -> Candidates:
        """Return exits of the choice in the order in which a key is to try them, or ``NoSuchExit``.

        ``seed`` names the key. Keys are spread over the exits by weight, and the same key gets the
        same order in every process and, as far as its exits are still there, by the next consensus.
        """
        chosen = self._chosen.pop((choice, seed), None)
        if chosen is None:
            key = hashlib.blake2b(seed, digest_size=32).digest()
            # The smallest of exponential variables, each with its weight as its rate.
            fitting = ((_distance(key, each), each.fingerprint, each) for each in self._in(choice))
            chosen = Candidates([each for *_, each in heapq.nsmallest(CANDIDATES, fitting)])
        self._chosen[choice, seed] = chosen  # the last in order: the first is forgotten first
        if len(self._chosen) > MOST_CHOSEN:
            del self._chosen[next(iter(self._chosen))]
        if not chosen.exits:
            needs_geoip = choice.countries is not None and not self.knows_countries
            raise NoSuchExit(NO_GEOIP if needs_geoip else NO_EXIT)
        return chosen

    def _in(self, choice: ExitChoice) -> Iterable[Exit]:
        countries, fingerprints = choice.countries, choice.fingerprints
        exits: Iterable[Exit] = self.exits.values()
        if fingerprints is not None:
            exits = (self.exits[each] for each in fingerprints if each in self.exits)
        if countries is not None:
            exits = (each for each in exits if each.country in countries)
        return exits


def _distance(key: bytes, relay: Exit) -> float:
    digest = hashlib.blake2b(relay.fingerprint.encode(), key=key, digest_size=8).digest()
    return -math.log((int.from_bytes(digest, "big") + 1) / 2**64) / relay.weight
