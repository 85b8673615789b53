"""The server's side of the conversation, from the first byte to one request. No I/O.

``receive(bytes)`` returns steps, and each step is an order to the caller, to be carried out in
turn: ``Send``, ``Authenticate`` (answer with ``authenticated``), ``Requested`` or ``Rejected``. The
last two end the conversation. Bytes behind a request are its ``rest``: early data, never thrown
away here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from torsocks_tx.codes import Method, Version
from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.messages import Credentials, Request
from torsocks_tx.wire import http, socks4, socks5, userpass
from torsocks_tx.wire.reader import Reader

BOTH_VERSIONS = frozenset({Version.SOCKS4, Version.SOCKS5})


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes to the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Check these credentials, then call ``authenticated``; feed nothing meanwhile."""

    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Requested:
    """Carry out this request; ``rest`` is what the client has sent behind it."""

    request: Request
    rest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Write these bytes, flush, close. ``reason`` never quotes the client."""

    data: bytes
    reason: str


Step = Send | Authenticate | Requested | Rejected


@dataclass(frozen=True, slots=True)
class HandshakeOptions:
    """What a listener accepts before the request.

    ``prefer_no_auth``: method 00 over 02 where both are offered. ``require_auth``: only method 02,
    and its credentials are checked; SOCKS4 is rejected, since it has none.
    """

    versions: frozenset[Version] = BOTH_VERSIONS
    prefer_no_auth: bool = False
    require_auth: bool = False

    def select(self, offered: bytes) -> Method:
        """The method that is taken of those that a client offers."""
        wanted = [Method.USERNAME_PASSWORD, Method.NO_AUTH]
        if self.require_auth:
            wanted = [Method.USERNAME_PASSWORD]
        elif self.prefer_no_auth:
            wanted.reverse()
        return next((method for method in wanted if method in offered), Method.NONE_ACCEPTABLE)


class _State(Enum):
    FIRST_BYTE = auto()
    REQUEST_4 = auto()
    GREETING = auto()
    CREDENTIALS = auto()
    CHECKING = auto()
    CREDENTIALS_OR_REQUEST = auto()
    REQUEST_5 = auto()
    OVER = auto()


class Handshake:
    """One client's conversation.

    Holds at most one unfinished frame, of fewer than 513 bytes; behind an ``Authenticate`` also
    what came in the same read.
    """

    def __init__(self, options: HandshakeOptions | None = None) -> None:
        self._options = options or HandshakeOptions()
        self._state = _State.FIRST_BYTE
        self._buffer = bytearray()
        self._credentials: Credentials | None = None
        self._avatar: bytes | None = None

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the client; what to do about them, in order."""
        if self._state is _State.OVER:
            return []
        self._buffer += data
        return self._advance()

    def authenticated(self, avatar: bytes | None) -> list[Step]:
        """The answer to ``Authenticate``: who the client is, or None to refuse it."""
        if self._state is not _State.CHECKING:
            return []
        if avatar is None:
            return [self._reject(ProtocolError("credentials refused", userpass.REFUSED))]
        self._avatar = avatar
        self._state = _State.REQUEST_5
        return [Send(userpass.ACCEPTED), *self._advance()]

    def _advance(self) -> list[Step]:
        steps: list[Step] = []
        while self._buffer and (frame := _FRAMES.get(self._state)) is not None:
            reader = Reader(self._buffer)
            try:
                step = frame(self, reader)
            except Incomplete:
                break
            except ProtocolError as error:
                step = self._reject(error)
            else:
                del self._buffer[: reader.position]
            if isinstance(step, Requested):
                step = Requested(step.request, bytes(self._buffer))
                self._buffer.clear()
            if step is not None:
                steps.append(step)
        return steps

    def _reject(self, error: ProtocolError) -> Rejected:
        self._state = _State.OVER
        self._buffer.clear()
        return Rejected(error.answer, str(error))

    def _first_byte(self, reader: Reader) -> Step | None:
        first = reader.data[0]
        _refuse_http(first)
        if first not in self._options.versions:
            raise ProtocolError("unknown SOCKS version")
        self._state = _State.REQUEST_4 if first == Version.SOCKS4 else _State.GREETING
        return None

    def _request_4(self, reader: Reader) -> Step | None:
        request = socks4.parse_request(reader)
        if self._options.require_auth:
            raise ProtocolError("SOCKS4 cannot authenticate", socks4.REJECTED)
        self._state = _State.OVER
        return Requested(request, b"")

    def _greeting(self, reader: Reader) -> Step | None:
        method = self._options.select(socks5.parse_greeting(reader))
        if method is Method.NONE_ACCEPTABLE:
            raise ProtocolError("no acceptable method", socks5.NO_ACCEPTABLE_METHOD)
        chosen = method is Method.USERNAME_PASSWORD
        self._state = _State.CREDENTIALS if chosen else _State.CREDENTIALS_OR_REQUEST
        return Send(socks5.build_selection(method))

    def _check(self, reader: Reader) -> Step | None:
        if reader.data[0] != userpass.VERSION:
            raise ProtocolError("credentials of an unknown version", userpass.REFUSED)
        credentials = userpass.parse_credentials(reader)
        userpass.check_format(credentials)
        self._credentials = credentials
        if self._options.require_auth:
            self._state = _State.CHECKING
            return Authenticate(credentials)
        self._state = _State.REQUEST_5
        return Send(userpass.ACCEPTED)

    def _credentials_or_request(self, reader: Reader) -> Step | None:
        # Some clients send credentials although method 00 was selected: Tor takes them anyway.
        if reader.data[0] == userpass.VERSION:
            return self._check(reader)
        return self._request_5(reader)

    def _request_5(self, reader: Reader) -> Step | None:
        _refuse_http(reader.data[0])
        parsed = socks5.parse_request(reader, self._credentials)
        self._state = _State.OVER
        request = Request(
            parsed.version, parsed.command, parsed.address, self._credentials, self._avatar
        )
        return Requested(request, b"")


def _refuse_http(first_byte: int) -> None:
    if http.looks_like_http(first_byte):
        raise ProtocolError("HTTP on a SOCKS port", http.PAGE)


_FRAMES: dict[_State, Callable[[Handshake, Reader], Step | None]] = {
    _State.FIRST_BYTE: Handshake._first_byte,
    _State.REQUEST_4: Handshake._request_4,
    _State.GREETING: Handshake._greeting,
    _State.CREDENTIALS: Handshake._check,
    _State.CREDENTIALS_OR_REQUEST: Handshake._credentials_or_request,
    _State.REQUEST_5: Handshake._request_5,
}
