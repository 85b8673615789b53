r"""What the two fields of RFC 1929 carry: a user name and password, or a transport's arguments.

    request    | 01 | ULEN | UNAME | PLEN | PASSWD |        reply | 01 | STATUS |
    arguments  | KEY | = | VALUE | ; | KEY | = | VALUE ..       a backslash before \ = and ;

Lengths of 0 are allowed, as Tor does. A user name that starts with ``<torS0X>`` is in Tor's
extended format (proposal 351), which its ninth byte names. Format 0, the only one here, carries an
isolation parameter in the password and nothing more in the name.

On the port of a pluggable transport the fields are the arguments of a bridge line (pt-spec, 3.5):
UNAME has the first 255 bytes of their text, PASSWD the rest, or one NUL; a SOCKS4 user id is the
whole text. tor leaves ``=`` inside values as it is, so the first one that is not escaped ends the
key. The text may be cut in two inside an item.
"""

from __future__ import annotations

import re

from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks.messages import Credentials, KeyValues
from torsocks_tx.socks.wire import Reader

VERSION = 0x01
EXTENDED_PREFIX = b"<torS0X>"
ISOLATION_USERNAME = EXTENDED_PREFIX + b"0"

MAX_FIELD = 255
MAX_TEXT = 2 * MAX_FIELD
"""Bytes of arguments at most: tor refuses a bridge line with more."""

_NO_MORE = b"\0"
_ITEM = re.compile(rb"((?:[^\\;=]|\\[\\;=])+)=((?:[^\\;]|\\[\\;=])*)", re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


ACCEPTED = bytes([VERSION, 0])
REFUSED = bytes([VERSION, 1])


def parse_credentials(reader: Reader) -> Credentials:
    """Read one request; ProtocolError without an answer for a wrong version."""
    if reader.take_u8() != VERSION:
        raise ProtocolError("not RFC 1929 credentials")
    username = reader.take_counted()
    return Credentials(username, reader.take_counted())


def build_credentials(credentials: Credentials) -> bytes:
    """Return the bytes of a request; ValueError if a field has more than 255 bytes."""
    username, password = credentials.username, credentials.password
    if len(username) > 255 or len(password) > 255:
        raise ValueError("RFC 1929 fields hold at most 255 bytes")
    return bytes([VERSION, len(username)]) + username + bytes([len(password)]) + password


def is_known_format(credentials: Credentials) -> bool:
    """Whether the user name is in no extended format, or in one that is understood."""
    name = credentials.username
    return name == ISOLATION_USERNAME or not name.startswith(EXTENDED_PREFIX)


def parse_arguments(credentials: Credentials) -> KeyValues:
    r"""Read the arguments that the two fields carry, if any; keys are decoded as Latin-1.

    Raises ProtocolError (answer ``01 01``) for an item without ``=`` or without a key, a ``;`` at
    the end, and a backslash that is last or stands before anything but ``\``, ``=`` and ``;``.
    """
    text = credentials.username
    if credentials.password != _NO_MORE:
        text += credentials.password
    pairs: list[tuple[str, bytes]] = []
    position = 0
    while text:
        item = _ITEM.match(text, position)
        if item is None:
            raise ProtocolError("arguments are not a list of key=value", REFUSED)
        key, value = (_ESCAPED.sub(rb"\1", part) for part in item.groups())
        pairs.append((key.decode("latin-1"), value))
        position = item.end() + 1
        if position > len(text):
            break
        if text[item.end() : position] != b";":
            raise ProtocolError("arguments hold a backslash that escapes nothing", REFUSED)
    return KeyValues(tuple(pairs))
