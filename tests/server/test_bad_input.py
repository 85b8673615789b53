"""Bad input gets its reply or a close and one debug line, and takes no memory."""

from __future__ import annotations

import tracemalloc

import pytest
from twisted.logger import LogEvent, LogLevel

from tests.support.peers import named, refused
from tests.support.rows import rows
from tests.support.stage import CONNECT, GREETING, LOGIN, REJECTED_4, Stage
from torsocks_tx.http.answers import Answers

HTTP = Answers(tor=False, isolates=True)
TARGET = "The target is not a valid HOST:PORT."
NO_HTTP = "This is not valid HTTP."
LARGE = "The head is too large."

BAD = [
    ("no methods", b"\5\0", b"\5\xff"),
    ("no known method", b"\5\2\x01\x80", b"\5\xff"),
    ("bind", GREETING + b"\5\2\0\1", b"\5\0" + refused(7)),
    ("udp", GREETING + b"\5\3\0\1", b"\5\0" + refused(7)),
    ("connect dir", GREETING + b"\5\xf2\0\1", b"\5\0" + refused(7)),
    ("bind 4", b"\4\2\0\x50\xc0\0\2\1\0", REJECTED_4),
    ("unknown address type", GREETING + b"\5\1\0\2", b"\5\0" + refused(8)),
    ("reserved byte", GREETING + b"\5\1\1", b"\5\0" + refused(1)),
    ("socks4 after the greeting", GREETING + b"\4", b"\5\0" + refused(1)),
    ("empty name", GREETING + named("", 80), b"\5\0" + refused(1)),
    ("nul", GREETING + named("a\0b.com", 80), b"\5\0" + refused(1)),
    ("newline", GREETING + named("a\nb.com", 80), b"\5\0" + refused(1)),
    ("quote", GREETING + named('a"b.com', 80), b"\5\0" + refused(1)),
    ("space", GREETING + named("a b.com", 80), b"\5\0" + refused(1)),
    ("non-ascii", GREETING + named(b"a\xffb.com", 80), b"\5\0" + refused(1)),
    ("port 0", GREETING + named("example.com", 0), b"\5\0" + refused(1)),
    ("request before credentials", b"\5\1\2" + CONNECT, b"\5\2\1\1"),
    ("credentials of version 2", b"\5\1\2\2\1a\1b", b"\5\2\1\1"),
    ("credentials first", LOGIN, b""),
    ("second greeting", b"\5\1\2" + b"\5\1\2", b"\5\2\1\1"),
    ("garbage", b"\x16\3\1\2\0", b""),
    ("ssh", b"SSH-2.0-x\r\n", b""),
    ("long user id", b"\4\1\0\x50\xc0\0\2\1" + b"u" * 600, REJECTED_4),
    ("socks4 port 0", b"\4\1\0\0\xc0\0\2\1\0", REJECTED_4),
    ("socks4 address 0", b"\4\1\0\x50\0\0\0\0\0", REJECTED_4),
    ("http without a target", b"CONNECT / HTTP/1.0\r\n\r\n", HTTP.mistaken(400, TARGET)),
    ("http with NUL", b"CONNECT a:1 HTTP/1.0\r\n\0: a\r\n\r\n", HTTP.mistaken(400, NO_HTTP)),
    (
        "http, too large",
        b"CONNECT a:1 HTTP/1.0\r\n" + b"a:b\n" * 101 + b"\n",
        HTTP.mistaken(431, LARGE),
    ),
    ("http of a web site", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("socks4a long name", b"\4\1\0\x50\0\0\0\1\0" + b"a" * 256 + b"\0", REJECTED_4),
]


@rows(
    "S-10", "S-11", "S-12", "S-20", "S-32", "R-10", "R-20", "R-21", "R-22", "R-23", "R-26", "R-31"
)
@pytest.mark.parametrize(
    ("said", "answer"), [pytest.param(said, answer, id=name) for name, said, answer in BAD]
)
@pytest.mark.parametrize("portion", [1, 65536])
def test_bad_input_is_answered_and_closed_with_one_debug_line(
    logged: list[LogEvent], portion: int, said: bytes, answer: bytes
) -> None:
    stage = Stage()
    for place in range(0, len(said), portion):
        stage.protocol.dataReceived(said[place : place + portion])
    assert stage.transport.take() == answer
    assert stage.closes
    assert [event["log_level"] for event in logged] == [LogLevel.debug]
    assert logged[0]["reason"].isprintable()
    assert stage.backend.outbounds == []
    # Bytes that still come are dropped, and after a megabyte the connection is closed.
    for _ in range(17):
        stage.protocol.dataReceived(bytes(65536))
    assert stage.transport.take() == b""
    assert stage.transport.asked[-1] == "loseConnection"
    stage.transport.finish()
    assert stage.clock.getDelayedCalls() == []


def test_a_greeting_of_255_methods_is_accepted() -> None:
    stage = Stage()
    assert stage.say(b"\5\xff" + bytes(range(255))) == b"\5\x97"


@rows("R-03", "R-30")
def test_four_megabytes_of_user_id_take_no_memory() -> None:
    stage = Stage()
    chunk = b"u" * 65536
    stage.say(b"\4\1\0\x50\xc0\0\2\1")
    tracemalloc.start()
    for _ in range(64):
        stage.protocol.dataReceived(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stage.transport.take() == REJECTED_4
    assert peak < 3 * len(chunk)
    assert "loseConnection" in stage.transport.asked


OPENINGS = {
    "HTTP GET": b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "HTTP GET of a URL": b"GET http://example.com/ HTTP/1.0\r\n\r\n",
    "HTTP POST": b"POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\n",
    "HTTP CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP in lower case": b"get / http/1.1\r\n\r\n",
    "TLS": b"\x16\3\1\0\x05\1\0\0\1\3",
    "TLS alert": b"\x15\3\3\0\2\2\x28",
    "SSL 2": b"\x80\x2e\1\3\1",
    "PROXY": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "PROXY 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    "nothing": b"\0",
    "SOCKS6": b"\6\0",
}
REQUESTS = [GREETING + CONNECT, b"\4\1\0\x50\xc0\0\2\1me\0", CONNECT]


@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS)
@pytest.mark.parametrize("request_behind", REQUESTS)
@pytest.mark.parametrize("portion", [1, 65536])
def test_no_request_behind_another_protocol_is_carried_out(
    opening: bytes, request_behind: bytes, portion: int
) -> None:
    stage = Stage()
    said = opening + request_behind
    for place in range(0, len(said), portion):
        stage.protocol.dataReceived(said[place : place + portion])
    assert stage.closes
    assert stage.backend.outbounds == []
