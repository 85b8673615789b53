"""SOCKS5, message by message (RFC 1928, C Tor's tables, and where this server differs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.rows import rows
from tests.support.tables import assert_parsed, assert_refused, at, octets, table
from torsocks_tx.socks import socks5
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Reply, Request
from torsocks_tx.socks.wire import Reader

NAME = AddressType.HOSTNAME
LONGEST = "a" * 255


def asked(address: Address, command: Command = Command.CONNECT) -> Request:
    return Request(Version.SOCKS5, command, address)


GREETINGS = table(
    ("no methods", b"", "05 00"),
    ("NEG0", b"\0", "05 01 00"),
    ("as curl", b"\0\1\2", "05 03 00 01 02"),
    ("255 methods", bytes(255), "05 FF" + "00" * 255),
)
SELECTIONS = table(("00", 0, "05 00"), ("02", 2, "05 02"), ("FF", 255, "05 FF"))
REQUESTS = table(
    ("IPv4", asked(at("192.0.2.1", 80)), "05 01 00 01 C0000201 0050"),
    ("IPv6", asked(at("2001:db8::1", 443)), "05 01 00 04 20010DB8000000000000000000000001 01BB"),
    ("V5", asked(at("example.com", 80)), '05 01 00 03 0B "example.com" 0050'),
    ("V7", asked(at("torproject.org"), Command.RESOLVE), '05 F0 00 03 0E "torproject.org" 0000'),
    ("V9", asked(at("8.8.8.8"), Command.RESOLVE_PTR), "05 F1 00 01 08080808 0000"),
    ("RESOLVE_PTR of IPv4 as text", asked(Address(NAME, "8.8.8.8"), Command.RESOLVE_PTR),
     '05 F1 00 03 07 "8.8.8.8" 0000'),
    ("RESOLVE_PTR of IPv6 in brackets", asked(Address(NAME, "[::1]"), Command.RESOLVE_PTR),
     '05 F1 00 03 05 "[::1]" 0000'),
    ("the longest", asked(Address(NAME, LONGEST, 65535)), "05 01 00 03 FF" + "61" * 255 + "FFFF"),
)  # fmt: skip
REPLIES = table(
    ("succeeded", Reply(0), "05 00 00 01 00000000 0000"),
    ("IPv4", Reply(0, at("192.0.2.1")), "05 00 00 01 C0000201 0000"),
    ("IPv6", Reply(0, at("2001:db8::1")), "05 00 00 04 20010DB8000000000000000000000001 0000"),
    ("V9's answer", Reply(0, at("dns.google")), '05 00 00 03 0A "dns.google" 0000'),
    ("a code without a name", Reply(0x42, at("1.2.3.4", 5)), "05 42 00 01 01020304 0005"),
    ("longest name", Reply(0, Address(NAME, LONGEST)), "05 00 00 03 FF" + "61" * 255 + "0000"),
)


@rows("R-12", "R-10")
@pytest.mark.parametrize(("methods", "text"), GREETINGS)
def test_greetings_both_ways(methods: bytes, text: str) -> None:
    assert_parsed(socks5.parse_greeting, octets(text), methods)
    assert socks5.build_greeting(methods) == octets(text)


@pytest.mark.parametrize(("method", "text"), SELECTIONS)
def test_selections_both_ways(method: int, text: str) -> None:
    assert_parsed(socks5.parse_selection, octets(text), method)
    assert socks5.build_selection(method) == octets(text)


@rows("S-06", "S-08", "S-24", "S-28", "S-30", "S-31", "R-08", "R-23", "R-24", "R-26")
@pytest.mark.parametrize(("request_", "text"), REQUESTS)
def test_requests_both_ways(request_: Request, text: str) -> None:
    assert_parsed(socks5.parse_request, octets(text), request_)
    assert socks5.build_request(request_.command, request_.address) == octets(text)


@rows("S-06", "S-27", "S-30", "R-20", "R-32")
@pytest.mark.parametrize(("reply", "text"), REPLIES)
def test_replies_both_ways(reply: Reply, text: str) -> None:
    assert_parsed(socks5.parse_reply, octets(text), reply)
    assert socks5.build_reply(reply) == octets(text)


@rows("R-34")
@pytest.mark.parametrize("code", [1, 4, 255])
def test_a_failure_reply_of_address_type_00_is_understood(code: int) -> None:
    frame = bytes([5, code]) + octets("00 00 00000000 0000")
    assert_parsed(socks5.parse_reply, frame, Reply(code))


MALFORMED = table(
    ("greeting of another version", socks5.parse_greeting, "04 01 00", 1, ""),
    ("selection of another version", socks5.parse_selection, "01 00", 1, ""),
    ("reply of another version", socks5.parse_reply, "04 00 00 01 00000000 0000", 1, ""),
    ("success of address type 00", socks5.parse_reply, "05 00 00 00 00000000 0000", 4, ""),
    ("reply of address type 02", socks5.parse_reply, "05 01 00 02 00000000 0000", 4, ""),
)


@pytest.mark.parametrize(("parse", "text", "judged", "answer"), MALFORMED)
def test_other_malformed_messages_are_refused(
    parse: Callable[[Reader], Any], text: str, judged: int, answer: str
) -> None:
    assert_refused(parse, octets(text), judged, octets(answer))


OTHER_COMMANDS = (0, 2, 3, 9, 0xEF, 0xF2, 0xFF)
REFUSED = table(
    ("a SOCKS4 request", "04 01 0050 C0000201 00", 1, 0x01),
    ("a second message of credentials", '01 02 "me" 02 "me"', 1, 0x01),
    *((f"{n:02X}", f"05 {n:02X} 00 01 C0000201 0050", 2, 7) for n in OTHER_COMMANDS),
    ("invalid name", "05 01 00 03 03 612062 0050", 10, 0x01),
    ("reserved byte", "05 01 01 01 C0000201 0050", 3, 0x01),
    ("unknown command before the reserved byte", "05 09 01 01 C0000201 0050", 2, 0x07),
    ("reserved byte before the address type", "05 01 FF 02 C0000201 0050", 3, 0x01),
    ("address type 00", "05 01 00 00 C0000201 0050", 4, 0x08),
    ("address type 02", "05 01 00 02 C0000201 0050", 4, 0x08),
    ("port 0, IPv4", "05 01 00 01 C0000201 0000", 10, 0x01),
    ("port 0, name", "05 01 00 03 01 61 0000", 8, 0x01),
    ("empty name", "05 01 00 03 00 0050", 7, 0x01),
    ("RESOLVE_PTR of a name", "05 F1 00 03 01 61 0000", 8, 0x08),
    ("RESOLVE_PTR of nothing", "05 F1 00 03 00 0000", 7, 0x08),
    ("RESOLVE_PTR of a name that is not valid", "05 F1 00 03 03 612062 0000", 10, 0x08),
    ("RESOLVE_PTR with a NUL", "05 F1 00 03 08 382E382E382E3800 0000", 15, 0x01),
)


@rows("S-11", "S-12", "S-30", "S-32", "S-33", "R-20", "R-22", "R-23", "R-26")
@pytest.mark.parametrize(("text", "judged", "code"), REFUSED)
def test_requests_refused(text: str, judged: int, code: int) -> None:
    assert_refused(socks5.parse_request, octets(text), judged, socks5.failure(code))
