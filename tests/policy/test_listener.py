"""What a listener allows, flag by flag: who is refused, and with what."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.support.names import ONION
from tests.support.rows import rows
from tests.support.tables import at, table
from torsocks_tx.errors import AddressTypeNotSupported, HostUnreachable, NotAllowed, Refused
from torsocks_tx.policy.isolation import IsolationFlags
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.socks.constants import AddressType, Command, Role, Version
from torsocks_tx.socks.messages import Address, Request

CONNECT, RESOLVE, RESOLVE_PTR = Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR
V4, V5 = Version.SOCKS4, Version.SOCKS5


def text(host: str) -> Address:
    return Address(AddressType.HOSTNAME, host, 80)


NAME, ONION_ADDRESS, WORD = at("example.com", 80), at(ONION, 80), at("onion", 80)
FOUR, SIX = at("192.0.2.1", 80), at("2001:db8::1", 80)
FOUR_TEXT, SIX_TEXT, SIX_BRACKETS = text("192.0.2.1"), text("2001:db8::1"), text("[2001:db8::1]")
ADDRESSES = {
    "name": NAME,
    "onion": ONION_ADDRESS,
    "word": WORD,
    "four": FOUR,
    "six": SIX,
    "four text": FOUR_TEXT,
    "six text": SIX_TEXT,
    "six brackets": SIX_BRACKETS,
}
BY_NAME = {"name", "word"}
BY_FOUR = {"four", "four text"}
BY_SIX = {"six", "six text", "six brackets"}
EVERYTHING = set(ADDRESSES)

ALLOWS_ALL = ListenerPolicy()
ONION_ONLY = ListenerPolicy(dns_request=False, ipv4_traffic=False, ipv6_traffic=False)

# The policy, then what it refuses: to CONNECT with 02, and to look-ups with 04, as C Tor does.
TRAFFIC = table(
    [
        ("nothing", ALLOWS_ALL, set()),
        ("NoOnionTraffic", ListenerPolicy(onion_traffic=False), {"onion"}),
        ("NoDNSRequest", ListenerPolicy(dns_request=False), BY_NAME),
        ("NoIPv4Traffic", ListenerPolicy(ipv4_traffic=False), BY_FOUR),
        ("NoIPv6Traffic", ListenerPolicy(ipv6_traffic=False), BY_SIX),
        ("OnionTrafficOnly", ONION_ONLY, EVERYTHING - {"onion"}),
        ("ExtendedErrors", ListenerPolicy(extended_errors=True), set()),
        ("PreferSOCKSNoAuth", ListenerPolicy(prefer_socks_no_auth=True), set()),
        ("PreferIPv6", ListenerPolicy(prefer_ipv6=True), set()),
        ("TestSocks", ListenerPolicy(test_socks=True), set()),
        ("AllowPublic", ListenerPolicy(allow_public=True), set()),
        ("isolation", ListenerPolicy(isolation=IsolationFlags(socks_auth=False)), set()),
    ]
)


def refusal_of(policy: ListenerPolicy, request: Request) -> type[Refused] | None:
    try:
        policy.check(request)
    except Refused as reason:
        return type(reason)
    return None


def can_be_asked(version: Version, command: Command, address: Address) -> bool:
    if version is V4 and (address.type is AddressType.IPV6 or command is RESOLVE_PTR):
        return False
    return command is not RESOLVE_PTR or address.is_ip


@rows("S-14", "S-08")
@pytest.mark.parametrize(("policy", "refused"), TRAFFIC)
def test_traffic_flags(policy: ListenerPolicy, refused: set[str]) -> None:
    for version in Version:
        for command in (CONNECT, RESOLVE, RESOLVE_PTR):
            kind = NotAllowed if command is CONNECT else HostUnreachable
            for name, address in ADDRESSES.items():
                if can_be_asked(version, command, address):
                    expected = kind if name in refused else None
                    found = refusal_of(policy, Request(version, command, address))
                    assert found is expected, (version, command, name)


@rows("S-09")
def test_safe_socks_refuses_addresses_that_the_client_looked_up() -> None:
    policy = ListenerPolicy(safe_socks=True)
    for version in Version:
        for command in (CONNECT, RESOLVE, RESOLVE_PTR):
            for name, address in ADDRESSES.items():
                if can_be_asked(version, command, address):
                    leaks = name in {"four", "six"} and command is not RESOLVE_PTR
                    found = refusal_of(policy, Request(version, command, address))
                    assert found is (NotAllowed if leaks else None), (version, command, name)


@rows("S-09")
def test_without_safe_socks_addresses_pass() -> None:
    for policy in (ALLOWS_ALL, ListenerPolicy(test_socks=True)):
        assert refusal_of(policy, Request(V5, CONNECT, FOUR)) is None
        assert refusal_of(policy, Request(V4, CONNECT, FOUR)) is None


@rows("S-14")
def test_ipv6_connect_off_is_an_address_type_that_is_not_supported() -> None:
    policy = ListenerPolicy(ipv6_connect=False)
    for version in Version:
        for command in (CONNECT, RESOLVE, RESOLVE_PTR):
            for name, address in ADDRESSES.items():
                if can_be_asked(version, command, address):
                    refused = name in BY_SIX and command is CONNECT and version is V5
                    found = refusal_of(policy, Request(version, command, address))
                    assert found is (AddressTypeNotSupported if refused else None)


def test_an_onion_service_in_any_spelling() -> None:
    policy = ListenerPolicy(onion_traffic=False)
    for host in (ONION.upper(), "www." + ONION, ONION + ".", "x.OnIoN"):
        assert refusal_of(policy, Request(V5, CONNECT, text(host))) is NotAllowed
        assert refusal_of(ONION_ONLY, Request(V5, CONNECT, text(host))) is None
    for host in ("onion", "onion.", "x.onion.example", "xonion"):
        assert refusal_of(policy, Request(V5, CONNECT, text(host))) is None
        assert refusal_of(ONION_ONLY, Request(V5, CONNECT, text(host))) is NotAllowed


FOR_TOR = table(
    [
        ("none", ALLOWS_ALL, set()),
        ("NoIPv4Traffic", ListenerPolicy(ipv4_traffic=False), {"NoIPv4Traffic"}),
        ("NoIPv6Traffic", ListenerPolicy(ipv6_traffic=False), {"NoIPv6Traffic"}),
        ("PreferIPv6", ListenerPolicy(prefer_ipv6=True), {"PreferIPv6"}),
        (
            "all of them",
            ListenerPolicy(ipv4_traffic=False, ipv6_traffic=False, prefer_ipv6=True),
            {"NoIPv4Traffic", "NoIPv6Traffic", "PreferIPv6"},
        ),
        ("none where names are refused here", ONION_ONLY, set()),
        (
            "what is kept here",
            ListenerPolicy(
                dns_request=False, onion_traffic=False, safe_socks=True, ipv6_connect=False
            ),
            set(),
        ),
    ]
)


@pytest.mark.parametrize(("policy", "flags"), FOR_TOR)
def test_what_only_tor_can_keep(policy: ListenerPolicy, flags: set[str]) -> None:
    assert policy.port_flags == flags


def test_the_defaults() -> None:
    on = {field.name for field in fields(ListenerPolicy) if getattr(ALLOWS_ALL, field.name) is True}
    traffic = {"onion_traffic", "ipv4_traffic", "ipv6_traffic", "dns_request", "ipv6_connect"}
    assert on == {*traffic, "extended_auth"}
    assert ALLOWS_ALL.role is Role.TOR
    assert ALLOWS_ALL.isolation == IsolationFlags()
