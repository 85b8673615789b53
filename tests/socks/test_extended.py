"""Extended authentication: its messages, and how a server answers a request."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from tests.support.rows import rows
from tests.support.tables import assert_parsed, assert_refused, octets, table
from torsocks_tx.errors import InvalidArguments, ProtocolError
from torsocks_tx.socks import extended
from torsocks_tx.socks.constants import Role
from torsocks_tx.socks.extended import (
    ExtendedRules,
    MessageReader,
    check_credentials,
    judge,
    standard_keys,
    take_any,
)
from torsocks_tx.socks.messages import Credentials, KeyValues
from torsocks_tx.socks.wire import Reader

INVALID = octets("01 02 0000")


class Everything(ExtendedRules):
    """Rules of a listener that reads pairs of any key."""

    def keeps(self, key: str) -> bool:
        return True


def parse(reader: Reader, rules: ExtendedRules | None) -> tuple[int | None, KeyValues]:
    """Read a whole message at once."""
    message = MessageReader(rules)
    while (pairs := message.take(reader)) is None:
        pass
    return message.status, pairs


def parse_request(reader: Reader, **bounds: int) -> KeyValues:
    return parse(reader, Everything(**bounds))[1]  # type: ignore[arg-type]


def parse_response(reader: Reader) -> tuple[int | None, KeyValues]:
    return parse(reader, None)


REQUESTS = table(
    ("V11", KeyValues.of({"USERNAME": b"alice", "PASSWD": b"pw"}),
     '01 0002 0008 "USERNAME" 0005 "alice" 0006 "PASSWD" 0002 "pw"'),
    ("V12, no value", KeyValues.of({"ISOLATION": b""}), '01 0001 0009 "ISOLATION" 0000'),
    ("no pairs", KeyValues(), "01 0000"),
    ("a pair behind an empty value", KeyValues.of({"A": b"", "b": b"\0\xff\n"}),
     "01 0002 0001 41 0000 0001 62 0003 00FF0A"),
    ("one key twice, in order", KeyValues.of([("PT.a", b"2"), ("PT.a", b"1")]),
     "01 0002 0004 50542E61 0001 32 0004 50542E61 0001 31"),
    ("a key of 64", KeyValues.of({"k" * 64: b""}), "01 0001 0040" + "6B" * 64 + "0000"),
    ("a long value", KeyValues.of({"v": b"x" * 700}), "01 0001 0001 76 02BC" + "78" * 700),
)  # fmt: skip


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
    assert extended.build_response(status) == bytes([1, status, 0, 0])
    assert_parsed(parse_response, frame, (status, pairs))


# The bytes, and after how many of them they are refused.
REFUSED = table(
    ("KLEN 0", "01 0001 0000 0001 41", 5),
    ("KLEN 65", "01 0001 0041" + "41" * 65 + "0000", 5),
    ("KLEN little-endian", "01 0001 0800" + "41" * 8 + "0000", 5),
    ("a NUL in a key", "01 0001 0009 555345524E414D4500 0000", 14),
    ("no ASCII in a key", "01 0001 0001 C3 0000", 6),
    ("a comma in a key", "01 0001 0002 412C 0000", 7),
    ("1025 pairs", "01 0401", 3),
    ("65535 pairs", "01 FFFF", 3),
)


@rows("P-09", "P-10", "P-14", "P-15", "P-22")
@pytest.mark.parametrize(("text", "judged"), REFUSED)
def test_messages_refused(text: str, judged: int) -> None:
    assert_refused(parse_request, octets(text), judged, INVALID)
    response = octets("01 00" + text[2:])
    assert_refused(parse_response, response, judged + 1, INVALID)


@rows("P-12", "P-19")
@pytest.mark.parametrize("version", [0, 2, 5, 0x47, 255])
def test_another_version_has_no_answer(version: int) -> None:
    assert_refused(parse_request, bytes([version, 0, 0]), 1, b"")
    assert_refused(parse_response, bytes([version, 0, 0, 0]), 1, b"")


def test_bounds_of_pairs_and_bytes() -> None:
    frame = octets("01 0002 0001 61 0003 787878 0001 62 0000")
    assert len(parse_request(Reader(frame), max_pairs=2, max_bytes=13)) == 2
    for bounds in ({"max_pairs": 1}, {"max_bytes": 12}, {"max_bytes": 9}):
        with pytest.raises(ProtocolError) as caught:
            parse_request(Reader(frame), **bounds)
        assert caught.value.answer == INVALID


@rows("P-03")
def test_the_largest_message_that_fits() -> None:
    value = b"v" * 0xFFFF
    wanted = KeyValues.of({f"k{i}": value for i in range(3)})
    assert parse_request(Reader(extended.build_request(wanted))) == wanted
    too_much = KeyValues.of({f"k{i}": value for i in range(4)})
    with pytest.raises(ProtocolError):
        parse_request(Reader(extended.build_request(too_much)))


def test_a_message_that_claims_eight_gigabytes_takes_no_memory() -> None:
    tracemalloc.start()
    for bounds in ({}, {"max_pairs": 0xFFFF}):
        with pytest.raises(ProtocolError) as caught:
            parse_request(Reader(octets("01 FFFF FFFF FFFF")), **bounds)
        assert caught.value.answer == INVALID
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        (KeyValues.of({"": b""}), "key"),
        (KeyValues.of({"k" * 65: b""}), "key"),
        (KeyValues.of({"a\n": b""}), "key"),
        (KeyValues.of({"a": b"v" * 65536}), "65535 bytes"),
        (KeyValues.of([("a", b"")] * 65536), "65535 pairs"),
    ],
)
def test_pairs_that_do_not_fit_a_message(pairs: KeyValues, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        extended.build_request(pairs)


PLAIN = ExtendedRules()
FLAGGED = ExtendedRules(extended_errors=True)
MIXED = ExtendedRules(standard_keys(isolates=False, authenticates=True))
TRANSPORT = ExtendedRules({"PT.": take_any})

ANSWERS = table(
    ("nothing said", PLAIN, {}, b"", b"prop229"),
    ("isolation", PLAIN, {"ISOLATION": b"x"}, b"ISOLATION", b"prop229"),
    ("in the order of the client", PLAIN, {"PASSWD": b"", "USERNAME": b"", "ISOLATION": b""},
     b"PASSWD,USERNAME,ISOLATION", b"prop229"),
    ("unknown keys are ignored", PLAIN, {"X-a.b": b"", "username": b""}, b"", b"prop229"),
    ("known keys are required", PLAIN,
     {"REQUIRE": b"ISOLATION,USERNAME,REQUIRE,REPLY_CODES", "other": b""}, b"REQUIRE", b"prop229"),
    ("the flag", FLAGGED, {}, b"", b"prop304"),
    ("229 in spite of it", FLAGGED, {"REPLY_CODES": b"prop229"}, b"REPLY_CODES", b"prop229"),
    ("304 without the flag", PLAIN, {"REPLY_CODES": b"prop304"}, b"REPLY_CODES", b"prop229"),
    ("none", PLAIN, {"REPLY_CODES": b"none"}, b"REPLY_CODES", b"rfc1928"),
    ("a listener that does not isolate", MIXED, {"ISOLATION": b"x"}, b"", b"prop229"),
    ("but logs in", MIXED, {"USERNAME": b"", "PASSWD": b""}, b"USERNAME,PASSWD", b"prop229"),
    ("a transport", TRANSPORT, {"PT.a": b"", "ISOLATION": b""}, b"PT.a", b"prop229"),
)  # fmt: skip


@rows("P-04", "P-05", "P-18", "P-23", "P-24", "P-26")
@pytest.mark.parametrize(("rules", "pairs", "accepted", "codes"), ANSWERS)
def test_responses_of_a_listener(
    rules: ExtendedRules, pairs: dict[str, bytes], accepted: bytes, codes: bytes
) -> None:
    role = Role.PT if rules is TRANSPORT else Role.TOR
    answer = judge(KeyValues.of(pairs), rules, role)
    assert list(answer) == [("ACCEPTED", accepted), ("REPLY_CODES", codes)]


INVALIDS = table(
    ("a required key is unknown", PLAIN, [("REQUIRE", b"X-a")], b"X-a"),
    ("required where nothing isolates", MIXED, [("REQUIRE", b"ISOLATION")], b"ISOLATION"),
    ("REQUIRE is no list", PLAIN, [("REQUIRE", b"X-a,,X-b")], None),
    ("REQUIRE has a NUL", PLAIN, [("REQUIRE", b"ISOLATION\0")], None),
    ("no such set", PLAIN, [("REPLY_CODES", b"prop305")], None),
    ("ISOLATION twice", PLAIN, [("ISOLATION", b"a"), ("ISOLATION", b"a")], None),
    ("REPLY_CODES twice", PLAIN, [("REPLY_CODES", b"none")] * 2, None),
)


@rows("P-20", "P-21")
@pytest.mark.parametrize(("rules", "pairs", "unsupported"), INVALIDS)
def test_refusals_of_a_listener(
    rules: ExtendedRules, pairs: list[tuple[str, bytes]], unsupported: bytes | None
) -> None:
    role = Role.PT if rules is TRANSPORT else Role.TOR
    with pytest.raises(ProtocolError) as caught:
        judge(KeyValues.of(pairs), rules, role)
    said = {} if unsupported is None else {"UNSUPPORTED": unsupported}
    assert caught.value.answer == extended.build_response(2, KeyValues.of(said))


def test_unknown_keys_may_occur_twice() -> None:
    pairs = KeyValues.of([("X-a", b"1"), ("X-a", b"2"), ("ISOLATION", b"")])
    assert judge(pairs, PLAIN, Role.TOR).get("ACCEPTED") == b"ISOLATION"


def test_a_prefix_handler_gets_all_its_pairs_together() -> None:
    heard: list[KeyValues] = []

    def handler(pairs: KeyValues) -> KeyValues:
        heard.append(pairs)
        return KeyValues.of({"PT.session": b"7"})

    pairs = KeyValues.of([("PT.a", b"1"), ("X-a", b""), ("PT.b", b"2"), ("PT.a", b"3")])
    answer = judge(pairs, ExtendedRules({"PT.": handler}), Role.PT)
    assert heard == [KeyValues.of([("PT.a", b"1"), ("PT.b", b"2"), ("PT.a", b"3")])]
    assert answer.get("ACCEPTED") == b"PT.a,PT.b"
    assert answer.get("PT.session") == b"7"


def test_a_handler_without_pairs_is_not_called() -> None:
    def handler(pairs: KeyValues) -> KeyValues:
        raise AssertionError("asked")

    judge(KeyValues.of({"ISOLATION": b""}), ExtendedRules({"X-a.b": handler}), Role.TOR)


def test_a_handler_may_refuse_with_pairs_of_its_own() -> None:
    def handler(pairs: KeyValues) -> KeyValues:
        raise InvalidArguments("no such colour", KeyValues.of({"X-a.known": b"red"}))

    with pytest.raises(ProtocolError, match="no such colour") as caught:
        judge(KeyValues.of({"X-a.b": b"blue"}), ExtendedRules({"X-a.b": handler}), Role.TOR)
    assert caught.value.answer == octets("01 02 0001 0009 582D612E6B6E6F776E 0003 726564")


def test_a_list_of_accepted_keys_too_long_for_a_value_is_cut() -> None:
    names = [f"X-{i:04}." + "k" * 57 for i in range(1024)]
    pairs = KeyValues.of(dict.fromkeys(names, b""))
    accepted = judge(pairs, ExtendedRules(dict.fromkeys(names, take_any)), Role.TOR).pairs[0][1]
    assert 0xFFFF - 65 < len(accepted) <= 0xFFFF
    assert set(accepted.decode().split(",")) < set(names)


NAME_0, NAME_9 = b"<torS0X>0", b"<torS0X>9"
# The pairs, and the credentials in them on tor's port and on a transport's, or the refusal.
CREDENTIALS = table(
    ("neither", [], None, None),
    ("both", [("USERNAME", b"a"), ("PASSWD", b"b")], *[Credentials(b"a", b"b")] * 2),
    ("only a name", [("USERNAME", b"a")], *[Credentials(b"a")] * 2),
    ("a long name", [("USERNAME", b"a" * 60000)], *[Credentials(b"a" * 60000)] * 2),
    ("an isolation parameter", [("USERNAME", NAME_0)], *[Credentials(NAME_0)] * 2),
    ("an unknown format", [("USERNAME", NAME_9)], INVALID, Credentials(NAME_9)),
    ("more than a format", [("USERNAME", NAME_0 + b"a")], INVALID, Credentials(NAME_0 + b"a")),
    ("two names", [("USERNAME", b"a")] * 2, INVALID, INVALID),
    ("two passwords", [("PASSWD", b"a")] * 2, INVALID, INVALID),
)


@rows("P-20", "P-23", "P-24")
@pytest.mark.parametrize(("pairs", "of_tor", "of_transport"), CREDENTIALS)
def test_credentials_among_the_pairs(
    pairs: list[tuple[str, bytes]], of_tor: object, of_transport: object
) -> None:
    for role, expected in ((Role.TOR, of_tor), (Role.PT, of_transport)):
        try:
            found: object = check_credentials(KeyValues.of(pairs), role)
        except ProtocolError as refusal:
            found = refusal.answer
        assert found == expected


@rows("P-20")
def test_a_refusal_whose_pairs_do_not_fit_is_sent_without_them() -> None:
    def handler(pairs: KeyValues) -> KeyValues:
        raise InvalidArguments("no", KeyValues.of({"X-why": b"x" * 65536}))

    with pytest.raises(ProtocolError) as caught:
        judge(KeyValues.of({"X-a": b""}), ExtendedRules({"X-a": handler}), Role.TOR)
    assert caught.value.answer == octets("01 02 0000")


class Colours:
    """A handler of a prefix that knows one key."""

    def knows(self, key: str) -> bool:
        return key == "X-colour.red"

    def __call__(self, pairs: KeyValues) -> KeyValues:
        return KeyValues()


@rows("P-18", "P-20", "P-21")
def test_a_handler_may_know_some_keys_of_its_prefix_only() -> None:
    rules = ExtendedRules({"X-colour.": Colours()})
    pairs = {"X-colour.red": b"", "X-colour.blue": b"", "REQUIRE": b"X-colour.red"}
    answer = judge(KeyValues.of(pairs), rules, Role.TOR)
    assert answer.get("ACCEPTED") == b"X-colour.red,REQUIRE"
    with pytest.raises(ProtocolError) as caught:
        judge(KeyValues.of({"REQUIRE": b"X-colour.red,X-colour.blue"}), rules, Role.TOR)
    assert b"X-colour.blue" in caught.value.answer
    assert b"X-colour.red" not in caught.value.answer


@pytest.mark.parametrize("keys", [{"two words": take_any}, {"X": None}, {"": take_any}])
def test_what_is_no_key_with_a_function_is_refused(keys: Any) -> None:
    with pytest.raises(ValueError, match=r"wanted a key of letters, .*, with a function, not"):
        ExtendedRules(keys)
