"""Texts of the control port: events, quoted strings, and paths of any bytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, serverFromString

from torsocks_tx.backends.tor.authentication import connect
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.daemon import write_torrc
from torsocks_tx.backends.tor.events import (
    EventError,
    parse_event,
    parse_strings,
    path_of,
    printable,
    quote,
    quote_path,
    unix_endpoint,
    unquote,
)
from torsocks_tx.backends.tor.launched import LaunchedTorProvider
from torsocks_tx.backends.tor.ports import find_ports
from torsocks_tx.backends.tor.provider import Progress

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
        ("3", "FAILED", "0", "a:80", "UNKNOWN_264"),
        {"REASON": "", "REMOTE_REASON": "MISC"},
    ),
    ("a truly empty value", "3 FAILED REASON= LATER", ("3", "FAILED", "LATER"), {"REASON": ""}),
    (
        "additional fields and unknown keywords",
        "3 FAILED 0 a:80 NEW_THING=1 more",
        ("3", "FAILED", "0", "a:80", "more"),
        {"NEW_THING": "1"},
    ),
    ("the first of two", "A=1 A=2", (), {"A": "1"}),
    ("an empty first of two", "REASON= REASON=B", (), {"REASON": ""}),
    ("a local time among the fields", '"2026-01-01 10:00:00" x', ("2026-01-01 10:00:00", "x"), {}),
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
    'WARN SOCKS_UNKNOWN_PROTOCOL DATA=""GET / HT"" B=2',
    'DATA=""""',
    '"',
]


@pytest.mark.parametrize(("text", "positional", "keywords"), [row[1:] for row in EVENTS])
def test_the_fields_of_an_event_are_read(
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
def test_escapes_are_read(text: str, value: str) -> None:
    assert unquote(text) == value


@pytest.mark.parametrize("text", ["", "a", '"', '"a" ', '"a"b"', r'"\400"', '"\\'])
def test_what_is_not_a_quoted_string_is_an_error(text: str) -> None:
    with pytest.raises(EventError):
        unquote(text)


@given(BYTES)
def test_unquoting_undoes_quoting(value: str) -> None:
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
def test_lists_of_strings_are_read(values: list[str]) -> None:
    assert parse_strings(" ".join(map(quote, values))) == tuple(values)


def test_a_list_may_hold_equals_signs_and_bare_words() -> None:
    assert parse_strings('A=1 "unix:/run/tor/a b"') == ("A=1", "unix:/run/tor/a b")


ODD_NAMES = [
    b"my data",
    "jos\u00e9".encode(),
    "\u0417\u0430\u0433\u0440\u0443\u0437\u043a\u0438".encode(),
    b'q"q',
    b"back\\slash\\n",
    b"a:b=c#d'e\t\n\xff",
]
"""Names that once were cut short, read as syntax, or not found."""

names = st.binary(min_size=1, max_size=60).map(lambda name: name.replace(b"\0", b"0"))
paths = names.map(lambda name: os.fsdecode(b"/" + name))


@given(paths)
def test_tor_reads_the_path_that_was_quoted(path: str) -> None:
    quoted = quote_path(path)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert "#" not in quoted
    assert path_of(unquote(quoted)) == path
    assert parse_strings(f"{quoted} {quoted}") == (unquote(quoted),) * 2


@given(paths)
def test_an_endpoint_string_leads_to_the_same_socket(path: str) -> None:
    for parse in (clientFromString, serverFromString):
        endpoint = parse(reactor, unix_endpoint(path))
        assert path in (getattr(endpoint, "_path", None), getattr(endpoint, "_address", None))


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_what_tor_says_cannot_steer_a_terminal_or_forge_a_line(text: str) -> None:
    for words in (printable(text), str(ControlError(551, text)), str(Progress(1, "", text, text))):
        assert words.isprintable()


@given(paths)
def test_a_path_in_a_message_can_be_written_anywhere(path: str) -> None:
    assert printable(path).encode()


def test_what_tor_says_is_printable_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
    assert printable("\ufffd t\udcc3\udca4 \udcff") == "\ufffd t\u00e4 \\xff"


def test_a_torrc_holds_any_path_and_no_line_that_is_two(tmp_path: Path) -> None:
    torrc = tmp_path / "torrc"
    lines = [f"DataDirectory {quote_path(os.fsdecode(name))}" for name in ODD_NAMES]
    write_torrc(torrc, [*lines, os.fsdecode(b"%include /x/\xff")])
    assert torrc.read_bytes().splitlines() == [os.fsencode(line) for line in lines] + [
        b"%include /x/\xff"
    ]
    assert torrc.stat().st_mode & 0o777 == 0o600
    for end in "\r\n\0":
        with pytest.raises(ValueError, match="line break"):
            write_torrc(torrc, [f"Nickname x{end}Sandbox 1"])


@pytest.fixture(params=ODD_NAMES, ids=repr)
def odd_directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A short directory with an odd name."""
    above = Path(tempfile.mkdtemp(prefix="tor-", dir="/tmp"))
    directory = above / os.fsdecode(request.param)
    directory.mkdir(mode=0o700)
    yield directory
    assert list(above.iterdir()) == [directory], "tor took a part of the path for all of it"
    shutil.rmtree(above)


@pytest_twisted.async_yield_fixture
async def launched_tor(
    odd_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LaunchedTorProvider]:
    """A real tor without network, whose data and whose sockets are in such a directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(odd_directory))
    port = f"SocksPort unix:{quote_path(odd_directory / 'other socks')} NoIPv6Traffic"
    options = [("DisableNetwork", "1"), tuple(port.split(" ", 1))]
    provider = LaunchedTorProvider(reactor, odd_directory / "data", options)
    await provider.start()
    yield provider
    await provider.stop()
    assert sorted(entry.name for entry in odd_directory.iterdir()) == ["data"]


@pytest.mark.network
async def test_a_real_tor_takes_its_paths_and_tells_them(
    launched_tor: LaunchedTorProvider, odd_directory: Path
) -> None:
    endpoint = clientFromString(reactor, launched_tor.control_address)
    control = await connect(reactor, endpoint)  # by the cookie, whose path tor tells
    await control.command("SETCONF DisableNetwork=0 UseBridges=1 Bridge=127.0.0.1:1")
    plain, other = await find_ports(control)
    assert plain.flags == frozenset()
    assert other.flags == {"NoIPv6Traffic"}, "the line of the configuration was understood"
    assert (odd_directory / "other socks").is_socket()
    control.close()
    await control.when_lost()
