"""Circuits on request: which exit relays a stream may use, and when it gets a fresh circuit.

A listener says it by its flags. A client asks by its user name, or by keys of extended
authentication, and narrows what the listener says::

    NAME-country-de-session-abc-lifetime-10-streams-1-exit-FINGERPRINT

The first hyphen ends the name; pairs follow in any order. A user name that is no such list is
refused, for a mistyped wish must not be ignored. A fresh circuit is a new isolation key, which
costs no command to tor.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from torsocks_tx.errors import InvalidArguments, NoSuchExit
from torsocks_tx.limits import check_arguments
from torsocks_tx.policy.fresh import FreshCircuits, Tries
from torsocks_tx.socks.extended import UNSUPPORTED, key_list
from torsocks_tx.socks.messages import NO_PAIRS, KeyValues, Request
from torsocks_tx.socks.userpass import EXTENDED_PREFIX

PREFIX = "X-torsocks."
"""What keys of extended authentication about circuits begin with."""

FRESH_RATE = 30
"""Fresh circuits in a minute for all clients of a listener: each one is work for the network."""

MOST_PARSED = 512
"""Wishes of clients, and lists of relays, that are not read again."""

_MINUTE = 60.0
_N = TypeVar("_N", int, float)
_SESSION = PREFIX + "session"
_ALIASES = {"cc": "country", "sesstime": "lifetime", "sessid": "session"}
_PATTERNS = {
    "country": (r"[A-Za-z]{2}(?:,[A-Za-z]{2}){0,15}", "a country is two letters"),
    "exit": (r"[0-9A-Fa-f]{40}(?:,[0-9A-Fa-f]{40}){0,15}", "an exit is 40 hexadecimal digits"),
    "lifetime": (r"[1-9][0-9]{0,4}", "a lifetime is a whole number of minutes"),
    "session": (r"[A-Za-z0-9_.]{1,64}", "a session is up to 64 letters and digits"),
    "streams": (r"[1-9][0-9]{0,8}", "streams is a whole number above 0"),
}


@dataclass(frozen=True, slots=True)
class ExitChoice:
    """The exit relays that a stream may use: those that are in both sets. None stands for all.

    ``countries``: codes of two letters. ``fingerprints``: 40 hexadecimal digits each. ValueError
    for anything else.
    """

    countries: frozenset[str] | None = None
    fingerprints: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for field, kind, spell in (
            ("countries", "country", str.lower),
            ("fingerprints", "exit", str.upper),
        ):
            values = getattr(self, field)
            check_arguments(Collection, None, **{field: values})
            pattern, sentence = _PATTERNS[kind]
            for value in values or ():
                if "," in value or not re.fullmatch(pattern, value):
                    raise ValueError(sentence)
            if values is not None:
                object.__setattr__(self, field, frozenset(map(spell, values)))

    def __bool__(self) -> bool:
        return self.countries is not None or self.fingerprints is not None

    def narrowed(self, by: ExitChoice) -> ExitChoice:
        """Return the relays that are in both choices. Raises ``NoSuchExit`` if none can be."""
        if not self:
            return by
        both = ExitChoice(
            _common(self.countries, by.countries), _common(self.fingerprints, by.fingerprints)
        )
        if both.countries == frozenset() or both.fingerprints == frozenset():
            raise NoSuchExit("the listener does not allow what the client asks for")
        return both

    @property
    def parts(self) -> tuple[bytes, bytes]:
        """Return what stands for this choice in an isolation key."""
        return _listed(self.countries), _listed(self.fingerprints)


def _common(one: frozenset[str] | None, two: frozenset[str] | None) -> frozenset[str] | None:
    return one & two if one is not None and two is not None else one if two is None else two


@lru_cache(MOST_PARSED)
def _listed(values: frozenset[str] | None) -> bytes:
    return b"*" if values is None else ",".join(sorted(values)).encode("ascii")


ANY_EXIT = ExitChoice()


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a client asks for: ``lifetime`` in seconds, ``streams`` for each circuit."""

    exits: ExitChoice = ANY_EXIT
    session: bytes = b""
    lifetime: float | None = None
    streams: int | None = None


def split_username(username: bytes) -> tuple[bytes, KeyValues]:
    """Return the name in a user name, and the parameters behind it as pairs.

    Names in Tor's own format (``<torS0X>``) hold no parameters. Raises ValueError, whose sentence
    never quotes the client.
    """
    if username.startswith(EXTENDED_PREFIX):
        return username, NO_PAIRS
    name, hyphen, wishes = username.partition(b"-")
    return name, _pairs_in(wishes) if hyphen else NO_PAIRS


