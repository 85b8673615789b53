"""The frames of method X'97': pair by pair, and refused by their headers."""

from __future__ import annotations

import tracemalloc

import pytest

from tests.support.rows import rows
from tests.support.tables import assert_parsed, assert_refused, octets, prefixes, table
from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.socks import extended
from torsocks_tx.socks.extended import Pairs
from torsocks_tx.socks.messages import KeyValues
from torsocks_tx.socks.reader import Reader

INVALID = octets("01 02 0000")


def parse_request(reader: Reader) -> KeyValues:
    """A whole request at once, which is not how the server reads one."""
    return parse_pairs(reader, extended.parse_request_head(reader))


def parse_response(reader: Reader) -> tuple[int, KeyValues]:
    status, count = extended.parse_response_head(reader)
    return status, parse_pairs(reader, count)


def parse_pairs(reader: Reader, count: int, **bounds: int) -> KeyValues:
    pairs = Pairs(count, **bounds)
    while pairs.complete is None:
        pairs.take(reader)
    return pairs.complete


REQUESTS = table(
    [
        (
            "V11",
            KeyValues.of({"USERNAME": b"alice", "PASSWD": b"pw"}),
            "01 0002 0008 555345524E414D45 0005 616C696365 0006 504153535744 0002 7077",
        ),
        (
            "V12, no value",
            KeyValues.of({"ISOLATION": b""}),
            "01 0001 0009 49534F4C4154494F4E 0000",
        ),
        ("no pairs", KeyValues(), "01 0000"),
        (
            "a pair behind an empty value",
            KeyValues.of({"A": b"", "b": b"\0\xff\n"}),
            "01 0002 0001 41 0000 0001 62 0003 00FF0A",
        ),
        (
            "one key twice, in order",
            KeyValues.of([("PT.a", b"2"), ("PT.a", b"1")]),
            "01 0002 0004 50542E61 0001 32 0004 50542E61 0001 31",
        ),
        ("a key of 64", KeyValues.of({"k" * 64: b""}), "01 0001 0040" + "6B" * 64 + "0000"),
        ("a long value", KeyValues.of({"v": b"x" * 700}), "01 0001 0001 76 02BC" + "78" * 700),
    ]
)


@rows("P-03", "P-10", "P-11", "P-13", "P-16", "P-17")
@pytest.mark.parametrize(("pairs", "text"), REQUESTS)
def test_requests_both_ways(pairs: KeyValues, text: str) -> None:
    assert extended.build_request(pairs) == octets(text)
    assert_parsed(parse_request, octets(text), pairs)


@rows("P-18", "P-19", "P-20", "P-22")
@pytest.mark.parametrize("status", [0, 1, 2, 3, 255])
@pytest.mark.parametrize(("pairs", "text"), REQUESTS)
def test_responses_both_ways(pairs: KeyValues, text: str, status: int) -> None:
    frame = bytes([1, status]) + octets(text)[1:]
    assert extended.build_response(status, pairs) == frame
    assert_parsed(parse_response, frame, (status, pairs))


@rows("P-20")
def test_short_responses() -> None:
    assert extended.build_response(0) == octets("01 00 0000")
    assert octets("01 01 0000") == extended.AUTHENTICATION_FAILED
    assert octets("01 02 0000") == extended.INVALID_ARGUMENTS


# The bytes, and after how many of them the judgement is certain.
REFUSED = table(
    [
        ("KLEN 0", "01 0001 0000 0001 41", 5),
        ("KLEN 65", "01 0001 0041" + "41" * 65 + "0000", 5),
        ("KLEN little-endian", "01 0001 0800" + "41" * 8 + "0000", 5),
        ("a NUL in a key", "01 0001 0009 555345524E414D4500 0000", 14),
        ("a control byte in a key", "01 0001 0002 410A 0000", 7),
        ("a blank in a key", "01 0001 0002 4120 0000", 7),
        ("no ASCII in a key", "01 0001 0001 C3 0000", 6),
        ("a key in UTF-8", "01 0001 0002 C3A9 0000", 7),
        ("a comma in a key", "01 0001 0002 412C 0000", 7),
        ("1025 pairs", "01 0401", 3),
        ("65535 pairs", "01 FFFF", 3),
    ]
)


@rows("P-09", "P-10", "P-14", "P-15", "P-22")
@pytest.mark.parametrize(("text", "judged"), REFUSED)
def test_refused(text: str, judged: int) -> None:
    assert_refused(parse_request, octets(text), judged, INVALID)
    response = octets("01 00" + text[2:])
    assert_refused(parse_response, response, judged + 1, INVALID)


@rows("P-12", "P-19")
@pytest.mark.parametrize("version", [0, 2, 5, 0x47, 255])
def test_another_version_has_no_answer(version: int) -> None:
    assert_refused(parse_request, bytes([version, 0, 0]), 1, b"")
    assert_refused(parse_response, bytes([version, 0, 0, 0]), 1, b"")


def test_bounds() -> None:
    frame = octets("0001 61 0003 787878 0001 62 0000")
    assert len(parse_pairs(Reader(frame), 2, max_pairs=2, max_bytes=13)) == 2
    for bounds in ({"max_pairs": 1}, {"max_bytes": 12}, {"max_bytes": 9}):
        with pytest.raises(ProtocolError) as caught:
            parse_pairs(Reader(frame), 2, **bounds)
        assert caught.value.answer == INVALID


def test_a_value_that_leaves_no_room_is_refused_before_it_comes() -> None:
    pairs = Pairs(2, max_bytes=20)
    for head in prefixes(octets("0001 61 000B")):
        with pytest.raises(Incomplete):
            pairs.take(Reader(head))
    with pytest.raises(ProtocolError):
        pairs.take(Reader(octets("0001 61 000B")))


@rows("P-03")
def test_the_largest_that_fits() -> None:
    value = b"v" * 0xFFFF
    wanted = KeyValues.of({f"k{i}": value for i in range(3)})
    assert parse_request(Reader(extended.build_request(wanted))) == wanted
    too_much = KeyValues.of({f"k{i}": value for i in range(4)})
    with pytest.raises(ProtocolError):
        parse_request(Reader(extended.build_request(too_much)))


def test_a_claim_of_eight_gigabytes_costs_nothing() -> None:
    tracemalloc.start()
    for bounds in ({}, {"max_pairs": 0xFFFF}):
        with pytest.raises(ProtocolError) as caught:
            parse_pairs(Reader(octets("FFFF FFFF")), 0xFFFF, **bounds)
        assert caught.value.answer == INVALID
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        (KeyValues.of({"": b""}), "key"),
        (KeyValues.of({"k" * 65: b""}), "key"),
        (KeyValues.of({"\u00e9": b""}), "key"),
        (KeyValues.of({"a b": b""}), "key"),
        (KeyValues.of({"a\n": b""}), "key"),
        (KeyValues.of({"a": b"v" * 65536}), "65535 bytes"),
        (KeyValues.of([("a", b"")] * 65536), "65535 pairs"),
    ],
)
def test_what_does_not_fit_is_not_built(pairs: KeyValues, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        extended.build_request(pairs)
