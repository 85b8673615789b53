"""The client's side of an HTTP CONNECT: an ``Initiator`` for HTTP proxies. No I/O."""

from __future__ import annotations

from http import HTTPStatus

from torsocks_tx.errors import (
    GeneralFailure,
    HostUnreachable,
    Incomplete,
    NotAllowed,
    ProtocolError,
    Refused,
    TimedOut,
)
from torsocks_tx.http import connect as http_connect
from torsocks_tx.socks.constants import Reply5
from torsocks_tx.socks.messages import Address, Credentials, Reply
from torsocks_tx.socks.outcomes import Failed, Opened, Step
from torsocks_tx.socks.reader import Reader

_REFUSALS: dict[int, type[Refused]] = {
    HTTPStatus.FORBIDDEN: NotAllowed,
    HTTPStatus.METHOD_NOT_ALLOWED: NotAllowed,
    HTTPStatus.BAD_GATEWAY: HostUnreachable,
    HTTPStatus.SERVICE_UNAVAILABLE: HostUnreachable,
    HTTPStatus.GATEWAY_TIMEOUT: TimedOut,
}
_SUCCESS = range(200, 300)
_INTERIM = range(100, 200)


class HTTPInitiator:
    """Asks for one stream to ``address``."""

    def __init__(self, address: Address, credentials: Credentials | None = None) -> None:
        self._request = http_connect.build_connect(address, credentials)
        self._buffer: bytearray | None = bytearray()

    def start(self) -> bytes:
        """The bytes to send first."""
        return self._request

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the proxy; the outcome, once it is there."""
        while self._buffer is not None:
            self._buffer += data
            data = b""
            reader = Reader(self._buffer)
            try:
                code = http_connect.parse_answer(reader)
            except Incomplete:
                break
            except ProtocolError as error:
                return self._over(Failed(GeneralFailure(str(error))))
            del self._buffer[: reader.position]
            if code in _SUCCESS:
                return self._over(Opened(Reply(Reply5.SUCCEEDED), bytes(self._buffer)))
            if code not in _INTERIM:
                kind = _REFUSALS.get(code, GeneralFailure)
                return self._over(Failed(kind(f"the HTTP proxy answered {code}")))
        return []

    def eof(self) -> list[Step]:
        """The proxy closed. Before its answer that is a refusal."""
        if self._buffer is None:
            return []
        return self._over(Failed(GeneralFailure("the HTTP proxy closed without an answer")))

    def _over(self, step: Step) -> list[Step]:
        self._buffer = None
        return [step]
