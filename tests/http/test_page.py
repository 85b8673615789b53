"""The page for HTTP requests that came to a SOCKS port."""

from __future__ import annotations

from html.parser import HTMLParser

from tests.support.rows import rows
from torsocks_tx import http

HEAD, _, BODY = http.PAGE.partition(b"\r\n\r\n")


@rows("S-34")
def test_first_bytes_of_http_requests() -> None:
    assert bytes(sorted(http.LETTERS)) == b"CGHP"


@rows("S-35")
def test_the_head_of_the_page() -> None:
    status, *fields = HEAD.split(b"\r\n")
    assert status == b"HTTP/1.0 501 Tor is not an HTTP Proxy"
    headers = dict(field.split(b": ") for field in fields)
    assert headers[b"Content-Type"] == b"text/html; charset=utf-8"
    assert headers[b"Content-Length"] == str(len(BODY)).encode()
    assert headers[b"Connection"] == b"close"
    # No header lets another site read the answer.
    assert not [name for name in headers if name.lower().startswith(b"access-control")]


@rows("S-35", "S-36")
def test_the_page_has_the_words_that_wallets_look_for() -> None:
    assert b"Tor is not an HTTP Proxy" in http.PAGE[:1024]
    assert http.PAGE.startswith(b"HTTP/1.0 501 ")
    assert b"\0" not in http.PAGE


class _Text(HTMLParser):
    """The text of a page, and whether its tags match."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "action"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data.split() if self.open[-1:] != ["style"] else []


@rows("S-36")
def test_the_page_says_what_is_wrong_and_fetches_nothing() -> None:
    page = _Text()
    page.feed(BODY.decode("utf-8"))
    page.close()
    assert page.open == []
    assert not {"script", "img", "link", "form", "iframe"} & set(page.seen)
    text = " ".join(page.words)
    for words in ("SOCKS proxy", "SOCKS v5", "not an HTTP proxy", "https_proxy", "CONNECT"):
        assert words in text
