"""``--status``: the HTTP server where people and programs see how this server is.

Whoever can reach it learns how much is used, and of whom nothing. A browser reaches it for its own
machine's user only: a web site's name that leads here (DNS rebinding) is refused by ``Host``. What
strangers can hold here is bounded: connections, the time for a request, and its size.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from torsocks_tx.errors import without_text
from torsocks_tx.server.listen import Listener
from torsocks_tx.status.metrics import TEXT_FORMAT, NoLibrary, exposition
from torsocks_tx.status.report import Monitor

MOST_CONNECTIONS = 64
"""Connections at one time; one more is closed at once."""

REQUEST_TIMEOUT = 10
"""Seconds without a byte before a request is whole."""

LIFETIME = 60
"""Seconds that a connection lasts, unless it is an open page's, however slowly it asks or reads."""

MOST_BODY = 4096
"""Bytes of a request's body."""

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
        """Answer it; the answer to whoever comes by another host, or method, is short."""
        channel: Any = self.channel
        site: StatusSite = channel.site
        raw = self.requestHeaders.getRawHeaders(b"host") or []
        hosts = [host.decode("ascii", "replace") for host in raw]
        # None at all: no browser, but an old balancer's question.
        is_here = not hosts or (len(hosts) == 1 and is_host_allowed(hosts[0], public=site.public))
        if not is_here:
            self._refuse(403, "This server is reached by localhost or an IP address only.")
        elif self._is_large:
            self._refuse(413, "This server takes no such bodies.")
        elif self.method not in (b"GET", b"HEAD", b"POST"):
            self._refuse(405, "GET and HEAD are the methods here.")
        else:
            super().process()

    def _refuse(self, code: int, text: str) -> None:
        answer(self, code, text + "\n")

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


def answer(request: Any, code: int, body: str, kind: str = "text/plain; charset=utf-8") -> None:
    """Write the whole answer to a request."""
    data = body.encode()
    request.setResponseCode(code)
    set_headers(request, kind)
    request.setHeader(b"Content-Length", b"%d" % len(data))
    request.write(data)
    request.finish()


class Tree(Resource):
    """Some pages; whatever is not below it is not found."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return the page for a path that is not there."""
        return Page(_not_found)

    def render_GET(self, request: Any) -> Any:
        """There is nothing at this path itself."""
        return Page(_not_found).render_GET(request)

    def render_HEAD(self, request: Any) -> Any:
        """As GET, without the body."""
        return self.render_GET(request)

    def render_POST(self, request: Any) -> Any:
        """Refuse it: nothing is changed here."""
        answer(request, 405, "GET and HEAD are the methods here.\n")
        return NOT_DONE_YET


async def _not_found() -> tuple[int, str]:
    return 404, "There is no such page. /status.json, /metrics and /health are here.\n"


class Page(Tree):
    """A page whose answer is written by a coroutine: its code, its text and the kind of that."""

    _log = Logger()

    def __init__(self, write: Callable[[], Any]) -> None:
        super().__init__()
        self._write = write

    def render_GET(self, request: Any) -> int:
        """Begin to answer."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def send(given: Any) -> None:
            if not gone:
                answer(request, *given)

        writing = Deferred.fromCoroutine(self._write()).addCallback(send)
        writing.addErrback(lambda failure: send(self._failed(failure)))
        return NOT_DONE_YET

    def _failed(self, failure: Failure) -> tuple[int, str]:
        self._log.failure("a fault of the status page", without_text(failure))
        return 500, "A fault of this server; its log has the details.\n"


class StatusSite(Site):
    """Serves the pages; further ones are put into ``root``."""

    noisy = False
    displayTracebacks = False

    def __init__(self, reactor: Any, monitor: Monitor, *, public: bool = False) -> None:
        self.public = public
        self.monitor = monitor
        self.clock = reactor
        self.root = Tree()
        super().__init__(
            self.root, requestFactory=StatusRequest, timeout=REQUEST_TIMEOUT, reactor=reactor
        )
        self.root.putChild(b"health", Page(self._health))
        self.root.putChild(b"status.json", Page(self._status))
        self.root.putChild(b"metrics", Page(self._metrics))

    def log(self, request: Any) -> None:
        """Log no request: a line would hold the client's address."""

    async def _health(self) -> tuple[int, str]:
        state = self.monitor.state
        return (200 if state == "ready" else 503), f"{state}\n"

    async def _status(self) -> tuple[int, str, str]:
        report = await self.monitor.report()
        return 200, json.dumps(report, separators=(",", ":")), "application/json"

    async def _metrics(self) -> tuple[int, str, str]:
        try:
            return 200, exposition(await self.monitor.report()), TEXT_FORMAT
        except NoLibrary as error:
            return 501, f"{error}\n", "text/plain; charset=utf-8"


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


class _Bounded(WrappingFactory):
    """Bounds the connections to a site."""

    noisy = False
    protocol = _Guarded

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return a protocol; None, so that it is closed, if there are too many."""
        return super().buildProtocol(addr) if len(self.protocols) < MOST_CONNECTIONS else None


class StatusServer:
    """The site at its listener, from ``open`` to ``close``."""

    def __init__(
        self,
        reactor: Any,
        listener: Listener,
        monitor: Monitor,
        bind: Callable[[Listener, Any], Any],
    ) -> None:
        self.monitor = monitor
        self.site = StatusSite(reactor, monitor, public=listener.policy.allow_public)
        self._listener = listener
        self._bind = bind
        self._factory = _Bounded(self.site)
        self.port: Any = None
        """Where it listens, while it does."""

    def open(self) -> None:
        """Listen. Raises ``ListenError``."""
        if self.port is None:
            self.port = self._bind(self._listener, self._factory)
            self.monitor.begin()

    async def close(self) -> None:
        """Listen no more, and close what is open."""
        self.monitor.end()
        port, self.port = self.port, None
        if port is not None:
            await port.stopListening()
        for protocol in list(self._factory.protocols):
            protocol.transport.abortConnection()
