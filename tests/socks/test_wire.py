"""The cursor over bytes, the address fields of SOCKS5, and which names clients may ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.support.names import INVALID_NAMES, ONION, VALID_NAMES, WITH_NUL
from tests.support.rows import rows
from tests.support.tables import assert_parsed, assert_refused, at, octets, table
from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address
from torsocks_tx.socks.wire import Reader, build_address, check_destination, parse_address

FRAMES = table(
    ("a byte", Reader.take_u8, 0x83, "83"),
    ("two bytes, high one first", Reader.take_u16, 0x1234, "12 34"),
    ("largest number", Reader.take_u16, 65535, "FFFF"),
    ("three bytes", lambda reader: reader.take(3), b"abc", "61 62 63"),
    ("up to NUL", Reader.take_until_nul, b"me", '"me" 00'),
    ("up to NUL at once", Reader.take_until_nul, b"", "00"),
)


@pytest.mark.parametrize(("take", "value", "text"), FRAMES)
def test_each_way_to_take_bytes(take: Callable[[Reader], object], value: object, text: str) -> None:
    if text == "00":
        # More NULs may follow.
        assert take(Reader(b"\0\0")) == value
    assert_parsed(take, octets(text), value)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_what_is_taken_is_a_copy(kind: type[bytes] | type[bytearray]) -> None:
    data = kind(b"ab\0")
    reader = Reader(data)
    taken = (reader.take(1), reader.take_until_nul())
    if isinstance(data, bytearray):
        data[:] = b"xxx"
    assert taken == (b"a", b"b")
    assert [type(piece) for piece in taken] == [bytes, bytes]


NAME = AddressType.HOSTNAME
FRAMES = table(
    ("IPv4", at("192.0.2.1", 80), "01 C0000201 0050"),
    ("IPv4, port 0", at("0.0.0.0"), "01 00000000 0000"),
    ("IPv4, last port", at("255.255.255.255", 65535), "01 FFFFFFFF FFFF"),
    ("IPv6", at("2001:db8::1", 443), "04 20010DB8000000000000000000000001 01BB"),
    ("IPv4 in IPv6", at("::ffff:1.2.3.4", 1), "04 00000000000000000000FFFF01020304 0001"),
    ("IPv4 in IPv6, any", at("::ffff:0.0.0.0", 1), "04 00000000000000000000FFFF00000000 0001"),
    ("IPv6, FFFF elsewhere", at("0:0:0:ffff::", 1), "04 000000000000FFFF0000000000000000 0001"),
    ("IPv6, any", at("::", 1), "04 00000000000000000000000000000000 0001"),
    ("name", at("example.com", 80), '03 0B "example.com" 0050'),
    ("name of one byte", at("a", 256), "03 01 61 0100"),
    ("name, not judged here", Address(NAME, "", 80), "03 00 0050"),
    ("bytes of all kinds, not judged here", Address(NAME, "\0\xff", 80), "03 02 00FF 0050"),
    ("text of an IP address stays a name", Address(NAME, "::1", 80), "03 03 3A3A31 0050"),
    ("255 bytes", Address(NAME, "a" * 255, 80), "03 FF" + "61" * 255 + "0050"),
)


@rows("S-08", "R-08")
@pytest.mark.parametrize(("address", "text"), FRAMES)
def test_addresses_both_ways(address: Address, text: str) -> None:
    assert_parsed(parse_address, octets(text), address)
    assert build_address(address) == octets(text)


@rows("R-22")
def test_an_unknown_address_type_is_refused_at_its_first_byte() -> None:
    for kind in set(range(256)) - {1, 3, 4}:
        assert_refused(partial(parse_address, answer=b"no"), bytes([kind]), 1, b"no")


@pytest.mark.parametrize(("name", "complaint"), [("a" * 256, "255"), ("\u0411", "latin-1")])
def test_names_that_do_not_fit(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_address(Address(NAME, name, 80))


@rows("R-23", "S-08")
@pytest.mark.parametrize("name", table(*VALID_NAMES))
def test_a_valid_name_passes_unchanged(name: str) -> None:
    address = Address(NAME, name, 80)
    assert check_destination(address) == address


@rows("R-23")
@pytest.mark.parametrize("name", table(*INVALID_NAMES, *WITH_NUL, ("256 bytes", "a" * 256)))
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_destination(Address(NAME, name, 80), b"no")
    assert caught.value.answer == b"no"
    assert str(caught.value) == "invalid host name"


@rows("R-23")
@pytest.mark.parametrize("name", [ONION, ONION.upper(), "www." + ONION, "not-valid.OnIoN"])
def test_an_onion_name_loses_its_trailing_dot(name: str) -> None:
    assert check_destination(Address(NAME, name + ".", 80)) == Address(NAME, name, 80)
    assert check_destination(Address(NAME, name, 80)) == Address(NAME, name, 80)


@rows("S-49")
@pytest.mark.parametrize("host", [".onion", ".ONION", ".onion."])
def test_the_onion_label_alone_is_an_onion_address_that_is_not_valid(host: str) -> None:
    checked = check_destination(Address(AddressType.HOSTNAME, host, 80))
    assert checked.is_onion
    assert not checked.host.endswith(".")


@pytest.mark.parametrize("text", ["::ffff:1.2.3.4", "::ffff:0.0.0.0", "0:0:0:ffff::"])
def test_an_address_has_the_same_text_on_every_python(text: str) -> None:
    assert Address.of(text).host == text
