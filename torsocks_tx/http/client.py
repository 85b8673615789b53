"""The client's side of CONNECT through an HTTP proxy (RFC 9110, section 9.3.6; Tor's http-connect).

Used like ``socks.client.ClientHandshake``, with the same steps. ``h11`` writes the request and
reads the answer.
"""

from __future__ import annotations

import re
from base64 import b64encode

import h11

from torsocks_tx.errors import NotIsolated, ProxyBroken, SOCKSError
from torsocks_tx.http.answers import PROXY_AUTHORIZATION, STREAM_ISOLATION, refusal
from torsocks_tx.http.server import MAX_HEAD, take_head
from torsocks_tx.socks.client import Failed, Opened, Step
from torsocks_tx.socks.constants import AddressType, Reply5
from torsocks_tx.socks.messages import NO_PAIRS, Address, Credentials, Reply
from torsocks_tx.socks.server import Send

_HOST = re.compile(r"[!-~]+")
_SUCCESS = range(200, 300)
# Answers to OPTIONS that refuse whoever asks; any other may mean that the method is unknown.
_REFUSALS = (407, 500, 502, 503, 504)


class HTTPClientHandshake:
    """Asks an HTTP proxy for one stream to ``address``.

    Credentials are sent by the Basic scheme. ``isolation`` is sent as ``Tor-Stream-Isolation``: the
    proxy is first asked by OPTIONS, with the same credentials, whether it knows that header, and
    the stream fails if it does not. ``optimistic``: data may follow CONNECT before the answer, so
    the proxy is told to close if it refuses: it would read that data as a request (RFC 9931).
    ``requested``: CONNECT is sent, so that data may follow. Raises ValueError for a host that is
    not printable ASCII without blanks.
    """

    pairs = NO_PAIRS

    def __init__(
        self,
        address: Address,
        credentials: Credentials | None = None,
        isolation: str | None = None,
        *,
        optimistic: bool = False,
    ) -> None:
        if _HOST.fullmatch(address.host) is None:
            raise ValueError("a host of HTTP is of printable ASCII, without blanks")
        address = address.literal()
        host = f"[{address.host}]" if address.type is AddressType.IPV6 else address.host
        target = f"{host}:{address.port}"
        headers = []
        self._has_login = credentials is not None
        if credentials is not None:
            token = b64encode(credentials.username + b":" + credentials.password)
            headers.append((PROXY_AUTHORIZATION, "Basic " + token.decode("ascii")))
        # A proxy closes upon another host, lest it be a web site that asks.
        here = [("Host", "localhost"), *headers]
        self._options = h11.Request(method="OPTIONS", target="*", headers=here)
        if isolation is not None:
            headers.append((STREAM_ISOLATION, isolation))
        if optimistic:
            headers.append(("Connection", "close"))
        there = [("Host", target), *headers]
        self._connect = h11.Request(method="CONNECT", target=target, headers=there)
        self._connection: h11.Connection | None = h11.Connection(h11.CLIENT, MAX_HEAD)
        self._buffer = bytearray()
        self.requested = isolation is None

    def start(self) -> bytes:
        """Return the bytes to send first."""
        assert self._connection is not None, "nothing was received yet"
        return _sent(self._connection, self._connect if self.requested else self._options)

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes from the proxy; return the outcome once it is known."""
        if self._connection is None:
            return []
        self._buffer += data
        try:
            return self._read(self._connection)
        except h11.ProtocolError:
            return self.give_up(ProxyBroken("not the answer of an HTTP proxy"))

    def _read(self, connection: h11.Connection) -> list[Step]:
        while self._feed(connection):
            while isinstance(event := connection.next_event(), h11.Event):
                match event:
                    case h11.Response() if self.requested or event.status_code in _REFUSALS:
                        return self._outcome(event)
                    case h11.Response() if STREAM_ISOLATION.lower() not in _capabilities(event):
                        return self.give_up(NotIsolated(f"the proxy has no {STREAM_ISOLATION}"))
                    case h11.EndOfMessage():
                        connection.start_next_cycle()
                        self.requested = True
                        return [Send(_sent(connection, self._connect))]
        return []

    def _feed(self, connection: h11.Connection) -> bool:
        """Hand the next head over, or what there is of a body; return whether there was any."""
        if connection.their_state is h11.SEND_RESPONSE:
            if not b"HTTP/".startswith(self._buffer[:5]):
                raise h11.RemoteProtocolError("the answer of another protocol")
            part = take_head(self._buffer) or b""
        else:
            part = bytes(self._buffer)
            self._buffer.clear()
        if part:
            connection.receive_data(part)
        return bool(part)

    def _outcome(self, answer: h11.Response) -> list[Step]:
        if answer.status_code not in _SUCCESS:
            headers = _text_of(answer)
            about = {"has_target": self.requested, "has_login": self._has_login}
            return self.give_up(refusal(answer.status_code, headers, **about))
        self._connection = None
        return [Opened(Reply(Reply5.SUCCEEDED), bytes(self._buffer))]

    def eof(self) -> list[Step]:
        """The proxy has closed: a failure, if that is before its answer."""
        return self.give_up(ProxyBroken("the HTTP proxy closed without an answer"))

    def give_up(self, reason: SOCKSError) -> list[Step]:
        """Wait no longer."""
        if self._connection is None:
            return []
        self._connection = None
        return [Failed(reason)]

    def confirm(self) -> list[Step]:
        """Do nothing: an answer of an HTTP proxy is never ``Unconfirmed``."""
        return []


def _sent(connection: h11.Connection, request: h11.Request) -> bytes:
    return connection.send(request) + connection.send(h11.EndOfMessage())


def _text_of(answer: h11.Response) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("latin-1") for name, value in answer.headers}


def _capabilities(answer: h11.Response) -> list[str]:
    return _text_of(answer).get("tor-capabilities", "").lower().split()
