"""What the two fields of RFC 1929 carry: user names and passwords, and arguments of transports."""

from __future__ import annotations

import pytest

from tests.support.rows import rows
from tests.support.tables import assert_parsed, assert_refused, octets, table
from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks import userpass
from torsocks_tx.socks.messages import Credentials, KeyValues

MESSAGES = table(
    ("V4", Credentials(b"me", b"you"), '01 02 "me" 03 "you"'),
    ("both empty", Credentials(b"", b""), "01 00 00"),
    ("bytes of all kinds", Credentials(b"\0\xff", b"\n\0"), "01 02 00FF 02 0A00"),
    ("V6", Credentials(b"<torS0X>0", b"123"), '01 09 "<torS0X>0" 03 313233'),
    ("the longest", Credentials(b"u" * 255, b"p" * 255), "01 FF" + "75" * 255 + "FF" + "70" * 255),
)


@rows("S-06", "S-17", "S-19")
@pytest.mark.parametrize(("credentials", "text"), MESSAGES)
def test_credentials_both_ways(credentials: Credentials, text: str) -> None:
    assert_parsed(userpass.parse_credentials, octets(text), credentials)
    assert userpass.build_credentials(credentials) == octets(text)


@rows("S-20")
@pytest.mark.parametrize("version", [0x00, 0x02, 0x04, 0x05, 0xFF])
def test_another_version_is_refused(version: int) -> None:
    frame = bytes([version]) + octets('02 "me" 02 "me"')
    assert_refused(userpass.parse_credentials, frame, 1, b"")


def test_a_field_has_at_most_255_bytes() -> None:
    longest = userpass.build_credentials(Credentials(b"u" * 255, b"p" * 255))
    assert len(longest) == 513
    for fields in [(b"u" * 256, b""), (b"", b"p" * 256)]:
        with pytest.raises(ValueError, match="255"):
            userpass.build_credentials(Credentials(*fields))


FORMATS = table(
    ("legacy", b"hello", b"world", True),
    ("type 0", b"<torS0X>0", b"123", True),
    ("small x", b"<torS0x>0abc", b"", True),
    ("blank in front", b" <torS0X>9", b"", True),
    ("in the password", b"", b"<torS0X>9", True),
    ("no type", b"<torS0X>", b"", False),
    ("type 0 and more", b"<torS0X>0abc", b"", False),
    ("type 1", b"<torS0X>1abc", b"123", False),
    ("type 9", b"<torS0X>9", b"", False),
)


@rows("S-17")
@pytest.mark.parametrize(("username", "password", "is_known"), FORMATS)
def test_which_formats_of_user_names_are_known(
    username: bytes, password: bytes, is_known: bool
) -> None:
    assert userpass.is_known_format(Credentials(username, password)) is is_known


ARGUMENTS = table(
    ("none", (), b""),
    (
        "pt-spec's own example",
        (("shared-secret", b"rahasia"), ("secrets-file", b"/tmp/blob")),
        b"shared-secret=rahasia;secrets-file=/tmp/blob",
    ),
    ("empty value", (("a", b""),), b"a="),
    ("a key twice", (("a", b"1"), ("b", b"2"), ("a", b"0")), b"a=1;b=2;a=0"),
    ("escapes in a value", (("k", rb"\;="),), rb"k=\\\;\="),
    ("escapes in a key", ((r"\;=", b"v"),), rb"\\\;\==v"),
    ("an escaped backslash at the end", (("k", b"\\"),), rb"k=\\"),
    ("an escaped semicolon at the end", (("k", b";"),), rb"k=\;"),
    ("other bytes", (("\xff\n", b"\x01 \x80"),), b"\xff\n=\x01 \x80"),
    # tor leaves = in values as it is.
    ("= inside a value", (("k", b"a=b"),), b"k=a=b"),
    ("= at a value's end", (("cert", b"abc=="), ("x", b"=")), b"cert=abc==;x=="),
    ("= after an escape", (("k", b";=\\"),), rb"k=\;=\\"),
)
REFUSED = table(
    ("a lone backslash at the end", b"k=v\\"),
    ("a backslash before a letter", rb"k=\n"),
    ("a backslash before a letter in a key", rb"\k=v"),
    ("no =", b"key"),
    ("= only escaped", rb"k\=v"),
    ("no key", b"=v"),
    ("; at the end", b"k=v;"),
    ("; at the start", b";k=v"),
    ("an empty item", b"k=v;;l=w"),
    ("only ;", b";"),
)


@pytest.mark.parametrize(("pairs", "text"), ARGUMENTS)
def test_arguments_cut_in_two_anywhere(pairs: tuple[tuple[str, bytes], ...], text: bytes) -> None:
    # Where nothing is left for the password, it is one NUL; a SOCKS4 user id has none.
    assert userpass.parse_arguments(Credentials(text, b"\0")) == KeyValues(pairs)
    for cut in range(len(text) + 1):
        credentials = Credentials(text[:cut], text[cut:])
        assert userpass.parse_arguments(credentials) == KeyValues(pairs)


@pytest.mark.parametrize("text", REFUSED)
def test_text_that_is_not_a_list_of_arguments(text: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        userpass.parse_arguments(Credentials(text))
    assert caught.value.answer == octets("01 01")
