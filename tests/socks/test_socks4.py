"""SOCKS4 and 4a, message by message (C Tor's tables, and where this server differs)."""

from __future__ import annotations

import pytest

from tests.support.rows import rows
from tests.support.tables import assert_parsed, assert_refused, at, octets, table
from torsocks_tx.socks import socks4
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Reply, Request

REJECTED = octets("00 5B 0000 00000000")
EXAMPLE = '"example.com" 00'
NAME = AddressType.HOSTNAME


def asked(address: Address, user: bytes = b"", command: Command = Command.CONNECT) -> Request:
    return Request(Version.SOCKS4, command, address, Credentials(user))


def named(name: str, port: int = 80) -> Address:
    return Address(NAME, name, port)


PLACE = at("192.0.2.1", 80)
RESOLVE = Command.RESOLVE
REQUESTS = table(
    ("V1", asked(PLACE), "04 01 0050 C0000201 00"),
    ("V2", asked(at("www.example.com", 443), b"me"),
     '04 01 01BB 00000001 "me" 00 "www.example.com" 00'),
    ("a user id", asked(PLACE, b"a:b"), '04 01 0050 C0000201 "a:b" 00'),
    ("an extended format", asked(PLACE, b"<torS0X>9"), '04 01 0050 C0000201 "<torS0X>9" 00'),
    ("port before address", asked(at("1.2.3.4", 0x0506)), "04 01 0506 01020304 00"),
    ("1.0.0.0 is no marker", asked(at("1.0.0.0", 80)), "04 01 0050 01000000 00"),
    ("0.0.1.1 is no marker", asked(at("0.0.1.1", 80)), "04 01 0050 00000101 00"),
    ("IPv6 as a name", asked(named("2001:db8::1")), '04 01 0050 00000001 00 "2001:db8::1" 00'),
    ("V8", asked(at("torproject.org", 0), command=RESOLVE),
     '04 F0 0000 00000001 00 "torproject.org" 00'),
    ("RESOLVE of an address", asked(at("192.0.2.1", 0), command=RESOLVE), "04 F0 0000 C0000201 00"),
    ("512 bytes in all", asked(PLACE, b"u" * 503), "04 01 0050 C0000201" + "75" * 503 + "00"),
    ("512 bytes, the longest name", asked(named("a" * 255), b"u" * 247),
     "04 01 0050 00000001" + "75" * 247 + "00" + "61" * 255 + "00"),
)  # fmt: skip


@rows("S-04", "S-05", "S-08", "S-13", "S-24", "S-28", "R-01", "R-02", "R-04", "R-05", "R-08")
@pytest.mark.parametrize(("request_", "text"), REQUESTS)
def test_requests_both_ways(request_: Request, text: str) -> None:
    assert_parsed(socks4.parse_request, octets(text), request_)
    assert socks4.build_request(request_) == octets(text)


@rows("R-01", "S-05")
@pytest.mark.parametrize("last", [1, 2, 127, 255])
def test_any_0_0_0_x_means_that_a_name_follows(last: int) -> None:
    frame = octets(f"04 01 0050 000000{last:02X} 00" + EXAMPLE)
    assert_parsed(socks4.parse_request, frame, asked(at("example.com", 80)))


LONG = "75" * 600
REFUSED = table(
    *((f"{n:02X}", f"04 {n:02X} 0050 C0000201 00", 8) for n in (0, 2, 3, 9, 0xF1, 0xF2, 0xFF)),
    ("0.0.0.0 in CONNECT", "04 01 0050 00000000 00", 8),
    ("port 0", "04 01 0000 C0000201 00", 9),
    ("port 0 with a name", "04 01 0000 00000001 00" + EXAMPLE, 21),
    ("empty name", '04 01 0050 00000001 "me" 00 00', 12),
    ("invalid name", "04 01 0050 00000001 00 612062 00", 13),
    ("name of 256 bytes", "04 01 0050 00000001 00" + "61" * 256 + "00", 266),
    ("user id of 504 bytes", "04 01 0050 C0000201" + "75" * 504 + "00", 512),
    ("user id without an end", "04 01 0050 C0000201" + LONG, 512),
    ("name without an end", "04 01 0050 00000001 00" + LONG, 512),
    ("name that ends late", "04 01 0050 00000001" + "75" * 400 + "00" + "61" * 200 + "00", 512),
)


@rows("S-10", "S-29", "S-32", "R-01", "R-03", "R-04", "R-05", "R-12")
@pytest.mark.parametrize(("text", "judged"), REFUSED)
def test_requests_refused(text: str, judged: int) -> None:
    assert_refused(socks4.parse_request, octets(text), judged, REJECTED)


def test_an_onion_name_loses_its_trailing_dot() -> None:
    frame = octets("04 01 0050 00000001 00") + b"Foo.ONION.\0"
    assert_parsed(socks4.parse_request, frame, asked(named("Foo.ONION")))


REPLIES = table(
    ("granted", Reply(0x5A), "00 5A 0000 00000000"),
    ("rejected", Reply(0x5B), "00 5B 0000 00000000"),
    ("the answer to RESOLVE", Reply(0x5A, at("192.0.2.1")), "00 5A 0000 C0000201"),
    ("other codes survive", Reply(0x5D, at("1.2.3.4", 0x0506)), "00 5D 0506 01020304"),
)


@rows("S-04", "S-27", "R-08")
@pytest.mark.parametrize(("reply", "text"), REPLIES)
def test_replies_both_ways(reply: Reply, text: str) -> None:
    assert_parsed(socks4.parse_reply, octets(text), reply)
    assert socks4.build_reply(reply) == octets(text)


@pytest.mark.parametrize("first", [0x04, 0x05, 0x48, 0xFF])
def test_a_reply_that_does_not_start_with_zero_is_refused(first: int) -> None:
    assert_refused(socks4.parse_reply, bytes([first]) + octets("5A 0000 00000000"), 1, b"")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(asked(at("2001:db8::1", 80)), id="IPv6"),
        pytest.param(asked(PLACE, b"a\0b"), id="NUL in the user id"),
        pytest.param(asked(named("a\0b")), id="NUL in the name"),
    ],
)
def test_requests_that_socks4_cannot_carry(request_: Request) -> None:
    with pytest.raises(ValueError, match="SOCKS4"):
        socks4.build_request(request_)


def test_a_request_without_credentials_has_an_empty_user_id() -> None:
    request = Request(Version.SOCKS4, Command.CONNECT, at("192.0.2.1", 80))
    assert socks4.build_request(request) == octets("04 01 0050 C0000201 00")
