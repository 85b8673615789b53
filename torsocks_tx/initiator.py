"""The client's side of the conversation: how a request is made of a SOCKS server. No I/O.

``start()`` gives the first bytes; ``receive(bytes)`` returns steps until ``Opened`` or ``Failed``.
``pipelined`` sends greeting, credentials and request at once, as C Tor takes it. tor then keeps
only its last answer to what came in one read: the method selection may be missing, and a request
that it refuses at sight is answered by the reply alone. All forms are understood. Other servers are
spoken to step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from torsocks_tx.codes import Method, Reply4, Reply5, Version
from torsocks_tx.errors import GeneralFailure, Incomplete, ProtocolError, Refused
from torsocks_tx.handshake import Send
from torsocks_tx.messages import Reply, Request
from torsocks_tx.refusals import refusal
from torsocks_tx.wire import socks4, socks5, userpass
from torsocks_tx.wire.reader import Reader


@dataclass(frozen=True, slots=True)
class Opened:
    """The request was granted; ``rest`` is what the far end has sent behind the reply."""

    reply: Reply
    rest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was refused, or the server broke the protocol (then a ``GeneralFailure``)."""

    reason: Refused


Step = Send | Opened | Failed


class _State(Enum):
    SELECTION = auto()
    STATUS = auto()
    REPLY = auto()
    OVER = auto()


class Initiator:
    """Makes one request.

    Without credentials only method 00 is offered; with them only 02, because a fall-back to 00
    would lose the isolation without a word.
    """

    def __init__(self, request: Request, *, pipelined: bool = False) -> None:
        self._request = request
        self._pipelined = pipelined
        self._buffer = bytearray()
        socks4_spoken = request.version is Version.SOCKS4
        self._state = _State.REPLY if socks4_spoken else _State.SELECTION

    @property
    def requested(self) -> bool:
        """Whether the request is among the bytes given out so far, so that data may follow it."""
        return self._pipelined or self._state in (_State.REPLY, _State.OVER)

    def start(self) -> bytes:
        """The bytes to send first."""
        if self._request.version is Version.SOCKS4:
            return socks4.build_request(self._request)
        greeting = socks5.build_greeting([self._method])
        if not self._pipelined:
            return greeting
        return greeting + self._build_credentials() + self._build_request()

    @property
    def _method(self) -> Method:
        return Method.NO_AUTH if self._request.credentials is None else Method.USERNAME_PASSWORD

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
                step = self._fail(GeneralFailure(str(error)))
            del self._buffer[: reader.position]
            if isinstance(step, Opened):
                step = Opened(step.reply, bytes(self._buffer))
                self._buffer.clear()
            if step is not None:
                steps.append(step)
        return steps

    def eof(self) -> list[Step]:
        """The server closed. Before the reply that is a refusal."""
        if self._state is _State.OVER:
            return []
        return [self._fail(GeneralFailure("the SOCKS server closed without a reply"))]

    def _fail(self, reason: Refused) -> Failed:
        self._state = _State.OVER
        self._buffer.clear()
        return Failed(reason)

    def _next(self, reader: Reader) -> Step | None:
        if self._state is _State.REPLY:
            return self._reply(reader)
        swallowed = self._pipelined and reader.data[0] == userpass.VERSION
        if self._state is _State.STATUS or (swallowed and self._request.credentials is not None):
            return self._status(reader)
        return self._selection(reader)

    def _selection(self, reader: Reader) -> Step | None:
        method = socks5.parse_selection(reader)
        if method == self._method == Method.NO_AUTH:
            self._state = _State.REPLY
            return None if self._pipelined else Send(self._build_request())
        if method == self._method:
            self._state = _State.STATUS
            return None if self._pipelined else Send(self._build_credentials())
        if self._pipelined and method != Method.NO_AUTH:
            # No selection: the start of a reply that tor sent in place of all answers.
            return self._fail(refusal(method))
        raise ProtocolError("the SOCKS server selected a method that was not offered")

    def _status(self, reader: Reader) -> Step | None:
        if self._pipelined and reader.data[0] == 0:
            # Neither was ``05 02`` a selection: ``05 02 00`` is tor's reply under SafeSocks.
            return self._fail(refusal(Reply5.NOT_ALLOWED))
        if userpass.parse_status(reader) != 0:
            return self._fail(GeneralFailure("the SOCKS server refused the credentials"))
        self._state = _State.REPLY
        return None if self._pipelined else Send(self._build_request())

    def _reply(self, reader: Reader) -> Step:
        if self._request.version is Version.SOCKS4:
            reply = socks4.parse_reply(reader)
            if reply.code != Reply4.GRANTED:
                return self._fail(GeneralFailure("the SOCKS4 server rejected the request"))
        else:
            # A refusal is known after two bytes: some servers send no more than that.
            start = reader.data[:2]
            if len(start) == 2 and start[0] == Version.SOCKS5 and start[1] != Reply5.SUCCEEDED:
                return self._fail(refusal(start[1]))
            reply = socks5.parse_reply(reader)
        self._state = _State.OVER
        return Opened(reply, b"")
