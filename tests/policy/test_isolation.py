"""Which streams may share a circuit: the table of socks-extensions, flag by flag."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.support.rows import rows
from tests.support.tables import at, table
from torsocks_tx.policy.isolation import (
    Isolation,
    IsolationFlags,
    Isolator,
    is_for_exit,
    isolation_key,
)
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request
from torsocks_tx.socks.userpass import is_known_format

V4, V5 = Version.SOCKS4, Version.SOCKS5
NAME = AddressType.HOSTNAME
FLAGS = IsolationFlags()


def asked(
    version: Version = V5,
    credentials: Credentials | None = None,
    address: Address | None = None,
    avatar: bytes | None = None,
    command: Command = Command.CONNECT,
) -> Request:
    return Request(version, command, address or at("example.com", 80), credentials, avatar)


def key(request: Request, flags: IsolationFlags = FLAGS, **more: Any) -> tuple[bytes, ...]:
    where = {"listener": "one", "client": "192.0.2.1", **more}
    return isolation_key(flags, request=request, **where)


def user(version: Version, name: bytes, password: bytes = b"") -> Request:
    return asked(version, Credentials(name, password))


def by_pairs(**pairs: bytes) -> Request:
    """Return a request with these pairs, but without the credentials in them."""
    return replace(asked(), extended=True, pairs=KeyValues.of(pairs), offered_extended=True)


# By default no two of these share circuits.
DISTINCT = table(
    ("SOCKS5 without authentication", asked()),
    ("SOCKS5, both empty", user(V5, b"", b"")),
    ("SOCKS5, x", user(V5, b"x")),
    ("SOCKS5, password x", user(V5, b"", b"x")),
    ("SOCKS5, x and x", user(V5, b"x", b"x")),
    ("SOCKS5, ab and c", user(V5, b"ab", b"c")),
    ("SOCKS5, a and bc", user(V5, b"a", b"bc")),
    ("SOCKS5, abc", user(V5, b"abc")),
    ("SOCKS5, a NUL and c", user(V5, b"a\0", b"c")),
    ("SOCKS5, a and NUL c", user(V5, b"a", b"\0c")),
    ("extended, no parameter", user(V5, b"<torS0X>0")),
    ("extended, x", user(V5, b"<torS0X>0", b"x")),
    ("nearly extended, x", user(V5, b"<torS0x>0", b"x")),
    ("SOCKS4 without a user id", user(V4, b"")),
    ("SOCKS4, x", user(V4, b"x")),
    ("SOCKS4, a user id that looks extended", user(V4, b"<torS0X>0")),
    ("pairs, none", by_pairs()),
    ("pairs, both empty", by_pairs(USERNAME=b"", PASSWD=b"")),
    ("pairs, x and x", by_pairs(USERNAME=b"x", PASSWD=b"x")),
    ("pairs, the format of names", by_pairs(USERNAME=b"<torS0X>0", PASSWD=b"x")),
    ("pairs, an empty isolation", by_pairs(ISOLATION=b"")),
    ("pairs, isolation x", by_pairs(ISOLATION=b"x")),
    ("pairs, isolation that reads absent", by_pairs(ISOLATION=b"absent")),
    ("pairs, all three", by_pairs(USERNAME=b"x", PASSWD=b"x", ISOLATION=b"x")),
    ("pairs, a long isolation", by_pairs(ISOLATION=b"x" * 60000)),
    ("pairs, a longer one", by_pairs(ISOLATION=b"x" * 60001)),
)
PROFILES = [parameter.values[0] for parameter in DISTINCT]


@rows("S-13", "S-17", "S-18", "S-19", "S-23")
def test_different_authentication_never_shares() -> None:
    keys = [key(request) for request in PROFILES]
    for (i, one), (j, other) in itertools.combinations(enumerate(keys), 2):
        assert one != other, (DISTINCT[i].id, DISTINCT[j].id)


@rows("S-13", "S-17", "S-23")
@pytest.mark.parametrize("request_", DISTINCT)
def test_equal_authentication_shares_for_any_destination(request_: Request) -> None:
    other = replace(request_, command=Command.RESOLVE, address=at("192.0.2.9", 443))
    assert key(request_) == key(other)


@rows("S-23", "S-13")
def test_without_isolate_socks_auth_authentication_does_not_count() -> None:
    flags = IsolationFlags(socks_auth=False)
    assert len({key(request, flags) for request in PROFILES}) == 1


# Each flag: two streams that differ in one thing only.

ADDR = {"client": "192.0.2.2"}
PAIRS: list[tuple[str, str, Request, Request, dict[str, str]]] = [
    ("client address", "client_addr", asked(), asked(), ADDR),
    ("protocol", "client_protocol", asked(V4), asked(V5), {}),
    ("port", "dest_port", asked(), asked(address=at("example.com", 443)), {}),
    ("name", "dest_addr", asked(), asked(address=at("example.org", 80)), {}),
    ("trailing dot", "dest_addr", asked(), asked(address=at("example.com.", 80)), {}),
    (
        "IPv4 address",
        "dest_addr",
        asked(address=at("192.0.2.1", 80)),
        asked(address=at("192.0.2.2", 80)),
        {},
    ),
    ("credentials", "socks_auth", asked(), user(V5, b"x"), {}),
]


@rows("S-23", "S-13", "S-17")
@pytest.mark.parametrize(("flag", "one", "other", "more"), table(*PAIRS))
def test_each_flag_isolates_by_one_property_only(
    flag: str, one: Request, other: Request, more: dict[str, str]
) -> None:
    names = {field.name for field in fields(IsolationFlags)} - {"session_group"}
    off = IsolationFlags(**dict.fromkeys(names, False))
    assert key(one, off) == key(other, off, **more)
    for name in names:
        flags = IsolationFlags(**{**dict.fromkeys(names, False), name: True})
        # IsolateSOCKSAuth too keeps SOCKS4 user ids apart from SOCKS5 credentials.
        apart = name == flag or (one.version != other.version and name == "socks_auth")
        assert (key(one, flags) != key(other, flags, **more)) is apart, name
        assert key(one, flags) == key(one, flags)


SAME = table(
    ("case of a name", asked(), asked(address=at("EXAMPLE.com", 80))),
    ("an address and its text", asked(address=at("192.0.2.1", 80)),
     asked(address=Address(NAME, "192.0.2.1", 80))),
    ("an IPv6 address and its text in brackets", asked(address=at("2001:db8::1", 80)),
     asked(address=Address(NAME, "[2001:DB8:0::1]", 80))),
)  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_destinations_share(one: Request, other: Request) -> None:
    flags = IsolationFlags(dest_addr=True, dest_port=True)
    assert key(one, flags) == key(other, flags)


CLIENTS = table(
    ("the same", "192.0.2.1", "192.0.2.1", True),
    ("IPv4 in IPv6", "192.0.2.1", "::ffff:192.0.2.1", True),
    ("one scope", "fe80::1%eth0", "fe80:0::1%eth0", True),
    ("two scopes", "fe80::1%eth0", "fe80::1%eth1", False),
    ("a scope and none", "fe80::1%eth0", "fe80::1", False),
    ("two spellings", "2001:db8::1", "2001:0DB8:0::1", True),
    ("two IPv4", "192.0.2.1", "192.0.2.2", False),
    ("IPv4-compatible is not IPv4 in IPv6", "192.0.2.1", "::192.0.2.1", False),
    ("a unix socket and an address", None, "127.0.0.1", False),
    ("unix sockets", None, None, True),
)


@rows("R-33")
@pytest.mark.parametrize(("one", "other", "same"), CLIENTS)
def test_which_client_addresses_are_equal(one: str | None, other: str | None, same: bool) -> None:
    assert (key(asked(), client=one) == key(asked(), client=other)) is same


def test_listeners_share_only_in_one_session_group() -> None:
    group = IsolationFlags(session_group=1)
    one, other = (key(asked(), group, listener=name) for name in ("one", "other"))
    apart = [
        *(key(asked(), listener=name) for name in ("one", "other", "1")),
        *(key(asked(), IsolationFlags(session_group=number)) for number in (0, 10)),
        key(user(V5, b"x"), group),
        key(asked(), group, client="192.0.2.2"),
    ]
    assert one == other
    assert len({one, *apart}) == 8


@rows("P-05")
@pytest.mark.parametrize(
    "flags",
    [FLAGS, IsolationFlags(socks_auth=False), IsolationFlags(session_group=1, client_addr=False)],
)
def test_authenticated_users_never_share(flags: IsolationFlags) -> None:
    for request in (user(V5, b"same", b"same"), by_pairs(ISOLATION=b"x")):
        users = (b"alice", b"bob", b"", None)
        assert len({key(replace(request, avatar=name), flags) for name in users}) == 4


@rows("S-17", "S-13")
def test_credentials_for_tor_are_equal_where_keys_are() -> None:
    isolator = Isolator(b"s" * 32)
    masks = [isolator.credentials(key(request)) for request in PROFILES]
    assert len(set(masks)) == len(PROFILES)
    assert masks == [isolator.credentials(key(request)) for request in PROFILES]


@rows("S-17")
def test_credentials_for_tor_show_nothing_of_the_client() -> None:
    for secret in (b"alice", b"0123456789abcdef" * 4, b"<torS0X>0"):
        request = asked(V5, Credentials(secret, secret), at("hidden.example", 80), avatar=secret)
        flags = IsolationFlags(dest_addr=True)
        mask = Isolator(b"s" * 32).credentials(key(request, flags, client="192.0.2.77"))
        for word in (secret, secret.hex().encode(), b"hidden", b"192.0.2.77", b"c000024d"):
            assert word not in mask.password
        assert re.fullmatch(rb"[0-9a-f]{64}", mask.password)
        assert is_known_format(mask)
        assert mask.username == b"<torS0X>0"


def test_isolators_have_different_secrets_by_default() -> None:
    here = key(asked())
    assert len({Isolator().credentials(here) for _ in range(8)}) == 8


FOR_EXITS = table(
    ("name", at("example.com", 80), True),
    ("the word onion", at("onion", 80), True),
    ("onion service", at("x.onion", 80), False),
    ("IPv4", at("192.0.2.1", 80), False),
    ("IPv6 as text", Address(NAME, "[2001:db8::1]", 80), False),
)


@pytest.mark.parametrize(("address", "expected"), FOR_EXITS)
def test_which_requests_are_for_an_exit_relay(address: Address, expected: bool) -> None:
    assert is_for_exit(asked(address=address)) is expected


def test_repr_of_isolation_hides_credentials() -> None:
    mask = Isolator(b"s" * 32).credentials(key(asked()))
    assert mask.password.decode() not in repr(Isolation(mask, frozenset({"NoIPv6Traffic"})))


@rows("P-23")
def test_pairs_that_do_not_isolate_do_not_count() -> None:
    same = [
        by_pairs(ISOLATION=b"x"),
        by_pairs(ISOLATION=b"x", REQUIRE=b"ISOLATION", REPLY_CODES=b"none"),
        by_pairs(UNKNOWN=b"y", ISOLATION=b"x"),
    ]
    assert len({key(request) for request in same}) == 1
    assert key(replace(asked(), offered_extended=True)) == key(asked())


def test_credentials_are_computed_once_at_their_first_use() -> None:
    made: list[Credentials] = []

    def make() -> Credentials:
        made.append(Credentials(b"a", b"b"))
        return made[-1]

    isolation = Isolation(make, frozenset({"NoIPv6Traffic"}))
    assert isolation.port_flags == {"NoIPv6Traffic"}
    assert made == []
    assert isolation.credentials is isolation.credentials
    assert made == [Credentials(b"a", b"b")]


@pytest.mark.parametrize("secret", [b"", bytes(31)])
def test_a_short_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        Isolator(secret)
