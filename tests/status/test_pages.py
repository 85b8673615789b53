"""The status page on the web: the events of open pages, and the button for fresh circuits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import getChildForRequest

from tests.support.statuses import status
from torsocks_tx.server.listen import parse_listener
from torsocks_tx.status.pages import (
    INTERVAL,
    MOST_PAGES,
    REST,
    RETRY,
    STALLED,
    STATIC,
    StatusServer,
)


class Asked:
    """A request, as far as pages use it."""

    def __init__(self, path: str, args: dict[bytes, list[bytes]] | None = None) -> None:
        self.args = args or {}
        self.method = b""
        self.prepath: list[bytes] = []
        self.postpath = path.encode().split(b"/")
        self.headers = {"host": "127.0.0.1:9"}
        self.sent: dict[bytes, bytes] = {}
        self.code = 200
        self.data = b""
        self.finished: Deferred[None] = Deferred()
        self.producer: Any = None
        self.transport = self
        self.is_aborted = self.may_last = False

    def getHeader(self, name: bytes) -> bytes | None:
        found = self.headers.get(name.decode())
        return None if found is None else found.encode("latin-1")

    def last(self) -> None:
        """Let the connection be for longer than others."""
        self.may_last = True

    def setHeader(self, name: bytes, value: bytes) -> None:
        self.sent[name.lower()] = value

    def setResponseCode(self, code: int) -> None:
        self.code = code

    def notifyFinish(self) -> Deferred[None]:
        return self.finished

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self) -> None:
        self.finished.callback(None)

    def abortConnection(self) -> None:
        self.is_aborted = True
        self.leave()

    def leave(self) -> None:
        """Lose the connection."""
        self.producer.stopProducing()
        if not self.finished.called:
            self.finished.errback(Failure(ConnectionError()))

    def take(self) -> bytes:
        """Return what was written, which counts no more."""
        data, self.data = self.data, b""
        return data


class Server:
    """The pages of a server whose value is what a test says; counts what it is asked for."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.value = status()
        self.reports = self.renewed = 0
        self.status = StatusServer(
            self.clock, parse_listener("tcp:0:interface=127.0.0.1"), self, None, self.renew
        )  # type: ignore[arg-type]

    async def report(self) -> dict[str, Any]:
        self.reports += 1
        return self.value

    def end(self) -> None:
        """Take no more samples."""

    def renew(self) -> str:
        self.renewed += 1
        return "fresh"

    def ask(self, request: Asked, method: str = "GET") -> Asked:
        request.method = method.encode()
        page: Any = getChildForRequest(self.status.site.wrappedFactory.resource, request)
        page.render(request)
        return request

    def follow(self) -> Asked:
        """Open a page that follows the events."""
        return self.ask(Asked("events"))

    def press(self) -> Asked:
        """Press the button for fresh circuits."""
        return self.ask(Asked("new-identity", {b"token": [token_of(self)]}), "POST")

    def tick(self) -> None:
        """Let the next second come."""
        self.clock.advance(INTERVAL)


