"""The cursor: what it gives, where it stands, and that it says when bytes are missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.tables import assert_parsed, octets, table
from torsocks_tx.errors import Incomplete
from torsocks_tx.socks.reader import Reader

FRAMES = table(
    [
        ("a byte", Reader.take_u8, 0x83, "83"),
        ("two bytes, high one first", Reader.take_u16, 0x1234, "12 34"),
        ("largest number", Reader.take_u16, 65535, "FFFF"),
        ("three bytes", lambda reader: reader.take(3), b"abc", "61 62 63"),
        ("up to NUL", Reader.take_until_nul, b"me", "6D65 00"),
        ("up to NUL at once", Reader.take_until_nul, b"", "00"),
    ]
)


@pytest.mark.parametrize(("take", "value", "text"), FRAMES)
def test_takes(take: Callable[[Reader], object], value: object, text: str) -> None:
    if text == "00":
        # What follows does not matter to it either.
        assert take(Reader(b"\0\0")) == value
    assert_parsed(take, octets(text), value)


def test_taking_nothing_needs_nothing() -> None:
    assert Reader(b"").take(0) == b""


def test_a_failed_take_moves_nothing() -> None:
    reader = Reader(b"\x01\x02", 1)
    for take in (lambda: reader.take(2), reader.take_u16, reader.take_until_nul):
        with pytest.raises(Incomplete):
            take()
        assert (reader.position, reader.left) == (1, 1)
    assert reader.take_u8() == 2


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_what_is_taken_is_a_copy(kind: type[bytes] | type[bytearray]) -> None:
    data = kind(b"ab\0")
    reader = Reader(data)
    taken = (reader.take(1), reader.take_until_nul())
    if isinstance(data, bytearray):
        data[:] = b"xxx"
    assert taken == (b"a", b"b")
    assert [type(piece) for piece in taken] == [bytes, bytes]
