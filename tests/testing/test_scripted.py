"""The scripted server over real sockets: what each name does, and what is recorded of requests."""

from __future__ import annotations

import hashlib
import os

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from zope.interface.verify import verifyObject

from tests.support.ground import Ground
from tests.support.http import read_answer
from tests.support.peers import GRANTED, Peer, PeerFactory, named, refused
from torsocks_tx.interfaces import IBackend
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials
from torsocks_tx.testing.scripted import BANNER, ScriptedBackend, ScriptedRequest, ScriptedServer
from torsocks_tx.testing.scripted.names import STATUSES
from torsocks_tx.testing.scripted.server import ScriptedFactory

GRANTED4 = bytes.fromhex("00 5A 0000 00000000")
RESOLVE, RESOLVE_PTR = 0xF0, 0xF1
ANSWER = bytes.fromhex("05 00 00")
BOUND4 = bytes.fromhex("01 C0000201 0050")
BOUND6 = bytes.fromhex("04 20010DB8 00000000 00000000 00000001 0050")
BOUND_NAME = b"\3\x0abound.test\0\x50"


class Segments(Peer):
    """Records each segment that is received."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.segments.append(data)
        super().dataReceived(data)


@pytest.fixture
def server() -> ScriptedFactory:
    return ScriptedFactory(reactor)


def named4(host: str, command: int = 1) -> bytes:
    """A SOCKS4a request of the user "me"."""
    return bytes([4, command, 0, 80, 0, 0, 0, 1]) + b"me\0" + host.encode() + b"\0"


def at4(address: bytes) -> bytes:
    """A SOCKS4 request for an address."""
    return bytes([4, 1, 0, 80]) + address + b"\0"


async def answer(ground: Ground, server: SOCKSFactory, request: bytes) -> bytes:
    """Send greeting and request at once; return all that is received."""
    client = await ground.client(server)
    client.send(b"\5\1\0" + request if request[0] == 5 else request)
    received = await client.take_rest()
    client.close()
    if request[0] == 5 and received:
        assert received[:2] == b"\5\0"
        return received[2:]
    return received


# Replies.


async def test_every_reply_code_of_socks5_is_sent(ground: Ground, server: ScriptedFactory) -> None:
    endpoint = await ground.listen(server)
    for code in range(1, 256):
        client = await ground.connect(endpoint)
        request = named(f"reply-{code:02x}.test", 80)
        assert await client.negotiate(request) == refused(code)
        assert await client.take_rest() == b""
        client.close()
        assert await client.ended_well()


async def test_every_reply_code_of_socks4_is_sent(ground: Ground, server: ScriptedFactory) -> None:
    endpoint = await ground.listen(server)
    for code in range(1, 256):
        client = await ground.connect(endpoint)
        client.send(named4(f"reply-{code:02X}.test") + b"early")
        reply = await client.take(8)
        heard = code if 0x5A <= code <= 0x5F else 0x5B
        assert reply == bytes([0, heard]) + bytes(6)
        if code == 0x5A:
            assert await client.take(5) == b"early"
            client.close()
        assert await client.take_rest() == b""
        client.close()
        await client.ended_well()


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (named("reply-f4.onion", 80), refused(0xF4)),
        (named(f"reply-e0.{'a' * 56}.onion", 80), refused(0xE0)),
        (named("REPLY-F7.Test.", 80), refused(0xF7)),
        (named("v4.reply-05.test", 80), b"\5\5\0" + BOUND4),
        (named("v6.reply-05.test", 80), b"\5\5\0" + BOUND6),
        (named("name.reply-05.test", 80), b"\5\5\0" + BOUND_NAME),
        (named("v4.bytes-3.test", 80), ANSWER + BOUND4 + b"xxx"),
        (named("v6.bytes-3.test", 80), ANSWER + BOUND6 + b"xxx"),
        (named("bytes-3.name.test", 80), ANSWER + BOUND_NAME + b"xxx"),
        (named("bytes-0.test", 80), GRANTED),
        (named("bytes-1000000.test", 80), GRANTED + b"x" * 10**6),
        (named("truncated.test", 80), GRANTED[:4]),
        (named("truncated-9.v6.banner.test", 80), (ANSWER + BOUND6)[:9]),
        (named("truncated-1.reply-02.test", 80), b"\5"),
        (named("truncated-0.test", 80), b""),
        (named("raw-0500000101020304ffff.bytes-2.test", 80), b"\5\0\0\1\1\2\3\4\xff\xffxx"),
        (named("raw-04.reply-01.test", 80), b"\4"),
        (named("close.test", 80), b""),
        (named("bytes-3.reply-05.test", 80), refused(4)),
        (named("replay-05.test", 80), refused(4)),
        (named("example.com", 80), refused(4)),
        (named4("v6.bytes-2.test"), GRANTED4 + b"xx"),
        (named4("truncated.test"), GRANTED4[:4]),
        (named4("truncated.reply-01.test"), bytes.fromhex("00 5B 0000")),
        (named4("raw-ff.reply-01.test"), b"\xff"),
        (named4("close.test"), b""),
        (named4("example.com"), bytes.fromhex("00 5B 0000 00000000")),
        (at4(bytes([198, 51, 100, 5])), bytes.fromhex("00 5B 0000 00000000")),
        (at4(bytes([198, 51, 100, 0x5D])), bytes.fromhex("00 5D 0000 00000000")),
        (b"\5\1\0\1" + bytes([198, 51, 100, 0xF2]) + b"\0\x50", refused(0xF2)),
        (b"\5\1\0\4" + bytes.fromhex("20010DB8 0001") + bytes(9) + b"\xf3\0\x50", refused(0xF3)),
        (named("198.51.100.6", 80), refused(6)),
        (named("a-192-0-2-7.test", 0, RESOLVE), ANSWER + bytes.fromhex("01 C0000207 0000")),
        (
            named("aaaa-2001-db8--9.test", 0, RESOLVE),
            ANSWER + bytes.fromhex("04 20010DB8 00000000 00000000 00000009 0000"),
        ),
        (named("echo.test", 0, RESOLVE), ANSWER + bytes.fromhex("01 C0000201 0000")),
        (named("v6.test", 0, RESOLVE), ANSWER + BOUND6[:-2] + b"\0\0"),
        (named("reply-04.test", 0, RESOLVE), refused(4)),
        (named("reply-f0.test", 0, RESOLVE), refused(0xF0)),
        (named("truncated.a-1-2-3-4.test", 0, RESOLVE), GRANTED[:4]),
        (named("raw-0501.test", 0, RESOLVE), b"\5\1"),
        (named("close.test", 0, RESOLVE), b""),
        (named("nothing.test", 0, RESOLVE), refused(4)),
        (named4("a-192-0-2-7.test", RESOLVE), bytes.fromhex("00 5A 0000 C0000207")),
        (named4("aaaa-2001-db8--9.test", RESOLVE), bytes.fromhex("00 5B 0000 00000000")),
        (named4("reply-5c.test", RESOLVE), bytes.fromhex("00 5C 0000 00000000")),
        (b"\5\xf1\0\1" + bytes([192, 0, 2, 7, 0, 0]), ANSWER + b"\3\x10a-192-0-2-7.test\0\0"),
        (
            b"\5\xf1\0\4" + bytes.fromhex("20010DB8") + bytes(11) + b"\x09\0\0",
            ANSWER + b"\3\x15aaaa-2001-db8--9.test\0\0",
        ),
        (b"\5\xf1\0\1" + bytes([198, 51, 100, 8, 0, 0]), refused(8)),
    ],
)
async def test_request_is_answered_as_scripted(
    ground: Ground, server: ScriptedFactory, request_: bytes, reply: bytes
) -> None:
    assert await answer(ground, server, request_) == reply
    assert server.requests[0].handshake.endswith(request_)


# Streams.


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (named("echo.test", 80), GRANTED),
        (named("reply-00.test", 80), GRANTED),
        (named("a-192-0-2-7.test", 80), GRANTED),
        (named("192.0.2.7", 80), GRANTED),
        (named("split.test", 80), GRANTED),
        (named("split-1ms.v6.test", 80), ANSWER + BOUND6),
        (named("raw-ff.test", 80), b"\xff"),
        (named("drop-1000.test", 80), GRANTED),
        (b"\5\1\0\4" + bytes(15) + b"\1\0\x50", GRANTED),
        (named4("echo.test"), GRANTED4),
        (named4("reply-5a.test"), GRANTED4),
        (at4(bytes([192, 0, 2, 7])), GRANTED4),
    ],
)
async def test_echo_includes_early_data_and_ends_with_the_client(
    ground: Ground, server: ScriptedFactory, request_: bytes, reply: bytes
) -> None:
    client = await ground.client(server)
    client.send(b"\5\1\0" + request_ + b"early" if request_[0] == 5 else request_ + b"early")
    if request_[0] == 5:
        assert await client.take(2) == b"\5\0"
    assert await client.take(len(reply) + 5) == reply + b"early"
    client.send(b"late")
    client.shut()
    assert await client.take_rest() == b"late"
    client.close()
    assert await client.ended_well()


async def test_echo_of_four_megabytes_is_whole(ground: Ground, server: ScriptedFactory) -> None:
    client = await ground.client(server)
    assert await client.negotiate(named("echo.test", 80)) == GRANTED
    data = os.urandom(4 * 1024 * 1024)
    client.send(data)
    assert hashlib.sha256(await client.take(len(data))).digest() == hashlib.sha256(data).digest()
    client.close()


async def test_banner_is_in_the_segment_of_the_reply(
    ground: Ground, server: ScriptedFactory
) -> None:
    endpoint = await ground.listen(server)
    client = await endpoint.connect(PeerFactory(Segments))
    client.send(b"\5\1\0")
    await client.take(2)
    client.send(named("banner.test", 22))
    assert await client.take(len(GRANTED + BANNER)) == GRANTED + BANNER
    assert client.segments == [b"\5\0", GRANTED + BANNER]
    client.send(b"hello")
    client.shut()
    assert await client.take_rest() == b"hello"
    client.close()
    await client.ended_well()


async def test_sink_reads_everything_and_sends_nothing(
    ground: Ground, server: ScriptedFactory
) -> None:
    client = await ground.client(server)
    assert await client.negotiate(named("sink.test", 80)) == GRANTED
    client.send(b"x" * 10**6)
    client.shut()
    assert await client.take_rest() == b""
    client.close()
    assert await client.ended_well()


@pytest.mark.parametrize(
    ("name", "reply", "sent"),
    [("drop-0.test", GRANTED, b""), ("drop-10.test", GRANTED, b"x" * 10), ("reset.test", b"", b"")],
)
async def test_a_reset_comes_after_the_reply_and_its_number_of_bytes(
    ground: Ground, server: ScriptedFactory, name: str, reply: bytes, sent: bytes
) -> None:
    client = await ground.client(server)
    client.send(b"\5\1\0")
    assert await client.take(2) == b"\5\0"
    client.send(named(name, 80) + sent)
    assert await client.take(len(reply + sent)) == reply + sent
    assert not await client.ended_well()
    assert not client.received


@pytest.mark.parametrize(
    ("name", "command", "start"),
    [
        ("silent", 1, b""),
        ("silent", RESOLVE, b""),
        ("delay-600s", 1, b""),
        ("split-10s", 1, b"\5"),
        ("split-10s.reply-05", 1, b"\5"),
    ],
)
async def test_client_may_leave_whatever_goes_on(
    ground: Ground, server: ScriptedFactory, name: str, command: int, start: bytes
) -> None:
    """``ground`` fails the test if a timer is left."""
    client = await ground.client(server)
    client.send(b"\5\1\0" + named(f"{name}.test", 80, command))
    assert await client.take(2 + len(start)) == b"\5\0" + start
    await server.when_requested(0)
    assert not client.received
    client.reset()
    await server.when_empty()


# Authentication.


@pytest.mark.parametrize(
    ("methods", "offered", "selected"),
    [
        ((2, 0), b"\5\2\0\2", b"\5\2"),
        ((0, 2), b"\5\2\0\2", b"\5\0"),
        ((2, 0), b"\5\1\0", b"\5\0"),
        ((2,), b"\5\1\0", b"\5\xff"),
        ((0,), b"\5\1\2", b"\5\xff"),
        ((), b"\5\3\0\2\x97", b"\5\xff"),
    ],
)
async def test_method_is_selected_in_the_order_of_the_server(
    ground: Ground, methods: tuple[int, ...], offered: bytes, selected: bytes
) -> None:
    client = await ground.client(ScriptedFactory(reactor, methods=methods))
    client.send(offered)
    assert await client.take(2) == selected
    if selected == b"\5\xff":
        assert await client.take_rest() == b""
    client.close()
    await client.ended_well()


def test_unsupported_method_is_refused() -> None:
    for method in (1, 0x97, 255):
        with pytest.raises(ValueError, match="methods"):
            ScriptedFactory(reactor, methods=[method])


USERS = {b"alice": b"secret", b"bob": b""}


@pytest.mark.parametrize(
    ("users", "sent", "status"),
    [
        (None, b"\1\5alice\5wrong", 0),
        (None, b"\1\0\0", 0),
        (USERS, b"\1\5alice\6secret", 0),
        (USERS, b"\1\3bob\0", 0),
        (USERS, b"\1\5alice\5wrong", 1),
        (USERS, b"\1\5carol\0", 1),
        ({}, b"\1\5alice\6secret", 1),
    ],
)
async def test_only_known_credentials_are_accepted(
    ground: Ground, users: dict[bytes, bytes] | None, sent: bytes, status: int
) -> None:
    server = ScriptedFactory(reactor, users=users)
    client = await ground.client(server)
    client.send(b"\5\2\0\2")
    assert await client.take(2) == b"\5\2"
    client.send(sent)
    assert await client.take(2) == bytes([1, status])
    if status:
        assert await client.take_rest() == b""
        assert server.requests == []
    else:
        client.send(named("bytes-1.test", 80))
        assert await client.take_rest() == GRANTED + b"x"
        assert server.requests[0].credentials is not None
    client.close()
    await client.ended_well()
    if users is not None:
        rejected = bytes.fromhex("005B000000000000")
        assert await answer(ground, server, named4("echo.test")) == rejected


# Records.


async def test_requests_are_recorded(ground: Ground, server: ScriptedFactory) -> None:
    later = Deferred.fromCoroutine(server.when_requested(1))
    early = b"\5\1\0" + named("bytes-0.test", 443) + b"GET /"
    client = await ground.client(server)
    client.send(early)
    await client.take_rest()
    client.close()
    assert not later.called
    await answer(ground, server, named4("nonsense.test", RESOLVE))
    await answer(ground, server, b"\5\1\0\1" + bytes([198, 51, 100, 1]) + b"\0\x50")
    first, second, third = server.requests
    assert third.address == Address(AddressType.IPV4, "198.51.100.1", 80)
    assert await later is second
    assert await server.when_requested(0) is first
    assert first == ScriptedRequest(
        Version.SOCKS5, Command.CONNECT, Address.of("bytes-0.test", 443), None, early, ""
    )
    assert second == ScriptedRequest(
        Version.SOCKS4,
        Command.RESOLVE,
        Address.of("nonsense.test", 80),
        Credentials(b"me"),
        named4("nonsense.test", RESOLVE),
        "there is no label nonsense",
    )


# The server as a whole, and the backend alone.


async def test_server_starts_and_stops(ground: Ground) -> None:
    """``ground`` fails the test if a socket is left."""
    server = ScriptedServer(reactor)
    address = await server.start()
    assert (address.host, server.address) == ("127.0.0.1", address)
    client = await ground.connect(TCP4ClientEndpoint(reactor, address.host, address.port))
    assert await client.negotiate(named("echo.test", 80)) == GRANTED
    assert (await server.when_requested()).address.host == "echo.test"
    await server.stop()
    assert not await client.ended_well()
    assert len(server.requests) == 1
    await server.stop()


@pytest.mark.parametrize(
    ("extended", "host", "reply"),
    [
        (False, "reply-05.test", refused(5)),
        (False, "reply-99.test", refused(1)),
        (True, "reply-f4.onion", refused(0xF4)),
        (False, "reply-f4.onion", refused(1)),
        (True, "reply-f4.test", refused(1)),
        (True, "close.test", refused(1)),
        (True, "truncated.test", refused(1)),
        (True, "v6.bytes-2.test", GRANTED + b"xx"),
    ],
)
async def test_backend_serves_another_factory(
    ground: Ground, extended: bool, host: str, reply: bytes
) -> None:
    backend = ScriptedBackend(reactor)
    verifyObject(IBackend, backend)
    server = SOCKSFactory(backend, policy=ListenerPolicy(extended_errors=extended))
    assert await answer(ground, server, named(host, 80)) == reply


# HTTP.


def connect(host: str, login: bytes = b"") -> bytes:
    """A CONNECT to port 80, with this login encoded."""
    head = f"CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n".encode()
    return head + (b"Proxy-Authorization: Basic " + login + b"\r\n" if login else b"") + b"\r\n"


async def head_of(client: Peer) -> bytes:
    """Take the head of an answer."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await client.take(1)
    return head


