"""SOCKS5, message by message (RFC 1928, C Tor's tables, and where this server differs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.names import INVALID_NAMES, LITERALS, VALID_NAMES, WITH_NUL
from tests.support.rows import rows
from tests.support.tables import assert_parsed, assert_refused, at, octets, table
from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.socks import socks5
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Reply, Request
from torsocks_tx.socks.wire import Reader

NAME = AddressType.HOSTNAME
LONGEST = "a" * 255


def asked(address: Address, command: Command = Command.CONNECT) -> Request:
    return Request(Version.SOCKS5, command, address)


GREETINGS = table(
    [
        ("no methods", b"", "05 00"),
        ("NEG0", b"\0", "05 01 00"),
        ("as curl", b"\0\1\2", "05 03 00 01 02"),
        ("X'97'", b"\x97", "05 01 97"),
        ("the same twice", b"\2\2", "05 02 02 02"),
        ("FF in the list", b"\xff", "05 01 FF"),
        ("255 methods", bytes(255), "05 FF" + "00" * 255),
    ]
)
SELECTIONS = table([("00", 0, "05 00"), ("02", 2, "05 02"), ("FF", 255, "05 FF")])
REQUESTS = table(
    [
        ("IPv4", asked(at("192.0.2.1", 80)), "05 01 00 01 C0000201 0050"),
        (
            "IPv6",
            asked(at("2001:db8::1", 443)),
            "05 01 00 04 20010DB8000000000000000000000001 01BB",
        ),
        ("V5", asked(at("example.com", 80)), "05 01 00 03 0B 6578616D706C652E636F6D 0050"),
        (
            "V7",
            asked(at("torproject.org"), Command.RESOLVE),
            "05 F0 00 03 0E 746F7270726F6A6563742E6F7267 0000",
        ),
        (
            "RESOLVE with a port",
            asked(at("a", 80), Command.RESOLVE),
            "05 F0 00 03 01 61 0050",
        ),
        ("V9", asked(at("8.8.8.8"), Command.RESOLVE_PTR), "05 F1 00 01 08080808 0000"),
        (
            "RESOLVE_PTR of IPv6",
            asked(at("2001:db8::1"), Command.RESOLVE_PTR),
            "05 F1 00 04 20010DB8000000000000000000000001 0000",
        ),
        (
            "RESOLVE_PTR of IPv4 as text",
            asked(Address(NAME, "8.8.8.8"), Command.RESOLVE_PTR),
            "05 F1 00 03 07 382E382E382E38 0000",
        ),
        (
            "RESOLVE_PTR of IPv6 as text",
            asked(Address(NAME, "::1"), Command.RESOLVE_PTR),
            "05 F1 00 03 03 3A3A31 0000",
        ),
        (
            "RESOLVE_PTR of IPv6 in brackets",
            asked(Address(NAME, "[::1]"), Command.RESOLVE_PTR),
            "05 F1 00 03 05 5B3A3A315D 0000",
        ),
        (
            "RESOLVE of an address",
            asked(at("192.0.2.1"), Command.RESOLVE),
            "05 F0 00 01 C0000201 0000",
        ),
        (
            "the longest",
            asked(Address(NAME, LONGEST, 65535)),
            "05 01 00 03 FF" + "61" * 255 + "FFFF",
        ),
    ]
)
REPLIES = table(
    [
        ("succeeded", Reply(0), "05 00 00 01 00000000 0000"),
        ("general failure", Reply(1), "05 01 00 01 00000000 0000"),
        ("IPv4 answer", Reply(0, at("192.0.2.1")), "05 00 00 01 C0000201 0000"),
        (
            "IPv6 answer",
            Reply(0, at("2001:db8::1")),
            "05 00 00 04 20010DB8000000000000000000000001 0000",
        ),
        ("22 bytes, as on a unix socket", Reply(4, at("::")), "05 04 00 04" + "00" * 16 + "0000"),
        ("V9's answer", Reply(0, at("dns.google")), "05 00 00 03 0A 646E732E676F6F676C65 0000"),
        ("onion code", Reply(0xF0), "05 F0 00 01 00000000 0000"),
        ("a code without a name", Reply(0x42, at("1.2.3.4", 5)), "05 42 00 01 01020304 0005"),
        (
            "longest name",
            Reply(0, Address(NAME, LONGEST)),
            "05 00 00 03 FF" + "61" * 255 + "0000",
        ),
    ]
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


def test_the_reserved_byte_of_a_reply_does_not_matter() -> None:
    assert_parsed(socks5.parse_reply, octets("05 00 FF 01 00000000 0000"), Reply(0))


@rows("R-20")
def test_failures_are_whole_replies() -> None:
    for code in (1, 8, 0xF7):
        assert socks5.failure(code) == bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0])


def test_credentials_go_with_the_request() -> None:
    known = Credentials(b"me", b"you")
    request = socks5.parse_request(Reader(octets("05 01 00 01 C0000201 0050")), known)
    assert request.credentials is known


MALFORMED = table(
    [
        ("greeting of another version", socks5.parse_greeting, "04 01 00", 1, ""),
        ("selection of another version", socks5.parse_selection, "01 00", 1, ""),
        ("reply of another version", socks5.parse_reply, "04 00 00 01 00000000 0000", 1, ""),
        ("success of address type 00", socks5.parse_reply, "05 00 00 00 00000000 0000", 4, ""),
        ("reply of address type 02", socks5.parse_reply, "05 01 00 02 00000000 0000", 4, ""),
    ]
)


@pytest.mark.parametrize(("parse", "text", "judged", "answer"), MALFORMED)
def test_malformed(parse: Callable[[Reader], Any], text: str, judged: int, answer: str) -> None:
    assert_refused(parse, octets(text), judged, octets(answer))


REFUSED = table(
    [
        ("a SOCKS4 request", "04 01 0050 C0000201 00", 1, 0x01),
        ("a second message of credentials", "01 02 6D65 02 6D65", 1, 0x01),
        ("BIND", "05 02 00 01 C0000201 0050", 2, 0x07),
        ("UDP ASSOCIATE", "05 03 00 01 C0000201 0050", 2, 0x07),
        ("CONNECT_DIR", "05 F2 00 01 C0000201 0050", 2, 0x07),
        ("command 00", "05 00 00 01 C0000201 0050", 2, 0x07),
        ("command 09", "05 09 00 01 C0000201 0050", 2, 0x07),
        ("command FF", "05 FF 00 01 C0000201 0050", 2, 0x07),
        ("reserved byte", "05 01 01 01 C0000201 0050", 3, 0x01),
        ("unknown command before the reserved byte", "05 09 01 01 C0000201 0050", 2, 0x07),
        ("reserved byte before the address type", "05 01 FF 02 C0000201 0050", 3, 0x01),
        ("address type 00", "05 01 00 00 C0000201 0050", 4, 0x08),
        ("address type 02", "05 01 00 02 C0000201 0050", 4, 0x08),
        ("address type 05", "05 F0 00 05 C0000201 0050", 4, 0x08),
        ("address type FF", "05 F1 00 FF C0000201 0050", 4, 0x08),
        ("port 0, IPv4", "05 01 00 01 C0000201 0000", 10, 0x01),
        ("port 0, IPv6", "05 01 00 04 20010DB8000000000000000000000001 0000", 22, 0x01),
        ("port 0, name", "05 01 00 03 01 61 0000", 8, 0x01),
        ("port 0, onion service", "05 01 00 03 07 612E6F6E696F6E 0000", 14, 0x01),
        ("empty name", "05 01 00 03 00 0050", 7, 0x01),
        ("empty name in RESOLVE", "05 F0 00 03 00 0000", 7, 0x01),
        ("RESOLVE_PTR of a name", "05 F1 00 03 01 61 0000", 8, 0x08),
        ("RESOLVE_PTR of nothing", "05 F1 00 03 00 0000", 7, 0x08),
        ("RESOLVE_PTR of a name that is not valid", "05 F1 00 03 03 612062 0000", 10, 0x08),
        (
            "RESOLVE_PTR of a reverse name",
            "05 F1 00 03 14 382E382E382E382E696E2D616464722E61727061 0000",
            27,
            0x08,
        ),
        ("RESOLVE_PTR with a NUL", "05 F1 00 03 08 382E382E382E3800 0000", 15, 0x01),
    ]
)


@rows("S-11", "S-12", "S-30", "S-32", "S-33", "R-20", "R-22", "R-23", "R-26")
@pytest.mark.parametrize(("text", "judged", "code"), REFUSED)
def test_refused(text: str, judged: int, code: int) -> None:
    assert_refused(socks5.parse_request, octets(text), judged, socks5.failure(code))


@rows("S-11", "S-12", "S-32", "R-22")
def test_only_connect_resolve_and_resolve_ptr_are_carried_out() -> None:
    for command in set(range(256)) - {0x01, 0xF0, 0xF1}:
        with pytest.raises(ProtocolError) as caught:
            socks5.parse_request(Reader(bytes([5, command])))
        assert caught.value.answer == socks5.failure(0x07)
    for command in (0x01, 0xF0, 0xF1):
        with pytest.raises(Incomplete):
            socks5.parse_request(Reader(bytes([5, command])))


def frame_of(name: str, command: int) -> bytes:
    return bytes([5, command, 0, 3, len(name)]) + name.encode("latin-1") + b"\0\x50"


@pytest.mark.parametrize("name", table([*VALID_NAMES, *((n, text) for n, text, _ in LITERALS)]))
def test_valid_names(name: str) -> None:
    request = asked(Address(NAME, name, 80))
    assert_parsed(socks5.parse_request, frame_of(name, 1), request)


@rows("R-23")
@pytest.mark.parametrize("name", table([*INVALID_NAMES, *WITH_NUL]))
def test_invalid_names(name: str) -> None:
    for command in (Command.CONNECT, Command.RESOLVE):
        frame = frame_of(name, command)
        assert_refused(socks5.parse_request, frame, len(frame), socks5.failure(0x01))


def test_an_onion_name_loses_its_trailing_dot() -> None:
    frame = frame_of("Foo.ONION.", 1)
    assert_parsed(socks5.parse_request, frame, asked(Address(NAME, "Foo.ONION", 80)))


def test_bounds() -> None:
    assert len(socks5.build_greeting(bytes(255))) == 257
    longest = socks5.build_request(Command.CONNECT, Address(NAME, LONGEST, 80))
    assert len(longest) == 262
    with pytest.raises(ValueError, match="range"):
        socks5.build_greeting(bytes(256))
