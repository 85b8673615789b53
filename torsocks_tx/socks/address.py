"""Addresses: the ATYP, ADDR and PORT fields of SOCKS5, and which host names are valid.

    +------+----------+------+
    | ATYP |   ADDR   | PORT |     ATYP 01: 4 bytes; 04: 16 bytes; 03: a length byte and a name
    +------+----------+------+

The alphabet of names is C Tor's (``string_is_valid_dest``): labels of letters, digits, ``-`` and
``_`` that start with neither of the last two, and one trailing dot. It keeps attacker-chosen bytes
out of logs.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import struct

from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address, ip_text
from torsocks_tx.socks.reader import Reader

MAX_NAME = 255
"""The longest name that fits the length byte."""

_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9_-]*"
# ``.onion`` alone is no name either, but an address of an onion service that is not valid: that has
# a code of its own.
_NAME = re.compile(rf"(?:(?:{_LABEL}\.)*{_LABEL}|\.(?i:onion))\.?\Z")


class UnknownAddressType(ProtocolError):
    """The ATYP byte is none of 01, 03, 04, so where the address ends cannot be known."""


@functools.lru_cache(maxsize=256)
def packed_ip(text: str) -> bytes:
    """The 4 or 16 bytes of an IP address, and the scope behind them; ValueError if it is none.

    Equal addresses have equal bytes: an IPv4 address inside IPv6 is that IPv4 address. Addresses
    that differ in their scope (``%eth0``) are those of different machines.
    """
    bare, percent, scope = text.partition("%")
    packed = ipaddress.ip_address(bare).packed
    if packed.startswith(_IPV4_MAPPED) and len(packed) == 16:
        packed = packed[len(_IPV4_MAPPED) :]
    return packed + (percent + scope).encode("utf-8", "surrogateescape")


def parse_address(reader: Reader) -> Address:
    """Read ATYP, ADDR and PORT; a name stays as it is on the wire and is not judged."""
    kind = reader.take_u8()
    if kind == AddressType.IPV4:
        body = reader.take(6)
        host = "{}.{}.{}.{}".format(*body[:4])
    elif kind == AddressType.IPV6:
        body = reader.take(18)
        host = ip_text(ipaddress.IPv6Address(body[:16]))
    elif kind == AddressType.HOSTNAME:
        # latin-1 maps bytes to characters one to one: nothing is lost before the name is judged.
        body = reader.take(reader.take_u8() + 2)
        host = body[:-2].decode("latin-1")
    else:
        raise UnknownAddressType("unknown address type")
    return Address(AddressType(kind), host, int.from_bytes(body[-2:], "big"))


def build_address(address: Address) -> bytes:
    """ATYP, ADDR and PORT of ``address``; ValueError for a name of more than 255 bytes."""
    port = struct.pack("!H", address.port)
    if address.type is AddressType.HOSTNAME:
        name = address.host.encode("latin-1")
        if len(name) > MAX_NAME:
            raise ValueError("a name of more than 255 bytes does not fit a SOCKS5 message")
        return bytes([AddressType.HOSTNAME, len(name)]) + name + port
    return bytes([address.type]) + ipaddress.ip_address(address.host).packed + port


def check_destination(address: Address) -> Address:
    """The address, if a client may ask for it, with the trailing dot of a ``.onion`` name removed.

    Raises ProtocolError (without an answer: that depends on the version) for a name that is empty,
    too long, or has a byte outside C Tor's alphabet.
    """
    if address.type is not AddressType.HOSTNAME or address.is_ip:
        return address
    if len(address.host) > MAX_NAME or not _NAME.match(address.host):
        raise ProtocolError("invalid host name")
    if address.is_onion and address.host.endswith("."):
        # With its dot tor would take it for an ordinary name, and ask an exit for it.
        return Address(address.type, address.host[:-1], address.port)
    return address
