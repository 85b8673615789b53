"""The client's side of the handshake: how to make a request of a SOCKS server.

``ClientHandshake.start()`` returns the first bytes; ``receive(bytes)`` returns steps until
``Opened`` or ``Failed``. With ``pipelined``, for C Tor, greeting, credentials and request are sent
at once. C Tor then sends only its last answer to what came in one read: the method selection may be
missing, and a request that it refuses at once is answered by the reply alone.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from enum import Enum, auto

from torsocks_tx import errors
from torsocks_tx.errors import Incomplete, ProtocolError, ProxyBroken, SOCKSError
from torsocks_tx.socks import extended, socks4, socks5, userpass
from torsocks_tx.socks.client_options import Offer
from torsocks_tx.socks.constants import CodeSet, Command, Method, Reply4, Reply5, Version
from torsocks_tx.socks.extended import ACCEPTED, REPLY_CODES
from torsocks_tx.socks.messages import NO_PAIRS, KeyValues, Reply, Request
from torsocks_tx.socks.replies import parse_code_set
from torsocks_tx.socks.server import Send
from torsocks_tx.socks.wire import Reader

UNCONFIRMED_TIMEOUT = 0.5
"""Seconds to wait after ``Unconfirmed``: a stream that is not closed by then works."""

_ANONYMOUS = Offer((Method.NO_AUTH,))
_NAMED = Offer((Method.USERNAME_PASSWORD,))
_NOT_FOUND = bytes([Version.SOCKS5, errors.DescriptorNotFound.onion_code])


@dataclass(frozen=True, slots=True)
class Opened:
    """The request was granted; ``rest`` is what the remote has sent after the reply.

    ``pairs`` is what the server sent by extended authentication.
    """

    reply: Reply
    rest: bytes = field(repr=False)
    pairs: KeyValues = NO_PAIRS


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was refused, or the server broke the protocol (then a ``ProxyBroken``)."""

    reason: SOCKSError


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """The server replied X'F0', which C Tor also sends for streams that work.

    It does so if the first directory it asked had no descriptor, even if another one had it. It
    closes a stream that failed at once, so wait: ``eof`` then returns ``Failed``, data or
    ``confirm`` return ``Opened``.
    """


Step = Send | Opened | Failed | Unconfirmed


class _State(Enum):
    SELECTION = auto()
    STATUS = auto()
    EXTENDED = auto()
    REPLY = auto()
    UNCONFIRMED = auto()
    OVER = auto()


