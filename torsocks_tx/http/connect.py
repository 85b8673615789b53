"""CONNECT of an HTTP proxy, the client's side (RFC 9110, section 9.3.6).

    request  | CONNECT HOST:PORT HTTP/1.1 | CR LF | header | CR LF | .. | CR LF |
    answer   | HTTP/1.x CODE REASON       | CR LF | header | CR LF | .. | CR LF | stream ..

Headers of the answer are skipped; an answer without CR is understood too.
"""

from __future__ import annotations

import re
from base64 import b64encode

from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address, Credentials
from torsocks_tx.socks.reader import Reader

MAX_HEAD = 16 * 1024
"""An answer is refused that has not ended after so many bytes."""

_HOST = re.compile(r"[!-~]+")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9][0-9])(?: [^\r\n]*)?")


def build_connect(address: Address, credentials: Credentials | None = None) -> bytes:
    """The bytes of a request; with credentials, by the Basic scheme.

    ValueError for a host that a line of HTTP cannot hold: one with blanks, say, or line ends.
    """
    if _HOST.fullmatch(address.host) is None:
        raise ValueError("a host of HTTP is of printable ASCII, without blanks")
    bracketed = address.type is AddressType.IPV6
    host = f"[{address.host}]" if bracketed else address.host
    place = f"{host}:{address.port}".encode("ascii")
    lines = [b"CONNECT " + place + b" HTTP/1.1", b"Host: " + place]
    if credentials is not None:
        token = b64encode(credentials.username + b":" + credentials.password)
        lines.append(b"Proxy-Authorization: Basic " + token)
    return b"\r\n".join([*lines, b"", b""])


def parse_answer(reader: Reader) -> int:
    """Read the head of an answer: its status code. Raises Incomplete or ProtocolError."""
    head = bytes(reader.data[reader.position : reader.position + MAX_HEAD])
    end = _HEAD_END.search(head)
    if end is None and len(head) == MAX_HEAD:
        raise ProtocolError("the HTTP proxy's answer does not end")
    if not b"HTTP/1.".startswith(head[:7]):
        raise ProtocolError("not the answer of an HTTP proxy")
    if end is None:
        raise Incomplete
    status = _STATUS.fullmatch(head[: end.start()].splitlines()[0])
    if status is None:
        raise ProtocolError("not the answer of an HTTP proxy")
    reader.take(end.end())
    return int(status[1])