def events_in(data: bytes) -> list[dict[str, str]]:
    lines = [line for line in data.decode().split("\n\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_page_has_its_files_and_nothing_from_elsewhere() -> None:
    server = Server()
    page = server.ask(Asked(""))
    assert page.sent[b"content-type"] == b"text/html; charset=utf-8"
    assert b"://" not in page.data
    assert b"style=" not in page.data
    for name, kind in STATIC.items():
        assert f'"static/{name}"'.encode() in page.data
        file = server.ask(Asked(f"static/{name}"))
        assert file.sent[b"content-type"].startswith(kind.encode())
        assert b"http:" not in file.data.replace(b"http://www.w3.org/2000/svg", b"")


def test_open_page_gets_the_whole_first_and_then_what_has_changed() -> None:
    server = Server()
    page = server.follow()
    assert page.may_last
    assert page.data.startswith(RETRY)
    assert events_in(page.take())[0].keys() >= {"state", "charts"}
    server.tick()
    assert events_in(page.take()) == [{}]
    server.value = status(state="stopping")
    server.tick()
    (changed,) = events_in(page.take())
    assert changed.keys() == {"state"}
    assert "Stopping" in changed["state"]


def test_one_rendering_a_second_serves_all_and_only_while_a_page_is_open() -> None:
    server = Server()
    pages = [server.follow() for _ in range(10)]
    assert server.reports == 1
    server.tick()
    assert server.reports == 2
    # Those who came after the first rendering have the whole by now.
    assert all("state" in events_in(page.take())[0] for page in pages)
    for page in pages:
        page.leave()
    server.tick()
    server.tick()
    assert server.reports == 2
    assert not server.clock.getDelayedCalls()
    server.follow()
    assert server.reports == 3


def test_open_pages_are_bounded() -> None:
    server = Server()
    pages = [server.follow() for _ in range(MOST_PAGES + 1)]
    assert [page.code for page in pages] == [200] * MOST_PAGES + [503]
    pages[0].leave()
    assert server.follow().code == 200


def test_head_of_the_events_opens_no_page() -> None:
    server = Server()
    request = server.ask(Asked("events"), "HEAD")
    assert request.sent[b"content-type"].startswith(b"text/event-stream")
    assert request.finished.called
    assert server.reports == 0


def test_page_that_does_not_read_gets_nothing_meanwhile_and_the_whole_then() -> None:
    server = Server()
    page = server.follow()
    page.take()
    page.producer.pauseProducing()
    for _ in range(STALLED):
        server.tick()
    assert page.data == b""
    page.producer.resumeProducing()
    server.tick()
    assert "charts" in events_in(page.take())[0]


def test_page_that_never_reads_is_closed() -> None:
    server = Server()
    page, other = server.follow(), server.follow()
    page.producer.pauseProducing()
    for _ in range(STALLED + 1):
        server.tick()
    assert (page.is_aborted, other.is_aborted) == (True, False)


def test_fault_in_a_rendering_is_logged_and_the_next_is_made(logged_failures: list[Any]) -> None:
    server = Server()
    page = server.follow()
    page.take()
    for wrong in ({}, status(state="\udcff")):
        server.value = wrong
        server.tick()
        assert page.data == b""
        assert server.ask(Asked("")).code == 500
        assert len(logged_failures) == 2
        logged_failures.clear()
    server.value = status(state="down")
    server.tick()
    assert "Down" in events_in(page.take())[0]["state"]


def token_of(server: Server) -> bytes:
    page = server.ask(Asked("")).data
    return page.partition(b'name="token" value="')[2].partition(b'"')[0]


SAME = {"origin": "http://127.0.0.1:9", "sec-fetch-site": "same-origin"}


@pytest.mark.parametrize(
    ("token", "headers", "code"),
    [
        (token_of, SAME, 303),
        (token_of, {}, 303),
        (token_of, {"origin": "http://evil.test"}, 403),
        (token_of, {"origin": "null"}, 403),
        (token_of, {"origin": "http://[evil"}, 403),
        (token_of, {"origin": "\xff"}, 403),
        (token_of, {"sec-fetch-site": "\xff"}, 403),
        (token_of, {"origin": "http://127.0.0.1:8"}, 403),
        (token_of, {"sec-fetch-site": "cross-site"}, 403),
        (token_of, {"sec-fetch-site": "same-site"}, 403),
        (token_of, {"sec-fetch-site": "none"}, 403),
        (lambda _: b"", SAME, 403),
        (lambda _: b"guess", SAME, 403),
        (lambda _: "\u00fc".encode(), SAME, 403),
    ],
)
def test_fresh_circuits_are_for_the_button_of_the_page(
    token: Callable[[Server], bytes], headers: dict[str, str], code: int
) -> None:
    server = Server()
    request = Asked("new-identity", {b"token": [token(server)]})
    request.headers.update(headers)
    assert server.ask(request, "POST").code == code
    assert server.renewed == (code == 303)
    assert request.sent.get(b"location") == (b"./#done" if code == 303 else None)


def test_two_servers_have_tokens_of_their_own() -> None:
    server = Server()
    request = Asked("new-identity", {b"token": [token_of(Server())]})
    assert server.ask(request, "POST").code == 403
    assert server.ask(Asked("new-identity"), "POST").code == 403


def test_circuits_are_fresh_once_in_ten_seconds_however_often_the_button_is_pressed() -> None:
    server = Server()
    assert [server.press().sent[b"location"] for _ in range(3)] == [b"./#done", *[b"./#soon"] * 2]
    assert server.renewed == 1
    server.clock.advance(REST - 1)
    assert server.press().code == 303
    assert server.renewed == 1
    server.clock.advance(1)
    assert server.renewed == 2
    # What came late counts from when it happened.
    assert server.press().sent[b"location"] == b"./#soon"
    server.clock.advance(REST)
    assert (server.renewed, server.clock.getDelayedCalls()) == (3, [])
    server.clock.advance(REST)
    assert (server.press().sent[b"location"], server.renewed) == (b"./#done", 4)


async def test_no_fresh_circuits_are_waited_for_once_the_server_stops() -> None:
    server = Server()
    for _ in range(2):
        server.press()
    await server.status.close()
    assert (server.renewed, server.clock.getDelayedCalls()) == (1, [])


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("new-identity", "GET", b"POST"),
        ("", "POST", b"GET, HEAD"),
        ("events", "DELETE", b"GET, HEAD"),
    ],
)
def test_other_methods_hear_which_there_are(path: str, method: str, allowed: bytes) -> None:
    request = Server().ask(Asked(path), method)
    assert (request.code, request.sent[b"allow"]) == (405, allowed)
