"""The PROXY protocol, versions 1 and 2: a balancer tells the address of its client in a header.

It stands in front of what the client sends, as HAProxy's ``proxy-protocol.txt`` says::

    PROXY TCP4 192.0.2.7 198.51.100.1 40000 1080 CR LF      at most 107 bytes

    signature (12 bytes), version and command, family, LENGTH (2 bytes), addresses, TLVs
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.policy.listener import Network
from torsocks_tx.server.connections import RareWarning
from torsocks_tx.socks.server import Rejected
from torsocks_tx.socks.wire import Reader, packed_ip

MOST_TEXT = 107
"""The longest header of version 1."""

MOST_BODY = 4096
"""Bytes that may stand behind LENGTH; HAProxy sends a few hundred."""

NOT_TRUSTED = (
    "connections are closed ({count}): ProxyProtocol does not name where they come from; if that is"
    " your balancer, add its address"
)
NOT_VALID = (
    "connections without a valid PROXY header are closed ({count}): let the balancer send one, as"
    " by send-proxy-v2"
)
_TEXT = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PORT = r"(0|[1-9][0-9]{0,4})"
_LINE = re.compile(rf"PROXY (?:UNKNOWN(?: .*)?|TCP([46]) (\S+) (\S+) {_PORT} {_PORT})", re.ASCII)
_LOCAL, _PROXY = 0x20, 0x21
_SIZES = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
"""The bytes of both addresses by family: unspecified, TCP over IPv4, over IPv6, unix stream."""


def parse_header(reader: Reader) -> tuple[str, int] | None:
    """Return the client's IP address and port, and leave what stands behind the header.

    None: it has none, so the address from which the connection comes counts. A balancer says so of
    its own connections, and of clients on a unix socket.
    """
    start = bytes(reader.data[: len(_SIGNATURE)])
    if start == _SIGNATURE:
        return _parse_binary(reader)
    if start.startswith(_TEXT):
        return _parse_text(reader)
    if _TEXT.startswith(start) or _SIGNATURE.startswith(start):
        raise Incomplete
    raise ProtocolError("there is no PROXY header")


def _parse_text(reader: Reader) -> tuple[str, int] | None:
    end = reader.data.find(b"\r\n", 0, MOST_TEXT)
    if end < 0 and reader.left < MOST_TEXT:
        raise Incomplete
    line = _LINE.fullmatch(reader.take(max(end, 0)).decode("latin-1"))
    if line is None:
        raise ProtocolError("the PROXY header of version 1 is not valid")
    reader.take(2)
    version, source, destination, *ports = line.groups()
    if version is None:
        return None
    kind = ipaddress.IPv4Address if version == "4" else ipaddress.IPv6Address
    try:
        for host in (source, destination):
            if "%" in host:
                raise ValueError
            kind(host)
    except ValueError:
        raise ProtocolError("an address in the PROXY header is not valid") from None
    if max(map(int, ports)) > 0xFFFF:
        raise ProtocolError("a port in the PROXY header is not valid")
    return source, int(ports[0])


def _parse_binary(reader: Reader) -> tuple[str, int] | None:
    reader.take(len(_SIGNATURE))
    command = reader.take_u8()
    if command not in (_LOCAL, _PROXY):
        raise ProtocolError("the version or the command of the PROXY header is not known")
    family, length = reader.take_u8(), reader.take_u16()
    if command == _PROXY and length < _SIZES.get(family, MOST_BODY + 1):
        raise ProtocolError("the family of the PROXY header is not known, or cut short")
    if length > MOST_BODY:
        raise ProtocolError("the PROXY header is too long")
    body = reader.take(length)
    if command == _LOCAL or family not in (0x11, 0x21):
        return None
    size = 4 if family == 0x11 else 16
    ports = body[2 * size :]
    return str(ipaddress.ip_address(body[:size])), int.from_bytes(ports[:2], "big")


@dataclass(frozen=True, slots=True)
class Announced:
    """The header is there: the client's address, None if it has none, and the bytes behind it."""

    client: IAddress | None
    rest: bytes


class ProxyHandshake:
    """Takes the bytes of one header in any portions; ``refused`` is called if it is none."""

    def __init__(self, refused: Callable[[], object]) -> None:
        self._refused = refused
        self._data = bytearray()

    def receive(self, data: bytes) -> list[Announced | Rejected]:
        """Take bytes from the balancer."""
        self._data += data
        reader = Reader(self._data)
        try:
            found = parse_header(reader)
        except Incomplete:
            return []
        except ProtocolError as error:
            self._refused()
            return [Rejected(b"", str(error))]
        client = None
        if found is not None:
            client = (IPv6Address if ":" in found[0] else IPv4Address)("TCP", *found)
        return [Announced(client, reader.take(reader.left))]

    def close(self) -> None:
        """Forget what was received."""
        self._data.clear()


class ProxyHeaders:
    """What a listener asks of PROXY headers: they come from ``networks``, or by a unix socket."""

    _log = Logger()

    def __init__(self, networks: Iterable[Network], seconds: Callable[[], float]) -> None:
        self._networks = tuple(networks)
        self._strangers = RareWarning(self._log, NOT_TRUSTED, seconds)
        self._bad = RareWarning(self._log, NOT_VALID, seconds)

    def trusts(self, sender: IAddress | None) -> bool:
        """Whether headers from this address are believed; who is not trusted is counted."""
        is_trusted = isinstance(sender, UNIXAddress)
        if isinstance(sender, IPv4Address | IPv6Address):
            address = ipaddress.ip_address(packed_ip(sender.host.partition("%")[0]))
            is_trusted = any(address in network for network in self._networks)
        if not is_trusted:
            self._strangers.note()
        return is_trusted

    def handshake(self) -> ProxyHandshake:
        """Return what reads the header of one connection."""
        return ProxyHandshake(self._bad.note)
