"""The client's side of the conversation: how a request is made of a SOCKS server. No I/O.

``start()`` gives the first bytes; ``receive(bytes)`` returns steps until ``Opened`` or ``Failed``.
``pipelined`` sends greeting, credentials and request at once, as C Tor takes it. tor then keeps
only its last answer to what came in one read: the method selection may be missing, and a request
that it refuses at sight is answered by the reply alone. All forms are understood. Other servers are
spoken to step by step.
"""

from __future__ import annotations

import contextlib
from enum import Enum, auto

from torsocks_tx.errors import GeneralFailure, Incomplete, ProtocolError, Refused
from torsocks_tx.proxyerrors import LoginRefused, ProxyBroken
from torsocks_tx.socks import keyvalue, socks4, socks5, userpass
from torsocks_tx.socks.constants import (
    CodeSet,
    Command,
    Method,
    OnionReply,
    Reply4,
    Reply5,
    Version,
)
from torsocks_tx.socks.extended import ACCEPTED, REPLY_CODES
from torsocks_tx.socks.messages import NO_PAIRS, KeyValues, Reply, Request
from torsocks_tx.socks.offers import Offer, plain_offer
from torsocks_tx.socks.outcomes import Doubted, Failed, Opened, Step
from torsocks_tx.socks.reader import Reader
from torsocks_tx.socks.replies import parse_code_set
from torsocks_tx.socks.server import Send

_DOUBTED = bytes([Version.SOCKS5, OnionReply.DESCRIPTOR_NOT_FOUND])


class _State(Enum):
    SELECTION = auto()
    STATUS = auto()
    EXTENDED = auto()
    REPLY = auto()
    DOUBT = auto()
    OVER = auto()


