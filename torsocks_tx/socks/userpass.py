"""User name and password (RFC 1929), and Tor's extended format of the user name (proposal 351).

    request  | 01 | ULEN | UNAME | PLEN | PASSWD |        reply | 01 | STATUS |

Lengths of 0 are allowed, as Tor does. A user name that starts with ``<torS0X>`` names a format in
its ninth byte; format 0, the only one here, carries an isolation parameter in the password and
nothing more in the name.
"""

from __future__ import annotations

from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks.constants import AuthStatus
from torsocks_tx.socks.messages import Credentials
from torsocks_tx.socks.reader import Reader

VERSION = 0x01
MAX_MESSAGE = 513
EXTENDED_PREFIX = b"<torS0X>"
ISOLATION_USERNAME = EXTENDED_PREFIX + b"0"


def build_status(status: int) -> bytes:
    """The two bytes that answer credentials; the version is 01, not 05."""
    return bytes([VERSION, status])


ACCEPTED = build_status(AuthStatus.SUCCESS)
REFUSED = build_status(AuthStatus.FAILURE)


def parse_credentials(reader: Reader) -> Credentials:
    """Read one message; ProtocolError without an answer for a wrong version."""
    if reader.take_u8() != VERSION:
        raise ProtocolError("not RFC 1929 credentials")
    username = reader.take(reader.take_u8())
    return Credentials(username, reader.take(reader.take_u8()))


def build_credentials(credentials: Credentials) -> bytes:
    """The bytes of the message; ValueError if a field has more than 255 bytes."""
    username, password = credentials.username, credentials.password
    if len(username) > 255 or len(password) > 255:
        raise ValueError("RFC 1929 fields hold at most 255 bytes")
    return bytes([VERSION, len(username)]) + username + bytes([len(password)]) + password


def is_known_format(credentials: Credentials) -> bool:
    """Whether the user name is in no extended format, or in one that is understood."""
    name = credentials.username
    return name == ISOLATION_USERNAME or not name.startswith(EXTENDED_PREFIX)


def check_format(credentials: Credentials) -> None:
    """Raise ProtocolError (answer ``01 01``) for an extended format that is not understood."""
    if not is_known_format(credentials):
        raise ProtocolError("unknown format of extended credentials", REFUSED)


def parse_status(reader: Reader) -> int:
    """Read the answer to credentials: 0 is success, anything else is not.

    The version is not judged: some servers answer with that of SOCKS, 05.
    """
    return reader.take(2)[1]
