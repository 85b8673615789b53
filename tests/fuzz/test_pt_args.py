"""Arguments of pluggable transports: every one of them survives, and no text is an accident."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import thorough
from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks import userpass
from torsocks_tx.socks.messages import Credentials, KeyValues

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


@given(sent=arguments)
@thorough
def test_arguments_survive(sent: KeyValues) -> None:
    assert userpass.parse_text(userpass.build_text(sent)) == sent


@given(sent=plain)
@thorough
def test_arguments_survive_tors_notation(sent: KeyValues) -> None:
    text = b";".join(as_tor_writes(*pair) for pair in sent)
    assert userpass.parse_text(text) == sent


@given(text=texts)
@thorough
def test_any_text_is_arguments_or_refused(text: bytes) -> None:
    heard = answer_or_arguments(Credentials(text))
    if isinstance(heard, KeyValues):
        assert userpass.parse_text(userpass.build_text(heard)) == heard
    else:
        assert heard == b"\1\1"


@given(text=texts)
@thorough
def test_the_two_fields_hold_any_text_up_to_510_bytes(text: bytes) -> None:
    if len(text) > 510 or b"\0" in text:
        with pytest.raises(ValueError):
            userpass.split_text(text)
        return
    credentials = userpass.split_text(text)
    assert len(credentials.username) <= 255
    assert 1 <= len(credentials.password) <= 255
    assert credentials.username + credentials.password.strip(b"\0") == text


@given(username=st.binary(max_size=255), password=st.binary(max_size=255))
@thorough
def test_any_credentials_are_arguments_or_refused(username: bytes, password: bytes) -> None:
    heard = answer_or_arguments(Credentials(username, password))
    assert isinstance(heard, KeyValues) or heard == b"\1\1"
