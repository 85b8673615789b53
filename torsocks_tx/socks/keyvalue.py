"""Method X'97': key and value pairs, in place of RFC 1929's two fields (proposal 229, section 2.1).

    request   | 01 |        NR 2 | KLEN 2 | KEY | VLEN 2 | VALUE | KLEN 2 | KEY | ...
    response  | 01 | STATUS | NR 2 | pairs as above

A frame could claim 8 GB, so it is taken pair by pair, and refused by the numbers in its headers.
What keys mean is not known here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks.constants import ExtendedStatus
from torsocks_tx.socks.messages import NO_PAIRS, KeyValues
from torsocks_tx.socks.reader import Reader

VERSION = 0x01
MAX_KEY = 64
MAX_PAIRS = 1024
MAX_BYTES = 256 * 1024
"""All pairs of a frame together, their lengths included."""

FREE_BYTES = 1024
"""Bytes of pairs that each client may send whatever others do: more than a login needs."""

ALL_CLIENTS = 8 * 1024 * 1024
"""What all clients together may have under way beyond that."""

_SHORTEST_PAIR = 5
_KEY = re.compile(rb"[A-Za-z0-9_.-]{1,64}\Z")


def build_pairs(pairs: KeyValues) -> bytes:
    """NR and the pairs; ValueError for a key or a value that does not fit."""
    if len(pairs) > 0xFFFF:
        raise ValueError("a frame holds at most 65535 pairs")
    parts = [struct.pack("!H", len(pairs))]
    for key, value in pairs:
        name = key.encode("ascii", "replace")
        if not _KEY.match(name):
            raise ValueError("a key is 1 to 64 letters, digits, dots, dashes and underscores")
        if len(value) > 0xFFFF:
            raise ValueError("a value holds at most 65535 bytes")
        parts += [struct.pack("!H", len(name)), name, struct.pack("!H", len(value)), value]
    return b"".join(parts)


def build_request(pairs: KeyValues) -> bytes:
    """The bytes of a request; ValueError for what does not fit."""
    return bytes([VERSION]) + build_pairs(pairs)


def build_response(status: int, pairs: KeyValues | None = None) -> bytes:
    """The bytes of a response; ValueError for what does not fit."""
    return bytes([VERSION, status]) + build_pairs(pairs or NO_PAIRS)


AUTHENTICATION_FAILED = build_response(ExtendedStatus.AUTHENTICATION_FAILED)
INVALID_ARGUMENTS = build_response(ExtendedStatus.INVALID_ARGUMENTS)


def parse_request_head(reader: Reader) -> int:
    """Read up to the first pair: how many there are. ProtocolError for a wrong version."""
    _take_version(reader)
    return reader.take_u16()


def parse_response_head(reader: Reader) -> tuple[int, int]:
    """Read up to the first pair: the status, and how many there are."""
    _take_version(reader)
    return reader.take_u8(), reader.take_u16()


def _take_version(reader: Reader) -> None:
    # No answer: where the message is of another kind, nobody knows what its sender would read.
    if reader.take_u8() != VERSION:
        raise ProtocolError("not a message of method 0x97")


class Budget:
    """How many bytes of pairs all clients of a server may together have under way."""

    def __init__(self, size: int = ALL_CLIENTS) -> None:
        self.left = size


class Pairs:
    """The pairs of one frame as they come.

    ``keeps`` says which keys are of use: the pairs of others are read and dropped. What is held
    beyond ``FREE_BYTES`` is taken from the ``budget``, and given back by ``close``. Raises
    ProtocolError (answer ``01 02 0000``) for more than ``max_pairs``, more than ``max_bytes``, more
    than the budget has and a key that is none, each as soon as a header tells.
    """

    def __init__(
        self,
        count: int,
        *,
        max_pairs: int = MAX_PAIRS,
        max_bytes: int = MAX_BYTES,
        keeps: Callable[[str], bool] | None = None,
        budget: Budget | None = None,
    ) -> None:
        if count > max_pairs or count * _SHORTEST_PAIR > max_bytes:
            raise _invalid("too many pairs")
        self._left = count
        self._room = max_bytes
        self._keeps = keeps
        self._budget = budget
        self._held = 0
        self._coming = 0
        self._taken: list[tuple[str, bytes]] = []

    @property
    def complete(self) -> KeyValues | None:
        """All the pairs, or None while some are missing."""
        return None if self._left else KeyValues(tuple(self._taken))

    def take(self, reader: Reader) -> None:
        """Read one pair. Raises Incomplete, and then has taken nothing."""
        start = reader.position
        length = reader.take_u16()
        if not 0 < length <= MAX_KEY:
            raise _invalid("a key is empty or too long")
        key = reader.take(length)
        if not _KEY.match(key):
            raise _invalid("a key with bytes that keys do not have")
        length = reader.take_u16()
        size = reader.position - start + length
        if size > self._room - (self._left - 1) * _SHORTEST_PAIR:
            raise _invalid("more bytes than a frame may have")
        if not self._coming:
            self._coming = size
            self._hold(size)
        value = reader.take(length)
        name = key.decode("ascii")
        if self._keeps is None or self._keeps(name):
            self._taken.append((name, value))
        else:
            self._hold(-size)
        self._coming = 0
        self._left -= 1
        self._room -= size

    def _hold(self, change: int) -> None:
        before, self._held = self._held, self._held + change
        if self._budget is not None:
            self._budget.left -= max(self._held - FREE_BYTES, 0) - max(before - FREE_BYTES, 0)
            if self._budget.left < 0:
                raise _invalid("all clients together send more bytes than the budget has")

    def close(self) -> None:
        """Give back what was taken from the budget; harmless a second time."""
        if self._budget is not None:
            self._budget.left += max(self._held - FREE_BYTES, 0)
            self._budget = None


class Response:
    """A response as it comes; ``status`` is known before its pairs are."""

    def __init__(self) -> None:
        self.status: int | None = None
        self._pairs = Pairs(0)

    def take(self, reader: Reader) -> KeyValues | None:
        """Read the head or one pair; all the pairs once they are there. Errors as of ``Pairs``."""
        if self.status is None:
            self.status, count = parse_response_head(reader)
            self._pairs = Pairs(count)
        else:
            self._pairs.take(reader)
        return self._pairs.complete


def _invalid(reason: str) -> ProtocolError:
    return ProtocolError(reason, INVALID_ARGUMENTS)
