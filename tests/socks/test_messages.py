"""The values that messages carry, and the numbers of the protocol."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.names import INVALID_NAMES, LITERALS, ONION, VALID_NAMES, WITH_NUL
from tests.support.rows import rows
from tests.support.tables import table
from torsocks_tx.socks.constants import AddressType, Command, Method, Reply4, Reply5, Version
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Reply, Request


def test_numbers_of_versions_methods_commands_and_address_types() -> None:
    assert {v.name: int(v) for v in Version} == {"SOCKS4": 4, "SOCKS5": 5, "HTTP": ord("C")}
    assert {m.name: int(m) for m in Method} == {
        "NO_AUTH": 0x00,
        "GSSAPI": 0x01,
        "USERNAME_PASSWORD": 0x02,
        "EXTENDED": 0x97,
        "NONE_ACCEPTABLE": 0xFF,
    }
    assert {c.name: int(c) for c in Command} == {
        "CONNECT": 0x01,
        "BIND": 0x02,
        "UDP_ASSOCIATE": 0x03,
        "RESOLVE": 0xF0,
        "RESOLVE_PTR": 0xF1,
        "CONNECT_DIR": 0xF2,
    }
    assert {a.name: int(a) for a in AddressType} == {"IPV4": 1, "HOSTNAME": 3, "IPV6": 4}


@rows("S-21")
def test_numbers_of_replies() -> None:
    assert sorted(Reply5) == list(range(9))
    assert sorted(Reply4) == [0x5A, 0x5B]


NAME, IPV4, IPV6 = AddressType.HOSTNAME, AddressType.IPV4, AddressType.IPV6


@rows("R-24")
@pytest.mark.parametrize(("text", "host"), table(*LITERALS))
def test_text_of_an_ip_address_becomes_that_address(text: str, host: str) -> None:
    kind = IPV6 if ":" in host else IPV4
    assert Address.of(text, 80) == Address(kind, host, 80)
    as_name = Address(NAME, text, 80)
    assert as_name.is_ip
    assert as_name.literal() == Address(kind, host, 80)
    assert not as_name.is_onion


@rows("R-24", "S-08")
@pytest.mark.parametrize("text", table(*VALID_NAMES, *INVALID_NAMES, *WITH_NUL))
def test_any_other_text_is_a_name(text: str) -> None:
    address = Address(NAME, text, 80)
    assert not text or Address.of(text, 80) == address
    assert address.literal() == address
    assert not address.is_ip


@pytest.mark.parametrize("address", [Address.of("192.0.2.1", 1), Address.of("2001:db8::1", 2)])
def test_an_ip_address_is_its_own_literal(address: Address) -> None:
    assert address.is_ip
    assert address.literal() is address
    assert not address.is_onion


ONIONS = [ONION, ONION.upper(), "www." + ONION, ONION + ".", "x.OnIoN", ".onion"]
NO_ONIONS = ["x.onion..", "onion", "onion.", "x.onions", "x.onion.example", "xonion", "", "."]


@rows("R-23")
@pytest.mark.parametrize("host", [*ONIONS, *NO_ONIONS])
def test_is_onion(host: str) -> None:
    assert Address(NAME, host).is_onion is (host in ONIONS)


def test_repr_hides_credentials() -> None:
    credentials = Credentials(b"alice", b"secret")
    request = Request(Version.SOCKS5, Command.CONNECT, Address.of("a", 80), credentials)
    for value in (credentials, request):
        assert "alice" not in repr(value)
        assert "secret" not in repr(value)


@rows("R-25")
def test_a_reply_gives_no_address_of_the_server_by_default() -> None:
    assert Reply(0).address == Address(IPV4, "0.0.0.0", 0)


def test_pairs_make_a_dict() -> None:
    pairs = KeyValues.of([("a", b"1"), ("b", b"2")])
    assert dict(pairs) == {"a": b"1", "b": b"2"}
    assert pairs.names == ("a", "b")


@pytest.mark.parametrize("pairs", [{"a": "b"}, {b"a": b"b"}, [("a", None)]])
def test_pairs_of_other_kinds_are_refused(pairs: Any) -> None:
    with pytest.raises(TypeError, match="pairs must be text keys and bytes values"):
        KeyValues.of(pairs)


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_out_of_range_are_refused(port: int) -> None:
    with pytest.raises(ValueError, match="a whole number from 0 to 65535"):
        Address.of("example.com", port)
