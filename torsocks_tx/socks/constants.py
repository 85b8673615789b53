"""The numbers on the wire: versions, methods, commands, address types and reply codes.

Sources: SOCKS4 and 4a (Koblas; Lee), RFC 1928, RFC 1929, Tor's socks-extensions (RESOLVE,
RESOLVE_PTR, the onion-service replies) and Tor proposal 229 (extended authentication).
A number that has no name here stays a plain ``int``.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class Version(IntEnum):
    """The version of SOCKS, in the first byte of a message; or HTTP, by that of CONNECT."""

    SOCKS4 = 0x04
    SOCKS5 = 0x05
    HTTP = 0x43


class Method(IntEnum):
    """An authentication method of the SOCKS5 greeting (RFC 1928, section 3)."""

    NO_AUTH = 0x00
    GSSAPI = 0x01
    USERNAME_PASSWORD = 0x02
    EXTENDED = 0x97
    NONE_ACCEPTABLE = 0xFF


class Command(IntEnum):
    """What a request asks for. The last three are Tor's own."""

    CONNECT = 0x01
    BIND = 0x02
    UDP_ASSOCIATE = 0x03
    RESOLVE = 0xF0
    RESOLVE_PTR = 0xF1
    CONNECT_DIR = 0xF2


class Role(Enum):
    """The kind of a SOCKS port: tor's, for applications, or a pluggable transport's, for tor."""

    TOR = "tor"
    PT = "pt"


COMMANDS = {
    Role.TOR: frozenset({Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR}),
    Role.PT: frozenset({Command.CONNECT}),
}
"""The commands that a port of each role carries out."""


class AddressType(IntEnum):
    """How an address is written in a SOCKS5 message (RFC 1928, section 5)."""

    IPV4 = 0x01
    HOSTNAME = 0x03
    IPV6 = 0x04


class Reply4(IntEnum):
    """The second byte of a SOCKS4 reply."""

    GRANTED = 0x5A
    REJECTED = 0x5B


class Reply5(IntEnum):
    """The REP byte of a SOCKS5 reply, as RFC 1928, section 6 assigns it."""

    SUCCEEDED = 0x00
    GENERAL_FAILURE = 0x01
    NOT_ALLOWED = 0x02
    NETWORK_UNREACHABLE = 0x03
    HOST_UNREACHABLE = 0x04
    CONNECTION_REFUSED = 0x05
    TTL_EXPIRED = 0x06
    COMMAND_NOT_SUPPORTED = 0x07
    ADDRESS_TYPE_NOT_SUPPORTED = 0x08


class CodeSet(Enum):
    """The sets of reply codes, by the names that the key ``REPLY_CODES`` gives them."""

    RFC1928 = "rfc1928"
    PROP229 = "prop229"
    PROP304 = "prop304"


class ExtendedStatus(IntEnum):
    """The STATUS byte that answers extended authentication (any other value is a failure too)."""

    SUCCESS = 0x00
    AUTHENTICATION_FAILED = 0x01
    INVALID_ARGUMENTS = 0x02