class ClientHandshake:
    """Makes one request.

    Without an ``offer`` one method is offered: 00 without credentials, and with them only 02, since
    a server that took 00 instead would not isolate the stream. ``pipelined`` needs that one method.
    ``verify_f0``: the server may be a C Tor with ExtendedErrors, so X'F0' is ``Unconfirmed`` first.
    ``pairs`` is what the server has sent by extended authentication.
    """

    __slots__ = ("_buffer", "_codes", "_offer", "_pipelined", "_reader", "_request",
                 "_response", "_state", "_unconfirmed", "_verifies_f0", "pairs")  # fmt: skip

    def __init__(
        self,
        request: Request,
        *,
        pipelined: bool = False,
        verify_f0: bool = False,
        offer: Offer | None = None,
    ) -> None:
        self._request = request
        self._pipelined = pipelined
        self._verifies_f0 = verify_f0 and request.command is Command.CONNECT
        self._offer = offer or (_NAMED if request.credentials else _ANONYMOUS)
        self._response: extended.MessageReader | None = None
        self.pairs: KeyValues = NO_PAIRS
        self._codes: CodeSet | None = None
        self._buffer = bytearray()
        self._reader = Reader(self._buffer)
        self._unconfirmed: Reply | None = None
        socks4_spoken = request.version is Version.SOCKS4
        self._state = _State.REPLY if socks4_spoken else _State.SELECTION

    @property
    def requested(self) -> bool:
        """Whether the request is among the bytes returned so far, so that data may follow it."""
        return self._pipelined or self._state in (_State.REPLY, _State.UNCONFIRMED, _State.OVER)

    def start(self) -> bytes:
        """Return the bytes to send first."""
        if self._request.version is Version.SOCKS4:
            return socks4.build_request(self._request)
        greeting = socks5.build_greeting(self._offer.methods)
        if not self._pipelined:
            return greeting
        return greeting + self._credentials() + self._build_request()

    def _credentials(self) -> bytes:
        credentials = self._request.credentials
        return b"" if credentials is None else userpass.build_credentials(credentials)

    def _build_request(self) -> bytes:
        return socks5.build_request(self._request.command, self._request.address)

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the server; what to do about them, in order."""
        if self._state is not _State.OVER:
            self._buffer += data
        steps: list[Step] = []
        reader = self._reader
        while self._buffer and self._state is not _State.OVER:
            if self._state is _State.UNCONFIRMED:
                return steps + self.confirm()
            reader.position = 0
            try:
                step = self._reply(reader) if self._state is _State.REPLY else self._next(reader)
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
        """The server has closed: a refusal, if that is before the reply."""
        return self.give_up(ProxyBroken("the SOCKS server closed without a reply"))

    def give_up(self, otherwise: SOCKSError) -> list[Step]:
        """Wait no longer: return the refusal known by now, ``otherwise`` if there is none."""
        if self._state is _State.OVER:
            return []
        if self._unconfirmed is not None:
            return [self._refused(self._unconfirmed.code)]
        if self._state is _State.REPLY and self._buffer.startswith(_NOT_FOUND):
            return [self._refused(self._buffer[1])]
        if self._response is not None and self._response.status:
            return [self._refused_pairs(self._response.status)]
        return [self._fail(otherwise)]

    def confirm(self) -> list[Step]:
        """Take an ``Unconfirmed`` stream for one that works: the server has not closed it."""
        if self._unconfirmed is None or self._state is _State.OVER:
            return []
        self._state = _State.OVER
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [Opened(self._unconfirmed, rest, self.pairs)]

    def _fail(self, reason: SOCKSError) -> Failed:
        self._state = _State.OVER
        self._buffer.clear()
        reason.pairs = self.pairs
        return Failed(reason)

    def _refused(self, code: int) -> Failed:
        return self._fail(self._offer.refusal(code, self._codes))

    def _refused_pairs(self, status: int) -> Failed:
        return self._fail(self._offer.pairs_refusal(status, self.pairs))

    def _next(self, reader: Reader) -> Step | None:
        if self._response is not None:
            return self._extended(reader, self._response)
        # C Tor may omit the method selection.
        is_status = self._pipelined and reader.data[0] == userpass.VERSION
        if self._state is _State.STATUS or (is_status and self._request.credentials is not None):
            return self._status(reader)
        return self._selection(reader)

    def _selection(self, reader: Reader) -> Step | None:
        method = socks5.parse_selection(reader)
        if method in self._offer.methods:
            return self._selected(method)
        if method == Method.NONE_ACCEPTABLE:
            reason = self._offer.on_unsupported("the SOCKS server takes none of the methods")
            return self._fail(reason)
        if self._pipelined and method != Method.NO_AUTH:
            # Not a selection but the start of a reply: tor sent no other answer.
            return self._refused(method)
        raise ProtocolError("the SOCKS server selected a method that was not offered")

    def _selected(self, method: int) -> Step | None:
        if method == Method.EXTENDED:
            self._state = _State.EXTENDED
            self._response = extended.MessageReader()
            return Send(extended.build_request(self._request.pairs))
        if method == Method.USERNAME_PASSWORD:
            self._state = _State.STATUS
            return None if self._pipelined else Send(self._credentials())
        return self._send_request()

    def _send_request(self) -> Step | None:
        self._state = _State.REPLY
        return None if self._pipelined else Send(self._build_request())

    def _extended(self, reader: Reader, response: extended.MessageReader) -> Step | None:
        pairs = response.take(reader)
        if pairs is None:
            return None
        self.pairs = pairs
        self._verifies_f0 = False  # C Tor has no extended authentication
        if response.status:
            return self._refused_pairs(response.status)
        with contextlib.suppress(ValueError):
            self._codes = parse_code_set(pairs.get(REPLY_CODES))
        accepted = (pairs.get(ACCEPTED) or b"").decode("latin-1").split(",")
        if not self._offer.needed.issubset(accepted):
            return self._fail(self._offer.on_unsupported("a key that is needed was not accepted"))
        return self._send_request()

    def _status(self, reader: Reader) -> Step | None:
        if self._pipelined and reader.data[0] == 0:
            # ``05 02`` was not a selection: ``05 02 00`` starts tor's reply under SafeSocks.
            return self._refused(Reply5.NOT_ALLOWED)
        # The version is not checked: some servers answer with that of SOCKS, 05.
        _, status = reader.take(2)
        if status != 0:
            text = "the SOCKS server refused the credentials"
            return self._fail(self._offer.login(text, status=status))
        return self._send_request()

    def _reply(self, reader: Reader) -> Step:
        if self._request.version is Version.SOCKS4:
            reply = socks4.parse_reply(reader)
            if reply.code != Reply4.GRANTED:
                reason = "the SOCKS4 server rejected the request"
                return self._fail(errors.GeneralFailure(reason, reply=reply.code))
        else:
            # The code is in the second byte, and some servers send no more than that.
            start = reader.data[:2]
            unconfirmed = self._verifies_f0 and start == _NOT_FOUND
            answered = len(start) == 2 and start[0] == Version.SOCKS5
            if answered and start[1] != Reply5.SUCCEEDED and not unconfirmed:
                return self._refused(start[1])
            reply = socks5.parse_reply(reader)
            if unconfirmed:
                self._state, self._unconfirmed = _State.UNCONFIRMED, reply
                return Unconfirmed()
        self._state = _State.OVER
        return Opened(reply, b"")
