"""What one listener allows: its flags, with the names that tor(1) gives those of a SocksPort.

``parse_flags`` reads them as torrc writes them behind a SocksPort: case does not matter, ``No`` in
front turns a flag off, a trailing ``s`` is ignored, and the last of several flags wins.
``ListenerPolicy.check`` judges a request before a backend sees it. What flags mean for circuits is
in ``isolation``, and what they mean for replies in ``socks.replies``.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torsocks_tx.errors import AddressTypeNotSupported, HostUnreachable, NotAllowed
from torsocks_tx.limits import check_arguments, check_flags, check_limit
from torsocks_tx.policy.circuits import (
    ANY_EXIT,
    FRESH_RATE,
    PREFIX,
    CircuitRules,
    ExitChoice,
    ParameterKeys,
    split_username,
)
from torsocks_tx.policy.fresh import MOST_RATE, FreshCircuits
from torsocks_tx.policy.isolation import IsolationFlags
from torsocks_tx.socks.constants import AddressType, Command, Role, Version
from torsocks_tx.socks.extended import KeyHandler
from torsocks_tx.socks.messages import Address, Request
from torsocks_tx.socks.server import SplitName

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """The flags of a listener, each named as on the command line but with underscores.

    ``ipv6_connect`` off: CONNECT to an IPv6 address gets 08, as older socks-extensions say.
    ``allow_public``: the listener may be on an address that others can reach. ``extended_auth``
    off: extended authentication is never selected. ``exits``: the exit relays that may be used;
    ``rotate_every`` (seconds) and ``rotate_after`` (streams): when a key gets a fresh circuit.
    ``proxy_protocol``: connections begin with a PROXY header, and come from these networks or by a
    unix socket. ``name`` stands for the listener in isolation keys.
    ``role`` is not a flag: it says whether applications connect here, or a tor that uses a
    pluggable transport.
    """

    isolation: IsolationFlags = field(default_factory=IsolationFlags)
    extended_errors: bool = False
    extended_auth: bool = True
    swap_e0_e1: bool = False
    prefer_socks_no_auth: bool = False
    onion_traffic: bool = True
    ipv4_traffic: bool = True
    ipv6_traffic: bool = True
    prefer_ipv6: bool = False
    dns_request: bool = True
    ipv6_connect: bool = True
    http_connect: bool = True
    http_ask_for_credentials: bool = False
    safe_socks: bool = False
    test_socks: bool = False
    allow_public: bool = False
    exits: ExitChoice = ANY_EXIT
    rotate_every: int | None = None
    rotate_after: int | None = None
    fresh_rate: int = FRESH_RATE
    client_parameters: bool = False
    proxy_protocol: tuple[Network, ...] | None = None
    name: str | None = None
    role: Role = Role.TOR

    def __post_init__(self) -> None:
        check_flags(self)
        check_arguments(IsolationFlags, isolation=self.isolation)
        check_arguments(Role, role=self.role)
        check_arguments(ExitChoice, exits=self.exits)
        check_limit("fresh_rate", self.fresh_rate)
        if self.fresh_rate > MOST_RATE:
            raise FlagError(f"FreshRate is at most {MOST_RATE} fresh circuits a minute")
        check_arguments(tuple, None, proxy_protocol=self.proxy_protocol)
        check_arguments(str, None, name=self.name)
        for name, value in (("every", self.rotate_every), ("after", self.rotate_after)):
            if value is not None:
                check_limit(f"rotate_{name}", value)
        if self.ipv4_traffic or self.ipv6_traffic:
            return
        if not self.onion_traffic:
            raise FlagError("NoIPv4Traffic, NoIPv6Traffic and NoOnionTraffic leave nothing to do")
        if self.dns_request:
            words = "NoIPv4Traffic and NoIPv6Traffic refuse all names: use OnionTrafficOnly"
            raise FlagError(words)

    @property
    def chooses_exits(self) -> bool:
        """Whether requests may be bound to an exit relay, which needs tor's control port."""
        return bool(self.exits) or self.client_parameters

    @property
    def split_name(self) -> SplitName | None:
        """Return what finds the parameters in user names; None where these are only names."""
        return split_username if self.client_parameters else None

    @property
    def parameter_keys(self) -> dict[str, KeyHandler]:
        """Return the handler of parameters by extended authentication, also if it refuses them."""
        if self.role is Role.PT:
            return {}
        return {PREFIX: ParameterKeys(allowed=self.client_parameters)}

    def circuit_rules(self, fresh: FreshCircuits | None = None) -> CircuitRules | None:
        """Return what the flags say of circuits; None where they say nothing.

        ``fresh`` counts the listener's fresh circuits; by default a new one does.
        """
        every, after = self.rotate_every, self.rotate_after
        if not self.chooses_exits and every is None and after is None:
            return None
        fresh = fresh or FreshCircuits(self.fresh_rate)
        return CircuitRules(self.exits, every, after, fresh, self.client_parameters)

    @property
    def port_flags(self) -> frozenset[str]:
        """Return the flags that tor's own SocksPort must have, for requests to an exit relay.

        They depend on the address of a name, which only the exit relay knows (``is_for_exit``).
        """
        if not self.dns_request:
            return frozenset()
        wanted = {
            "NoIPv4Traffic": not self.ipv4_traffic,
            "NoIPv6Traffic": not self.ipv6_traffic,
            "PreferIPv6": self.prefer_ipv6,
        }
        return frozenset(name for name, on in wanted.items() if on)

    def for_family(self, preference: bytes | None) -> ListenerPolicy:
        """Return this policy with what a ``Tor-Family-Preference`` asks for a request.

        Raises ``NotAllowed`` where the flags leave no family.
        """
        if preference is None:
            return self
        prefer_ipv6, ipv4, ipv6 = _FAMILIES.get(preference, _FAMILIES[b"ipv4-preferred"])
        if not ((ipv4 and self.ipv4_traffic) or (ipv6 and self.ipv6_traffic)):
            raise NotAllowed("Tor-Family-Preference, and a traffic flag of this listener")
        return replace(
            self,
            prefer_ipv6=prefer_ipv6,
            ipv4_traffic=self.ipv4_traffic and ipv4,
            ipv6_traffic=self.ipv6_traffic and ipv6,
        )

    @property
    def all_port_flags(self) -> set[frozenset[str]]:
        """Return every ``port_flags`` that a request can need, with those of each family."""
        found = {self.port_flags}
        for preference in _FAMILIES if self.http_connect else ():
            with suppress(NotAllowed):
                found.add(self.for_family(preference).port_flags)
        return found

    @property
    def is_restrictive(self) -> bool:
        """Whether there is any request that ``check`` refuses."""
        kinds = self.onion_traffic, self.ipv4_traffic, self.ipv6_traffic, self.dns_request
        return self.safe_socks or not self.ipv6_connect or not all(kinds)

    def check(self, request: Request) -> None:
        """Raise a ``Refused`` for a request that this listener does not allow."""
        address, connects = request.address.literal(), request.command is Command.CONNECT
        by_ip = request.address.type is not AddressType.HOSTNAME
        if self.safe_socks and by_ip and request.command is not Command.RESOLVE_PTR:
            # The client may have looked up the name itself, outside Tor.
            raise NotAllowed("SafeSocks: the request has an IP address in place of a name")
        by_socks5 = connects and request.version is Version.SOCKS5
        if not self.ipv6_connect and by_socks5 and address.type is AddressType.IPV6:
            raise AddressTypeNotSupported("NoIPv6Connect")
        if not self._carries(address):
            kind = NotAllowed if connects else HostUnreachable
            raise kind("a traffic flag of this listener")

    def _carries(self, address: Address) -> bool:
        """Whether the traffic flags allow this destination."""
        if address.type is AddressType.IPV4:
            return self.ipv4_traffic
        if address.type is AddressType.IPV6:
            return self.ipv6_traffic
        return self.onion_traffic if address.is_onion else self.dns_request


