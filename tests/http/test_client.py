"""CONNECT through an HTTP proxy: the request, and what every answer means."""

from __future__ import annotations

import pytest

from tests.support.rows import rows
from tests.support.tables import at, cuts, table
from torsocks_tx import errors
from torsocks_tx.errors import GeneralFailure, LoginRequired, NotIsolated, ProxyBroken, SOCKSError
from torsocks_tx.http.answers import MEANINGS, Answers
from torsocks_tx.http.client import HTTPClientHandshake
from torsocks_tx.http.server import MAX_HEAD
from torsocks_tx.socks.client import Failed, Opened, Step
from torsocks_tx.socks.constants import AddressType, Reply5
from torsocks_tx.socks.messages import Address, Credentials, Reply
from torsocks_tx.socks.server import Send

ALADDIN = Credentials(b"Aladdin", b"open sesame")
LOGIN = b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"
REQUESTS = table(
    ("IPv4", at("192.0.2.1", 443), None, None, b"192.0.2.1:443", b""),
    ("IPv6", at("2001:db8::1", 80), None, None, b"[2001:db8::1]:80", b""),
    ("IPv6 as a name", Address(AddressType.HOSTNAME, "2001:db8::1", 80), None, None,
     b"[2001:db8::1]:80", b""),
    ("a name", at("example.com", 443), None, None, b"example.com:443", b""),
    ("credentials", at("a", 443), ALADDIN, None, b"a:443", LOGIN),
    ("isolation", at("a", 443), None, "x", b"a:443", b"Tor-Stream-Isolation: x\r\n"),
    ("both", at("a", 443), ALADDIN, "x", b"a:443", LOGIN + b"Tor-Stream-Isolation: x\r\n"),
)  # fmt: skip


@pytest.mark.parametrize(("address", "credentials", "isolation", "place", "more"), REQUESTS)
def test_each_request_has_its_bytes(
    address: Address,
    credentials: Credentials | None,
    isolation: str | None,
    place: bytes,
    more: bytes,
) -> None:
    expected = b"CONNECT " + place + b" HTTP/1.1\r\nHost: " + place + b"\r\n" + more + b"\r\n"
    handshake = HTTPClientHandshake(address, credentials, isolation)
    assert handshake.requested is (isolation is None)
    first = handshake.start()
    if isolation is not None:
        asked = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n"
        assert first == asked + (LOGIN if credentials else b"") + b"\r\n"
        assert handshake.receive(ISOLATING.options(close=False)) == [Send(expected)]
    else:
        assert first == expected


@rows("H-21")
def test_a_proxy_that_gets_data_before_its_answer_is_told_to_close_if_it_refuses() -> None:
    handshake = HTTPClientHandshake(at("a", 443), None, "x", optimistic=True)
    assert b"close" not in handshake.start()
    [step] = handshake.receive(ISOLATING.options(close=False))
    expected = CONNECT[:-2] + b"Connection: close\r\n\r\n"
    assert step == Send(expected)
    assert HTTPClientHandshake(at("a", 443), optimistic=True).start() == (
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    "host", ["", "a b", "a\r\nX: y", "a\n", "a\0", "a\x7f", "b\u00fccher.example", "\u4e2d.example"]
)
def test_hosts_with_blanks_or_line_ends_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        HTTPClientHandshake(at(host, 443))


def hear(*chunks: bytes, isolation: str | None = None) -> list[Step]:
    handshake = HTTPClientHandshake(at("192.0.2.1", 443), isolation=isolation)
    handshake.start()
    steps = [step for chunk in chunks for step in handshake.receive(chunk)]
    if steps:
        assert handshake.receive(b"HTTP/1.1 200 OK\r\n\r\n") == handshake.eof() == []
    return steps


def failure(*chunks: bytes, isolation: str | None = None) -> SOCKSError:
    [step] = hear(*chunks, isolation=isolation)
    assert isinstance(step, Failed)
    return step.reason


