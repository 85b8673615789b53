"""The words behind ``--listen``: a listener's flags, as torrc writes them behind a SocksPort.

Case does not matter, ``No`` in front turns a flag off, a trailing ``s`` is forgiven, and the last
word wins.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torsocks_tx.policy.isolation import IsolationFlags
from torsocks_tx.policy.listener import ListenerPolicy


class FlagError(ValueError):
    """A flag is unknown, has a bad value, or contradicts another; the text says how to mend it."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its name as tor(1) writes it, the field that it sets, and what it is for."""

    name: str
    field: str
    purpose: str
    isolation: bool = False


FLAGS: tuple[Flag, ...] = (
    Flag("ExtendedErrors", "extended_errors", "tell SOCKS5 clients why an onion service failed"),
    Flag("ExtendedAuth", "extended_auth", "method X'97' for clients that offer it"),
    Flag("SwapE0E1", "swap_e0_e1", "codes E0 and E1 as proposal 229's sentences have them"),
    Flag("IsolateClientAddr", "client_addr", "one client address, one circuit", True),
    Flag("IsolateSOCKSAuth", "socks_auth", "one user name and password, one circuit", True),
    Flag("IsolateClientProtocol", "client_protocol", "SOCKS4 and SOCKS5 apart", True),
    Flag("IsolateDestPort", "dest_port", "one destination port, one circuit", True),
    Flag("IsolateDestAddr", "dest_addr", "one destination address, one circuit", True),
    Flag("PreferSOCKSNoAuth", "prefer_socks_no_auth", "method 00 wherever it is offered"),
    Flag("OnionTraffic", "onion_traffic", "onion services"),
    Flag("IPv4Traffic", "ipv4_traffic", "IPv4 destinations"),
    Flag("IPv6Traffic", "ipv6_traffic", "IPv6 destinations"),
    Flag("PreferIPv6", "prefer_ipv6", "IPv6 for names that have both"),
    Flag("DNSRequest", "dns_request", "destinations by name, and look-ups"),
    Flag("IPv6Connect", "ipv6_connect", "off: answer 08 to CONNECT with an IPv6 address"),
    Flag("SafeSocks", "safe_socks", "refuse clients that give an IP address in place of a name"),
    Flag("TestSocks", "test_socks", "log for each request whether it was by name"),
    Flag("AllowPublic", "allow_public", "let the listener stand where others can reach it"),
)
_BY_NAME = {flag.name.lower(): flag for flag in FLAGS}
ONION_ONLY = "oniontrafficonly"
"""What stands for three flags, in lower case."""

_GROUP = "sessiongroup="
_FOR_TOR = {
    name: f"{name} is a flag of tor's own SocksPort and means nothing here"
    for name in (
        "CacheIPv4DNS",
        "CacheIPv6DNS",
        "CacheDNS",
        "UseIPv4Cache",
        "UseIPv6Cache",
        "UseDNSCache",
        "PreferIPv6Automap",
        "KeepAliveIsolateSOCKSAuth",
    )
}
_IGNORED = {name.lower(): note for name, note in _FOR_TOR.items()}
_KNOWN = {*_BY_NAME, *_IGNORED, ONION_ONLY}


def parse_flags(words: Iterable[str]) -> tuple[ListenerPolicy, list[str]]:
    """The policy that the words ask for, and notes about words that do nothing.

    Raises ``FlagError``.
    """
    fields: dict[str, Any] = {}
    isolation: dict[str, bool] = {}
    group: int | None = None
    notes: list[str] = []
    for word in words:
        bare, positive = parse_word(word, _KNOWN)
        if bare.startswith(_GROUP) and positive:
            group = _session_group(word)
        elif bare in _IGNORED:
            notes.append(_IGNORED[bare])
        elif bare == ONION_ONLY and positive:
            fields.update(dns_request=False, ipv4_traffic=False, ipv6_traffic=False)
        elif bare == ONION_ONLY:
            notes.append("NoOnionTrafficOnly is what holds anyway")
        elif bare in _BY_NAME:
            flag = _BY_NAME[bare]
            (isolation if flag.isolation else fields)[flag.field] = positive
        else:
            raise FlagError(_unknown(word))
    flags = replace(IsolationFlags(), session_group=group, **isolation)
    policy = replace(ListenerPolicy(), isolation=flags, **fields)
    _check(policy)
    return policy, notes


def parse_word(word: str, known: Container[str]) -> tuple[str, bool]:
    """Return a flag's name in lower case, and whether it is on, as tor reads it.

    A trailing ``s`` is only kept where the name is a ``known`` one: tor(1)'s older spellings.
    """
    lowered = word.lower()
    positive = not lowered.startswith("no")
    bare = lowered if positive else lowered[2:]
    return bare if bare in known else bare.removesuffix("s"), positive


def _session_group(word: str) -> int:
    number = word.partition("=")[2]
    if not number.isdecimal():
        raise FlagError(f"{word}: a session group is a whole number, as in SessionGroup=1")
    return int(number)


def _unknown(word: str) -> str:
    names = [flag.name for flag in FLAGS] + ["OnionTrafficOnly", "SessionGroup=N"]
    names += [f"No{flag.name}" for flag in FLAGS]
    spelled = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), list(spelled), n=1, cutoff=0.5)
    hint = f"did you mean {spelled[near[0]]}?" if near else "see --help-flags"
    return f"unknown flag {word!r}: {hint}"


def _check(policy: ListenerPolicy) -> None:
    by_address = policy.ipv4_traffic or policy.ipv6_traffic
    if not by_address and not policy.onion_traffic:
        raise FlagError("NoIPv4Traffic, NoIPv6Traffic and NoOnionTraffic leave nothing to do")
    if not by_address and policy.dns_request:
        raise FlagError(
            "NoIPv4Traffic and NoIPv6Traffic leave names nowhere to go: OnionTrafficOnly"
        )
