"""Whatever a client says, and in whatever pieces: the short way answers as the ordinary one."""

from __future__ import annotations

import array
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogEvent

from tests.fastpath.conftest import over_tcp, over_unix
from tests.support.fakes import plain
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import DEADLINE, GRANTED, Peer, PeerFactory, named, refused, turn
from tests.support.rows import rows
from tests.support.tables import cuts, octets, table
from torsocks_tx.errors import NotAllowed
from torsocks_tx.fastpath.handover import Stage
from torsocks_tx.fastpath.visitor import Visitor
from torsocks_tx.relay.flow import BULK_READ
from torsocks_tx.socks.messages import Credentials

REQUEST = named("example.com", 80)
PAIRS = octets("01 0001 0009") + b"ISOLATION" + octets("0002") + b"xy"
CONVERSATIONS = [
    ("socks4", octets("04 01 0050 C0000201 6D65 00") + b"ping"),
    ("socks4a", octets("04 01 0050 00000001 00") + b"example.com\0ping"),
    ("socks4, bind", octets("04 02 0050 C0000201 00")),
    ("socks4, resolve", octets("04 F0 0050 00000001 00") + b"example.com\0"),
    ("socks5, a name", octets("05 01 00") + REQUEST + b"ping"),
    ("socks5, IPv4", octets("05 01 00 05 01 00 01 C0000201 0050") + b"ping"),
    ("socks5, IPv6", octets("05 01 00 05 01 00 04") + bytes(15) + b"\1\0\x50ping"),
    ("socks5, credentials", octets("05 02 00 02 01 02 6D65 03 796F75") + REQUEST + b"ping"),
    ("socks5, wrong credentials", octets("05 01 02 01 02 6D65 02 6E6F") + REQUEST + b"ping"),
    ("socks5, credentials nobody asked for", octets("05 01 00 01 02 6D65 00") + REQUEST + b"ping"),
    ("socks5, pairs", octets("05 02 02 97") + PAIRS + REQUEST + b"ping"),
    ("socks5, bind", octets("05 01 00") + named("example.com", 80, 2)),
    ("socks5, resolve", octets("05 01 00") + named("example.com", 80, 0xF0)),
    ("socks5, resolve IPv4", octets("05 01 00 05 F0 00 01 C0000201 0050")),
    ("socks5, no method", octets("05 01 7F")),
    ("socks5, unknown address", octets("05 01 00 05 01 00 09")),
    ("http", b"GET / HTTP/1.1\r\n\r\n"),
    ("neither", b"\x16\3\1"),
]