OPENED = Opened(Reply(Reply5.SUCCEEDED), b"")
SUCCESSES = table(
    ("plain", b"HTTP/1.1 200 Connection established\r\n\r\n"),
    ("HTTP/1.0, without a reason", b"HTTP/1.0 200\r\n\r\n"),
    ("another success", b"HTTP/1.1 204 No\r\nVia: x\r\n\r\n"),
    ("without CR", b"HTTP/1.1 200 OK\nVia: x\n\n"),
    ("a length, which means nothing", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    ("behind an interim answer", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ("ours", Answers(tor=True, isolates=True).connected),
)


@pytest.mark.parametrize("said", SUCCESSES)
def test_success_in_portions_of_any_size(said: bytes) -> None:
    for chunks in cuts(said):
        assert hear(*chunks) == [OPENED]
    assert hear(said + b"\r\nhello") == [Opened(Reply(Reply5.SUCCEEDED), b"\r\nhello")]


STATUSES = {
    302: GeneralFailure,
    400: GeneralFailure,
    403: errors.NotAllowed,
    405: errors.NotAllowed,
    407: LoginRequired,
    500: GeneralFailure,
    502: errors.HostUnreachable,
    503: errors.HostUnreachable,
    504: errors.TimedOut,
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_a_status_alone_has_its_meaning(status: int, kind: type[SOCKSError]) -> None:
    reason = failure(b"HTTP/1.1 %d No\r\nProxy-Status: x; received-status=1\r\n\r\n" % status)
    assert type(reason) is kind
    assert reason.detail == f"the HTTP proxy answered {status}"


HEADERS = table(
    ("tor's reason", b"Tor-Request-Failed: end/EXITPOLICY", errors.NotAllowed),
    ("tor's reason and another", b"Tor-Request-Failed: c-tor/X end/TIMEOUT", errors.TimedOut),
    ("a circuit that tor lost", b"Tor-Request-Failed: end/DESTROY", errors.GeneralFailure),
    ("a stream that ended", b"Tor-Request-Failed: end/DONE", errors.ConnectionRefused),
    ("no network", b"Tor-Request-Failed: c-tor/NET_UNREACHABLE", errors.NetworkUnreachable),
    ("our general failure", b"Proxy-Status: a; error=connection_terminated", errors.GeneralFailure),
    ("a reason of Arti's", b"Tor-Request-Failed: arti/x", errors.HostUnreachable),
    ("Proxy-Status", b"Proxy-Status: a, b; error=connection_refused", errors.ConnectionRefused),
    ("an unknown type", b"Proxy-Status: a; error=odd", errors.HostUnreachable),
    (
        "tor's goes first",
        b"Proxy-Status: a; error=dns_error\r\nTor-Request-Failed: end/CONNECTREFUSED",
        errors.ConnectionRefused,
    ),
)


@pytest.mark.parametrize(("headers", "kind"), HEADERS)
def test_headers_say_more_than_the_status(headers: bytes, kind: type[SOCKSError]) -> None:
    assert type(failure(b"HTTP/1.0 503 No\r\n" + headers + b"\r\n\r\n")) is kind


@rows("H-14")
@pytest.mark.parametrize("kind", MEANINGS)
def test_our_own_failures_come_back_as_they_were(kind: type[SOCKSError]) -> None:
    answer = Answers(tor=True, isolates=True).refused(kind())
    for chunks in (answer,), tuple(answer[i : i + 1] for i in range(len(answer))):
        assert type(failure(*chunks)) is kind


OPTIONS = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"
ISOLATING = Answers(tor=True, isolates=True)
CONNECT = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nTor-Stream-Isolation: x\r\n\r\n"


@rows("H-20")
def test_isolation_is_asked_for_once_the_proxy_has_announced_it() -> None:
    announced = ISOLATING.options(close=False)
    for chunks in cuts(announced):
        handshake = HTTPClientHandshake(at("a", 443), isolation="x")
        assert handshake.start() == OPTIONS
        assert not handshake.requested
        steps = [step for chunk in chunks for step in handshake.receive(chunk)]
        assert steps == [Send(CONNECT)]
        assert handshake.requested
        assert handshake.receive(ISOLATING.connected) == [OPENED]


@rows("H-20")
def test_isolation_is_refused_where_it_is_not_announced() -> None:
    for answer in (
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTor-Capabilities:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTor-Capabilities: X-Tor-Stream-Isolation\r\n\r\n",
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 400 No\r\nContent-Length: 5\r\n\r\n",
        *(b"HTTP/1.0 %d No\r\n\r\n" % status for status in (302, 403, 405, 501, 505)),
        Answers(tor=False, isolates=True).options(close=False),
        Answers(tor=True, isolates=False).options(close=False),
    ):
        assert type(failure(answer, isolation="x")) is NotIsolated
    assert type(failure(ISOLATING.options(close=True), isolation="x")) is ProxyBroken


REFUSED_OPTIONS = table(
    ("407", b"HTTP/1.1 407 No\r\n\r\n", LoginRequired),
    ("ours", ISOLATING.ask_for_credentials(close=True), LoginRequired),
    *((f"{status}", b"HTTP/1.1 %d No\r\n\r\n" % status, errors.ProxyFault)
      for status in (500, 502, 503, 504)),
    ("busy", ISOLATING.refused(errors.Busy()), errors.Busy),
    ("no tor", ISOLATING.refused(errors.TorDown()), errors.TorDown),
    ("Proxy-Status", b"HTTP/1.1 504 No\r\nProxy-Status: a; error=connection_timeout\r\n\r\n",
     errors.TimedOut),
)  # fmt: skip


@rows("H-20")
@pytest.mark.parametrize(("answer", "kind"), REFUSED_OPTIONS)
def test_a_proxy_that_refuses_options_says_why(answer: bytes, kind: type[SOCKSError]) -> None:
    assert type(failure(answer, isolation="x")) is kind


@pytest.mark.parametrize(
    "said", [b"\5\0", b"h", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"hello\r\n\r\n",
             b"HTTP/1.1 200 OK\r\na b\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n",
             b"x" * (MAX_HEAD + 1)]
)  # fmt: skip
def test_what_is_no_answer_is_a_fault_of_the_proxy(said: bytes) -> None:
    assert type(failure(said)) is ProxyBroken


def test_a_close_before_the_answer_is_a_fault_of_the_proxy() -> None:
    handshake = HTTPClientHandshake(at("192.0.2.1", 443))
    handshake.start()
    handshake.receive(b"HTTP/1.1 200")
    [step] = handshake.eof()
    assert isinstance(step, Failed)
    assert type(step.reason) is ProxyBroken
    assert handshake.receive(b"HTTP/1.1 200 OK\r\n\r\n") == []
