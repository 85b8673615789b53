"""The status page on the web: the page, the events that keep open ones up to date, the button.

One rendering a second serves all open pages, and nothing is rendered while none is open.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from hmac import compare_digest
from importlib.resources import files
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from torsocks_tx.errors import without_text
from torsocks_tx.status.html import Html
from torsocks_tx.status.page import document, sections
from torsocks_tx.status.report import Monitor
from torsocks_tx.status.site import MOST_CONNECTIONS, Page, Tree, answer, set_headers

INTERVAL = 1.0
"""Seconds between two events."""

MOST_PAGES = MOST_CONNECTIONS // 2
"""Pages that are kept up to date at one time; further ones stay as they were when loaded."""

STALLED = 30
"""Events that a page may miss, because it does not read, before its connection is closed."""

RETRY = b"retry: 2000\n\n"
"""After so many milliseconds a browser whose connection is lost tries again."""

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
        """Send no more: what has been sent is still on its way."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Send again."""
        self._is_paused = False

    def stopProducing(self) -> None:
        """Send no more: the connection is lost."""
        self._is_paused = True


class Events(Tree):
    """``/events``: each open page gets the sections that have changed, once a second."""

    _log = Logger()

    def __init__(self, reactor: Any, monitor: Monitor) -> None:
        super().__init__()
        self._monitor = monitor
        self._pages: set[OpenPage] = set()
        self._shown: dict[str, Html] = {}
        self._reactor = reactor
        self._is_running = False

    def render_GET(self, request: Any) -> int:
        """Let a page follow."""
        if len(self._pages) >= MOST_PAGES:
            answer(request, 503, "Too many pages are open.\n")
            return NOT_DONE_YET
        set_headers(request, EVENTS)
        request.transport.last()
        request.write(RETRY)
        page = OpenPage(request)
        self._pages.add(page)
        request.notifyFinish().addBoth(lambda _: self._pages.discard(page))
        if not self._is_running:
            self._is_running = True
            Deferred.fromCoroutine(self._run())
        return NOT_DONE_YET

    def render_HEAD(self, request: Any) -> int:
        """Say what kind of thing is here."""
        answer(request, 200, "", EVENTS)
        return NOT_DONE_YET

    async def _run(self) -> None:
        while self._pages:
            await self._tick()
            await deferLater(self._reactor, INTERVAL, lambda: None)
        self._is_running = False

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


class NewIdentity(Tree):
    """``/new-identity``: gives fresh circuits to all, when the button of our page asks for it."""

    _log = Logger()

    def __init__(self, renew: Callable[[], str], token: str) -> None:
        super().__init__()
        self._renew = renew
        self._token = token.encode()

    def render_POST(self, request: Any) -> int:
        """Give fresh circuits, and let the browser load the page again."""
        sent = request.args.get(b"token", [b""])[0]
        if is_same_origin(request) and compare_digest(sent, self._token):
            self._log.info("status page: {text}", text=self._renew())
            request.setHeader(b"location", b"./#done")
            answer(request, 303, "Streams that begin now have fresh circuits.\n")
        else:
            answer(request, 403, "Only the status page may ask for this: load it again.\n")
        return NOT_DONE_YET


def is_same_origin(request: Any) -> bool:
    """Whether a page of ours has sent a request, as far as the browser says where it is from."""
    if request.getHeader(b"sec-fetch-site") not in (None, b"same-origin"):
        return False
    origin, host = request.getHeader(b"origin"), request.getHeader(b"host") or b""
    return origin in (None, b"http://" + host, b"https://" + host)


def add_pages(root: Resource, reactor: Any, monitor: Monitor, renew: Callable[[], str]) -> None:
    """Put the status page, and what belongs to it, below ``root``.

    ``renew``: gives fresh circuits to all, and returns what to say about it.
    """
    token = secrets.token_urlsafe(16)

    async def page() -> tuple[int, str, str]:
        return 200, document(await monitor.report(), token), HTML

    root.putChild(b"", Page(page))
    root.putChild(b"events", Events(reactor, monitor))
    root.putChild(b"new-identity", NewIdentity(renew, token))
    root.putChild(b"static", static := Tree())
    for name, kind in STATIC.items():
        static.putChild(name.encode(), Page(_file(name, kind)))


def _file(name: str, kind: str) -> Callable[[], Any]:
    text = files(__package__).joinpath("static", name).read_text(encoding="utf-8")

    async def write() -> tuple[int, str, str]:
        return 200, text, f"{kind}; charset=utf-8"

    return write
