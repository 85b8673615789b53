"""The values that messages carry."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.names import INVALID_NAMES, LITERALS, ONION, VALID_NAMES, WITH_NUL
from tests.support.rows import rows
from tests.support.tables import table
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Reply, Request
from torsocks_tx.socks.wire import check_destination

NAME, IPV4, IPV6 = AddressType.HOSTNAME, AddressType.IPV4, AddressType.IPV6


@rows("R-24")
@pytest.mark.parametrize(("text", "host"), table(*LITERALS))
def test_text_of_an_ip_address_becomes_that_address(text: str, host: str) -> None:
    kind = IPV6 if ":" in host else IPV4
    assert Address.of(text, 80) == Address(kind, host, 80)
    as_name = Address(NAME, text, 80)
    assert as_name.is_ip
    assert as_name.literal() == Address(kind, host, 80)
    assert check_destination(as_name) == as_name
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
