"""SOCKS4 and SOCKS4a messages.

    request  | 04 | CD | DSTPORT 2 | DSTIP 4 | USERID .. 00 | (4a: NAME .. 00) |
    reply    | 00 | CD | DSTPORT 2 | DSTIP 4 |

A DSTIP of 0.0.0.x, x not 0, means that a name follows (4a). The reply starts with 00, not 04.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Container

from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.socks.constants import COMMANDS, AddressType, Command, Role, Version
from torsocks_tx.socks.messages import Address, Credentials, Reply, Request
from torsocks_tx.socks.wire import Reader, check_destination

MAX_REQUEST = 512
"""A whole request, user id and name with their NULs (C Tor's MAX_SOCKS_MESSAGE_LEN)."""

REJECTED = bytes.fromhex("00 5B 0000 00000000")
"""The one failure reply: the other codes of SOCKS4 are about identd."""


def parse_request(
    reader: Reader, commands: Container[int] = COMMANDS[Role.TOR], longest: int = MAX_REQUEST
) -> Request:
    """Read one request from its version byte on.

    ``commands`` are those that this port carries out, as far as SOCKS4 has them; ``longest`` is how
    many bytes a request may have.
    Raises Incomplete, or ProtocolError with the 8-byte rejection as its answer.
    """
    start = reader.position
    try:
        reader.take(1)
        command = reader.take_u8()
        port = reader.take_u16()
        ip = reader.take(4)
        if command == Command.RESOLVE_PTR or command not in commands or ip == bytes(4):
            raise ProtocolError("command or address not supported", REJECTED)
        username = reader.take_until_nul()
        address = Address(AddressType.IPV4, str(ipaddress.IPv4Address(ip)), port)
        if ip[:3] == bytes(3):
            name = reader.take_until_nul().decode("latin-1")
            address = Address(AddressType.HOSTNAME, name, port)
    except Incomplete:
        if len(reader.data) - start >= longest:
            raise ProtocolError("request too long", REJECTED) from None
        raise
    if reader.position - start > longest:
        raise ProtocolError("request too long", REJECTED)
    if port == 0 and command == Command.CONNECT:
        raise ProtocolError("port 0", REJECTED)
    address = check_destination(address, REJECTED)
    return Request(Version.SOCKS4, Command(command), address, Credentials(username))


def build_request(request: Request) -> bytes:
    """Return the bytes of a request, of SOCKS4a for a name; ValueError for what does not fit."""
    address = request.address
    username = request.credentials.username if request.credentials else b""
    if address.type is AddressType.IPV6 or b"\0" in username or "\0" in address.host:
        raise ValueError("SOCKS4 has no IPv6 addresses, and no NUL in its strings")
    head = struct.pack("!BBH", Version.SOCKS4, request.command, address.port)
    if address.type is AddressType.IPV4:
        return head + ipaddress.IPv4Address(address.host).packed + username + b"\0"
    name = address.host.encode("latin-1")
    return head + bytes([0, 0, 0, 1]) + username + b"\0" + name + b"\0"


def parse_reply(reader: Reader) -> Reply:
    """Read the 8 bytes of a reply; ProtocolError if the first is not 0."""
    if reader.take_u8() != 0:
        raise ProtocolError("a SOCKS4 reply starts with a zero byte")
    code = reader.take_u8()
    port = reader.take_u16()
    return Reply(code, Address(AddressType.IPV4, str(ipaddress.IPv4Address(reader.take(4))), port))


def build_reply(reply: Reply) -> bytes:
    """Return the 8 bytes of a reply; ValueError for an address that is not IPv4."""
    if reply.address.type is not AddressType.IPV4:
        raise ValueError("a SOCKS4 reply carries an IPv4 address only")
    ip = ipaddress.IPv4Address(reply.address.host).packed
    return struct.pack("!BBH", 0, reply.code, reply.address.port) + ip