# What each value of Tor-Family-Preference means: IPv6 first, IPv4 at all, IPv6 at all.
_FAMILIES: dict[bytes, tuple[bool, bool, bool]] = {
    b"ipv4-preferred": (False, True, True),
    b"ipv6-preferred": (True, True, True),
    b"ipv4-only": (False, True, False),
    b"ipv6-only": (False, False, True),
}


class FlagError(ValueError):
    """A flag is unknown, has a bad value, or contradicts another; the text says how to fix it."""


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("write a whole number above 0")
    return int(text)


def _group(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a session group is a whole number")
    return int(text)


def _countries(text: str) -> ExitChoice:
    return ExitChoice(countries=frozenset(text.split(",")))


def _relays(text: str) -> ExitChoice:
    return ExitChoice(fingerprints=frozenset(each.removeprefix("$") for each in text.split(",")))


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, text.split(","))) if text else ()


def _name(text: str) -> str:
    if not re.fullmatch(r"(?!listener-)[A-Za-z0-9_.-]{1,64}", text):
        raise ValueError("a name is up to 64 letters and digits, and does not begin with listener-")
    return text


class Flag(NamedTuple):
    """One flag: how tor(1) writes it, the field that it sets, and what it is for.

    ``read``: how its value is read; None for a flag that is on or off. ``isolation``: the field is
    one of ``IsolationFlags``.
    """

    usage: str
    field: str
    purpose: str
    isolation: bool = False
    read: Callable[[str], Any] | None = None


