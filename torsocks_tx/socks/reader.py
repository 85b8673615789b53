"""A cursor over bytes that raises ``Incomplete`` when they run out.

Parsers are straight-line functions over a ``Reader``: they are called again from the start of the
frame when more bytes have come, so every frame has a small bound.
"""

from __future__ import annotations

from torsocks_tx.errors import Incomplete


class Reader:
    """Takes bytes from the front of ``data``; ``position`` says how many were taken."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes | bytearray, position: int = 0) -> None:
        self.data = data
        self.position = position

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.position + count
        if end > len(self.data):
            raise Incomplete
        taken = bytes(self.data[self.position : end])
        self.position = end
        return taken

    def take_u8(self) -> int:
        """The next byte as a number."""
        if self.position >= len(self.data):
            raise Incomplete
        self.position += 1
        return self.data[self.position - 1]

    def take_u16(self) -> int:
        """The next two bytes as a number, most significant first."""
        return int.from_bytes(self.take(2), "big")

    def take_until_nul(self) -> bytes:
        """The bytes before the next NUL, which is taken too."""
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise Incomplete
        taken = bytes(self.data[self.position : end])
        self.position = end + 1
        return taken

    @property
    def left(self) -> int:
        """How many bytes have not been taken."""
        return len(self.data) - self.position
