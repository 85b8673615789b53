"""CONNECT of HTTP proxies: its messages, and the handshake in portions of all sizes."""

from __future__ import annotations

import pytest

from tests.support.tables import assert_parsed, at, cuts, table
from torsocks_tx import errors
from torsocks_tx.errors import GeneralFailure, Incomplete, ProtocolError, ProxyBroken, SOCKSError
from torsocks_tx.http import client as http_connect
from torsocks_tx.http.client import HTTPClientHandshake
from torsocks_tx.socks.client import Failed, Opened, Step
from torsocks_tx.socks.constants import Reply5
from torsocks_tx.socks.messages import Address, Credentials, Reply
from torsocks_tx.socks.wire import Reader

REQUESTS = table(
    ("IPv4", at("192.0.2.1", 443), None, b"192.0.2.1:443", b""),
    ("IPv6", at("2001:db8::1", 80), None, b"[2001:db8::1]:80", b""),
    ("a name", at("example.com", 443), None, b"example.com:443", b""),
    (
        "credentials",
        at("192.0.2.1", 443),
        Credentials(b"Aladdin", b"open sesame"),
        b"192.0.2.1:443",
        b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n",
    ),
)


@pytest.mark.parametrize(("address", "credentials", "place", "more"), REQUESTS)
def test_each_request_has_its_bytes(
    address: Address, credentials: Credentials | None, place: bytes, more: bytes
) -> None:
    expected = b"CONNECT " + place + b" HTTP/1.1\r\nHost: " + place + b"\r\n" + more + b"\r\n"
    assert http_connect.build_connect(address, credentials) == expected


@pytest.mark.parametrize(
    "host", ["", "a b", "a\r\nX: y", "a\n", "a\0", "a\x7f", "b\u00fccher.example", "\u4e2d.example"]
)
def test_hosts_with_blanks_or_line_ends_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        http_connect.build_connect(at(host, 443))


ANSWERS = table(
    ("plain", b"HTTP/1.1 200 Connection established\r\n\r\n", 200),
    ("HTTP/1.0, without a reason", b"HTTP/1.0 200\r\n\r\n", 200),
    ("an empty reason", b"HTTP/1.1 200 \r\n\r\n", 200),
    ("headers", b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nX: y\r\n\r\n", 407),
    ("without CR", b"HTTP/1.1 502 Bad Gateway\nX: y\n\n", 502),
)


@pytest.mark.parametrize(("head", "code"), ANSWERS)
def test_each_answer_has_its_code(head: bytes, code: int) -> None:
    assert_parsed(http_connect.parse_answer, head, code)


@pytest.mark.parametrize(
    "data",
    [b"\5\0", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200x\r\n\r\n", b"hello"],
)
def test_bytes_that_are_not_an_answer(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        http_connect.parse_answer(Reader(data))


def test_an_answer_without_an_end_is_refused() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"X" * http_connect.MAX_HEAD
    with pytest.raises(Incomplete):
        http_connect.parse_answer(Reader(head[: http_connect.MAX_HEAD - 1]))
    with pytest.raises(ProtocolError, match="does not end"):
        http_connect.parse_answer(Reader(head))


PLACE = at("192.0.2.1", 443)
SUCCESS = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n"


def hear(chunks: tuple[bytes, ...]) -> list[Step]:
    handshake = HTTPClientHandshake(PLACE)
    return [step for chunk in chunks for step in handshake.receive(chunk)]


def test_the_handshake_begins_with_the_request() -> None:
    handshake = HTTPClientHandshake(PLACE, Credentials(b"me", b"you"))
    assert handshake.start().startswith(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\n")
    assert b"Basic bWU6eW91\r\n" in handshake.start()


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_success_in_portions_of_any_size(interim: bytes) -> None:
    for chunks in cuts(interim + SUCCESS):
        assert hear(chunks) == [Opened(Reply(Reply5.SUCCEEDED), b"")]


def test_bytes_after_the_answer_are_kept() -> None:
    assert hear((SUCCESS + b"\r\nhello",)) == [Opened(Reply(Reply5.SUCCEEDED), b"\r\nhello")]


REFUSALS = table(
    ("403", 403, errors.NotAllowed),
    ("405", 405, errors.NotAllowed),
    ("407", 407, errors.LoginRefused),
    ("500", 500, GeneralFailure),
    ("502", 502, errors.HostUnreachable),
    ("503", 503, errors.HostUnreachable),
    ("504", 504, errors.TimedOut),
    ("302", 302, GeneralFailure),
)


@pytest.mark.parametrize(("code", "kind"), REFUSALS)
def test_every_refusal_of_a_proxy_has_its_meaning(code: int, kind: type[SOCKSError]) -> None:
    [step] = hear((b"HTTP/1.1 %d No\r\n\r\n" % code,))
    assert isinstance(step, Failed)
    assert type(step.reason) is kind


def test_an_answer_of_another_protocol_is_a_failure() -> None:
    [step] = hear((b"\5\0",))
    assert isinstance(step, Failed)
    assert type(step.reason) is ProxyBroken


def test_a_close_before_the_answer_is_a_failure() -> None:
    handshake = HTTPClientHandshake(PLACE)
    [step] = handshake.eof()
    assert isinstance(step, Failed)
    assert handshake.eof() == []
    assert handshake.receive(SUCCESS) == []