FLAGS = (
    Flag("ExtendedErrors", "extended_errors", "tell SOCKS5 clients why an onion service failed"),
    Flag("ExtendedAuth", "extended_auth", "extended authentication for clients that offer it"),
    Flag("SwapE0E1", "swap_e0_e1", "swap E0 and E1: proposal 229 contradicts itself there"),
    Flag("IsolateClientAddr", "client_addr", "two client addresses never share a circuit", True),
    Flag("IsolateSOCKSAuth", "socks_auth", "two logins never share a circuit", True),
    Flag("IsolateClientProtocol", "client_protocol", "SOCKS4, 5, HTTP never share a circuit", True),
    Flag("IsolateDestPort", "dest_port", "two destination ports never share a circuit", True),
    Flag("IsolateDestAddr", "dest_addr", "two destination hosts never share a circuit", True),
    Flag("PreferSOCKSNoAuth", "prefer_socks_no_auth", "no authentication wherever it is offered"),
    Flag("OnionTraffic", "onion_traffic", "allow onion services"),
    Flag("IPv4Traffic", "ipv4_traffic", "allow IPv4 destinations"),
    Flag("IPv6Traffic", "ipv6_traffic", "allow IPv6 destinations"),
    Flag("PreferIPv6", "prefer_ipv6", "prefer IPv6 for names that have both"),
    Flag("DNSRequest", "dns_request", "allow destinations by name, and look-ups"),
    Flag("IPv6Connect", "ipv6_connect", "off: answer 08 to CONNECT with an IPv6 address"),
    Flag("HTTPConnect", "http_connect", "serve CONNECT of HTTP on the same port"),
    Flag("HTTPAskForCredentials", "http_ask_for_credentials", "ask browsers for a login, once"),
    Flag("SafeSocks", "safe_socks", "refuse clients that give an IP address in place of a name"),
    Flag("TestSocks", "test_socks", "log for each request whether it was by name"),
    Flag("ClientParameters", "client_parameters", "clients choose exits and fresh circuits"),
    Flag("AllowPublic", "allow_public", "allow an address that other machines can reach"),
)
VALUE_FLAGS = (
    Flag("SessionGroup=N", "session_group", "listeners with the same N may share circuits", True,
         read=_group),
    Flag("ExitCountry=de,fr", "exits", "only exit relays in these countries", read=_countries),
    Flag("ExitNode=FP,FP", "exits", "only these exit relays, by fingerprint", read=_relays),
    Flag("RotateEvery=SECONDS", "rotate_every", "a fresh circuit after so long", read=_whole),
    Flag("RotateAfter=N", "rotate_after", "a fresh circuit after so many streams", read=_whole),
    Flag("FreshRate=N", "fresh_rate", "fresh circuits a minute for all clients: 30", read=_whole),
    Flag("ProxyProtocol=ADDR/BITS", "proxy_protocol", "PROXY headers, from there", read=_networks),
    Flag("Name=NAME", "name", "one name for this listener on several servers", read=_name),
)  # fmt: skip
_BY_NAME = {flag.usage.lower(): flag for flag in FLAGS}
_BY_VALUE_NAME = {flag.usage.partition("=")[0].lower(): flag for flag in VALUE_FLAGS}
ONION_ONLY = "oniontrafficonly"
"""A word for three flags, in lower case."""

