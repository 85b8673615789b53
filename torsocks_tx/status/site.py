"""``--status``: the HTTP server where people and programs see how this server is.

Whoever can reach it learns how much is used, and of whom nothing. A browser reaches it for its own
machine's user only: a web site's name that leads here (DNS rebinding) is refused by ``Host``. What
strangers can hold here is bounded: connections, the time for a request, and its size.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from torsocks_tx.errors import without_text

MOST_CONNECTIONS = 64
"""Connections at one time; one more is closed at once."""

REQUEST_TIMEOUT = 10
"""Seconds without a byte before a request is whole."""

LIFETIME = 60
"""Seconds that a connection lasts, unless it is an open page's, however slowly it asks or reads."""

MOST_BODY = 4096
"""Bytes of a request's body."""

PLAIN = "text/plain; charset=utf-8"

_HEADERS = {
    b"Server": b"torsocks_tx",
    b"Cache-Control": b"no-store",
    b"Content-Security-Policy": (
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"Cross-Origin-Resource-Policy": b"same-origin",
    # With "no-referrer" a browser would not say, either, that a form is from a page of ours.
    b"Referrer-Policy": b"same-origin",
    b"X-Content-Type-Options": b"nosniff",
}
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::[0-9]*)?")


def is_host_allowed(host: str, *, public: bool) -> bool:
    """Whether a ``Host`` is this machine; where the site is ``public``, any IP address is, too.

    A name of a web site is none: a browser that comes by one was led here.
    """
    match = _HOST.fullmatch(host)
    name = match[1].strip("[]").lower() if match else ""
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return public or address.is_loopback


class StatusRequest(Request):
    """One request: judged before any page sees it."""

    _is_large = False

    def process(self) -> None:
        """Answer it; the answer to whoever comes by another host is short."""
        channel: Any = self.channel
        public = channel.site.public
        raw = self.requestHeaders.getRawHeaders(b"host") or []
        hosts = [host.decode("ascii", "replace") for host in raw]
        # None at all: no browser, but an old balancer's question.
        if hosts and not (len(hosts) == 1 and is_host_allowed(hosts[0], public=public)):
            answer(self, 403, "This server is reached by localhost or an IP address only.\n")
        elif self._is_large:
            answer(self, 413, "This server takes no such bodies.\n")
        elif self.path == b"*":  # which twisted.web would answer by itself
            answer(self, *NOT_FOUND)
        else:
            super().process()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a part of the body, which is bounded."""
        content: Any = self.content
        if content.tell() + len(data) > MOST_BODY:
            self._is_large = True
            self.channel.loseConnection()
        else:
            super().handleContentChunk(data)


def set_headers(request: Any, kind: str) -> None:
    """Set the headers that all answers have, of this kind of content."""
    for name, value in _HEADERS.items():
        request.setHeader(name, value)
    request.setHeader(b"Content-Type", kind.encode())


def answer(request: Any, code: int, body: str, kind: str = PLAIN) -> None:
    """Write the whole answer to a request."""
    data = body.encode()
    request.setResponseCode(code)
    set_headers(request, kind)
    request.setHeader(b"Content-Length", b"%d" % len(data))
    request.write(data)
    request.finish()


Answer = tuple[int, str] | tuple[int, str, str]
"""The code of an answer, its text and the kind of that."""

NOT_FOUND = (404, "There is no such page. /status.json, /metrics and /health are here.\n")


async def _not_found() -> Answer:
    return NOT_FOUND


class Page(Resource):
    """A page whose answer is written by a coroutine; what is below it is not found."""

    methods: tuple[bytes, ...] = (b"GET", b"HEAD")
    _log = Logger()

    def __init__(self, write: Callable[[], Coroutine[Any, Any, Answer]] = _not_found) -> None:
        super().__init__()
        self._write = write

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return the page for a path that is not there."""
        return Page()

    def render(self, request: Any) -> int:
        """Begin to answer, if this is a method of this page."""
        if request.method in self.methods:
            self.begin(request)
        else:
            allowed = b", ".join(self.methods)
            request.setHeader(b"Allow", allowed)
            answer(request, 405, f"The methods here: {allowed.decode()}.\n")
        return NOT_DONE_YET

    def begin(self, request: Any) -> None:
        """Answer when the coroutine has returned, if the client is still there."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def send(given: Answer) -> None:
            if not gone:
                answer(request, *given)

        writing = Deferred.fromCoroutine(self._write()).addCallback(send)
        writing.addErrback(lambda failure: send(self._failed(failure)))

    def _failed(self, failure: Failure) -> Answer:
        self._log.failure("a fault of the status page", without_text(failure))
        return 500, "A fault of this server; its log has the details.\n"


class StatusSite(Site):
    """Serves pages; ``public``: to other machines, too."""

    noisy = False
    displayTracebacks = False

    def __init__(self, reactor: Any, root: Resource, *, public: bool) -> None:
        self.public = public
        self.clock = reactor
        super().__init__(
            root, requestFactory=StatusRequest, timeout=REQUEST_TIMEOUT, reactor=reactor
        )

    def log(self, request: Any) -> None:
        """Log no request: a line would hold the client's address."""


class _Guarded(ProtocolWrapper):
    """A connection for a time, which does not tell its client's address: twisted.web would log it.

    ``last`` lets it be for longer.
    """

    def connectionMade(self) -> None:
        """Begin to count its time."""
        factory: Any = self.factory
        transport: Any = self.transport
        clock = factory.wrappedFactory.clock
        self._ending = clock.callLater(LIFETIME, transport.abortConnection)

    def last(self) -> None:
        """Let it be for longer: what it does is bounded elsewhere."""
        if self._ending.active():
            self._ending.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count its time no more."""
        self.last()
        super().connectionLost(reason)

    def getPeer(self) -> IAddress:
        """Return the address of nobody."""
        return UNIXAddress(None)


@implementer(IProtocolNegotiationFactory)
class BoundedSite(WrappingFactory):
    """Bounds the connections to a site, and the time that each lasts."""

    noisy = False
    protocol = _Guarded

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return a protocol; None, so that it is closed, if there are too many."""
        return super().buildProtocol(addr) if len(self.protocols) < MOST_CONNECTIONS else None

    def acceptableProtocols(self) -> list[bytes]:
        """Return what browsers may ask for by ALPN: else TLS refuses them."""
        return [b"http/1.1"]

    def abort(self) -> None:
        """Close all connections."""
        for protocol in list(self.protocols):
            protocol.transport.abortConnection()
