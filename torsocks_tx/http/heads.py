"""The head of an HTTP message, taken from a buffer within bounds, for ``h11`` to read."""

from __future__ import annotations

import re

import h11

MAX_HEAD = 16 * 1024
"""Bytes of a head at most; with it ``MAX_HEADERS`` lines of headers."""

MAX_HEADERS = 100

_END = re.compile(rb"\n\r?\n")
# Of blanks in a row h11 takes time by the square: 0.5 s for 16 KiB of them.
_BLANKS = re.compile(rb"[ \t]{64}")


def take_head(buffer: bytearray) -> bytes | None:
    """Take the first head, or return None while it is not complete.

    Raises ``h11.RemoteProtocolError``, with its ``error_status_hint``, for one beyond the bounds.
    """
    end = _END.search(buffer)
    length = len(buffer) if end is None else end.end()
    # The first line and the empty one are no headers.
    if length > MAX_HEAD or buffer.count(b"\n", 0, length) > MAX_HEADERS + 2:
        raise h11.RemoteProtocolError("a head that is too large", error_status_hint=431)
    if _BLANKS.search(buffer, 0, length):
        raise h11.RemoteProtocolError("many blanks in a row")
    if end is None:
        return None
    head = bytes(buffer[:length])
    del buffer[:length]
    return head