_FOR_TOR = ["CacheIPv4DNS", "CacheIPv6DNS", "CacheDNS", "UseIPv4Cache", "UseIPv6Cache",
            "UseDNSCache", "PreferIPv6Automap", "KeepAliveIsolateSOCKSAuth"]  # fmt: skip
_IGNORED = {
    name.lower(): f"{name} is a flag of tor's own SocksPort and means nothing here"
    for name in _FOR_TOR
}
_KNOWN = {*_BY_NAME, *_IGNORED, ONION_ONLY}


def flag_help() -> str:
    """The list of flags for ``--help-flags``: their names, defaults and purposes."""
    policy = ListenerPolicy()
    lines = [
        "Flags of a listener, their defaults, and what they are for. No in front turns one off.",
        "The names are those of tor(1) for its SocksPort; case does not matter.",
        "",
    ]
    for flag in FLAGS:
        on = getattr(policy.isolation if flag.isolation else policy, flag.field)
        lines.append(f"  {flag.usage:<24}{'on' if on else 'off':<5}{flag.purpose}")
    together = "NoIPv4Traffic, NoIPv6Traffic and NoDNSRequest together"
    lines.append(f"  {'OnionTrafficOnly':<24}off  {together}")
    lines += [f"  {flag.usage:<24}     {flag.purpose}" for flag in VALUE_FLAGS]
    lines += [
        "",
        "On a unix socket, and behind a balancer, all clients have one address, unless PROXY",
        "headers announce others: IsolateClientAddr does not keep them apart.",
    ]
    return "\n".join(lines)


def parse_flags(words: Iterable[str]) -> tuple[ListenerPolicy, list[str]]:
    """Return the policy that the words ask for, and notes about words that do nothing.

    Raises ``FlagError``.
    """
    fields: dict[str, Any] = {}
    isolation: dict[str, Any] = {}
    notes: list[str] = []
    for word in words:
        bare, positive = parse_word(word, _KNOWN)
        flag = _BY_VALUE_NAME.get(word.partition("=")[0].lower()) or _BY_NAME.get(bare)
        if flag is not None:
            place = isolation if flag.isolation else fields
            place[flag.field] = positive if flag.read is None else _value(flag, word, place)
        elif bare in _IGNORED:
            notes.append(_IGNORED[bare])
        elif bare == ONION_ONLY and positive:
            fields.update(dns_request=False, ipv4_traffic=False, ipv6_traffic=False)
        elif bare == ONION_ONLY:
            notes.append("NoOnionTrafficOnly is the default")
        else:
            raise FlagError(_unknown(word))
    return ListenerPolicy(isolation=IsolationFlags(**isolation), **fields), notes


def _value(flag: Flag, word: str, place: Mapping[str, Any]) -> Any:
    assert flag.read is not None, "it is written with a value"
    try:
        value = flag.read(word.partition("=")[2])
        if isinstance(value, ExitChoice):  # ExitCountry and ExitNode together: relays in both
            before = place.get(flag.field, ANY_EXIT)
            value = ExitChoice(
                value.countries or before.countries, value.fingerprints or before.fingerprints
            )
    except ValueError as error:
        raise FlagError(f"{word}: {error}, as in {flag.usage}") from None
    return value


def parse_word(word: str, known: Container[str]) -> tuple[str, bool]:
    """Return a flag's name in lower case, and whether it is on, as tor reads it.

    A trailing ``s`` is dropped, as tor does for older spellings, unless the name is ``known``.
    """
    lowered = word.lower()
    positive = not lowered.startswith("no")
    bare = lowered if positive else lowered[2:]
    return bare if bare in known else bare.removesuffix("s"), positive


def _unknown(word: str) -> str:
    names = [flag.usage for flag in (*FLAGS, *VALUE_FLAGS)] + ["OnionTrafficOnly"]
    names += [f"No{flag.usage}" for flag in FLAGS]
    spelled = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), list(spelled), n=1, cutoff=0.5)
    hint = f"did you mean {spelled[near[0]]}?" if near else "see --help-flags"
    return f"unknown flag {word!r}: {hint}"
