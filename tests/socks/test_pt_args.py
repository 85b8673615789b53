"""The arguments of a pluggable transport, in both notations and as tor and others write them."""

from __future__ import annotations

import pytest

from tests.support.tables import octets, table
from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks import pt_args
from torsocks_tx.socks.messages import Credentials, KeyValues

Pairs = tuple[tuple[str, bytes], ...]

BOTH_WAYS = table(
    [
        ("none", (), b""),
        ("one", (("key", b"value"),), b"key=value"),
        (
            "pt-spec's own example",
            (("shared-secret", b"rahasia"), ("secrets-file", b"/tmp/blob")),
            b"shared-secret=rahasia;secrets-file=/tmp/blob",
        ),
        ("empty value", (("a", b""),), b"a="),
        ("empty value, and more", (("a", b""), ("b", b"1")), b"a=;b=1"),
        ("a key twice", (("a", b"1"), ("b", b"2"), ("a", b"0")), b"a=1;b=2;a=0"),
        ("escapes in a value", (("k", rb"\;="),), rb"k=\\\;\="),
        ("escapes in a key", ((r"\;=", b"v"),), rb"\\\;\==v"),
        ("an escaped backslash at the end", (("k", b"\\"),), rb"k=\\"),
        ("an escaped semicolon at the end", (("k", b";"),), rb"k=\;"),
        ("only backslashes", (("k", b"\\" * 3),), b"k=" + b"\\" * 6),
        ("other bytes", (("\xff\n", b"\x01 \x80"),), b"\xff\n=\x01 \x80"),
    ]
)
AS_TOR_WRITES = table(
    [
        ("= inside a value", (("k", b"a=b"),), b"k=a=b"),
        ("= at a value's end", (("cert", b"abc=="), ("x", b"=")), b"cert=abc==;x=="),
        ("= after an escape", (("k", b";=\\"),), rb"k=\;=\\"),
    ]
)
REFUSED = table(
    [
        ("a lone backslash at the end", b"k=v\\"),
        ("a backslash before a letter", rb"k=\n"),
        ("a backslash before a letter in a key", rb"\k=v"),
        ("three backslashes", b"k=\\\\\\"),
        ("no =", b"key"),
        ("no = in the second item", b"k=v;key"),
        ("= only escaped", rb"k\=v"),
        ("no key", b"=v"),
        ("no key in the second item", b"k=v;=v"),
        ("; at the end", b"k=v;"),
        ("; at the start", b";k=v"),
        ("an empty item", b"k=v;;l=w"),
        ("only ;", b";"),
        ("only =", b"="),
        ("only a backslash", b"\\"),
    ]
)


@pytest.mark.parametrize(("pairs", "text"), BOTH_WAYS)
def test_text_both_ways(pairs: Pairs, text: bytes) -> None:
    assert pt_args.parse_text(text) == KeyValues(pairs)
    assert pt_args.build_text(KeyValues(pairs)) == text


@pytest.mark.parametrize(("pairs", "text"), AS_TOR_WRITES)
def test_what_tor_leaves_unescaped(pairs: Pairs, text: bytes) -> None:
    assert pt_args.parse_text(text) == KeyValues(pairs)


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_list_of_arguments(text: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        pt_args.parse_text(text)
    assert caught.value.answer == octets("01 01")


def test_a_key_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="key"):
        pt_args.build_text(KeyValues((("", b"v"),)))


NUL = b"\0"
FIELDS = table(
    [
        ("short", 5, (5, NUL)),
        ("254", 254, (254, NUL)),
        ("exactly 255", 255, (255, NUL)),
        ("256", 256, (255, b"x")),
        ("510", 510, (255, b"x" * 255)),
    ]
)


@pytest.mark.parametrize(("length", "fields"), FIELDS)
def test_the_two_fields(length: int, fields: tuple[int, bytes]) -> None:
    text = b"x" * length
    credentials = Credentials(text[: fields[0]], fields[1])
    assert pt_args.split(text) == credentials
    assert pt_args.join(credentials) == text


@pytest.mark.parametrize("text", [b"k=" + b"v" * 509, b"k=\0"], ids=["511 bytes", "a NUL"])
def test_what_the_two_fields_cannot_hold(text: bytes) -> None:
    with pytest.raises(ValueError, match="510"):
        pt_args.split(text)


@pytest.mark.parametrize("cut", range(1, 20))
def test_the_cut_may_be_anywhere(cut: int) -> None:
    text = rb"k=\\\;\=;k\==v;a=\\\\"
    pairs = (("k", rb"\;="), ("k=", b"v"), ("a", rb"\\"))
    assert pt_args.parse_credentials(Credentials(text[:cut], text[cut:])) == KeyValues(pairs)


def test_what_parents_leave_empty() -> None:
    """A SOCKS4 user id has no second field, and some clients send empty ones."""
    for credentials in (Credentials(b""), Credentials(b"", NUL)):
        assert pt_args.parse_credentials(credentials) == KeyValues()
    assert pt_args.parse_credentials(Credentials(b"k=v")) == KeyValues((("k", b"v"),))
    assert pt_args.parse_credentials(Credentials(b"", b"k=v")) == KeyValues((("k", b"v"),))


def test_no_arguments_need_no_credentials() -> None:
    assert pt_args.build_credentials(KeyValues()) is None
    assert pt_args.build_credentials(KeyValues((("k", b"v"),))) == Credentials(b"k=v", NUL)
