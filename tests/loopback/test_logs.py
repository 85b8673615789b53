"""No secret of a client is logged: host, credentials, payload, address, in success or failure."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.logger import (
    FilteringLogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
    textFileLogObserver,
)

from tests.loopback.conftest import before_streams
from tests.support.fakes import grant, tor_like
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import GRANTED, Peer, PeerFactory, named, refused
from tests.support.rows import rows
from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.backends.memory import MemoryBackend, MemoryOutbound
from torsocks_tx.errors import HostUnreachable
from torsocks_tx.policy.listener import ListenerPolicy

CANARIES = ["canary-host", "canary-user", "canary-secret", "canary-payload", "127.77.66.55"]
HOST = "canary-host.example"
GREETING = b"\5\1\2"
LOGIN = b"\1\x0bcanary-user\x0dcanary-secret"
PAYLOAD = b"canary-payload"


class Log:
    """Everything that was logged: as twistd writes it, and the values of the events above debug."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        write = textFileLogObserver(self._file)
        predicate = LogLevelFilterPredicate(defaultLogLevel=LogLevel.debug)
        self.observer = FilteringLogObserver(write, [predicate])
        self.events: list[LogEvent] = []

    def keep(self, event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) >= LogLevel.info:
            self.events.append(event)

    @property
    def text(self) -> str:
        values = [repr(event) for event in self.events]
        return "\n".join([self._file.getvalue(), *values])


@pytest.fixture
def log() -> Iterator[Log]:
    """Give what is logged, at every level."""
    log = Log()
    globalLogPublisher.addObserver(log.observer)
    globalLogPublisher.addObserver(log.keep)
    yield log
    globalLogPublisher.removeObserver(log.observer)
    globalLogPublisher.removeObserver(log.keep)


async def canary_client(ground: Ground, server: WatchedServer) -> Peer:
    """Connect from an address that nobody else has."""
    endpoint: Any = await ground.listen(server)
    if ground.kind == "tcp":
        place = ground.address(endpoint)
        endpoint = TCP4ClientEndpoint(reactor, *place, bindAddress=("127.77.66.55", 0))
    return await ground.connect(endpoint)


async def test_a_stream_that_opens_logs_no_secret(ground: Ground, log: Log) -> None:
    policy = ListenerPolicy(test_socks=True)
    server, upstream = await tor_like(ground, grant, policy=policy)
    client = await canary_client(ground, server)
    client.send(GREETING + LOGIN + named(HOST, 80) + PAYLOAD)
    assert await client.take(14) == b"\5\2\1\0" + GRANTED
    leg = await upstream.asked()
    leg.send(PAYLOAD)
    assert await client.take(14) == PAYLOAD
    # What Twisted puts at the head of a line that is logged for this connection.
    prefix = server.client.transport.logPrefix()
    assert prefix == "WatchedProtocol"
    leg.reset()
    await client.until(lambda: client.over)
    client.close()
    await server.emptied()
    assert "TestSocks: SOCKS5 request by host name: safe" in log.text
    assert [canary for canary in CANARIES if canary in log.text] == []


def raising(*_: object) -> NoReturn:
    raise RuntimeError(PAYLOAD)


def break_later(outbound: MemoryOutbound) -> None:
    outbound.on_write = raising
    reactor.callLater(0, outbound.receiver.opened)


FAULTS: list[tuple[str, Callable[[], Any], bytes, bytes]] = [
    ("backend", lambda: MemoryBackend(script=raising), named(HOST, 80), refused(1)),
    ("chooser", lambda: EndpointBackend(reactor, raising), named(HOST, 80), refused(1)),
    ("look-up", lambda: MemoryBackend(look_up=raising), named(HOST, 0, 0xF0), refused(1)),
    ("relay", lambda: MemoryBackend(script=break_later), named(HOST, 80), GRANTED),
]


@pytest.mark.parametrize(
    ("backend", "request_", "answer"), [pytest.param(*f[1:], id=f[0]) for f in FAULTS]
)
async def test_a_fault_of_ours_is_logged_once_without_secrets(
    ground: Ground,
    log: Log,
    logged_failures: list[LogEvent],
    backend: Callable[[], Any],
    request_: bytes,
    answer: bytes,
) -> None:
    server = WatchedServer(backend())
    client = await canary_client(ground, server)
    client.send(GREETING + LOGIN + request_)
    assert await client.take(14) == b"\5\2\1\0" + answer
    if answer == GRANTED:
        client.send(PAYLOAD)
        await client.until(lambda: client.over)
    client.close()
    await server.emptied()
    assert [event["log_failure"].type for event in logged_failures] == [RuntimeError]
    logged_failures.clear()
    assert "builtins.RuntimeError: \n" in log.text
    assert [canary for canary in CANARIES if canary in log.text] == []


def unknown(_: object) -> Deferred[Any]:
    return fail(HostUnreachable("no such name"))


REFUSED = [
    pytest.param(GREETING + LOGIN + named(HOST, 80), id="refused"),
    pytest.param(GREETING + LOGIN + named(HOST, 80, 0xF0), id="refused-look-up"),
    pytest.param(GREETING + LOGIN + named(HOST, 80, 2), id="bind"),
    pytest.param(GREETING + LOGIN + named(HOST + "\n", 80), id="newline-in-name"),
    pytest.param(GREETING + LOGIN + named(HOST, 0), id="port-0"),
    pytest.param(GREETING + b"\2canary-user", id="version-of-credentials"),
    pytest.param(GREETING + b"\1\x09<torS0X>9\x0dcanary-secret", id="unknown-format"),
    pytest.param(b"\4\1\0\x50\0\0\0\1canary-user\0canary-host'\0", id="socks4a-name"),
    pytest.param(b"\4\1\0\x50\0\0\0\1" + b"canary-user" * 50, id="socks4-long"),
    pytest.param(b"GET http://canary-host.example/ HTTP/1.0\r\n\r\n", id="http"),
    pytest.param(b"\x16\3\1canary-host", id="garbage"),
]


@before_streams
@rows("R-31")
@pytest.mark.parametrize("said", REFUSED)
async def test_a_refusal_is_one_debug_line_without_secrets(
    ground: Ground, log: Log, logged: list[LogEvent], said: bytes
) -> None:
    backend = EndpointBackend(reactor, lambda *_: fail_refused())
    backend.resolve = lambda *_: unknown(None)  # type: ignore[method-assign]
    server = WatchedServer(backend)
    client = await canary_client(ground, server)
    client.send(said)
    await client.take_rest()
    client.close()
    await server.emptied()
    ours = ("torsocks_tx", "tests.support.ground")
    lines = [event for event in logged if str(event.get("log_namespace")).startswith(ours)]
    assert [event["log_level"] for event in lines] == [LogLevel.debug]
    assert "WatchedProtocol: " in log.text
    assert [canary for canary in CANARIES if canary in log.text] == []


def fail_refused() -> NoReturn:
    raise HostUnreachable("not for you")


@before_streams
async def test_the_canary_address_is_seen_where_it_is(ground: Ground) -> None:
    origin = PeerFactory()
    endpoint = await ground.listen(origin)
    if ground.kind == "tcp":
        place = ground.address(endpoint)
        endpoint = TCP4ClientEndpoint(reactor, *place, bindAddress=("127.77.66.55", 0))
    client = await ground.connect(endpoint)
    peer = await origin.peer()
    assert ("127.77.66.55" in peer.transport.logstr) == (ground.kind == "tcp")
    client.close()
