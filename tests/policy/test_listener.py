"""The flags of a listener: how they are written, and which requests they refuse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest

from tests.support.names import ONION
from tests.support.rows import rows
from tests.support.tables import at, table
from torsocks_tx.errors import AddressTypeNotSupported, HostUnreachable, NotAllowed, Refused
from torsocks_tx.policy.isolation import IsolationFlags
from torsocks_tx.policy.listener import FLAGS, VALUE_FLAGS, FlagError, ListenerPolicy, parse_flags
from torsocks_tx.socks.constants import AddressType, Command, Role, Version
from torsocks_tx.socks.messages import Address, Request


def policy_of(text: str) -> ListenerPolicy:
    return parse_flags(text.split())[0]


def test_no_flags_give_the_default_policy() -> None:
    assert parse_flags([]) == (ListenerPolicy(), [])


def test_every_field_has_a_flag() -> None:
    known = {flag.field for flag in (*FLAGS, *VALUE_FLAGS) if not flag.isolation}
    isolating = {flag.field for flag in (*FLAGS, *VALUE_FLAGS) if flag.isolation}
    assert known | {"isolation", "role"} == {field.name for field in fields(ListenerPolicy)}
    assert isolating == {field.name for field in fields(IsolationFlags)}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.usage)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper], ids=["same", "lower", "upper"])
def test_each_flag_turns_on_and_off(flag: object, spell: object) -> None:
    for word, expected in ((flag.usage, True), ("No" + flag.usage, False)):
        try:
            policy = policy_of(spell(word))
        except FlagError:
            # All names would be refused.
            assert word in ("NoIPv4Traffic", "NoIPv6Traffic")
            continue
        place = policy.isolation if flag.isolation else policy
        assert getattr(place, flag.field) is expected


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("IsolateDestAddrs", "dest_addr", True),
        ("isolateclientaddr NoIsolateClientAddr", "client_addr", False),
        ("NoIsolateClientAddr IsolateClientAddr", "client_addr", True),
        ("SessionGroup=0", "session_group", 0),
        ("sessiongroup=12", "session_group", 12),
    ],
)
def test_isolation_flags(words: str, field: str, value: object) -> None:
    assert getattr(policy_of(words).isolation, field) == value


@rows("S-42")
def test_onion_traffic_only_stands_for_three_flags() -> None:
    policy = policy_of("OnionTrafficOnly ExtendedErrors")
    assert (policy.dns_request, policy.ipv4_traffic, policy.ipv6_traffic) == (False, False, False)
    assert policy.onion_traffic
    assert policy.extended_errors


@pytest.mark.parametrize(
    "word", ["CacheDNS", "UseDNSCache", "NoPreferIPv6Automap", "NoOnionTrafficOnly"]
)
def test_flags_of_tor_alone_are_taken_with_a_note(word: str) -> None:
    policy, notes = parse_flags([word])
    assert policy == ListenerPolicy()
    (note,) = notes
    assert "means nothing here" in note or "is the default" in note


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("ExtendedError", "did you mean ExtendedErrors?"),
        ("IsolateDestinationAddr", "did you mean IsolateDestAddr?"),
        ("NoIPv4Trafic", "did you mean NoIPv4Traffic?"),
        ("SessionGroup=x", "whole number, as in SessionGroup=N"),
        ("SessionGroup", "whole number, as in SessionGroup=N"),
        ("NoSessionGroup=1", "did you mean SessionGroup=N?"),
        ("NoProxyProtocol", "unknown flag"),
        ("SessionGroup=", "whole number"),
        ("SessionGroup=-1", "whole number"),
        ("qqqqqqqq", "see --help-flags"),
        ("ProxyProtocol=192.0.2.1/8", "as in ProxyProtocol=ADDR/BITS"),
        ("ProxyProtocol=192.0.2.0/24,", "as in ProxyProtocol=ADDR/BITS"),
        ("Name", "up to 64 letters and digits, "),
        ("Name=listener-1", "does not begin with listener-"),
        ("RotateEvery", "as in RotateEvery=SECONDS"),
        ("RotateEvery=0", "as in RotateEvery=SECONDS"),
        ("RotateAfter=1.5", "as in RotateAfter=N"),
        ("FreshRate=-1", "as in FreshRate=N"),
        ("ExitCountry", "as in ExitCountry=de,fr"),
        ("ExitCountry=deu", "as in ExitCountry=de,fr"),
        ("ExitNode=x", "as in ExitNode=FP,FP"),
        ("NoExitNode=x", "did you mean ExitNode=FP,FP?"),
        ("NoIPv4Traffic NoIPv6Traffic", "OnionTrafficOnly"),
        ("OnionTrafficOnly NoOnionTraffic", "nothing to do"),
    ],
)
def test_mistakes_in_flags_are_reported_with_a_fix(words: str, complaint: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse_flags(words.split())
    assert complaint in str(caught.value)


CONNECT, RESOLVE, RESOLVE_PTR = Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR
V4, V5 = Version.SOCKS4, Version.SOCKS5


def text(host: str) -> Address:
    return Address(AddressType.HOSTNAME, host, 80)


ADDRESSES = {
    "name": at("example.com", 80),
    "word": at("onion", 80),
    "like onion": text("x.onion.example"),
    "onion": at(ONION, 80),
    "onion in capitals": text(ONION.upper()),
    "onion with a dot": text("www." + ONION + "."),
    "four": at("192.0.2.1", 80),
    "four text": text("192.0.2.1"),
    "six": at("2001:db8::1", 80),
    "six text": text("2001:db8::1"),
    "six brackets": text("[2001:db8::1]"),
}
BY_ONION = {"onion", "onion in capitals", "onion with a dot"}
BY_NAME = {"name", "word", "like onion"}
BY_FOUR = {"four", "four text"}
BY_SIX = {"six", "six text", "six brackets"}
EVERYTHING = set(ADDRESSES)

ALLOWS_ALL, SAFE = ListenerPolicy(), ListenerPolicy(safe_socks=True)
ONION_ONLY = ListenerPolicy(dns_request=False, ipv4_traffic=False, ipv6_traffic=False)

# The policy, and the addresses it refuses: CONNECT with 02, look-ups with 04, as C Tor does.
TRAFFIC = table(
    ("nothing", ALLOWS_ALL, set()),
    ("NoOnionTraffic", ListenerPolicy(onion_traffic=False), BY_ONION),
    ("NoDNSRequest", ListenerPolicy(dns_request=False), BY_NAME),
    ("NoIPv4Traffic", ListenerPolicy(ipv4_traffic=False), BY_FOUR),
    ("NoIPv6Traffic", ListenerPolicy(ipv6_traffic=False), BY_SIX),
    ("OnionTrafficOnly", ONION_ONLY, EVERYTHING - BY_ONION),
    ("PreferIPv6", ListenerPolicy(prefer_ipv6=True), set()),
    ("isolation", ListenerPolicy(isolation=IsolationFlags(socks_auth=False)), set()),
)


def refusal_of(policy: ListenerPolicy, request: Request) -> type[Refused] | None:
    try:
        policy.check(request)
    except Refused as reason:
        return type(reason)
    return None


def possible_requests() -> Iterator[tuple[str, Request]]:
    """Each request that a version can carry, with the name of its address."""
    commands = (CONNECT, RESOLVE, RESOLVE_PTR)
    for version, command, name in itertools.product(Version, commands, ADDRESSES):
        address = ADDRESSES[name]
        fits_socks4 = address.type is not AddressType.IPV6 and command is not RESOLVE_PTR
        if (version is V5 or fits_socks4) and (command is not RESOLVE_PTR or address.is_ip):
            yield name, Request(version, command, address)


@rows("S-14", "S-08")
@pytest.mark.parametrize(("policy", "refused"), TRAFFIC)
def test_traffic_flags(policy: ListenerPolicy, refused: set[str]) -> None:
    for name, request in possible_requests():
        kind = NotAllowed if request.command is CONNECT else HostUnreachable
        assert refusal_of(policy, request) is (kind if name in refused else None), request


@pytest.mark.parametrize("flag", [flag.field for flag in FLAGS if not flag.isolation])
def test_a_policy_is_restrictive_if_it_refuses_any_request(flag: str) -> None:
    default = ListenerPolicy()
    policy = replace(default, **{flag: not getattr(default, flag)})
    refuses = any(refusal_of(policy, request) for _, request in possible_requests())
    assert (default.is_restrictive, policy.is_restrictive) == (False, refuses)


@rows("S-09")
def test_safe_socks_refuses_ip_addresses() -> None:
    for name, request in possible_requests():
        leaks = name in {"four", "six"} and request.command is not RESOLVE_PTR
        assert refusal_of(SAFE, request) is (NotAllowed if leaks else None), request


@rows("S-14")
def test_without_ipv6_connect_an_ipv6_address_is_not_supported() -> None:
    policy = ListenerPolicy(ipv6_connect=False)
    for name, request in possible_requests():
        refused = name in BY_SIX and request.command is CONNECT and request.version is V5
        assert refusal_of(policy, request) is (AddressTypeNotSupported if refused else None)


FOR_TOR = table(
    ("none", ALLOWS_ALL, set()),
    ("NoIPv4Traffic", ListenerPolicy(ipv4_traffic=False), {"NoIPv4Traffic"}),
    ("NoIPv6Traffic", ListenerPolicy(ipv6_traffic=False), {"NoIPv6Traffic"}),
    ("PreferIPv6", ListenerPolicy(prefer_ipv6=True), {"PreferIPv6"}),
    ("two of them", ListenerPolicy(ipv4_traffic=False, prefer_ipv6=True),
     {"NoIPv4Traffic", "PreferIPv6"}),
    ("none where names are refused here", ONION_ONLY, set()),
    ("what is kept here",
     ListenerPolicy(dns_request=False, onion_traffic=False, safe_socks=True, ipv6_connect=False),
     set()),
)  # fmt: skip


@pytest.mark.parametrize(("policy", "flags"), FOR_TOR)
def test_flags_that_the_socks_port_of_tor_must_have(
    policy: ListenerPolicy, flags: set[str]
) -> None:
    assert policy.port_flags == flags


@rows("H-10")
def test_requests_by_http_may_need_ports_for_each_family() -> None:
    families = {frozenset({name}) for name in ("PreferIPv6", "NoIPv4Traffic", "NoIPv6Traffic")}
    assert ALLOWS_ALL.all_port_flags == {frozenset(), *families}
    assert ListenerPolicy(http_connect=False).all_port_flags == {frozenset()}
    assert ONION_ONLY.all_port_flags == {frozenset()}
    ipv6 = frozenset({"NoIPv4Traffic"})
    assert ListenerPolicy(ipv4_traffic=False).all_port_flags == {ipv6, ipv6 | {"PreferIPv6"}}


def test_a_policy_that_allows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="refuse all names: use OnionTrafficOnly"):
        ListenerPolicy(ipv4_traffic=False, ipv6_traffic=False)


def test_flags_that_are_on_by_default() -> None:
    on = {field.name for field in fields(ListenerPolicy) if getattr(ALLOWS_ALL, field.name) is True}
    traffic = {"onion_traffic", "ipv4_traffic", "ipv6_traffic", "dns_request", "ipv6_connect"}
    assert on == {*traffic, "extended_auth", "http_connect"}
    assert ALLOWS_ALL.role is Role.TOR
    assert ALLOWS_ALL.isolation == IsolationFlags()
