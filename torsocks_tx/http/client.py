"""The client's side of CONNECT through an HTTP proxy (RFC 9110, section 9.3.6).

    request  | CONNECT HOST:PORT HTTP/1.1 | CR LF | header | CR LF | .. | CR LF |
    answer   | HTTP/1.x CODE REASON       | CR LF | header | CR LF | .. | CR LF | stream ..

Headers of the answer are skipped. Lines may end in LF alone.
"""

from __future__ import annotations

import re
from base64 import b64encode
from http import HTTPStatus

from torsocks_tx import errors
from torsocks_tx.errors import GeneralFailure, Incomplete, ProtocolError, ProxyBroken, SOCKSError
from torsocks_tx.socks.client import Failed, Opened, Step
from torsocks_tx.socks.constants import AddressType, Reply5
from torsocks_tx.socks.messages import NO_PAIRS, Address, Credentials, Reply
from torsocks_tx.socks.wire import Reader

MAX_HEAD = 16 * 1024
"""Bytes of headers at most; a longer answer is refused."""

_HOST = re.compile(r"[!-~]+")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_REFUSALS: dict[int, type[SOCKSError]] = {
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: errors.LoginRefused,
    HTTPStatus.FORBIDDEN: errors.NotAllowed,
    HTTPStatus.METHOD_NOT_ALLOWED: errors.NotAllowed,
    HTTPStatus.BAD_GATEWAY: errors.HostUnreachable,
    HTTPStatus.SERVICE_UNAVAILABLE: errors.HostUnreachable,
    HTTPStatus.GATEWAY_TIMEOUT: errors.TimedOut,
}
_SUCCESS = range(200, 300)
_INTERIM = range(100, 200)


def build_connect(address: Address, credentials: Credentials | None = None) -> bytes:
    """Return the bytes of a request; credentials are sent by the Basic scheme.

    ValueError for a host that is not printable ASCII without blanks.
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
    """Read the headers of an answer; return its status code. Raises Incomplete or ProtocolError."""
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


class HTTPClientHandshake:
    """Asks an HTTP proxy for one stream to ``address``; used like a ``ClientHandshake``."""

    requested = False
    pairs = NO_PAIRS

    def __init__(self, address: Address, credentials: Credentials | None = None) -> None:
        self._request = build_connect(address, credentials)
        self._buffer: bytearray | None = bytearray()

    def start(self) -> bytes:
        """Return the bytes to send first."""
        return self._request

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the proxy; return the outcome once it is known."""
        while self._buffer is not None:
            self._buffer += data
            data = b""
            reader = Reader(self._buffer)
            try:
                code = parse_answer(reader)
            except Incomplete:
                break
            except ProtocolError as error:
                return self.give_up(ProxyBroken(str(error)))
            del self._buffer[: reader.position]
            if code in _SUCCESS:
                opened = Opened(Reply(Reply5.SUCCEEDED), bytes(self._buffer))
                self._buffer = None
                return [opened]
            if code not in _INTERIM:
                kind = _REFUSALS.get(code, GeneralFailure)
                return self.give_up(kind(f"the HTTP proxy answered {code}"))
        return []

    def eof(self) -> list[Step]:
        """The proxy has closed: a refusal, if that is before its answer."""
        return self.give_up(ProxyBroken("the HTTP proxy closed without an answer"))

    def give_up(self, reason: SOCKSError) -> list[Step]:
        """Wait no longer."""
        if self._buffer is None:
            return []
        self._buffer = None
        return [Failed(reason)]

    def confirm(self) -> list[Step]:
        """Do nothing: an answer of an HTTP proxy is never ``Unconfirmed``."""
        return []
