"""Texts of the control port: events and quoted strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torsocks_tx.backends.tor.events import (
    EventError,
    parse_event,
    parse_strings,
    quote,
    unquote,
)

BYTES = st.text(st.characters(max_codepoint=0xFF))
TEXTS = st.one_of(st.text(), st.text('ab ="\\01789nx_\n', max_size=40))

EVENTS = [
    (
        "a stream with our token",
        "21 NEW 0 duck.onion:80 SOURCE_ADDR=127.0.0.1:40022 PURPOSE=USER "
        'SOCKS_USERNAME="<torS0X>0" SOCKS_PASSWORD="k3" ISO_FIELDS=SOCKS_USERNAME,CLIENTADDR',
        ("21", "NEW", "0", "duck.onion:80"),
        {
            "SOURCE_ADDR": "127.0.0.1:40022",
            "PURPOSE": "USER",
            "SOCKS_USERNAME": "<torS0X>0",
            "SOCKS_PASSWORD": "k3",
            "ISO_FIELDS": "SOCKS_USERNAME,CLIENTADDR",
        },
    ),
    (
        "a forged keyword inside a user name",
        '1 NEW 0 a:80 SOCKS_USERNAME="x SOURCE_ADDR=9.9.9.9:99" SOURCE_ADDR=127.0.0.1:5',
        ("1", "NEW", "0", "a:80"),
        {"SOCKS_USERNAME": "x SOURCE_ADDR=9.9.9.9:99", "SOURCE_ADDR": "127.0.0.1:5"},
    ),
    (
        "a forged keyword behind an escaped quote",
        r'1 NEW 0 a:80 SOCKS_USERNAME="x\" SOURCE_ADDR=9.9.9.9:99" PURPOSE=USER',
        ("1", "NEW", "0", "a:80"),
        {"SOCKS_USERNAME": 'x" SOURCE_ADDR=9.9.9.9:99', "PURPOSE": "USER"},
    ),
    (
        "a path of relays",
        "7 BUILT $AA~one,$BB~two BUILD_FLAGS=IS_INTERNAL,NEED_CAPACITY PURPOSE=HS_CLIENT_REND",
        ("7", "BUILT", "$AA~one,$BB~two"),
        {"BUILD_FLAGS": "IS_INTERNAL,NEED_CAPACITY", "PURPOSE": "HS_CLIENT_REND"},
    ),
    (
        "an unknown reason and its stray space",
        "3 FAILED 0 a:80 REASON= UNKNOWN_264 REMOTE_REASON=MISC",
        ("3", "FAILED", "0", "a:80"),
        {"REASON": "UNKNOWN_264", "REMOTE_REASON": "MISC"},
    ),
    (
        "a truly empty value",
        "3 FAILED REASON= LATER",
        ("3", "FAILED", "LATER"),
        {"REASON": ""},
    ),
    (
        "additional fields and unknown keywords",
        "3 FAILED 0 a:80 NEW_THING=1 more",
        ("3", "FAILED", "0", "a:80", "more"),
        {"NEW_THING": "1"},
    ),
    ("the first of two", "A=1 A=2", (), {"A": "1"}),
    ("an empty first of two", "REASON= REASON=B", (), {"REASON": ""}),
    ("a local time among the fields", '"2026-01-01 10:00:00" x', ("2026-01-01 10:00:00", "x"), {}),
    (
        "quotes within quotes",
        'WARN SOCKS_UNKNOWN_PROTOCOL DATA=""GET / A=1 HT"" B=2',
        ("WARN", "SOCKS_UNKNOWN_PROTOCOL"),
        {"DATA": "GET / A=1 HT", "B": "2"},
    ),
    ("nothing within doubled quotes", 'DATA="""" B=2', (), {"DATA": "", "B": "2"}),
    ("an empty quoted value", 'DATA="" B=2', (), {"DATA": "", "B": "2"}),
    (
        "a key is not a keyword",
        "CLIENT x25519:AAA= Flags=P",
        ("CLIENT", "x25519:AAA="),
        {"Flags": "P"},
    ),
    ("only the first line", "a B=1\r\nC=2", ("a",), {"B": "1"}),
    ("nothing", "", (), {}),
]

STRINGS = [
    (r'"a\n\t\r\\\"\'b"', "a\n\t\r\\\"'b"),
    (r'"\101\0\3777"', "A\x00\xff7"),
    (r'"\1a\12b"', "\x01a\nb"),
    (r'"\x"', "x"),
    ('""', ""),
]

BAD = [
    'SOCKS_USERNAME="x',
    'SOCKS_USERNAME="x"SOURCE_ADDR=9.9.9.9:99',
    '"a"b',
    'A="x\\',
    r'A="\777"',
    'DATA=""GET',
    'DATA=""GET"x',
    '"',
]


@pytest.mark.parametrize(("text", "positional", "keywords"), [row[1:] for row in EVENTS])
def test_fields_of_an_event(
    text: str, positional: tuple[str, ...], keywords: dict[str, str]
) -> None:
    event = parse_event(text)
    assert event.positional == positional
    assert dict(event.keywords) == keywords


@pytest.mark.parametrize("text", BAD)
def test_broken_events_are_errors(text: str) -> None:
    with pytest.raises(EventError):
        parse_event(text)


@pytest.mark.parametrize(("text", "value"), STRINGS)
def test_escapes(text: str, value: str) -> None:
    assert unquote(text) == value


@pytest.mark.parametrize("text", ["", "a", '"', '"a" ', '"a"b"', r'"\400"', '"\\'])
def test_what_is_not_a_quoted_string(text: str) -> None:
    with pytest.raises(EventError):
        unquote(text)


@given(BYTES)
def test_quoting_and_back(value: str) -> None:
    quoted = quote(value)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert unquote(quoted) == value
    assert parse_strings(quoted) == (value,)


def test_only_bytes_can_be_quoted() -> None:
    with pytest.raises(EventError):
        quote("\u0100")


@given(BYTES, BYTES)
def test_a_client_cannot_forge_a_keyword(user: str, password: str) -> None:
    event = parse_event(
        f"1 NEW 0 a:80 SOCKS_USERNAME={quote(user)} SOCKS_PASSWORD={quote(password)} "
        "SOURCE_ADDR=127.0.0.1:5"
    )
    assert event.positional == ("1", "NEW", "0", "a:80")
    assert dict(event.keywords) == {
        "SOCKS_USERNAME": user,
        "SOCKS_PASSWORD": password,
        "SOURCE_ADDR": "127.0.0.1:5",
    }


@given(TEXTS)
def test_nothing_but_an_event_error_escapes(text: str) -> None:
    for parse in (parse_event, parse_strings, unquote):
        try:
            parse(text)
        except EventError:
            continue


@given(st.lists(BYTES, max_size=4))
def test_lists_of_strings(values: list[str]) -> None:
    assert parse_strings(" ".join(map(quote, values))) == tuple(values)


def test_a_list_may_hold_equals_signs_and_bare_words() -> None:
    assert parse_strings('A=1 "unix:/run/tor/a b"') == ("A=1", "unix:/run/tor/a b")
