"""What all messages are made of: a cursor over bytes, and the address fields of SOCKS5.

    +------+----------+------+
    | ATYP |   ADDR   | PORT |     ATYP 01: 4 bytes; 04: 16 bytes; 03: a length byte and a name
    +------+----------+------+

Parsers are straight-line functions over a ``Reader``. They are called again from the start of the
message when more bytes have come, so every message has a small bound.

The alphabet of names is C Tor's (``string_is_valid_dest``): labels of letters, digits, ``-`` and
``_`` that start with neither of the last two, and one trailing dot. It keeps bytes that an attacker
chose out of logs.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import struct

from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address, ip_text

MAX_NAME = 255
"""The longest name that fits the length byte."""

_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9_-]*"
# ``.onion`` alone passes, so that it is refused with the code of an invalid onion address.
_NAME = re.compile(rf"(?:(?:{_LABEL}\.)*{_LABEL}|\.(?i:onion))\.?\Z")


class Reader:
    """A cursor over ``data``; it raises ``Incomplete`` when bytes are missing."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes | bytearray, position: int = 0) -> None:
        self.data = data
        self.position = position

    def take(self, count: int) -> bytes:
        """Take ``count`` bytes."""
        end = self.position + count
        if end > len(self.data):
            raise Incomplete
        taken = bytes(self.data[self.position : end])
        self.position = end
        return taken

    def take_u8(self) -> int:
        """Take one byte as a number."""
        if self.position >= len(self.data):
            raise Incomplete
        self.position += 1
        return self.data[self.position - 1]

    def take_counted(self) -> bytes:
        """Take a byte with a number, and as many bytes as it says."""
        start = self.position + 1
        if start > len(self.data) or start + self.data[start - 1] > len(self.data):
            raise Incomplete
        self.position = start + self.data[start - 1]
        return bytes(self.data[start : self.position])

    def take_u16(self) -> int:
        """Take two bytes as a number, most significant first."""
        return int.from_bytes(self.take(2), "big")

    def take_until_nul(self) -> bytes:
        """Take the bytes up to the next NUL and the NUL; return them without it."""
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise Incomplete
        taken = bytes(self.data[self.position : end])
        self.position = end + 1
        return taken

    @property
    def left(self) -> int:
        """Return how many bytes have not been taken."""
        return len(self.data) - self.position


@functools.lru_cache(maxsize=256)
def packed_ip(text: str) -> bytes:
    """Return the 4 or 16 bytes of an IP address, followed by its scope; ValueError if it is none.

    Equal addresses have equal bytes: an IPv4 address inside IPv6 is that IPv4 address. Addresses
    that differ in their scope (``%eth0``) belong to different machines.
    """
    bare, percent, scope = text.partition("%")
    packed = ipaddress.ip_address(bare).packed
    if packed.startswith(_IPV4_MAPPED) and len(packed) == 16:
        packed = packed[len(_IPV4_MAPPED) :]
    return packed + (percent + scope).encode("utf-8", "surrogateescape")


def parse_address(reader: Reader, answer: bytes = b"") -> Address:
    """Read ATYP, ADDR and PORT; names are not checked here (see ``check_destination``).

    Raises ProtocolError with this answer for an ATYP byte that is none of 01, 03, 04.
    """
    kind = reader.take_u8()
    if kind == AddressType.IPV4:
        body = reader.take(6)
        host = "{}.{}.{}.{}".format(*body[:4])
    elif kind == AddressType.IPV6:
        body = reader.take(18)
        host = ip_text(ipaddress.IPv6Address(body[:16]))
    elif kind == AddressType.HOSTNAME:
        # latin-1 maps bytes to characters one to one: nothing is lost before the name is checked.
        body = reader.take(reader.take_u8() + 2)
        host = body[:-2].decode("latin-1")
    else:
        raise ProtocolError("unknown address type", answer)
    return Address(AddressType(kind), host, int.from_bytes(body[-2:], "big"))


def build_address(address: Address) -> bytes:
    """Return the ATYP, ADDR and PORT of an address; ValueError for a name over 255 bytes."""
    port = struct.pack("!H", address.port)
    if address.type is AddressType.HOSTNAME:
        name = address.host.encode("latin-1")
        if len(name) > MAX_NAME:
            raise ValueError("a name of more than 255 bytes does not fit a SOCKS5 message")
        return bytes([AddressType.HOSTNAME, len(name)]) + name + port
    return bytes([address.type]) + ipaddress.ip_address(address.host).packed + port


def check_destination(address: Address, answer: bytes = b"") -> Address:
    """Check an address that a client asks for; return it, a ``.onion`` name without a last dot.

    Raises ProtocolError with this answer for a name that is empty, too long, or has a byte outside
    C Tor's alphabet.
    """
    if address.type is not AddressType.HOSTNAME or address.is_ip:
        return address
    if len(address.host) > MAX_NAME or not _NAME.match(address.host):
        raise ProtocolError("invalid host name", answer)
    if address.is_onion and address.host.endswith("."):
        # With its dot tor would take it for an ordinary name, and ask an exit relay for it.
        return Address(address.type, address.host[:-1], address.port)
    return address
