r"""Arguments of a pluggable transport: how tor passes a bridge line's ``k=v`` on (pt-spec, 3.5).

    text      | KEY | = | VALUE | ; | KEY | = | VALUE ..       a backslash before \ = and ;
    RFC 1929  | 01 | ULEN | first 255 bytes of text | PLEN | the rest, or one NUL |
    SOCKS4    the user id is the text

tor leaves ``=`` inside values as it is; so the first one that is not escaped ends the key. Where
the text is cut in two has nothing to do with where its items end.
"""

from __future__ import annotations

import re

from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks.messages import Credentials, KeyValues
from torsocks_tx.socks.userpass import REFUSED

MAX_FIELD = 255
MAX_TEXT = 2 * MAX_FIELD
"""tor refuses a bridge line whose arguments are longer."""

_NO_MORE = b"\0"
_ITEM = re.compile(rb"((?:[^\\;=]|\\[\\;=])+)=((?:[^\\;]|\\[\\;=])*)", re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_TO_ESCAPE = re.compile(rb"([\\;=])")


def parse_text(text: bytes) -> KeyValues:
    r"""Read the escaped text; empty text is no arguments. Keys become text as Latin-1.

    Raises ProtocolError (answer ``01 01``) for an item without ``=`` or without a key, a ``;`` at
    the end, and a backslash that is last or stands before anything but ``\``, ``=`` and ``;``.
    """
    pairs: list[tuple[str, bytes]] = []
    position = 0
    while text:
        item = _ITEM.match(text, position)
        if item is None:
            raise _refused("arguments are not a list of key=value")
        pairs.append((_unescape(item[1]).decode("latin-1"), _unescape(item[2])))
        if item.end() == len(text):
            break
        if text[item.end() : item.end() + 1] != b";":
            raise _refused("arguments hold a backslash that escapes nothing")
        position = item.end() + 1
    return KeyValues(tuple(pairs))


def _refused(reason: str) -> ProtocolError:
    return ProtocolError(reason, REFUSED)


def build_text(arguments: KeyValues) -> bytes:
    """The escaped text of these arguments; ValueError for a key that is empty or not Latin-1."""
    items = []
    for key, value in arguments:
        if not key:
            raise ValueError("an argument must have a key")
        items.append(_escape(key.encode("latin-1")) + b"=" + _escape(value))
    return b";".join(items)


def _escape(part: bytes) -> bytes:
    return _TO_ESCAPE.sub(rb"\\\1", part)


def _unescape(part: bytes) -> bytes:
    return _ESCAPED.sub(rb"\1", part)


def join(credentials: Credentials) -> bytes:
    """The text that came in the two fields of RFC 1929, or in a SOCKS4 user id."""
    rest = b"" if credentials.password == _NO_MORE else credentials.password
    return credentials.username + rest


def split(text: bytes) -> Credentials:
    """The two fields of RFC 1929 for this text.

    Raises ValueError for more than 510 bytes, and for a NUL, which no bridge line can hold.
    """
    if len(text) > MAX_TEXT or _NO_MORE in text:
        raise ValueError("arguments are at most 510 bytes, without a NUL")
    return Credentials(text[:MAX_FIELD], text[MAX_FIELD:] or _NO_MORE)


def parse_credentials(credentials: Credentials) -> KeyValues:
    """The arguments in what a parent sent as credentials. Raises as ``parse_text`` does."""
    return parse_text(join(credentials))


def build_credentials(arguments: KeyValues) -> Credentials | None:
    """What carries these arguments; None where there are none. Raises as ``split`` does."""
    return split(build_text(arguments)) if arguments else None
