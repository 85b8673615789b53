"""Every parser, for any bytes: a value, ``Incomplete`` or ``ProtocolError``."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.fuzz.strategies import (
    any_address,
    client_bytes,
    credentials,
    fuzz,
    ipv4,
    octets,
    ports,
    requests_4,
    requests_5,
    thorough,
)
from tests.support.rows import rows
from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.socks import socks4, socks5, userpass
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Reply
from torsocks_tx.socks.wire import Reader, build_address, check_destination, parse_address

PARSERS: list[Any] = [
    parse_address,
    socks4.parse_request,
    socks4.parse_reply,
    socks5.parse_greeting,
    socks5.parse_selection,
    socks5.parse_request,
    socks5.parse_reply,
    userpass.parse_credentials,
]
BOUND = 513


def judged(parse: Any, data: bytes) -> tuple[str, Any, int]:
    """What the parser makes of the bytes, and how many of them it took for a value."""
    reader = Reader(data)
    try:
        value = parse(reader)
    except Incomplete:
        return "incomplete", None, 0
    except ProtocolError as error:
        return "refused", (error.answer, str(error)), 0
    return "value", value, reader.position


@rows("R-03", "R-12", "R-27")
@given(data=client_bytes, cut=st.integers(0, 700))
@thorough
def test_more_bytes_change_no_outcome_of_a_parser(data: bytes, cut: int) -> None:
    for parse in PARSERS:
        assert_final(parse, data, cut)


def assert_final(parse: Any, data: bytes, cut: int) -> None:
    whole = judged(parse, data)
    kind, value, taken = judged(parse, data[:cut])
    if kind == "incomplete":
        assert len(data[:cut]) < BOUND, "waits for more than any frame has"
    else:
        assert whole == (kind, value, taken)
    if whole[0] == "value":
        assert judged(parse, data[: whole[2]]) == whole
        assert judged(parse, data[: whole[2] - 1])[0] == "incomplete"


def place_of(request: Any) -> tuple[Any, Address]:
    """What a SOCKS5 request itself carries."""
    return request.command, request.address


def parse_place(reader: Reader) -> tuple[Any, Address]:
    return place_of(socks5.parse_request(reader))


replies = st.builds(Reply, st.integers(0, 255), any_address)
replies_4 = st.builds(
    Reply, st.integers(0, 255), st.builds(Address, st.just(AddressType.IPV4), ipv4, ports)
)
any_credentials = st.builds(Credentials, octets, octets)
CODECS: list[tuple[Any, Any, st.SearchStrategy[Any]]] = [
    (parse_address, build_address, any_address),
    (socks4.parse_request, socks4.build_request, requests_4()),
    (parse_place, lambda place: socks5.build_request(*place), requests_5().map(place_of)),
    (socks5.parse_reply, socks5.build_reply, replies),
    (socks4.parse_reply, socks4.build_reply, replies_4),
    (userpass.parse_credentials, userpass.build_credentials, credentials | any_credentials),
    (socks5.parse_greeting, socks5.build_greeting, octets),
]


@rows("R-10", "R-20", "R-32", "S-04", "S-05", "S-06", "S-17", "S-19")
@given(
    codec=st.one_of(st.tuples(*map(st.just, its), values) for *its, values in CODECS),
    behind=st.binary(max_size=8),
)
@settings(thorough, max_examples=200 * len(CODECS))
def test_what_is_built_is_parsed_as_it_was(codec: Any, behind: bytes) -> None:
    parse, build, value = codec
    built = build(value)
    assert judged(parse, built + behind) == ("value", value, len(built))


@rows("R-23", "R-04")
@given(address=any_address)
@fuzz
def test_destinations_have_the_alphabet_of_names(address: Address) -> None:
    with contextlib.suppress(ProtocolError):
        checked = check_destination(address)
        assert_clean(address, checked)


def assert_clean(address: Address, checked: Address) -> None:
    assert checked.port == address.port
    assert checked.host in {address.host, address.host[:-1]}
    assert checked.host.isascii()
    assert not set(checked.host) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:[]"
    )
    assert check_destination(checked) == checked


awkward = st.text("\\;=ab", max_size=40).map(str.encode) | st.binary(max_size=40)
keys = st.text("\\;=ab", min_size=1) | st.text(st.characters(max_codepoint=255), min_size=1)
arguments = st.lists(st.tuples(keys, awkward), max_size=8).map(KeyValues.of)
plain_keys = keys.map(lambda key: key.replace("=", "+"))
plain = st.lists(st.tuples(plain_keys, awkward), max_size=8).map(KeyValues.of)
texts = st.text("\\;=ab", max_size=600).map(str.encode) | st.binary(max_size=600)


def as_tor_writes(key: str, value: bytes) -> bytes:
    """One item with only the backslash and the semicolon escaped."""
    parts = key.encode("latin-1"), value
    return b"=".join(part.replace(b"\\", rb"\\").replace(b";", rb"\;") for part in parts)


def answer_or_arguments(credentials: Credentials) -> KeyValues | bytes:
    try:
        return userpass.parse_arguments(credentials)
    except ProtocolError as error:
        return error.answer


def escaped(sent: KeyValues) -> bytes:
    """The text of arguments with all three characters escaped everywhere."""
    fields = [(key.encode("latin-1"), value) for key, value in sent]
    return b";".join(
        b"=".join(re.sub(rb"([\\;=])", rb"\\\1", part) for part in pair) for pair in fields
    )


@given(sent=arguments, cut=st.integers(0, 600))
@thorough
def test_arguments_survive_escaping_and_a_cut_anywhere(sent: KeyValues, cut: int) -> None:
    text = escaped(sent)
    assume(text[cut:] != b"\0")  # which stands for an empty field
    assert userpass.parse_arguments(Credentials(text[:cut], text[cut:] or b"\0")) == sent


@given(sent=plain)
@thorough
def test_arguments_survive_tors_notation(sent: KeyValues) -> None:
    text = b";".join(as_tor_writes(*pair) for pair in sent)
    assert userpass.parse_arguments(Credentials(text)) == sent


@given(text=texts)
@thorough
def test_any_text_is_parsed_or_refused(text: bytes) -> None:
    heard = answer_or_arguments(Credentials(text))
    if isinstance(heard, KeyValues):
        assert userpass.parse_arguments(Credentials(escaped(heard))) == heard
    else:
        assert heard == b"\1\1"


@given(username=st.binary(max_size=255), password=st.binary(max_size=255))
@thorough
def test_any_credentials_are_parsed_or_refused(username: bytes, password: bytes) -> None:
    heard = answer_or_arguments(Credentials(username, password))
    assert isinstance(heard, KeyValues) or heard == b"\1\1"