async def test_every_status_of_http_is_answered(ground: Ground, server: ScriptedFactory) -> None:
    endpoint = await ground.listen(server)
    for status in STATUSES:
        client = await ground.connect(endpoint)
        client.send(connect(f"status-{status}.test") + b"early")
        if status < 300:
            received = await head_of(client)
            assert await client.take(5) == b"early"
        else:
            received = await client.take_rest()
        client.close()
        answer, rest = read_answer(received)
        assert (answer.status, rest) == (status, b"")
        assert ("proxy-authenticate" in answer.headers) is (status == 407)
    assert {request.version for request in server.requests} == {Version.HTTP}


@pytest.mark.parametrize(
    ("name", "status", "rest"),
    [
        ("reply-f4.onion", 403, b""),
        ("reply-06.test", 504, b""),
        ("bytes-3.test", 200, b"xxx"),
        ("split.status-418.test", 418, b""),
        ("split.bytes-3.test", 200, b"xxx"),
        ("banner.status-299.test", None, b""),
        ("nobody.example", 503, b""),
    ],
)
async def test_http_clients_get_what_the_name_says(
    ground: Ground, server: ScriptedFactory, name: str, status: int | None, rest: bytes
) -> None:
    received = await answer(ground, server, connect(name))
    found, behind = read_answer(received)
    assert (found.status, behind) == (status or 503, rest)


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("truncated-12.status-403.test", b"HTTP/1.1 403"),
        ("truncated-8.test", b"HTTP/1.1"),
        ("close.test", b""),
        ("raw-48.reply-01.test", b"H"),
    ],
)
async def test_http_answers_are_cut_closed_and_replaced(
    ground: Ground, server: ScriptedFactory, name: str, received: bytes
) -> None:
    assert await answer(ground, server, connect(name)) == received


async def test_http_clients_log_in(ground: Ground) -> None:
    server = ScriptedFactory(reactor, users={b"me": b"you"})
    client = await ground.client(server)
    client.send(connect("bytes-3.test"))
    assert (await head_of(client)).startswith(b"HTTP/1.1 407 ")
    client.send(connect("bytes-3.test", b"bWU6eW91"))
    assert (await client.take_rest()).endswith(b"\r\n\r\nxxx")
    client.close()
    assert [request.credentials for request in server.requests] == [Credentials(b"me", b"you")]
