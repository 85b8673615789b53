"""The client's side of the conversation: how a request is made of a SOCKS server. No I/O.

``start()`` gives the first bytes; ``receive(bytes)`` returns steps until ``Opened`` or ``Failed``.
``pipelined`` sends greeting, credentials and request at once, as C Tor takes it. tor then keeps
only its last answer to what came in one read: the method selection may be missing, and a request
that it refuses at sight is answered by the reply alone. All forms are understood. Other servers are
spoken to step by step.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from enum import Enum, auto

from torsocks_tx.codes import CodeSet, ExtendedStatus, Method, Reply4, Reply5, Version
from torsocks_tx.errors import GeneralFailure, Incomplete, ProtocolError, Refused
from torsocks_tx.extended import ACCEPTED, REPLY_CODES, UNSUPPORTED
from torsocks_tx.handshake import Send
from torsocks_tx.messages import NO_PAIRS, KeyValues, Reply, Request
from torsocks_tx.offers import Offer, plain_offer
from torsocks_tx.proxyerrors import ArgumentsRefused, LoginRefused, ProxyBroken
from torsocks_tx.refusals import extended_refusal, refusal
from torsocks_tx.replies import parse_code_set
from torsocks_tx.wire import keyvalue, socks4, socks5, userpass
from torsocks_tx.wire.reader import Reader


@dataclass(frozen=True, slots=True)
class Opened:
    """The request was granted; ``rest`` is what the far end has sent behind the reply.

    ``pairs`` is what the server said by method X'97'.
    """

    reply: Reply
    rest: bytes = field(repr=False)
    pairs: KeyValues = NO_PAIRS


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was refused, or the server broke the protocol (then a ``ProxyBroken``).

    ``code`` is the reply code, and ``status`` the status that answered credentials or pairs, where
    the refusal came with one.
    """

    reason: Refused
    code: int | None = None
    status: int | None = None
    pairs: KeyValues = NO_PAIRS


Step = Send | Opened | Failed


class _State(Enum):
    SELECTION = auto()
    STATUS = auto()
    EXTENDED = auto()
    REPLY = auto()
    OVER = auto()


