"""The SocksPorts of a tor: which there are, what their flags mean, and which are better.

Those of a running tor are found by its control port: ``GETINFO net/listeners/socks`` (where they
are) and ``GETCONF SocksPort __SocksPort`` (their flags). tor's configuration is never changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from torsocks_tx.backends.tor.commands import SOCKS_CONFIGURATION, SOCKS_LISTENERS
from torsocks_tx.backends.tor.control import Control, ControlError, unless_refused
from torsocks_tx.backends.tor.events import EventError, parse_strings, path_of, printable, unquote
from torsocks_tx.backends.tor.waiting import limit
from torsocks_tx.limits import check_arguments
from torsocks_tx.policy.listener import ONION_ONLY, parse_word
from torsocks_tx.relay.connector import SocketEndpoint, Target

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
_ONION_ONLY_MEANS = ("DNSRequest", "IPv4Traffic", "IPv6Traffic")

TRAFFIC_FLAGS = frozenset(
    {"NoDNSRequest", "NoIPv4Traffic", "NoIPv6Traffic", "NoOnionTraffic", "PreferIPv6"}
)
"""Flags that change which connections are made or how."""

_AUTO = 0
DEFAULT_PLACE = ("127.0.0.1", 9050)
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_LINE = re.compile(r'(?P<place>unix:"(?:[^"\\]|\\.)*"|\S+)(?P<flags>.*)')


class NoSocksPort(Exception):
    """The tor has no SocksPort that we can use; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class SocksPort:
    """A SocksPort of tor and how to speak to it.

    ``pipelined``: it is C Tor's, so greeting, request and early data may go in one write.
    ``flags``: those that differ from tor's defaults, spelled as in tor(1) (``NoIPv6Traffic``).
    """

    endpoint: IStreamClientEndpoint
    pipelined: bool
    flags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_arguments(IStreamClientEndpoint, endpoint=self.endpoint)
        check_arguments(bool, pipelined=self.pipelined)
        check_arguments(frozenset, flags=self.flags)


@dataclass(frozen=True, slots=True)
class SocksListener:
    """Where tor listens, and with which ``flags``; None: unknown."""

    place: Place
    flags: frozenset[str] | None


def parse_flags(words: Iterable[str], strict: bool = False) -> frozenset[str]:
    """Reduce flags to those that differ from tor's defaults.

    Words that tor does not know are skipped, as tor does; ``strict`` makes them a ``ValueError``.
    """
    values: dict[str, bool] = {}
    for word in words:
        bare, value = parse_word(word, _NAME_OF)
        if bare == ONION_ONLY and value:
            values.update(dict.fromkeys(_ONION_ONLY_MEANS, False))
        elif bare in _NAME_OF:
            values[_NAME_OF[bare]] = value
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
        return (SocksListener(DEFAULT_PLACE, frozenset()),)
    return tuple(listener for listener in found if listener is not None)


def with_flags(
    places: Iterable[Place], configured: Sequence[SocksListener] | None
) -> tuple[SocksListener, ...]:
    """Give each open port the flags of its line in the configuration (None: unknown)."""
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


def best_first(listeners: Iterable[SocksListener]) -> list[SocksListener]:
    """Sort ports: the fewest restrictions first, then isolation before none.

    Then plain before ExtendedErrors (whose answers about onion services cannot be trusted), known
    flags before unknown ones, and TCP before unix, which holds so little at a time that bulk costs
    more than twice as much.
    """
    return sorted(listeners, key=_demerits)


def _demerits(listener: SocksListener) -> tuple[int | bool, ...]:
    flags = listener.flags or frozenset()
    return (
        len(flags & TRAFFIC_FLAGS),
        "NoIsolateSOCKSAuth" in flags,
        "ExtendedErrors" in flags,
        "KeepAliveIsolateSOCKSAuth" in flags,
        listener.flags is None,
        isinstance(listener.place, str),
    )


def complaints(flags: frozenset[str]) -> list[str]:
    """Return a sentence for each flag of the port in use that a user should know of."""
    found = []
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
        return str(ip_address(host.strip("[]") or DEFAULT_PLACE[0])), number
    except ValueError:
        return (DEFAULT_PLACE[0], number) if host.lower() == "localhost" else None


PROBE_TIMEOUT = 5.0
"""Seconds to see whether a SocksPort takes connections; on this machine it is under one."""


async def find_ports(control: Control) -> list[SocksPort]:
    """Return the SocksPorts of a tor that can be reached now, the best first.

    Raises:
        NoSocksPort: there is none.
        ControlError: tor did not answer.
    """
    configured = await _configured(control)
    places = await _places(control, configured)
    if not places:
        raise NoSocksPort(
            "this tor has no SocksPort (SocksPort 0 or DisableNetwork 1): give it one,"
            " for example 'SocksPort unix:/run/tor/socks'"
        )
    is_c_tor = control.version.startswith("0.")  # Arti has no such control port
    ports = []
    for listener in best_first(with_flags(places, configured)):
        place = seen_from_here(listener.place, control.peer_host)
        if place is not None and await _takes_connections(control.clock, place):
            endpoint = endpoint_at(control.clock, place)
            ports.append(SocksPort(endpoint, is_c_tor, listener.flags or frozenset()))
    if not ports:
        raise NoSocksPort(
            f"no SocksPort of this tor can be reached from here ({_listed(places)}): give it"
            " one on a unix socket or on loopback that this user may use"
        )
    return ports


def endpoint_at(
    reactor: Any, place: Place, timeout: float = PROBE_TIMEOUT
) -> IStreamClientEndpoint:
    """Return the endpoint that connects to a SocksPort."""
    if isinstance(place, str):
        endpoint: IStreamClientEndpoint = UNIXClientEndpoint(reactor, place, timeout=timeout)
        return SocketEndpoint(reactor, Target.unix(place), endpoint)
    host, port = place
    kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    endpoint = kind(reactor, host, port, timeout=timeout)
    return SocketEndpoint(reactor, Target.of(host, port), endpoint)


async def _takes_connections(reactor: Any, place: Place) -> bool:
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    # The endpoint's own timeout would also count time in which this process was stopped.
    trial: Deferred[Any] = endpoint_at(reactor, place, 20 * PROBE_TIMEOUT).connect(factory)
    try:
        protocol = await limit(trial, PROBE_TIMEOUT, reactor)
    except Exception:  # whatever failed, this port cannot be used
        return False
    protocol.transport.abortConnection()
    return True


async def _places(control: Control, configured: Sequence[SocksListener] | None) -> Sequence[Place]:
    """Return where tor listens; where it may not be asked, by its configuration or its default."""
    try:
        return parse_listeners(await control.get_info(SOCKS_LISTENERS.key()))
    except ControlError as error:
        if not error.code:
            raise
    if configured is None:
        return ((control.peer_host or DEFAULT_PLACE[0], DEFAULT_PLACE[1]),)
    return [each.place for each in configured if each.place[1] != _AUTO]


async def _configured(control: Control) -> tuple[SocksListener, ...] | None:
    """Return the configured ports; None where a filter on the control port hides them."""
    answer = await unless_refused(control.command(SOCKS_CONFIGURATION.line()))
    return None if answer is None else parse_config(answer)


def _listed(places: Iterable[Place]) -> str:
    return ", ".join(
        f"unix:{printable(place)}" if isinstance(place, str) else f"{place[0]}:{place[1]}"
        for place in places
    )
