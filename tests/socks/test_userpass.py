"""RFC 1929 credentials both ways, with Tor's liberties and the extended format of proposal 351."""

from __future__ import annotations

import pytest

from tests.support.rows import rows
from tests.support.tables import assert_parsed, assert_refused, octets, table
from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks import userpass
from torsocks_tx.socks.messages import Credentials

MESSAGES = table(
    [
        ("V4", Credentials(b"me", b"you"), "01 02 6D65 03 796F75"),
        ("both empty", Credentials(b"", b""), "01 00 00"),
        ("no password", Credentials(b"a", b""), "01 01 61 00"),
        ("no user name", Credentials(b"", b"a"), "01 00 01 61"),
        ("bytes of all kinds", Credentials(b"\0\xff", b"\n\0"), "01 02 00FF 02 0A00"),
        ("V6", Credentials(b"<torS0X>0", b"123"), "01 09 3C746F725330583E30 03 313233"),
        ("V6, type 9", Credentials(b"<torS0X>9", b""), "01 09 3C746F725330583E39 00"),
        (
            "the longest",
            Credentials(b"u" * 255, b"p" * 255),
            "01 FF" + "75" * 255 + "FF" + "70" * 255,
        ),
    ]
)


@rows("S-06", "S-17", "S-19")
@pytest.mark.parametrize(("credentials", "text"), MESSAGES)
def test_credentials_both_ways(credentials: Credentials, text: str) -> None:
    assert_parsed(userpass.parse_credentials, octets(text), credentials)
    assert userpass.build_credentials(credentials) == octets(text)


@rows("S-20")
@pytest.mark.parametrize("version", [0x00, 0x02, 0x04, 0x05, 0xFF])
def test_another_version_is_refused(version: int) -> None:
    frame = bytes([version]) + octets("02 6D65 02 6D65")
    assert_refused(userpass.parse_credentials, frame, 1, b"")


@pytest.mark.parametrize(
    ("status", "text"), table([("success", 0, "01 00"), ("failure", 1, "01 01"), ("x", 9, "01 09")])
)
def test_answers_both_ways(status: int, text: str) -> None:
    assert_parsed(userpass.parse_status, octets(text), status)
    assert userpass.build_status(status) == octets(text)


@pytest.mark.parametrize(("text", "status"), [("05 00", 0), ("00 00", 0), ("05 01", 1)])
def test_the_status_counts_whatever_the_version_of_the_answer(text: str, status: int) -> None:
    assert_parsed(userpass.parse_status, octets(text), status)


def test_bounds() -> None:
    longest = userpass.build_credentials(Credentials(b"u" * 255, b"p" * 255))
    assert len(longest) == userpass.MAX_MESSAGE
    for fields in [(b"u" * 256, b""), (b"", b"p" * 256)]:
        with pytest.raises(ValueError, match="255"):
            userpass.build_credentials(Credentials(*fields))


UNDERSTOOD = table(
    [
        ("legacy", b"hello", b"world"),
        ("type 0", b"<torS0X>0", b"123"),
        ("type 0, empty parameter", b"<torS0X>0", b""),
        ("seven bytes of the prefix", b"<torS0X", b""),
        ("small x", b"<torS0x>0abc", b""),
        ("small letters", b"<tors0x>9", b""),
        ("blank in front", b" <torS0X>9", b""),
        ("in the password", b"", b"<torS0X>9"),
    ]
)
NOT_UNDERSTOOD = table(
    [
        ("no type", b"<torS0X>"),
        ("type 0 and more", b"<torS0X>0abc"),
        ("type 0 and a NUL", b"<torS0X>0\0"),
        ("type 1", b"<torS0X>1abc"),
        ("type 1, no object", b"<torS0X>1"),
        ("type 9", b"<torS0X>9"),
        ("type of a NUL byte", b"<torS0X>\0"),
    ]
)


@rows("S-17")
@pytest.mark.parametrize(("username", "password"), UNDERSTOOD)
def test_formats_that_are_understood(username: bytes, password: bytes) -> None:
    userpass.check_format(Credentials(username, password))


@rows("S-17")
@pytest.mark.parametrize("password", [b"", b"123"])
@pytest.mark.parametrize("username", NOT_UNDERSTOOD)
def test_formats_that_are_not_understood(username: bytes, password: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        userpass.check_format(Credentials(username, password))
    assert caught.value.answer == octets("01 01")
