"""Tables of messages, ``(name, value, hex with spaces)``, and checks for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address
from torsocks_tx.socks.wire import Reader

T = TypeVar("T")
Parse = Callable[[Reader], T]


def octets(text: str) -> bytes:
    """Return bytes from hexadecimal digits with blanks, and from ASCII between double quotes."""
    parts = enumerate(text.split('"'))
    return b"".join(part.encode() if i % 2 else bytes.fromhex(part) for i, part in parts)


def at(host: str, port: int = 0) -> Address:
    """Return an address of the type that fits its text."""
    return Address.of(host, port) if host else Address(AddressType.HOSTNAME, host, port)


def table(*rows: tuple[Any, ...]) -> list[Any]:
    """Return rows as parameters of a test; their first column is the id."""
    found = [pytest.param(*row[1:], id=row[0]) for row in rows]
    assert len({parameter.id for parameter in found}) == len(found), "two rows of one name"
    return found


def prefixes(frame: bytes) -> Iterator[bytes]:
    """Return every proper prefix, with the empty one."""
    return (frame[:length] for length in range(len(frame)))


def cuts(data: bytes) -> Iterator[tuple[bytes, ...]]:
    """Yield the bytes whole, one by one, and cut in two at every place."""
    yield (data,)
    yield tuple(data[i : i + 1] for i in range(len(data)))
    yield from ((data[:i], data[i:]) for i in range(1, len(data)))


def assert_parsed(parse: Parse[T], frame: bytes, value: T) -> None:
    """Check that a complete message gives this value at any position, with any bytes after it."""
    for before in (b"", b"\x05\x00"):
        for behind in (b"", b"\0", b"\x05\x01\x00", b"\xff" * 600):
            reader = Reader(before + frame + behind, len(before))
            assert parse(reader) == value
            assert reader.position == len(before) + len(frame)
            assert reader.left == len(behind)
    for prefix in prefixes(frame):
        with pytest.raises(Incomplete):
            parse(Reader(prefix))


def assert_refused(parse: Parse[Any], frame: bytes, judged: int, answer: bytes) -> None:
    """Check that a message is refused with this answer once ``judged`` bytes of it are there."""
    assert judged <= len(frame)
    for length in range(judged):
        with pytest.raises(Incomplete):
            parse(Reader(frame[:length]))
    for length in range(judged, len(frame) + 1):
        for behind in (b"", b"\0\0\0", b"\xff" * 600):
            with pytest.raises(ProtocolError) as caught:
                parse(Reader(frame[:length] + (behind if length == len(frame) else b"")))
            assert caught.value.answer == answer
