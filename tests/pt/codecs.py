"""A codec for tests: its handshake is a word each way, and payload has its case swapped."""

from __future__ import annotations

from torsocks_tx.errors import InvalidBridge
from torsocks_tx.pt.codec import Codec


class Swap(Codec):
    """Says HELLO, wants WELCOME, answers THANKS; ``broken`` payload is a fault of the codec."""

    ready = False

    def __init__(self) -> None:
        self.heard = b""

    def start(self) -> bytes:
        return b"HELLO"

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        if self.ready:
            return self._swap(data), b""
        self.heard += data
        word, rest = self.heard[:7], self.heard[7:]
        if not b"WELCOME".startswith(word):
            raise InvalidBridge("no welcome")
        self.ready = word == b"WELCOME"
        return self._swap(rest), b"THANKS" if self.ready else b""

    def encode(self, data: bytes) -> bytes:
        return self._swap(data)

    def _swap(self, data: bytes) -> bytes:
        if b"?" in data:
            raise InvalidBridge("a question")
        if b"!" in data:
            raise ZeroDivisionError
        return data.swapcase()
