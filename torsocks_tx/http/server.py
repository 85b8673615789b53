"""The server's side of HTTP CONNECT, from the first byte to one request.

Used like ``socks.server.ServerHandshake``, with the same steps. ``h11`` reads each head. What
follows the head of a CONNECT is early data and never a body, whatever the head says. A connection
stays open behind the answers to OPTIONS and 407, and for no other answer.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass, field, replace
from enum import Enum, auto

import h11

from torsocks_tx.errors import Busy, Incomplete, ProtocolError
from torsocks_tx.http.answers import (
    FAMILY_PREFERENCE,
    ISOLATION_HEADERS,
    PROXY_AUTHORIZATION,
    Answers,
)
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.extended import FREE_BYTES, Budget
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request
from torsocks_tx.socks.server import Authenticate, Rejected, Requested, Send, SplitName, Step
from torsocks_tx.socks.wire import check_destination

MAX_HEAD = 16 * 1024
"""Bytes of a head at most; with it ``MAX_HEADERS`` lines of headers."""

MAX_HEADERS = 100

MAX_REFUSED = 3
"""Wrong credentials on one connection, before it is closed."""

MAX_ANSWERS = 8
"""Answers on one connection, before it is closed."""

FIRST_LETTERS = (b"C", b"O", b"D", b"T")
"""First bytes of CONNECT, OPTIONS, DELETE and TRACE. The methods in G, H and P get the page."""

ISOLATION_USERS = (b"tor-iso", b"tor", b"x-tor")
"""User names that say that a login is for isolation only: of the specification, then older ones."""

_END = re.compile(rb"\n\r?\n")
# Of blanks in a row h11 takes time by the square: 0.5 s for 16 KiB of them.
_BLANKS = re.compile(rb"[ \t]{64}")
_PORT = re.compile(r"[0-9]{1,5}")
_RPC_TARGET = b"tor-rpc-target"
_THIS_MACHINE = re.compile(rb"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]*)?", re.IGNORECASE)
_FRAMING = (b"content-length", b"transfer-encoding")
_KEPT = {name.lower().encode(): name for name in (*ISOLATION_HEADERS, FAMILY_PREFERENCE)}


@dataclass(frozen=True, slots=True)
class HTTPOptions:
    """What a listener accepts by HTTP.

    ``budget``: what the unfinished heads of all clients may hold together, 1 KiB of each aside.
    ``require_auth``: the credentials of each request are checked. ``ask_for_credentials``: the
    first request without any isolation header is answered with 407, since browsers send
    credentials only when they are asked. ``split_name``: as in ``HandshakeOptions``.
    """

    answers: Answers
    budget: Budget = field(default_factory=Budget)
    require_auth: bool = False
    ask_for_credentials: bool = False
    split_name: SplitName | None = None


class _State(Enum):
    HEAD = auto()
    CHECKING = auto()
    OVER = auto()


class HTTPServerHandshake:
    """The handshake with one client that speaks HTTP.

    Holds at most ``MAX_HEAD`` bytes, and what came in the same read.
    """

    def __init__(self, options: HTTPOptions) -> None:
        self._options = options
        self._answers = options.answers
        self._state = _State.HEAD
        self._buffer = bytearray()
        self._request: Request | None = None
        self._may_stay = False
        self._has_asked = False
        self._refused = self._answered = self._held = 0

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the client; return the steps to carry out, in order."""
        if self._state is _State.OVER:
            return []
        self._buffer += data
        steps: list[Step] = []
        while self._buffer and self._state is _State.HEAD:
            try:
                steps.append(self._answer(self._take_head()))
            except Incomplete:
                break
            except ProtocolError as error:
                steps.append(self._reject(error.answer, str(error)))
        if not self._hold(len(self._buffer) - FREE_BYTES):
            answer = self._answers.refused(Busy()) if self._is_connect else b""
            steps.append(self._reject(answer, "too many unfinished heads"))
        return steps

    def _hold(self, size: int) -> bool:
        """Take what is held from the budget, or give back; return whether there was enough."""
        budget, before, self._held = self._options.budget, self._held, max(size, 0)
        budget.left += before - self._held
        return budget.left >= 0

    def authenticated(self, avatar: bytes | None) -> list[Step]:
        """Take the answer to ``Authenticate``: the user's name, or None to refuse the client."""
        if self._state is not _State.CHECKING or self._request is None:
            return []
        self._state = _State.HEAD
        if avatar is not None:
            return [self._grant(replace(self._request, avatar=avatar))]
        self._refused += 1
        return [self._ask(), *self.receive(b"")]

    def close(self) -> None:
        """Free what is held: the client is gone, or has made its request."""
        self._state = _State.OVER
        self._buffer.clear()
        self._hold(0)

    @property
    def _is_connect(self) -> bool:
        """Whether this is a CONNECT: a web site may be behind all else, and hears of no mistake."""
        return self._state is _State.CHECKING or self._buffer.startswith(b"CONNECT ")

    def _take_head(self) -> h11.Request:
        """Take one head from the buffer. Raises Incomplete or ProtocolError."""
        is_connect = self._is_connect
        try:
            taken = take_head(self._buffer)
            if taken is None:
                raise Incomplete
            reader = h11.Connection(h11.SERVER, MAX_HEAD)
            reader.receive_data(taken)
            head = reader.next_event()
        except h11.RemoteProtocolError as error:
            if not is_connect:
                raise ProtocolError("not valid HTTP") from None
            status = error.error_status_hint
            sentence = "The head is too large." if status == 431 else "This is not valid HTTP."
            raise self._mistake(status, sentence) from None
        assert isinstance(head, h11.Request), "a whole head was given"
        if head.http_version not in (b"1.0", b"1.1"):
            if not is_connect:
                raise ProtocolError("another version of HTTP")
            raise self._mistake(505, "This proxy speaks HTTP/1.0 and HTTP/1.1.")
        return head

    def _answer(self, head: h11.Request) -> Step:
        self._answered += 1
        self._may_stay = _may_stay(head) and self._answered < MAX_ANSWERS
        if head.method == b"CONNECT":
            return self._connect(head)
        # A web site can make a browser send this, under a name that leads to this machine.
        host = next((value for name, value in head.headers if name == b"host"), b"")
        if not _THIS_MACHINE.fullmatch(host):
            return self._reject(b"", "HTTP, with another host than this machine")
        if head.method != b"OPTIONS":
            return self._reject(self._answers.method_not_allowed(), "an HTTP method")
        stays = self._may_stay and not _has_body(head)
        answer = self._answers.options(close=not stays)
        return Send(answer) if stays else self._reject(answer, "OPTIONS")

    def _connect(self, head: h11.Request) -> Step:
        if any(name == _RPC_TARGET for name, _ in head.headers):
            raise self._mistake(501, "This proxy has no Tor-RPC-Target.")
        try:
            address = parse_target(head.target)
        except ProtocolError as error:
            raise self._mistake(400, "The target is not a valid HOST:PORT.") from error
        pairs = KeyValues(
            tuple((_KEPT[name], value) for name, value in head.headers if name in _KEPT)
        )
        credentials = parse_basic(pairs.get(PROXY_AUTHORIZATION))
        split = self._options.split_name
        if split is not None and _is_unreadable(pairs, credentials):
            raise self._misread("The credentials are not one Basic login.")
        # Names of Tor's own for isolation have hyphens, and hold no parameters.
        if credentials is not None and split and credentials.username not in ISOLATION_USERS:
            credentials, pairs = self._split(credentials, pairs, split)
        request = Request(Version.HTTP, Command.CONNECT, address, credentials, pairs=pairs)
        if self._options.require_auth:
            if credentials is None:
                return self._ask()
            self._state, self._request = _State.CHECKING, request
            return Authenticate(credentials)
        asks = self._options.ask_for_credentials and not self._has_asked
        if asks and all(pairs.get(name) is None for name in ISOLATION_HEADERS):
            return self._ask()
        return self._grant(request)

    def _split(
        self, credentials: Credentials, pairs: KeyValues, split_name: SplitName
    ) -> tuple[Credentials, KeyValues]:
        """Take the parameters out of the name; the header keeps the name alone."""
        try:
            name, found = split_name(credentials.username)
        except ValueError as error:
            sentence = f"{str(error)[:1].upper()}{str(error)[1:]}."
            raise self._misread(sentence) from None
        rest = tuple(pair for pair in pairs if pair[0] != PROXY_AUTHORIZATION)
        credentials = Credentials(name, credentials.password)
        token = b64encode(name + b":" + credentials.password)
        header = (PROXY_AUTHORIZATION, b"Basic " + token)
        return credentials, KeyValues((header, *rest, *found))

    def _misread(self, sentence: str) -> ProtocolError:
        return ProtocolError(sentence, self._answers.ask_for_credentials(sentence, close=True))

    def _grant(self, request: Request) -> Requested:
        rest = bytes(self._buffer)
        self.close()
        return Requested(request, rest)

    def _ask(self) -> Step:
        self._has_asked = True
        # What is there behind this head is early data, and must not be read as a head.
        stays = self._may_stay and not self._buffer and self._refused < MAX_REFUSED
        answer = self._answers.ask_for_credentials(close=not stays)
        return Send(answer) if stays else self._reject(answer, "credentials are wanted")

    def _mistake(self, status: int, sentence: str) -> ProtocolError:
        return ProtocolError(sentence, self._answers.mistaken(status, sentence))

    def _reject(self, answer: bytes, reason: str) -> Rejected:
        self.close()
        return Rejected(answer, reason)