@lru_cache(MOST_PARSED)
def _pairs_in(wishes: bytes) -> KeyValues:
    words = wishes.split(b"-")
    if len(words) % 2:
        raise ValueError("a user name is NAME, or NAME-key-value-key-value")
    found: dict[str, bytes] = {}
    for key, value in zip(words[::2], words[1::2], strict=True):
        name = key.decode("latin-1")
        known = _ALIASES.get(name, name)
        if known not in _PATTERNS:
            names = ", ".join(sorted([*_PATTERNS, *_ALIASES]))
            raise ValueError(f"the keys of a user name are {names}")
        if PREFIX + known in found:
            raise ValueError("a key of a user name occurs twice")
        _check(known, value)
        found[PREFIX + known] = value
    return KeyValues(tuple(found.items()))


def _check(name: str, value: bytes) -> str:
    pattern, sentence = _PATTERNS[name]
    text = value.decode("latin-1")
    if not re.fullmatch(pattern, text):
        raise ValueError(sentence)
    return text


@lru_cache(MOST_PARSED)
def parameters(pairs: KeyValues) -> Parameters:
    """Return what pairs in ``X-torsocks.`` ask for, and remember it. Raises ValueError."""
    names = {key.removeprefix(PREFIX): value for key, value in pairs}
    found = {name: _check(name, value) for name, value in names.items()}
    countries, exits = (
        frozenset(found[name].split(",")) if name in found else None for name in ("country", "exit")
    )
    return Parameters(
        ExitChoice(countries, exits),
        found.get("session", "").encode("ascii"),
        int(found["lifetime"]) * _MINUTE if "lifetime" in found else None,
        int(found["streams"]) if "streams" in found else None,
    )


class ParameterKeys:
    """The handler of the keys in ``X-torsocks.``: checks them, or refuses them by their names."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed

    def knows(self, key: str) -> bool:
        """Whether the listener uses this key. A session is named by the key ISOLATION."""
        return self._allowed and key.removeprefix(PREFIX) in _PATTERNS and key != _SESSION

    def __call__(self, pairs: KeyValues) -> KeyValues:
        """Raise ``InvalidArguments`` for keys that cannot be used, and for values that are none."""
        unknown = [key for key in pairs.names if not self.knows(key)]
        if unknown:
            said = KeyValues.of({UNSUPPORTED: key_list(unknown)})
            raise InvalidArguments("parameters of circuits that are not allowed here", said)
        if len(pairs.names) < len(pairs):
            raise InvalidArguments("a key occurs twice")
        try:
            parameters(pairs)
        except ValueError as error:
            raise InvalidArguments(str(error)) from None
        return NO_PAIRS


@dataclass(frozen=True, slots=True)
class CircuitRules:
    """What one listener says of circuits, applied to the requests of its clients.

    ``every``, ``after``: seconds and streams until a key gets a fresh circuit. ``fresh`` counts
    them. ``reads_clients``: requests may hold parameters.
    """

    exits: ExitChoice
    every: float | None
    after: int | None
    fresh: FreshCircuits
    reads_clients: bool

    def apply(
        self, request: Request, key: tuple[bytes, ...], now: float
    ) -> tuple[tuple[bytes, ...], ExitChoice | None, Tries]:
        """Return the parts of a request's isolation key, its exits (None: any), and their cost.

        ``key`` stands for all else that isolates. Raises ``NoSuchExit`` and ``NoFreshCircuit``.
        """
        exits, every, after, session = self.exits, self.every, self.after, b""
        if self.reads_clients and request.pairs.pairs:
            asked = parameters(request.pairs.of_kind(PREFIX))
            if asked.exits:
                exits = exits.narrowed(asked.exits)
            every, after = _least(every, asked.lifetime), _least(after, asked.streams)
            session = asked.session
        rotates = every is not None or after is not None
        rotation = str((every, after)).encode("ascii") if rotates else b""
        text = repr(key).encode("ascii")  # one part, which no other key gives
        parts: tuple[bytes, ...] = (b"circuit", text, *exits.parts, session, rotation)
        is_counted = rotates or bool(session)
        if is_counted:
            number = self.fresh.number(parts, every, after, now)
            parts = (*parts, number) if rotates else parts
        return parts, exits or None, Tries(self.fresh, is_counted)


def _least(*values: _N | None) -> _N | None:
    return min((value for value in values if value is not None), default=None)