class Initiator:
    """Makes one request.

    Without an ``offer`` one method is offered: 00 without credentials, with them 02, because a
    fall-back to 00 would lose the isolation without a word. ``pipelined`` needs that one method.
    """

    def __init__(
        self, request: Request, *, pipelined: bool = False, offer: Offer | None = None
    ) -> None:
        self._request = request
        self._pipelined = pipelined
        self._offer = offer or plain_offer(request)
        self._response = keyvalue.Response()
        self._pairs = NO_PAIRS
        self._codes: CodeSet | None = None
        self._buffer = bytearray()
        socks4_spoken = request.version is Version.SOCKS4
        self._state = _State.REPLY if socks4_spoken else _State.SELECTION

    @property
    def requested(self) -> bool:
        """Whether the request is among the bytes given out so far, so that data may follow it."""
        return self._pipelined or self._state in (_State.REPLY, _State.OVER)

    @property
    def pairs(self) -> KeyValues:
        """What the server has said by method X'97'."""
        return self._pairs

    def start(self) -> bytes:
        """The bytes to send first."""
        if self._request.version is Version.SOCKS4:
            return socks4.build_request(self._request)
        greeting = socks5.build_greeting(self._offer.methods)
        if not self._pipelined:
            return greeting
        return greeting + self._build_credentials() + self._build_request()

    def _build_credentials(self) -> bytes:
        credentials = self._request.credentials
        return b"" if credentials is None else userpass.build_credentials(credentials)

    def _build_request(self) -> bytes:
        return socks5.build_request(self._request.command, self._request.address)

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the server; what to do about them, in order."""
        if self._state is not _State.OVER:
            self._buffer += data
        steps: list[Step] = []
        while self._buffer and self._state is not _State.OVER:
            reader = Reader(self._buffer)
            try:
                step = self._next(reader)
            except Incomplete:
                break
            except ProtocolError as error:
                step = self._fail(ProxyBroken(str(error)))
            del self._buffer[: reader.position]
            if isinstance(step, Opened):
                step = Opened(step.reply, bytes(self._buffer), self._pairs)
                self._buffer.clear()
            if step is not None:
                steps.append(step)
        return steps

    def eof(self) -> list[Step]:
        """The server closed. Before the reply that is a refusal."""
        if self._state is _State.OVER:
            return []
        if self._response.status:
            return [self._refused_pairs(self._response.status)]
        return [self._fail(ProxyBroken("the SOCKS server closed without a reply"))]

    def _fail(self, reason: Refused, code: int | None = None, status: int | None = None) -> Failed:
        self._state = _State.OVER
        self._buffer.clear()
        return Failed(reason, code, status, self._pairs)

    def _refused(self, code: int) -> Failed:
        if Method.EXTENDED not in self._offer.methods and self._offer.role is None:
            return self._fail(refusal(code), code)
        return self._fail(extended_refusal(code, self._offer.role, self._codes), code)

    def _next(self, reader: Reader) -> Step | None:
        if self._state is _State.REPLY:
            return self._reply(reader)
        if self._state is _State.EXTENDED:
            return self._extended(reader)
        swallowed = self._pipelined and reader.data[0] == userpass.VERSION
        if self._state is _State.STATUS or (swallowed and self._request.credentials is not None):
            return self._status(reader)
        return self._selection(reader)

    def _selection(self, reader: Reader) -> Step | None:
        method = socks5.parse_selection(reader)
        if method in self._offer.methods:
            return self._selected(method)
        if method == Method.NONE_ACCEPTABLE:
            return self._fail(self._offer.unless("the SOCKS server takes none of the methods"))
        if self._pipelined and method != Method.NO_AUTH:
            # No selection: the start of a reply that tor sent in place of all answers.
            return self._refused(method)
        raise ProtocolError("the SOCKS server selected a method that was not offered")

    def _selected(self, method: int) -> Step | None:
        if method == Method.EXTENDED:
            self._state = _State.EXTENDED
            return Send(keyvalue.build_request(self._request.pairs or NO_PAIRS))
        if method == Method.USERNAME_PASSWORD:
            self._state = _State.STATUS
            return None if self._pipelined else Send(self._build_credentials())
        self._state = _State.REPLY
        return None if self._pipelined else Send(self._build_request())

    def _extended(self, reader: Reader) -> Step | None:
        pairs = self._response.take(reader)
        if pairs is None:
            return None
        self._pairs = pairs
        if self._response.status:
            return self._refused_pairs(self._response.status)
        with contextlib.suppress(ValueError):
            self._codes = parse_code_set(pairs.get(REPLY_CODES))
        accepted = (pairs.get(ACCEPTED) or b"").decode("latin-1").split(",")
        if not self._offer.needed.issubset(accepted):
            return self._fail(self._offer.unless("a key that is needed was not accepted"))
        self._state = _State.REPLY
        return Send(self._build_request())

    def _refused_pairs(self, status: int) -> Failed:
        kind: type[Refused] = ArgumentsRefused
        if status == ExtendedStatus.AUTHENTICATION_FAILED:
            kind = LoginRefused
        elif self._pairs.get(UNSUPPORTED) is not None:
            kind = self._offer.unless
        return self._fail(kind(f"the SOCKS server answered with status {status}"), None, status)

    def _status(self, reader: Reader) -> Step | None:
        if self._pipelined and reader.data[0] == 0:
            # Neither was ``05 02`` a selection: ``05 02 00`` is tor's reply under SafeSocks.
            return self._refused(Reply5.NOT_ALLOWED)
        status = userpass.parse_status(reader)
        if status != 0:
            reason = LoginRefused("the SOCKS server refused the credentials")
            return self._fail(reason, None, status)
        self._state = _State.REPLY
        return None if self._pipelined else Send(self._build_request())

    def _reply(self, reader: Reader) -> Step:
        if self._request.version is Version.SOCKS4:
            reply = socks4.parse_reply(reader)
            if reply.code != Reply4.GRANTED:
                reason = GeneralFailure("the SOCKS4 server rejected the request")
                return self._fail(reason, reply.code)
        else:
            # A refusal is known after two bytes: some servers send no more than that.
            start = reader.data[:2]
            if len(start) == 2 and start[0] == Version.SOCKS5 and start[1] != Reply5.SUCCEEDED:
                return self._refused(start[1])
            reply = socks5.parse_reply(reader)
        self._state = _State.OVER
        return Opened(reply, b"")
