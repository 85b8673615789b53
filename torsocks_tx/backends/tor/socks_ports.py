"""Which SocksPorts a tor has, what their flags mean for us, and which one to use.

Reads ``GETINFO net/listeners/socks`` (where they are) and ``GETCONF SocksPort __SocksPort`` (their
flags, by tor's own rules: any case, ``No`` inverts, a trailing "s" is ignored, the last one wins).
Opens nothing and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from torsocks_tx.backends.tor.events import EventError, parse_strings, unquote
from torsocks_tx.backends.tor.paths import path_of

Place = str | tuple[str, int]
"""Where a SocksPort listens: the path of a unix socket, or host and port."""

_DEFAULT_OF: dict[str, bool] = {
    "DNSRequest": True,
    "ExtendedErrors": False,
    "IPv4Traffic": True,
    "IPv6Traffic": True,
    "IsolateClientAddr": True,
    "IsolateClientProtocol": False,
    "IsolateDestAddr": False,
    "IsolateDestPort": False,
    "IsolateSOCKSAuth": True,
    "KeepAliveIsolateSOCKSAuth": False,
    "OnionTraffic": True,
    "PreferIPv6": False,
    "PreferSOCKSNoAuth": False,
}
_NAME_OF = {name.lower(): name for name in _DEFAULT_OF}
_ONION_ONLY = "oniontrafficonly"
_ONION_ONLY_MEANS = ("DNSRequest", "IPv4Traffic", "IPv6Traffic")

TRAFFIC_FLAGS = frozenset(
    {"NoDNSRequest", "NoIPv4Traffic", "NoIPv6Traffic", "NoOnionTraffic", "PreferIPv6"}
)
"""Flags that change which connections are made or how, so that a port with them is a choice."""

_AUTO = 0
_DEFAULT_PLACE = ("127.0.0.1", 9050)
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_LINE = re.compile(r'(?P<place>unix:"(?:[^"\\]|\\.)*"|\S+)(?P<flags>.*)')


@dataclass(frozen=True, slots=True)
class SocksListener:
    """One SocksPort of a tor.

    ``flags`` are those that differ from tor's defaults, spelled as in tor(1) (``NoIPv6Traffic``);
    None where tor did not tell them.
    """

    place: Place
    flags: frozenset[str] | None

    @property
    def known_flags(self) -> frozenset[str]:
        """The flags, none if unknown."""
        return self.flags or frozenset()


def parse_flags(words: Iterable[str], strict: bool = False) -> frozenset[str]:
    """Reduce flags to those that differ from tor's defaults.

    Words that tor does not know are skipped, as tor does; ``strict`` makes them a ``ValueError``.
    """
    values: dict[str, bool] = {}
    for word in words:
        lowered = word.lower()
        value = not lowered.startswith("no")
        bare = lowered if value else lowered[2:]
        name = _NAME_OF.get(bare) or _NAME_OF.get(bare.removesuffix("s"))
        if bare == _ONION_ONLY and value:
            values.update(dict.fromkeys(_ONION_ONLY_MEANS, False))
        elif name is not None:
            values[name] = value
        elif strict:
            raise ValueError(f"tor's SocksPort has no flag {word!r}")
    return frozenset(
        name if value else f"No{name}"
        for name, value in values.items()
        if value != _DEFAULT_OF[name]
    )


def parse_listeners(value: str) -> tuple[Place, ...]:
    """Read ``GETINFO net/listeners/socks``; entries of a kind not known are left out."""
    places = (_parse_place(entry) for entry in parse_strings(value))
    return tuple(place for place in places if place is not None)


def parse_config(answer: str) -> tuple[SocksListener, ...]:
    """Read the answer to ``GETCONF SocksPort __SocksPort``; port 0 stands for ``auto``."""
    lines = (line.partition("=") for line in answer.splitlines())
    found = [_parse_line(value) for _, equals, value in lines if equals]
    if not found:
        return (SocksListener(_DEFAULT_PLACE, frozenset()),)
    return tuple(listener for listener in found if listener is not None)


def with_flags(
    places: Iterable[Place], configured: Sequence[SocksListener] | None
) -> tuple[SocksListener, ...]:
    """Give each open port the flags of its line in the configuration (None: not to be had)."""
    return tuple(SocksListener(place, _flags_at(place, configured or ())) for place in places)


def seen_from_here(place: Place, control_host: str | None) -> Place | None:
    """Return where this port is reached from here, or None if it must not be tried.

    ``control_host`` is the address of the control port, None for a unix socket. Of a tor on this
    machine only unix sockets and loopback are used, of another one only the control port's address.
    """
    is_local = control_host is None or ip_address(control_host).is_loopback
    if isinstance(place, str):
        return place if is_local else None
    host, port = place
    if host in _WILDCARDS:
        return (_WILDCARDS[host] if is_local or control_host is None else control_host), port
    if ip_address(host).is_loopback:
        return place if is_local else None
    return place if host == control_host else None


def choose(listeners: Iterable[SocksListener], wanted: frozenset[str]) -> SocksListener | None:
    """Pick the best port that has the flags ``wanted``; None if there is no such port.

    If none are wanted, a port with restrictions is better than none. Otherwise: isolation before
    none, plain before ExtendedErrors (whose answers about onion services cannot be trusted), unix
    before TCP.
    """
    fitting = [listener for listener in listeners if wanted <= listener.known_flags]
    return min(fitting, key=lambda listener: _demerits(listener, wanted), default=None)


def complaints(listener: SocksListener) -> list[str]:
    """Say in whole sentences what is wrong with the port that was chosen."""
    flags, found = listener.known_flags, []
    if "NoIsolateSOCKSAuth" in flags:
        found.append(
            "tor's SocksPort has NoIsolateSOCKSAuth: no stream can be isolated from another;"
            " take that flag out of tor's torrc"
        )
    if "KeepAliveIsolateSOCKSAuth" in flags:
        found.append(
            "tor's SocksPort has KeepAliveIsolateSOCKSAuth: circuits are never renewed while they"
            " are in use, because every stream carries isolation credentials"
        )
    restrictions = sorted(flags & TRAFFIC_FLAGS)
    if restrictions:
        found.append(f"tor's SocksPort has {' '.join(restrictions)}: this holds for all clients")
    return found


def _demerits(listener: SocksListener, wanted: frozenset[str]) -> tuple[int | bool, ...]:
    flags = listener.known_flags
    return (
        len((flags & TRAFFIC_FLAGS) - wanted),
        "NoIsolateSOCKSAuth" in flags,
        "ExtendedErrors" in flags,
        "KeepAliveIsolateSOCKSAuth" in flags,
        listener.flags is None,
        not isinstance(listener.place, str),
    )


def _flags_at(place: Place, configured: Sequence[SocksListener]) -> frozenset[str] | None:
    """Return the flags of the line that opened this port; None if that is not clear."""
    candidates = [line.flags for line in configured if line.place == place]
    if not candidates and not isinstance(place, str):
        candidates = [line.flags for line in configured if line.place == (place[0], _AUTO)]
    return candidates[0] if candidates and len(set(candidates)) == 1 else None


def _parse_line(value: str) -> SocksListener | None:
    try:
        # tor quotes the whole line once more where it is not all printable ASCII.
        line = unquote(value) if value.startswith('"') else value
        match = _LINE.fullmatch(line.strip())
        if match is None:
            return None
        words = match["place"]
        if words.startswith('unix:"'):
            words = "unix:" + unquote(words.removeprefix("unix:"))
        place = _parse_place(words)
    except EventError:
        return None
    return None if place is None else SocksListener(place, parse_flags(match["flags"].split()))


def _parse_place(text: str) -> Place | None:
    """Read ``unix:/path``, ``host:port``, ``[v6]:port``, ``port`` or ``auto``; None: no port."""
    if text.startswith("unix:"):
        return path_of(text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    if port == "auto":
        number = _AUTO
    elif port.isdecimal() and 0 < int(port) <= 0xFFFF:
        number = int(port)
    else:
        return None
    try:
        return str(ip_address(host.strip("[]") or _DEFAULT_PLACE[0])), number
    except ValueError:
        return (_DEFAULT_PLACE[0], number) if host.lower() == "localhost" else None
