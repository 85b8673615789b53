"""SOCKS and HTTP CONNECT for the load generator, without the package and without Twisted."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

GREETING = b"\5\1\0"
SELECTION = b"\5\0"
HTTP = 1


class Way(NamedTuple):
    """How to reach an origin: ``version`` is 0 without a proxy, ``HTTP``, or 4 or 5 of SOCKS."""

    version: int
    proxy: tuple[str, int]


def request(version: int, host: str, port: int) -> bytes:
    """A CONNECT request to an IPv4 address, or with version 5 or HTTP to a name."""
    if version == HTTP:
        place = f"{host}:{port}"
        return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()
    if version == 4:
        return struct.pack("!BBH", 4, 1, port) + socket.inet_aton(host) + b"\0"
    if host[-1].isdigit():
        return b"\5\1\0\1" + socket.inet_aton(host) + struct.pack("!H", port)
    return b"\5\1\0\3" + bytes([len(host)]) + host.encode() + struct.pack("!H", port)


def is_granted(reply: bytes) -> bool:
    """Whether these first bytes of a reply say success."""
    return reply.startswith((b"HTTP/1.1 200 ", b"\5\0", b"\0\x5a"))


def take(sock: socket.socket, count: int) -> bytes:
    """Read ``count`` bytes; raise ``EOFError`` if there are fewer."""
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError(f"closed after {len(data)} of {count} bytes")
        data += more
    return data


def connect(way: Way, host: str, port: int, early: bytes = b"", source: str = "") -> socket.socket:
    """Open a stream, blocking; ``early`` leaves in the segment of the request."""
    target = way.proxy if way.version else (host, port)
    sock = socket.create_connection(target, 60, (source, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if way.version == 5:
        sock.sendall(GREETING)
        if take(sock, 2) != SELECTION:
            raise ConnectionError("the proxy wants credentials")
    if way.version:
        sock.sendall(request(way.version, host, port) + early)
        reply = take(sock, {4: 8, 5: 10, HTTP: 13}[way.version])
        if not is_granted(reply):
            raise ConnectionError(f"the proxy answered {reply!r}")
        while way.version == HTTP and not reply.endswith(b"\r\n\r\n"):
            reply += take(sock, 1)
    elif early:
        sock.sendall(early)
    return sock