def _may_stay(head: h11.Request) -> bool:
    """Whether the client lets the connection stay open."""
    tokens = (value.lower() for name, value in head.headers if name == b"connection")
    return head.http_version == b"1.1" and not any(b"close" in token for token in tokens)


def _has_body(head: h11.Request) -> bool:
    return any(name in _FRAMING and value != b"0" for name, value in head.headers)


def parse_target(target: bytes) -> Address:
    """Return the address of a CONNECT's target. Raises ProtocolError."""
    host, _, port = target.decode("latin-1").rpartition(":")
    # Without brackets nobody could tell where an IPv6 address ends.
    if not host or not _PORT.fullmatch(port) or (":" in host and not host.startswith("[")):
        raise ProtocolError("no HOST:PORT")
    if not 0 < int(port) < 65536:
        raise ProtocolError("no such port")
    return check_destination(Address.of(host, int(port)))


def _is_unreadable(pairs: KeyValues, credentials: Credentials | None) -> bool:
    """Whether there may be parameters in a name that cannot be read, which must not be ignored."""
    values = [value for name, value in pairs if name == PROXY_AUTHORIZATION]
    is_basic = any(value[:5].lower() == b"basic" for value in values)
    return len(values) > 1 or (is_basic and credentials is None)


def parse_basic(value: bytes | None) -> Credentials | None:
    """Return the credentials of the Basic scheme (RFC 7617); None if they are of no such form."""
    scheme, _, token = (value or b"").partition(b" ")
    try:
        username, colon, password = b64decode(token.strip(), validate=True).partition(b":")
    except NotBase64:
        return None
    return Credentials(username, password) if scheme.lower() == b"basic" and colon else None


def take_head(buffer: bytearray) -> bytes | None:
    """Take the first head, or return None while it is not complete.

    Raises ``h11.RemoteProtocolError``, with its ``error_status_hint``, for one beyond the bounds.
    """
    end = _END.search(buffer)
    length = len(buffer) if end is None else end.end()
    # The first line and the empty one are no headers.
    if length > MAX_HEAD or buffer.count(b"\n", 0, length) > MAX_HEADERS + 2:
        raise h11.RemoteProtocolError("a head that is too large", error_status_hint=431)
    if _BLANKS.search(buffer, 0, length):
        raise h11.RemoteProtocolError("many blanks in a row")
    if end is None:
        return None
    head = bytes(buffer[:length])
    del buffer[:length]
    return head
