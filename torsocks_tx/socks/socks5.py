"""SOCKS5 messages (RFC 1928, sections 3, 4 and 6).

    greeting   | 05 | N | METHODS N |
    selection  | 05 | METHOD |
    request    | 05 | CMD | 00 | ATYP | ADDR | PORT |
    reply      | 05 | REP | 00 | ATYP | ADDR | PORT |

The address types and their lengths are in ``wire``.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks.constants import COMMANDS, Command, Method, Reply5, Role, Version
from torsocks_tx.socks.messages import Address, Reply, Request
from torsocks_tx.socks.wire import Reader, build_address, check_destination, parse_address


def failure(code: int) -> bytes:
    """Return the 10 bytes of a failure reply."""
    return bytes([Version.SOCKS5, code, 0, 1, 0, 0, 0, 0, 0, 0])


_FAILED = failure(Reply5.GENERAL_FAILURE)
_NO_SUCH_COMMAND = failure(Reply5.COMMAND_NOT_SUPPORTED)
_NO_SUCH_TYPE = failure(Reply5.ADDRESS_TYPE_NOT_SUPPORTED)


def parse_greeting(reader: Reader) -> bytes:
    """Read a greeting; return the methods offered, one byte each, in the client's order."""
    if reader.take_u8() != Version.SOCKS5:
        raise ProtocolError("not a SOCKS5 greeting")
    return reader.take_counted()


def build_greeting(methods: Iterable[int]) -> bytes:
    """Return the bytes of a greeting that offers these methods (at most 255)."""
    offered = bytes(methods)
    return bytes([Version.SOCKS5, len(offered)]) + offered


def parse_selection(reader: Reader) -> int:
    """Read the method that a server selected."""
    if reader.take_u8() != Version.SOCKS5:
        raise ProtocolError("not a SOCKS5 method selection")
    return reader.take_u8()


def build_selection(method: int) -> bytes:
    """Return the two bytes that select a method."""
    return bytes([Version.SOCKS5, method])


NO_ACCEPTABLE_METHOD = build_selection(Method.NONE_ACCEPTABLE)


def parse_request(reader: Reader, commands: Container[int] = COMMANDS[Role.TOR]) -> Request:
    """Read one request, checking each byte as soon as it is there.

    ``commands`` are those that this port carries out.
    Raises Incomplete, or ProtocolError with a 10-byte reply as its answer: 01 for a version that is
    not 5, a reserved byte that is not 0, port 0 in CONNECT, or an invalid name; 07 for a command
    that is not carried out; 08 for an unknown address type, and for a RESOLVE_PTR of
    something that is no IP address.
    """
    if reader.take_u8() != Version.SOCKS5:
        raise ProtocolError("not a SOCKS5 request", _FAILED)
    command = reader.take_u8()
    if command not in commands:
        raise ProtocolError("command not supported", _NO_SUCH_COMMAND)
    if reader.take_u8() != 0:
        raise ProtocolError("reserved byte is not zero", _FAILED)
    address = parse_address(reader, _NO_SUCH_TYPE)
    if command == Command.RESOLVE_PTR and not address.is_ip and "\0" not in address.host:
        raise ProtocolError("no IP address to look up", _NO_SUCH_TYPE)
    address = check_destination(address, _FAILED)
    if command == Command.CONNECT and address.port == 0:
        raise ProtocolError("port 0", _FAILED)
    return Request(Version.SOCKS5, Command(command), address)


def build_request(command: int, address: Address) -> bytes:
    """Return the bytes of a request."""
    return bytes([Version.SOCKS5, command, 0]) + build_address(address)


def parse_reply(reader: Reader) -> Reply:
    """Read one reply of any length. Raises Incomplete or ProtocolError.

    C Tor answers a failed RESOLVE with address type 00 and four bytes, which is read as 0.0.0.0.
    """
    if reader.take_u8() != Version.SOCKS5:
        raise ProtocolError("not a SOCKS5 reply")
    code, _ = reader.take(2)
    if code != Reply5.SUCCEEDED and reader.left and reader.data[reader.position] == 0:
        reader.take(7)
        return Reply(code)
    return Reply(code, parse_address(reader))


def build_reply(reply: Reply) -> bytes:
    """Return the bytes of a reply: 10 or 22, or 7 and a name."""
    return bytes([Version.SOCKS5, reply.code, 0]) + build_address(reply.address)
