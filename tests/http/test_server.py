"""The server's side of HTTP CONNECT: what the client sends, and the steps that follow."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest

from tests.support.conversations import converse, without_reasons
from tests.support.http import Answer, answers_in
from tests.support.rows import rows
from tests.support.tables import at, cuts, table
from torsocks_tx.http.answers import ISOLATION_HEADERS, Answers
from torsocks_tx.http.server import (
    MAX_ANSWERS,
    MAX_HEAD,
    MAX_HEADERS,
    HTTPOptions,
    HTTPServerHandshake,
    parse_basic,
)
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.extended import Budget
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request
from torsocks_tx.socks.server import Authenticate, Rejected, Requested, Send, Step

ANSWERS = Answers(tor=True, isolates=True)
PLAIN = HTTPOptions(ANSWERS)
GUARDED = HTTPOptions(ANSWERS, require_auth=True)
ASKING = HTTPOptions(ANSWERS, ask_for_credentials=True)

EXAMPLE = at("example.com", 443)
ASK = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n"


def basic(text: bytes) -> bytes:
    return b"Basic " + b64encode(text)


def asked(
    address: Address = EXAMPLE, rest: bytes = b"", avatar: bytes | None = None, **headers: bytes
) -> Requested:
    pairs = KeyValues.of({name.replace("_", "-"): value for name, value in headers.items()})
    known = parse_basic(pairs.get("Proxy-Authorization"))
    return Requested(Request(Version.HTTP, Command.CONNECT, address, known, avatar, pairs), rest)


def answer_of(step: Step, method: str = "CONNECT") -> Answer:
    """Return the answer that a step sends."""
    assert isinstance(step, Send | Rejected)
    [answer] = answers_in(step.data, method)
    assert (answer.headers.get("connection") == "close") is isinstance(step, Rejected)
    return answer


GOOD = table(
    ("a name", ASK + b"\r\n", asked()),
    ("HTTP/1.0 without Host", b"CONNECT example.com:443 HTTP/1.0\r\n\r\n", asked()),
    ("line feeds alone", ASK.replace(b"\r", b"") + b"\n", asked()),
    ("IPv4", b"CONNECT 192.0.2.1:1 HTTP/1.0\r\n\r\n", asked(at("192.0.2.1", 1))),
    ("IPv6", b"CONNECT [2001:DB8::1]:65535 HTTP/1.0\r\n\r\n", asked(at("2001:db8::1", 65535))),
    ("a last dot", b"CONNECT a.b.:80 HTTP/1.0\r\n\r\n", asked(at("a.b.", 80))),
    ("onion", b"CONNECT x.onion.:80 HTTP/1.0\r\n\r\n", asked(at("x.onion", 80))),
    ("early data", ASK + b"\r\n\x16\x03\x01", asked(rest=b"\x16\3\1")),
    ("an empty line behind", ASK + b"\r\n\r\n", asked(rest=b"\r\n")),
    ("a second request is payload", ASK + b"\r\n" + ASK + b"\r\n", asked(rest=ASK + b"\r\n")),
    ("a length is ignored", ASK + b"Content-Length: 5\r\n\r\nhello!", asked(rest=b"hello!")),
    ("a coding is ignored", ASK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello",
     asked(rest=b"5\r\nhello")),
    (
        "every header that isolates",
        ASK + b"tor-stream-isolation: a\r\nX-TOR-STREAM-ISOLATION:\r\n"
        b"Proxy-Authorization: " + basic(b"tor-iso:b") + b"\r\nCookie: c\r\n\r\n",
        asked(Tor_Stream_Isolation=b"a", X_Tor_Stream_Isolation=b"",
              Proxy_Authorization=basic(b"tor-iso:b")),
    ),
    ("the family", ASK + b"Tor-Family-Preference: ipv6-only\r\n\r\n",
     asked(Tor_Family_Preference=b"ipv6-only")),
    ("a folded line", ASK + b"Tor-Stream-Isolation: a\r\n  b\r\n\r\n",
     asked(Tor_Stream_Isolation=b"a b")),
    ("100 headers", ASK + b"a: b\r\n" * (MAX_HEADERS - 1) + b"\r\n", asked()),
    ("16 KiB", ASK + b"a:" + b"x" * (MAX_HEAD - len(ASK) - 6) + b"\r\n\r\nmore",
     asked(rest=b"more")),
)  # fmt: skip


@rows("H-01", "H-02", "H-03", "H-08", "H-10")
@pytest.mark.parametrize(("said", "step"), GOOD)
def test_requests_are_understood_in_portions_of_any_size(said: bytes, step: Step) -> None:
    for chunks in cuts(said) if len(said) < 1000 else [(said,), (said[:9], said[9:])]:
        assert converse(chunks, PLAIN) == [step]


@rows("H-09")
def test_the_first_of_two_isolation_headers_counts() -> None:
    [step] = converse([ASK + b"Tor-Stream-Isolation: a\r\n" * 2 + b"\r\n"], PLAIN)
    assert isinstance(step, Requested)
    assert step.request.pairs.get("Tor-Stream-Isolation") == b"a"


def target(text: bytes) -> bytes:
    return b"CONNECT " + text + b" HTTP/1.0\r\n\r\n"


TARGETS = [
    b"example.com", b"example.com:", b"example.com:0", b"example.com:65536", b"example.com:80x",
    "example.com:٨٠".encode(), b"example.com:+80", b":80", b"http://example.com/",
    b"http://example.com:80", b"/", b"*", b"me:you@example.com:80", b"2001:db8::1:80",
    b"[fe80::1%eth0]:80", b"[192.0.2.1]:80", b"[example.com]:80", b"a..b:80",
    b"a" * 256 + b":80", b'a"b:80', b"a b:80", b"a\0b:80",
]  # fmt: skip
BAD = table(
    *((f"the target {each!r}", target(each), 400) for each in TARGETS),
    ("no version", b"CONNECT example.com:443\r\n\r\n", 400),
    ("HTTP/2.0", b"CONNECT example.com:443 HTTP/2.0\r\n\r\n", 505),
    ("HTTP/1.2", ASK.replace(b"1.1", b"1.2") + b"\r\n", 505),
    ("HTTP/1.1 without Host", b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", 400),
    ("two hosts", ASK + b"Host: b\r\n\r\n", 400),
    ("a blank before a colon", ASK + b"a : b\r\n\r\n", 400),
    ("no colon", ASK + b"a\r\n\r\n", 400),
    ("a NUL in a header", ASK + b"a: \0\r\n\r\n", 400),
    ("a bare CR in a header", ASK + b"a: b\rc: d\r\n\r\n", 400),
    ("a folded line first", b"CONNECT a:1 HTTP/1.1\r\n a: b\r\n\r\n", 400),
    ("64 blanks in a row", ASK + b"a:" + b" " * 64 + b"b\r\n\r\n", 400),
    ("16 KiB of blanks", ASK + b"a:" + b" " * (MAX_HEAD - len(ASK) - 7) + b"\0\r\n\r\n", 400),
    ("a bad length", ASK + b"Content-Length: -1\r\n\r\n", 400),
    ("two lengths", ASK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    ("an unknown coding", ASK + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    ("RPC", ASK + b"Tor-RPC-Target: x\r\n\r\n", 501),
    ("101 headers", ASK + b"a: b\r\n" * MAX_HEADERS + b"\r\n", 431),
    ("10,000 headers", ASK + b"a:\r\n" * 10_000 + b"\r\n", 431),
    ("a line too many", ASK + b"a:" + b"x" * (MAX_HEAD - len(ASK) - 5) + b"\r\n\r\n", 431),
    ("20 KiB", ASK + b"a: " + b"x" * 20_480 + b"\r\n\r\n", 431),
    ("20 KiB without an end", b"CONNECT " + b"x" * 20_480, 431),
    ("a method that begins as one", b"CONNECTED a:1 HTTP/1.0\r\nHost: localhost\r\n\r\n", 405),
    ("DELETE", b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ("TRACE", b"TRACE / HTTP/1.1\r\nHost: 127.0.0.1:9050\r\n\r\n", 405),
)


@rows("H-01", "H-02", "H-04", "H-05", "H-11")
@pytest.mark.parametrize(("said", "status"), BAD)
def test_a_request_that_cannot_be_served_gets_a_status_and_a_close(
    said: bytes, status: int
) -> None:
    whole = converse([said + b"behind"], PLAIN)
    [step] = whole
    answer = answer_of(step)
    assert answer.status == status
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.body.isascii()
    portions = [1, 7, 4096] if len(said) < 1000 else [4096]
    for portion in portions:
        chunks = [said[place : place + portion] for place in range(0, len(said), portion)]
        assert converse(chunks, PLAIN) == whole


@rows("H-07", "H-13")
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9050", "127.0.0.1", "[::1]:80"])
@pytest.mark.parametrize("place", ["*", "/", "example.com:80"])
def test_options_is_answered_and_the_connection_stays(host: str, place: str) -> None:
    said = f"OPTIONS {place} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    for chunks in cuts(said + ASK + b"\r\n"):
        options, request = converse(chunks, PLAIN)
        assert request == asked()
    answer = answer_of(options, "OPTIONS")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["allow"] == "CONNECT, OPTIONS"
    assert answer.headers["server"].startswith("tor/1.0 (torsocks_tx ")
    assert "Tor-Stream-Isolation" in answer.headers["tor-capabilities"].split()


@rows("H-06")
@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "TRACE"])
@pytest.mark.parametrize(
    "host", ["", "example.com", "localhost.example.com", "127.0.0.1.example.com", "127.0.0.2",
             "127.0.0.1:x", "::1", "a@localhost", "192.0.2.1:9050"]
)  # fmt: skip
def test_another_host_than_this_machine_is_closed_without_a_byte(method: str, host: str) -> None:
    said = f"{method} * HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert without_reasons(converse([said], PLAIN)) == [Rejected(b"", "")]
    without = f"{method} * HTTP/1.0\r\n\r\n".encode()
    large = f"{method} /{'x' * MAX_HEAD} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    newer = f"{method} * HTTP/1.2\r\nHost: {host}\r\n\r\n".encode()
    copy = large.replace(method.encode(), b"COPY", 1)
    for other in (without, large, newer, copy):
        assert without_reasons(converse([other], PLAIN)) == [Rejected(b"", "")]


def login(text: bytes) -> bytes:
    return ASK + b"Proxy-Authorization: " + text + b"\r\n\r\n"


RIGHT, WRONG = login(basic(b"me:you")), login(basic(b"me:no"))


def understand_none(name: bytes) -> tuple[bytes, KeyValues]:
    raise ValueError("a name")


NO_NAMES = replace(PLAIN, split_name=understand_none)
NONE, ISOLATES = ASK + b"\r\n", ASK + b"Tor-Stream-Isolation: a\r\n\r\n"
OPTIONS = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n"
ASKED, ASKED_AND_CLOSED, CHECKED, SERVED = "407", "407 and a close", "checked", "served"
AGAIN = [ASKED, CHECKED, SERVED]
# What a client says, in portions, and what happens.
ANSWERED = table(
    ("right ones", GUARDED, [RIGHT], [CHECKED, SERVED]),
    ("none", GUARDED, [NONE, RIGHT], AGAIN),
    ("isolation", GUARDED, [ISOLATES, RIGHT], AGAIN),
    ("another scheme", GUARDED, [login(b"Bearer bWU6eW91"), RIGHT], AGAIN),
    ("a scheme alone", GUARDED, [login(b"Basic"), RIGHT], AGAIN),
    ("no base64", GUARDED, [login(b"Basic !"), RIGHT], AGAIN),
    ("no colon", GUARDED, [login(basic(b"no colon")), RIGHT], AGAIN),
    ("wrong ones", GUARDED, [WRONG, RIGHT], [CHECKED, *AGAIN]),
    ("none, and three wrong ones", GUARDED, [NONE, WRONG, WRONG, WRONG, RIGHT],
     [ASKED, CHECKED, ASKED, CHECKED, ASKED, CHECKED, ASKED_AND_CLOSED]),
    # Data behind a head that is refused must not be read as a head.
    ("none, and data at once", GUARDED, [NONE + RIGHT], [ASKED_AND_CLOSED]),
    ("wrong ones, and data at once", GUARDED, [WRONG + RIGHT], [CHECKED, ASKED_AND_CLOSED]),
    ("HTTP/1.0", GUARDED, [b"CONNECT a:1 HTTP/1.0\r\n\r\n", RIGHT], [ASKED_AND_CLOSED]),
    ("no stay", GUARDED, [ASK + b"Connection: close\r\n\r\n", RIGHT], [ASKED_AND_CLOSED]),
    ("a name that is not understood", NO_NAMES, [RIGHT, RIGHT], [ASKED_AND_CLOSED]),
    ("no base64, where names are read", NO_NAMES, [login(b"Basic !")], [ASKED_AND_CLOSED]),
    ("none, where they are only asked for", ASKING, [NONE, NONE], [ASKED, SERVED]),
    ("wrong ones there", ASKING, [NONE, WRONG], [ASKED, SERVED]),
    *((f"{name} there", ASKING, [ASK + name.encode() + b": x\r\n\r\n"], [SERVED])
      for name in ISOLATION_HEADERS),
    ("OPTIONS without end", PLAIN, [(OPTIONS + b"\r\n") * 100],
     ["200"] * (MAX_ANSWERS - 1) + ["200 and a close"]),
    *((f"OPTIONS with {more}", PLAIN, [OPTIONS + more.encode() + b"\r\n\r\n" + NONE],
       ["200 and a close"])
      for more in ("Connection: close", "Connection: a, Close", "Content-Length: 5",
                   "Transfer-Encoding: chunked")),
)  # fmt: skip


@rows("H-17", "H-21")
@pytest.mark.parametrize(("options", "said", "expected"), ANSWERED)
def test_when_a_client_is_asked_for_credentials_and_when_its_connection_ends(
    options: HTTPOptions, said: list[bytes], expected: list[str]
) -> None:
    assert [happened(step) for step in converse(said, options)] == expected


def happened(step: Step) -> str:
    if isinstance(step, Authenticate | Requested):
        return CHECKED if isinstance(step, Authenticate) else SERVED
    answer = answer_of(step, "OPTIONS" if b" 200 " in step.data else "CONNECT")
    if answer.status == 407:
        assert answer.headers["proxy-authenticate"] == 'Basic realm="torsocks_tx", charset="UTF-8"'
        assert answer.headers["content-length"] == str(len(answer.body))
    return f"{answer.status}{' and a close' if isinstance(step, Rejected) else ''}"


@rows("H-17")
def test_the_request_of_a_user_who_is_known_has_its_name() -> None:
    for chunks in cuts(RIGHT + b"early"):
        assert converse(chunks, GUARDED) == [
            Authenticate(Credentials(b"me", b"you")),
            asked(rest=b"early", avatar=b"me", Proxy_Authorization=basic(b"me:you")),
        ]


@pytest.mark.parametrize(
    ("header", "credentials"),
    [
        (basic(b"me:you"), Credentials(b"me", b"you")),
        (b"bASIC  " + b64encode(b":a:b"), Credentials(b"", b"a:b")),
        (b"Basic YTpi\xff", None),
        (b"Basic YTp", None),
        (basic(b"me"), None),
        (b"Bearer bWU6eW91", None),
        (b"", None),
    ],
)
@pytest.mark.parametrize("options", [PLAIN, ASKING])
def test_a_request_has_the_credentials_that_its_client_sent(
    options: HTTPOptions, header: bytes, credentials: Credentials | None
) -> None:
    [step] = converse([login(header)], options)
    assert isinstance(step, Requested)
    assert step.request.credentials == credentials


@rows("H-04")
def test_unfinished_heads_of_all_clients_together_are_bounded() -> None:
    options = HTTPOptions(ANSWERS, Budget(10_000))
    first, second = HTTPServerHandshake(options), HTTPServerHandshake(options)
    assert first.receive(ASK + b"a:" + b"x" * 10_000) == []
    assert second.receive(b"CONNECT " + b"x" * 1016) == []
    [step] = second.receive(b"x" * 1000)
    assert answer_of(step).status == 503
    first.close()
    assert options.budget.left == 10_000
    assert converse([ASK + b"a:" + b"x" * 10_000, b"\r\n\r\n"], options) == [asked()]
    assert options.budget.left == 10_000
