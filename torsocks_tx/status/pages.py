"""The pages of ``--status``, the events that keep open ones up to date, and the button.

One rendering a second serves all open pages, and nothing is rendered while none is open.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from hmac import compare_digest
from importlib.resources import files
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.errors import without_text
from torsocks_tx.server.listen import Listener
from torsocks_tx.status.html import Html
from torsocks_tx.status.metrics import TEXT_FORMAT, NoLibrary, exposition
from torsocks_tx.status.page import document, sections
from torsocks_tx.status.report import Monitor
from torsocks_tx.status.site import (
    MOST_CONNECTIONS,
    Answer,
    BoundedSite,
    Page,
    StatusSite,
    answer,
    set_headers,
)

INTERVAL = 1.0
"""Seconds between two events."""

MOST_PAGES = MOST_CONNECTIONS // 2
"""Pages that are kept up to date at one time; further ones stay as they were when loaded."""

STALLED = 30
"""Events that a page may miss, because it does not read, before its connection is closed."""

RETRY = b"retry: 2000\n\n"
"""After so many milliseconds a browser whose connection is lost tries again."""

REST = 10.0
"""Seconds from fresh circuits to the next: as long as tor's own between two signals NEWNYM."""

HTML, EVENTS = "text/html; charset=utf-8", "text/event-stream; charset=utf-8"

STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""The files that go with the page, and their types."""


def event(shown: Mapping[str, Html]) -> bytes:
    """Return the event that carries these sections."""
    return f"data: {json.dumps(shown, ensure_ascii=False)}\n\n".encode()


@implementer(IPushProducer)
class OpenPage:
    """A page that follows the events: it misses those that come while it does not read."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._is_paused = False
        self._is_behind = True
        self._missed = 0
        request.registerProducer(self, True)

    def send(self, whole: bytes, changes: bytes) -> None:
        """Send the changes; or the whole page, if it has missed some before."""
        if self._is_paused:
            self._is_behind = True
            self._missed += 1
            if self._missed > STALLED:
                self._request.transport.abortConnection()
            return
        data = whole if self._is_behind else changes
        self._is_behind, self._missed = False, 0
        self._request.write(data)

    def pauseProducing(self) -> None:
        """Send no more: what has been sent is still on its way, or the connection is lost."""
        self._is_paused = True

    stopProducing = pauseProducing

    def resumeProducing(self) -> None:
        """Send again."""
        self._is_paused = False


class Events(Page):
    """``/events``: each open page gets the sections that have changed, once a second."""

    def __init__(self, reactor: Any, monitor: Monitor) -> None:
        super().__init__()
        self._reactor = reactor
        self._monitor = monitor
        self._pages: set[OpenPage] = set()
        self._shown: dict[str, Html] = {}
        self._running: Deferred[None] = succeed(None)

    def begin(self, request: Any) -> None:
        """Let a page follow."""
        if request.method == b"HEAD":
            answer(request, 200, "", EVENTS)
            return
        if len(self._pages) >= MOST_PAGES:
            answer(request, 503, "Too many pages are open.\n")
            return
        set_headers(request, EVENTS)
        request.transport.last()
        request.write(RETRY)
        page = OpenPage(request)
        self._pages.add(page)
        request.notifyFinish().addBoth(lambda _: self._pages.discard(page))
        if self._running.called:
            self._running = Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        while self._pages:
            await self._tick()
            await deferLater(self._reactor, INTERVAL, lambda: None)

    async def _tick(self) -> None:
        try:
            shown = sections(await self._monitor.report())
            changed = {name: it for name, it in shown.items() if self._shown.get(name) != it}
            whole, changes = event(shown), event(changed)
        except Exception:
            self._log.failure("a fault of the status page", without_text(Failure()))
            return
        self._shown = shown
        for page in list(self._pages):
            page.send(whole, changes)


