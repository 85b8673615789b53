"""The status page on the web: the events of open pages, and the button for fresh circuits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from tests.support.http import Answer
from tests.support.statuses import Visit, status
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
from torsocks_tx.status.site import LIFETIME


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

    def ask(self, path: str, method: str = "GET", **more: Any) -> Answer:
        """Ask for a page; return the answer, which is there at once."""
        return Visit(self.status).ask(path, method, **more)

    def follow(self) -> Visit:
        """Open a page that follows the events."""
        visit = Visit(self.status)
        visit.send("/events")
        return visit

    def press(self) -> Answer:
        """Press the button for fresh circuits."""
        return self.ask("/new-identity", "POST", form={"token": token_of(self)})

    def tick(self) -> None:
        """Let the next second come."""
        self.clock.advance(INTERVAL)


def events_in(data: bytes) -> list[dict[str, str]]:
    lines = [line for line in data.decode().split("\n\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_page_has_its_files_and_nothing_from_elsewhere() -> None:
    server = Server()
    page = server.ask("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"://" not in page.body
    assert b"style=" not in page.body
    for name, kind in STATIC.items():
        assert f'"static/{name}"'.encode() in page.body
        file = server.ask(f"/static/{name}")
        assert file.headers["content-type"].startswith(kind)
        assert b"http:" not in file.body.replace(b"http://www.w3.org/2000/svg", b"")


def test_open_page_gets_the_whole_first_and_then_what_has_changed() -> None:
    server = Server()
    page = server.follow()
    head, _, first = page.take().partition(b"\r\n\r\n")
    assert b"content-type: text/event-stream" in head.lower()
    assert first.startswith(RETRY)
    assert events_in(first)[0].keys() >= {"state", "charts"}
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


def test_open_page_lasts_and_others_do_not() -> None:
    server = Server()
    page, silent = server.follow(), Visit(server.status)
    server.clock.advance(LIFETIME + 1)
    assert (page.is_open, silent.is_open) == (True, False)


def test_open_pages_are_bounded() -> None:
    server = Server()
    pages = [server.follow() for _ in range(MOST_PAGES + 1)]
    assert [page.is_open for page in pages] == [True] * MOST_PAGES + [False]
    assert pages[-1].take().startswith(b"HTTP/1.0 503 ")
    pages[0].leave()
    assert server.follow().is_open


def test_head_of_the_events_opens_no_page() -> None:
    server = Server()
    answer = server.ask("/events", "HEAD")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert server.reports == 0


def test_page_that_does_not_read_gets_nothing_meanwhile_and_the_whole_then() -> None:
    server = Server()
    page = server.follow()
    page.take()
    page.transport.producer.pauseProducing()
    for _ in range(STALLED):
        server.tick()
    assert page.take() == b""
    page.transport.producer.resumeProducing()
    server.tick()
    assert "charts" in events_in(page.take())[0]


def test_page_that_never_reads_is_closed() -> None:
    server = Server()
    page, other = server.follow(), server.follow()
    page.transport.producer.pauseProducing()
    for _ in range(STALLED + 1):
        server.tick()
    assert (page.is_open, other.is_open) == (False, True)


def test_fault_in_a_rendering_is_logged_and_the_next_is_made(logged_failures: list[Any]) -> None:
    server = Server()
    page = server.follow()
    page.take()
    for wrong in ({}, status(state="\udcff")):
        server.value = wrong
        server.tick()
        assert page.take() == b""
        assert server.ask("/").status == 500
        assert len(logged_failures) == 2
        logged_failures.clear()
    server.value = status(state="down")
    server.tick()
    assert "Down" in events_in(page.take())[0]["state"]


def token_of(server: Server) -> str:
    page = server.ask("/").body.decode()
    return page.partition('name="token" value="')[2].partition('"')[0]


SAME = {"origin": "http://127.0.0.1:9", "sec-fetch-site": "same-origin"}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (SAME, 303),
        ({}, 303),
        ({"origin": "http://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[evil"}, 403),
        ({"origin": "\xff"}, 403),
        ({"sec-fetch-site": "\xff"}, 403),
        ({"origin": "http://127.0.0.1:8"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
    ],
)
def test_fresh_circuits_are_for_the_button_of_the_page(headers: dict[str, str], code: int) -> None:
    server = Server()
    form = {"token": token_of(server)}
    answer = server.ask("/new-identity", "POST", form=form, headers=headers)
    assert (answer.status, server.renewed) == (code, code == 303)
    assert answer.headers.get("location") == ("./#done" if code == 303 else None)


def test_fresh_circuits_need_the_token_of_this_server() -> None:
    server = Server()
    for form in (
        {"token": token_of(Server())},
        {"token": ""},
        {"token": "guess"},
        {"token": "ü"},
        {},
    ):
        answer = server.ask("/new-identity", "POST", form=form, headers=SAME)
        assert (answer.status, server.renewed) == (403, 0)


def test_circuits_are_fresh_once_in_ten_seconds_however_often_the_button_is_pressed() -> None:
    server = Server()
    places = [server.press().headers["location"] for _ in range(3)]
    assert (places, server.renewed) == (["./#done", "./#soon", "./#soon"], 1)
    server.clock.advance(REST - 1)
    assert server.press().status == 303
    assert server.renewed == 1
    server.clock.advance(1)
    assert server.renewed == 2
    # What came late counts from when it happened.
    assert server.press().headers["location"] == "./#soon"
    server.clock.advance(REST)
    assert (server.renewed, server.clock.getDelayedCalls()) == (3, [])
    server.clock.advance(REST)
    assert (server.press().headers["location"], server.renewed) == ("./#done", 4)


async def test_no_fresh_circuits_are_waited_for_once_the_server_stops() -> None:
    server = Server()
    for _ in range(2):
        server.press()
    await server.status.close()
    assert (server.renewed, server.clock.getDelayedCalls()) == (1, [])


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/new-identity", "GET", "POST"),
        ("/", "POST", "GET, HEAD"),
        ("/events", "DELETE", "GET, HEAD"),
    ],
)
def test_other_methods_hear_which_there_are(path: str, method: str, allowed: str) -> None:
    answer = Server().ask(path, method)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