class Initiator:
    """Makes one request.

    Without an ``offer`` one method is offered: 00 without credentials, with them 02, because a
    fall-back to 00 would lose the isolation without a word. ``pipelined`` needs that one method.
    ``doubtful``: the server may be a C Tor with ExtendedErrors, so X'F0' is ``Doubted`` first.
    ``pairs`` is what the server has said by method X'97'.
    """

    def __init__(
        self,
        request: Request,
        *,
        pipelined: bool = False,
        doubtful: bool = False,
        offer: Offer | None = None,
    ) -> None:
        self._request = request
        self._pipelined = pipelined
        self._doubtful = doubtful and request.command is Command.CONNECT
        self._offer = offer or plain_offer(request)
        self._response = keyvalue.Response()
        self.pairs: KeyValues = NO_PAIRS
        self._codes: CodeSet | None = None
        self._buffer = bytearray()
        self._doubted: Reply | None = None
        socks4_spoken = request.version is Version.SOCKS4
        self._state = _State.REPLY if socks4_spoken else _State.SELECTION

    @property
    def requested(self) -> bool:
        """Whether the request is among the bytes given out so far, so that data may follow it."""
        return self._pipelined or self._state in (_State.REPLY, _State.DOUBT, _State.OVER)

    def start(self) -> bytes:
        """The bytes to send first."""
        if self._request.version is Version.SOCKS4:
            return socks4.build_request(self._request)
        greeting = socks5.build_greeting(self._offer.methods)
        if not self._pipelined:
            return greeting
        return greeting + _build_credentials(self._request) + _build_request(self._request)

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the server; what to do about them, in order."""
        if self._state is not _State.OVER:
            self._buffer += data
        steps: list[Step] = []
        while self._buffer and self._state is not _State.OVER:
            if self._state is _State.DOUBT:
                return steps + self.settle()
            reader = Reader(self._buffer)
            try:
                step = self._next(reader)
            except Incomplete:
                break
            except ProtocolError as error:
                step = self._fail(ProxyBroken(str(error)))
            del self._buffer[: reader.position]
            if isinstance(step, Opened):
                step = Opened(step.reply, bytes(self._buffer), self.pairs)
                self._buffer.clear()
            if step is not None:
                steps.append(step)
        return steps

    def eof(self) -> list[Step]:
        """The server closed. Before the reply that is a refusal."""
        return self.give_up(ProxyBroken("the SOCKS server closed without a reply"))

    def give_up(self, otherwise: Refused) -> list[Step]:
        """Nothing more is waited for: the refusal that is known by now, ``otherwise`` if none."""
        if self._state is _State.OVER:
            return []
        if self._doubted is not None:
            return [self._refused(self._doubted.code)]
        if self._state is _State.REPLY and self._buffer.startswith(_DOUBTED):
            return [self._refused(self._buffer[1])]
        if self._response.status:
            return [self._refused_pairs(self._response.status)]
        return [self._fail(otherwise)]

    def settle(self) -> list[Step]:
        """After ``Doubted``: the server has not closed, so the stream works."""
        if self._doubted is None or self._state is _State.OVER:
            return []
        self._state = _State.OVER
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [Opened(self._doubted, rest, self.pairs)]

    def _fail(self, reason: Refused, code: int | None = None, status: int | None = None) -> Failed:
        self._state = _State.OVER
        self._buffer.clear()
        return Failed(reason, code, status, self.pairs)

    def _refused(self, code: int) -> Failed:
        return self._fail(self._offer.refusal(code, self._codes), code)

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
            return None if self._pipelined else Send(_build_credentials(self._request))
        self._state = _State.REPLY
        return None if self._pipelined else Send(_build_request(self._request))

    def _extended(self, reader: Reader) -> Step | None:
        pairs = self._response.take(reader)
        if pairs is None:
            return None
        self.pairs = pairs
        self._doubtful = False  # it is no C Tor
        if self._response.status:
            return self._refused_pairs(self._response.status)
        with contextlib.suppress(ValueError):
            self._codes = parse_code_set(pairs.get(REPLY_CODES))
        accepted = (pairs.get(ACCEPTED) or b"").decode("latin-1").split(",")
        if not self._offer.needed.issubset(accepted):
            return self._fail(self._offer.unless("a key that is needed was not accepted"))
        self._state = _State.REPLY
        return Send(_build_request(self._request))

    def _refused_pairs(self, status: int) -> Failed:
        return self._fail(self._offer.pairs_refusal(status, self.pairs), None, status)

    def _status(self, reader: Reader) -> Step | None:
        if self._pipelined and reader.data[0] == 0:
            # Neither was ``05 02`` a selection: ``05 02 00`` is tor's reply under SafeSocks.
            return self._refused(Reply5.NOT_ALLOWED)
        status = userpass.parse_status(reader)
        if status != 0:
            reason = LoginRefused("the SOCKS server refused the credentials")
            return self._fail(reason, None, status)
        self._state = _State.REPLY
        return None if self._pipelined else Send(_build_request(self._request))

    def _reply(self, reader: Reader) -> Step:
        if self._request.version is Version.SOCKS4:
            reply = socks4.parse_reply(reader)
            if reply.code != Reply4.GRANTED:
                reason = GeneralFailure("the SOCKS4 server rejected the request")
                return self._fail(reason, reply.code)
        else:
            # A refusal is known after two bytes: some servers send no more than that.
            start = reader.data[:2]
            doubted = self._doubtful and start == _DOUBTED
            answered = len(start) == 2 and start[0] == Version.SOCKS5
            if answered and start[1] != Reply5.SUCCEEDED and not doubted:
                return self._refused(start[1])
            reply = socks5.parse_reply(reader)
            if doubted:
                self._state, self._doubted = _State.DOUBT, reply
                return Doubted()
        self._state = _State.OVER
        return Opened(reply, b"")


def _build_credentials(request: Request) -> bytes:
    credentials = request.credentials
    return b"" if credentials is None else userpass.build_credentials(credentials)


def _build_request(request: Request) -> bytes:
    return socks5.build_request(request.command, request.address)