class NewIdentity(Page):
    """``/new-identity``: gives fresh circuits to all, when the button of our page asks for it.

    At most once in ``REST`` seconds, so that nobody uses up circuits with it. What is asked for
    meanwhile happens once, at their end, as with tor's NEWNYM.
    """

    methods = (b"POST",)

    def __init__(self, reactor: Any, renew: Callable[[], str]) -> None:
        super().__init__()
        self._reactor = reactor
        self._renew = renew
        self.token = secrets.token_urlsafe(16)
        """What the page must send."""
        self._next = reactor.seconds()
        self._waiting: IDelayedCall | None = None

    def begin(self, request: Any) -> None:
        """Give fresh circuits, now or soon, and let the browser load the page again."""
        sent = request.args.get(b"token", [b""])[0]
        if not (is_same_origin(request) and compare_digest(sent, self.token.encode())):
            answer(request, 403, "Only the status page may ask for this: load it again.\n")
            return
        wait = self._next - self._reactor.seconds()
        if wait <= 0:
            self._give()
        elif self._waiting is None:
            self._waiting = self._reactor.callLater(wait, self._give)
        request.setHeader(b"location", b"./#soon" if self._waiting else b"./#done")
        answer(request, 303, "Streams that begin now, or soon, have fresh circuits.\n")

    def _give(self) -> None:
        self._waiting = None
        self._next = self._reactor.seconds() + REST
        self._log.info("status page: {text}", text=self._renew())

    def close(self) -> None:
        """Forget what is still to happen."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def is_same_origin(request: Any) -> bool:
    """Whether a page of ours has sent a request, as far as the browser says where it is from."""
    if request.getHeader(b"sec-fetch-site") not in (None, b"same-origin"):
        return False
    origin, host = request.getHeader(b"origin"), request.getHeader(b"host") or b""
    return origin in (None, b"http://" + host, b"https://" + host)


class StatusServer:
    """The pages at their listener, from ``open`` to ``close``.

    ``renew``: gives fresh circuits to all, and returns what to say about it.
    """

    def __init__(
        self,
        reactor: Any,
        listener: Listener,
        monitor: Monitor,
        bind: Callable[[Listener, Any], Any],
        renew: Callable[[], str],
    ) -> None:
        self.monitor = monitor
        self._listener = listener
        self._bind = bind
        self._identity = NewIdentity(reactor, renew)
        root = self._pages(reactor)
        self.site = BoundedSite(StatusSite(reactor, root, public=listener.policy.allow_public))
        self.port: Any = None
        """Where it listens, while it does."""

    def _pages(self, reactor: Any) -> Page:
        root, static = Page(), Page()
        root.putChild(b"", Page(self._page))
        root.putChild(b"health", Page(self._health))
        root.putChild(b"status.json", Page(self._status))
        root.putChild(b"metrics", Page(self._metrics))
        root.putChild(b"events", Events(reactor, self.monitor))
        root.putChild(b"new-identity", self._identity)
        root.putChild(b"static", static)
        for name, kind in STATIC.items():
            static.putChild(name.encode(), Page(_file(name, kind)))
        return root

    async def _page(self) -> Answer:
        return 200, document(await self.monitor.report(), self._identity.token), HTML

    async def _health(self) -> Answer:
        state = self.monitor.state
        return (200 if state == "ready" else 503), f"{state}\n"

    async def _status(self) -> Answer:
        report = await self.monitor.report()
        return 200, json.dumps(report, separators=(",", ":")), "application/json"

    async def _metrics(self) -> Answer:
        try:
            return 200, exposition(await self.monitor.report()), TEXT_FORMAT
        except NoLibrary as error:
            return 501, f"{error}\n"

    def open(self) -> None:
        """Listen. Raises ``ListenError``."""
        if self.port is None:
            self.port = self._bind(self._listener, self.site)
            self.monitor.begin()

    async def close(self) -> None:
        """Listen no more, and close what is open."""
        self.monitor.end()
        port, self.port = self.port, None
        if port is not None:
            await port.stopListening()
        self.site.abort()
        self._identity.close()


def _file(name: str, kind: str) -> Callable[[], Any]:
    text = files(__package__).joinpath("static", name).read_text(encoding="utf-8")

    async def write() -> Answer:
        return 200, text, f"{kind}; charset=utf-8"

    return write