class Pong(Peer):
    """Answers the ping, and closes."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if bytes(self.received) == b"ping":
            self.send(b"pong")
            self.close()


def check(credentials: Credentials) -> Deferred[bytes | None]:
    return succeed(b"me" if credentials.password == b"you" else None)


async def listen(ground: Ground, **options: Any) -> tuple[WatchedServer, PeerFactory, Any]:
    server, origin = await plain(ground, kind=Pong, **options)
    return server, origin, await ground.listen(server)


async def answer(ground: Ground, server: WatchedServer, endpoint: Any, chunks: Any) -> bytes:
    """Say these, each once the one before was heard; all that is answered up to the end."""
    client = await ground.connect(endpoint)
    heard = server.heard
    for chunk in chunks:
        if client.over:
            break
        client.send(chunk)
        heard += len(chunk)
        while server.heard < heard and not client.over:
            await turn()
    answered = await client.take_rest()
    client.close()
    await server.emptied()
    return answered


@rows("R-27", "R-12")
@pytest.mark.parametrize("said", table(CONVERSATIONS))
@pytest.mark.parametrize("wanted", [False, True], ids=["open", "with credentials only"])
@pytest_twisted.ensureDeferred
async def test_every_conversation_in_any_pieces(
    ground: Ground, said: bytes, wanted: bool, tmp_path: Path
) -> None:
    options = {"authenticator": check} if wanted else {}
    ordinary = Ground(ground.kind, tmp_path)
    server, _, endpoint = await listen(ordinary, **options)
    expected = await answer(ordinary, server, endpoint, (said,))
    server, origin, endpoint = await listen(ground, **options)
    for count, chunks in enumerate(cuts(said), 1):
        assert await answer(ground, server, endpoint, chunks) == expected
        opened = count if expected.endswith(b"pong") else 0
        assert len(origin.peers) == opened
    await ordinary.stop_listening()


@pytest_twisted.ensureDeferred
async def test_whole_messages_go_the_short_way(ground: Ground) -> None:
    server, origin, endpoint = await listen(ground)
    client = await ground.connect(endpoint)
    for said, heard in ((b"\5\2\0\2", b"\5\2"), (b"\1\2me\3you", b"\1\0"), (REQUEST, GRANTED)):
        client.send(said)
        assert await client.take(len(heard)) == heard
        [visitor] = server.connections
        assert isinstance(visitor, Visitor)
        assert visitor.is_served == (said == REQUEST)
    client.send(b"ping")
    assert await client.take_rest() == b"pong"
    assert isinstance(visitor, Visitor)
    assert (visitor.stage, visitor.sent, visitor.received) == (Stage.OPEN, 4, 4)
    assert len(origin.peers) == 1


@rows("R-27")
@over_tcp
@pytest_twisted.ensureDeferred
async def test_bytes_behind_urgent_ones_are_heard(ground: Ground) -> None:
    server, _, endpoint = await listen(ground)
    with raw_client(ground, endpoint) as raw:
        raw.send(b"\5\1\0" + REQUEST[:3])
        raw.send(b"!", socket.MSG_OOB)
        raw.send(REQUEST[3:] + b"ping")
        assert await all_of(raw) == b"\5\0" + GRANTED + b"pong"
    await server.emptied()


@rows("S-03")
@over_tcp
@pytest_twisted.ensureDeferred
async def test_payload_behind_urgent_bytes_is_passed_on(ground: Ground) -> None:
    server, _, endpoint = await listen(ground)
    with raw_client(ground, endpoint) as raw:
        raw.send(b"\5\1\0" + REQUEST)
        await server.until(lambda: server.heard == 3 + len(REQUEST))
        raw.send(b"pi")
        raw.send(b"!", socket.MSG_OOB)
        raw.send(b"ng")
        assert await all_of(raw) == b"\5\0" + GRANTED + b"pong"
    await server.emptied()


@rows("R-27", "S-03")
@over_unix
@pytest.mark.parametrize("place", [0, 3, 5, 3 + len(REQUEST), 5 + len(REQUEST)])
@pytest_twisted.ensureDeferred
async def test_bytes_behind_a_passed_descriptor_are_heard(ground: Ground, place: int) -> None:
    server, _, endpoint = await listen(ground)
    said = b"\5\1\0" + REQUEST + b"ping"
    with raw_client(ground, endpoint) as raw:
        await server.until(lambda: len(server.connections) == 1)
        await turn()
        if place > 3 + len(REQUEST):
            raw.send(said[:-4])
            await server.until(lambda: server.heard == len(said) - 4)
            said, place = said[-4:], place - 3 - len(REQUEST)
        descriptor = array.array("i", [raw.fileno()])
        if place:
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)]
            raw.sendmsg([said[:place]], passed)
        raw.send(said[place:])
        assert await all_of(raw) == b"\5\0" + GRANTED + b"pong"
    await server.emptied()


def raw_client(ground: Ground, endpoint: Any) -> socket.socket:
    """A client that can send what transports cannot."""
    raw = socket.socket(socket.AF_UNIX if ground.kind == "unix" else socket.AF_INET)
    raw.connect(ground.address(endpoint))
    raw.setblocking(False)
    return raw


async def all_of(raw: socket.socket) -> bytes:
    """All that it hears up to the end."""
    heard = b""
    end = reactor.seconds() + DEADLINE  # type: ignore[attr-defined]
    while reactor.seconds() < end:  # type: ignore[attr-defined]
        try:
            more = raw.recv(1024)
        except BlockingIOError:
            await turn()
            continue
        if not more:
            return heard
        heard += more
    raise AssertionError(f"no end, only {heard!r}")


@rows("P-11")
@pytest_twisted.ensureDeferred
async def test_a_handshake_that_fills_one_read_exactly(ground: Ground) -> None:
    """What is behind it may have been there already, and nobody would tell."""
    server, _, endpoint = await listen(ground)
    head = octets("05 01 97")
    size = BULK_READ - len(REQUEST) - len(octets("01 0001 0009")) - len(b"ISOLATION") - 2
    pairs = octets("01 0001 0009") + b"ISOLATION" + size.to_bytes(2, "big") + b"x" * size
    with raw_client(ground, endpoint) as raw:
        raw.send(head)
        await server.until(lambda: server.heard == len(head))
        assert raw.send(pairs + REQUEST + b"ping") == BULK_READ + 4
        answered = await all_of(raw)
    assert answered.endswith(GRANTED + b"pong")
    await server.emptied()


@pytest.mark.parametrize("fault", [NotAllowed("no"), ZeroDivisionError()])
@pytest.mark.parametrize("place", ["admit", "target"])
@pytest_twisted.ensureDeferred
async def test_who_may_not_or_meets_a_fault_is_answered(
    ground: Ground,
    fault: Exception,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    logged_failures: list[LogEvent],
) -> None:
    server, _ = await plain(ground, kind=Pong)

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(server if place == "admit" else server.backend, place, fail)
    client = await ground.client(server)
    answered = await client.negotiate(REQUEST)
    if place == "admit":
        assert answered == refused(2 if isinstance(fault, NotAllowed) else 1)
        assert len(logged_failures) == isinstance(fault, ZeroDivisionError)
    else:
        # It is the backend that says so in the end, and this one does not.
        assert answered == GRANTED
    logged_failures.clear()


@pytest_twisted.ensureDeferred
async def test_a_fault_of_whoever_goes_on_closes_the_client(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, logged_failures: list[LogEvent]
) -> None:
    server, _, endpoint = await listen(ground)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server, "errand", fail)
    client = await ground.connect(endpoint)
    client.send(b"\5\1\0" + REQUEST + b"early")
    await client.until(lambda: client.over)
    await server.emptied()
    assert logged_failures
    logged_failures.clear()


@rows("R-29")
@pytest.mark.parametrize("debugging", [False, True])
@pytest_twisted.ensureDeferred
async def test_one_that_leaves_before_it_says_anything(ground: Ground, debugging: bool) -> None:
    server, _, endpoint = await listen(ground, debugging=debugging)
    raw = raw_client(ground, endpoint)
    raw.close()
    ground._ports[-1].doRead()
    assert len(server.connections) == debugging
    client = await ground.connect(endpoint)
    await server.until(lambda: any(isinstance(one, Visitor) for one in server.connections))
    client.close()
    await server.emptied()
