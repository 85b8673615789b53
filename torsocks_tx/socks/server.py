"""The server's side of the handshake, from the first byte to one request.

``receive(bytes)`` returns steps for the caller to carry out in order: ``Send``, ``Authenticate``
(then call ``authenticated``), ``Requested`` or ``Rejected``. The last two end the handshake. Bytes
after a request are its ``rest``: early data, which is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from torsocks_tx import http
from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.socks import extended, socks4, socks5, userpass
from torsocks_tx.socks.constants import COMMANDS, ExtendedStatus, Method, Role, Version
from torsocks_tx.socks.extended import ExtendedRules
from torsocks_tx.socks.messages import NO_PAIRS, Credentials, KeyValues, Request
from torsocks_tx.socks.wire import Reader

BOTH_VERSIONS = frozenset({Version.SOCKS4, Version.SOCKS5})

SplitName = Callable[[bytes], tuple[bytes, KeyValues]]
"""Takes a user name apart: the name itself, and the parameters in it; ValueError to refuse it."""


@dataclass(frozen=True, slots=True)
class HandshakeOptions:
    """What a listener accepts before the request.

    ``prefer_no_auth``: select method 00 wherever it is offered. ``require_auth``: select only
    methods with credentials, and have them checked; SOCKS4 has none and is rejected. ``extended``:
    what extended authentication accepts; None: that method is never selected. ``role``: the kind of
    port; on a transport's port credentials, also of SOCKS4, are arguments. ``split_name``: finds
    the parameters in user names; None where these are nothing but names.
    """

    versions: frozenset[Version] = BOTH_VERSIONS
    prefer_no_auth: bool = False
    require_auth: bool = False
    extended: ExtendedRules | None = None
    role: Role = Role.TOR
    split_name: SplitName | None = None

    def select(self, offered: bytes) -> Method:
        """Choose a method among those that a client offers, one byte each."""
        no_auth = not self.require_auth and Method.NO_AUTH in offered
        if no_auth and self.prefer_no_auth:
            return Method.NO_AUTH
        if self.extended is not None and Method.EXTENDED in offered:
            return Method.EXTENDED
        if Method.USERNAME_PASSWORD in offered:
            return Method.USERNAME_PASSWORD
        return Method.NO_AUTH if no_auth else Method.NONE_ACCEPTABLE


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes to the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Check these credentials, then call ``authenticated``; call nothing else meanwhile."""

    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Requested:
    """Carry out this request; ``rest`` is what the client has sent after it."""

    request: Request
    rest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Write these bytes, flush, close. ``reason`` never quotes the client."""

    data: bytes
    reason: str


Step = Send | Authenticate | Requested | Rejected


class _State(Enum):
    FIRST_BYTE = auto()
    REQUEST_4 = auto()
    GREETING = auto()
    CREDENTIALS = auto()
    EXTENDED = auto()
    CHECKING = auto()
    CREDENTIALS_OR_REQUEST = auto()
    REQUEST_5 = auto()
    OVER = auto()


class ServerHandshake:
    """The handshake with one client.

    Holds at most one unfinished message, of fewer than 513 bytes (or pairs of extended
    authentication within their bounds); after ``Authenticate`` also what came in the same read.
    """

    def __init__(self, options: HandshakeOptions | None = None) -> None:
        self._options = options or HandshakeOptions()
        self._state = _State.FIRST_BYTE
        self._buffer = bytearray()
        self._reader = Reader(self._buffer)
        self._credentials: Credentials | None = None
        self._avatar: bytes | None = None
        self._takes_arguments = self._options.role is Role.PT
        self._extended: extended.MessageReader | None = None
        self._pairs = NO_PAIRS
        self._offered_extended = False

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the client; return the steps to carry out, in order."""
        if self._state is _State.OVER:
            return []
        self._buffer += data
        steps: list[Step] = []
        reader = self._reader
        while self._buffer and (take := _MESSAGES.get(self._state)) is not None:
            reader.position = 0
            try:
                step = take(self, reader)
            except Incomplete:
                break
            except ProtocolError as error:
                step = self._reject(error)
            else:
                del self._buffer[: reader.position]
            if isinstance(step, Requested):
                step = Requested(step.request, bytes(self._buffer))
                self.close()
            if step is not None:
                steps.append(step)
        return steps

    def authenticated(self, avatar: bytes | None) -> list[Step]:
        """Take the answer to ``Authenticate``: the user's name, or None to refuse the client."""
        if self._state is not _State.CHECKING:
            return []
        if avatar is None:
            answer = extended.AUTHENTICATION_FAILED if self._extended else userpass.REFUSED
            return [self._reject(ProtocolError("credentials refused", answer))]
        self._avatar = avatar
        try:
            accepted = self._accept()
        except ProtocolError as error:
            return [self._reject(error)]
        return [accepted, *self.receive(b"")]

    def close(self) -> None:
        """Free what is held: the client is gone, or has made its request."""
        self._state = _State.OVER
        self._buffer.clear()
        if self._extended is not None:
            self._extended.close()

    def _accept(self) -> Send:
        answer = userpass.ACCEPTED
        if self._extended is not None and self._options.extended is not None:
            said = extended.judge(self._pairs, self._options.extended, self._options.role)
            answer = extended.build_response(ExtendedStatus.SUCCESS, said)
        self._state = _State.REQUEST_5
        return Send(answer)

    def _reject(self, error: ProtocolError) -> Rejected:
        self.close()
        return Rejected(error.answer, str(error))

    def _first_byte(self, reader: Reader) -> Step | None:
        first = reader.data[0]
        if first not in self._options.versions:
            _refuse_http(first)
            raise ProtocolError("unknown SOCKS version")
        if first == Version.SOCKS4:
            self._state = _State.REQUEST_4
            return self._request_4(reader)
        self._state = _State.GREETING
        return self._greeting(reader)

    def _request_4(self, reader: Reader) -> Step | None:
        longest = socks4.MAX_REQUEST + (userpass.MAX_TEXT if self._takes_arguments else 0)
        request = socks4.parse_request(reader, COMMANDS[self._options.role], longest)
        if self._options.require_auth:
            raise ProtocolError("SOCKS4 cannot authenticate", socks4.REJECTED)
        if self._options.split_name is not None and request.credentials is not None:
            credentials = self._split(request.credentials, socks4.REJECTED)
            request = replace(request, credentials=credentials, pairs=self._pairs)
        self._state = _State.OVER
        return Requested(request, b"")

    def _split(self, credentials: Credentials, refusal: bytes) -> Credentials:
        """Return the credentials with the name alone; keep the parameters that were in it."""
        if self._options.split_name is None:
            return credentials
        try:
            name, self._pairs = self._options.split_name(credentials.username)
        except ValueError as error:
            raise ProtocolError(str(error), refusal) from None
        return Credentials(name, credentials.password)

    def _greeting(self, reader: Reader) -> Step | None:
        offered = socks5.parse_greeting(reader)
        method = self._options.select(offered)
        if method is Method.NONE_ACCEPTABLE:
            raise ProtocolError("no acceptable method", socks5.NO_ACCEPTABLE_METHOD)
        if method is Method.EXTENDED:
            self._extended = extended.MessageReader(self._options.extended)
        # The reply codes depend on what was offered, whichever method is selected.
        self._offered_extended = bool(self._options.extended) and Method.EXTENDED in offered
        selection, self._state = _SELECTED[method]
        return selection

    def _check(self, reader: Reader) -> Step | None:
        if reader.data[0] != userpass.VERSION:
            raise ProtocolError("credentials of an unknown version", userpass.REFUSED)
        credentials = userpass.parse_credentials(reader)
        if self._takes_arguments:
            userpass.parse_arguments(credentials)
        elif not userpass.is_known_format(credentials):
            raise ProtocolError("unknown format of extended credentials", userpass.REFUSED)
        self._credentials = credentials = self._split(credentials, userpass.REFUSED)
        if not self._options.require_auth:
            return self._accept()
        self._state = _State.CHECKING
        return Authenticate(credentials)

    def _take_pairs(self, reader: Reader) -> Step | None:
        assert self._extended is not None, "this method was selected"
        pairs = self._extended.take(reader)
        if pairs is None:
            return None
        self._pairs = pairs
        self._credentials = extended.check_credentials(pairs, self._options.role)
        if not self._options.require_auth:
            return self._accept()
        if pairs.get(extended.USERNAME) is None or pairs.get(extended.PASSWD) is None:
            raise ProtocolError("credentials are missing", extended.AUTHENTICATION_FAILED)
        self._state = _State.CHECKING
        return Authenticate(self._credentials or Credentials(b""))

    def _request_5(self, reader: Reader) -> Step | None:
        first = reader.data[0]
        if first == userpass.VERSION and self._state is _State.CREDENTIALS_OR_REQUEST:
            # Some clients send credentials although method 00 was selected: Tor takes them anyway.
            return self._check(reader)
        if first != Version.SOCKS5:
            _refuse_http(first)
        parsed = socks5.parse_request(reader, COMMANDS[self._options.role])
        self._state = _State.OVER
        request = Request(
            parsed.version,
            parsed.command,
            parsed.address,
            self._credentials,
            self._avatar,
            self._pairs,
            self._offered_extended,
            self._extended is not None,
        )
        return Requested(request, b"")


def _refuse_http(first_byte: int) -> None:
    if first_byte in http.LETTERS:
        raise ProtocolError("HTTP on a SOCKS port", http.PAGE)


# What is sent for the method that is selected, and the state behind it.
_SELECTED: dict[Method, tuple[Send, _State]] = {
    method: (Send(socks5.build_selection(method)), state)
    for method, state in (
        (Method.NO_AUTH, _State.CREDENTIALS_OR_REQUEST),
        (Method.USERNAME_PASSWORD, _State.CREDENTIALS),
        (Method.EXTENDED, _State.EXTENDED),
    )
}
# What takes the next message in each state in which the client speaks.
_MESSAGES: dict[_State, Callable[[ServerHandshake, Reader], Step | None]] = {
    _State.FIRST_BYTE: ServerHandshake._first_byte,
    _State.REQUEST_4: ServerHandshake._request_4,
    _State.GREETING: ServerHandshake._greeting,
    _State.CREDENTIALS: ServerHandshake._check,
    _State.EXTENDED: ServerHandshake._take_pairs,
    _State.CREDENTIALS_OR_REQUEST: ServerHandshake._request_5,
    _State.REQUEST_5: ServerHandshake._request_5,
}
