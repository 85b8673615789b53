"""``--status`` over real connections: what it answers, to whom, and what strangers can hold."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock

from tests.loopback.test_logs import Log, log
from tests.support.ground import Ground, WatchedServer
from tests.support.peers import GRANTED, Peer, named, until
from tests.support.processes import ROOT
from tests.support.statuses import Visit
from torsocks_tx import MemoryBackend, MemoryOutbound, Registry
from torsocks_tx.server.listen import bind, parse_listener
from torsocks_tx.status import site as module
from torsocks_tx.status.pages import StatusServer
from torsocks_tx.status.report import Monitor
from torsocks_tx.status.site import LIFETIME, REQUEST_TIMEOUT, is_host_allowed

__all__ = ["log"]


def echo(outbound: MemoryOutbound) -> None:
    outbound.on_write = outbound.receiver.data
    reactor.callLater(0, outbound.receiver.opened)


class Shown:
    """A server whose backend echoes, and its status page."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.registry = Registry()
        self.counts = self.registry.add("first", "tcp:1080", ["SafeSocks"])
        self.registry.add("unix:/run/\udcff\x1b", "unix:/run/\udcff\x1b")
        self.backend = MemoryBackend(echo)
        self.server = WatchedServer(self.backend, counts=self.counts)
        self.monitor = Monitor(reactor, self.registry)
        listener = parse_listener("tcp:0:interface=127.0.0.1")
        show = partial(bind, reactor, authenticated=False, status=True)
        self.status = StatusServer(reactor, listener, self.monitor, show, str)
        self.status.open()

    async def connect(self) -> Peer:
        """Connect to the status page."""
        address = self.status.port.getHost()
        assert isinstance(address, IPv4Address)
        return await self.ground.connect(TCP4ClientEndpoint(reactor, "127.0.0.1", address.port))

    async def get(
        self, path: str, *, host: str = "127.0.0.1", method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask for a page; return its code, its headers and its body."""
        peer = await self.connect()
        named = f"Host: {host}\r\n" if host else ""
        asked = f"{method} {path} HTTP/1.0\r\n{named}\r\n"
        peer.send(asked.encode(errors="surrogateescape"))
        head, _, body = (await peer.take_rest()).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split(" ")[1]), headers, body

    async def report(self) -> Any:
        """Return what /status.json says."""
        return json.loads((await self.get("/status.json"))[2])


@pytest_twisted.async_yield_fixture
async def shown(ground: Ground) -> AsyncIterator[Shown]:
    """Give a server with its status page."""
    shown = Shown(ground)
    yield shown
    await shown.status.close()


async def test_report_counts_streams_as_they_open_and_close(shown: Shown) -> None:
    endpoint = await shown.ground.listen(shown.server)
    client = await shown.ground.connect(endpoint)
    assert await client.negotiate(named("example.com", 80)) == GRANTED
    client.send(b"ping")
    assert await client.take(4) == b"ping"
    now, other = (await shown.report())["listeners"]
    assert other["name"] == other["endpoint"] == r"unix:/run/\xff\x1b"
    assert (now["name"], now["endpoint"], now["flags"]) == ("first", "tcp:1080", ["SafeSocks"])
    assert (now["connections"], now["streams"], now["lingering"]) == (1, 1, 0)
    assert (now["connections_total"]["socks5"], now["outcomes"]["open"]) == (1, 1)
    client.shut()
    await shown.server.until(lambda: shown.server.ended == 1)
    assert (await shown.report())["listeners"][0]["lingering"] == 1
    shown.backend.outbounds[0].receiver.lost(True)
    await client.take_rest()
    await shown.server.emptied()
    after = await shown.report()
    assert [after["listeners"][0][key] for key in ("connections", "streams", "lingering")] == [
        0
    ] * 3
    assert after["bytes"] == {"from_clients": 4, "to_clients": 4}
    assert after["open_seconds"]["clearnet"]["count"] == 1


async def test_health_is_a_word_and_a_code(shown: Shown) -> None:
    assert (await shown.get("/health"))[::2] == (503, b"starting\n")
    shown.monitor.serving()
    assert (await shown.get("/health"))[::2] == (200, b"ready\n")
    shown.monitor.begin_stopping()
    assert (await shown.get("/health"))[::2] == (503, b"stopping\n")


@pytest.mark.parametrize(
    ("host", "public", "allowed"),
    [
        ("localhost", False, True),
        ("LOCALHOST:9180", False, True),
        ("127.0.0.1:9180", False, True),
        ("127.9.9.9", False, True),
        ("[::1]:9180", False, True),
        ("192.0.2.1", False, False),
        ("192.0.2.1:9180", True, True),
        ("[2001:db8::1]", True, True),
        ("example.com", True, False),
        ("localhost.example.com", True, False),
        ("127.0.0.1.example.com", True, False),
        ("", True, False),
        ("localhost:80:80", True, False),
    ],
)
def test_host_is_this_machine_or_an_address_where_that_is_public(
    host: str, public: bool, allowed: bool
) -> None:
    assert is_host_allowed(host, public=public) is allowed


@pytest.mark.parametrize(
    ("path", "host", "method", "code"),
    [
        ("/status.json", "example.com", "GET", 403),
        ("/health", "example.com:80", "HEAD", 403),
        ("/status.json", "localhost", "HEAD", 200),
        ("/health", "", "GET", 503),
        ("/health", "localhost\r\nHost: localhost", "GET", 403),
        ("/health", "\u0661", "GET", 403),
        ("/health", "\udcff", "GET", 403),
        ("/nothing", "localhost", "GET", 404),
        ("/status.json/more", "localhost", "GET", 404),
        ("/status.json", "localhost", "PUT", 405),
        ("/status.json", "localhost", "POST", 405),
        ("*", "localhost", "OPTIONS", 404),
    ],
)
async def test_answers_have_a_code_and_headers_that_keep_browsers_off(
    shown: Shown, path: str, host: str, method: str, code: int
) -> None:
    got, headers, body = await shown.get(path, host=host, method=method)
    assert got == code
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "torsocks_tx"
    assert (body == b"") is (method == "HEAD")
    assert headers.get("allow") == ("get, head" if code == 405 else None)


async def test_what_strangers_can_hold_is_bounded(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CONNECTIONS", 2)
    first, second = await shown.connect(), await shown.connect()
    await until(lambda: len(shown.status.site.protocols) == 2)
    third = await shown.connect()
    assert await third.take_rest() == b""
    first.send(
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    )
    assert (await first.take_rest()).startswith(b"HTTP/1.1 413 ")
    second.reset()


def visit(clock: Clock) -> Visit:
    """Connect to a status page in memory."""
    listener = parse_listener("tcp:0:interface=127.0.0.1")
    monitor = Monitor(clock, Registry())
    return Visit(StatusServer(clock, listener, monitor, lambda *_: None, str))


@pytest.mark.parametrize("data", [b"x", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_client_that_always_sends_a_little_is_closed_after_a_minute(data: bytes) -> None:
    clock = Clock()
    client = visit(clock)
    while client.is_open:
        client.transport.protocol.dataReceived(data)
        clock.advance(1)
    # Twisted 22.4 ends a line that takes longer than 10 seconds.
    assert clock.seconds() == LIFETIME or (data == b"x" and clock.seconds() < LIFETIME)
    assert not clock.getDelayedCalls()


def test_client_that_asks_nothing_is_closed_without_a_word_of_its_address(log: Log) -> None:
    clock = Clock()
    client = visit(clock)
    clock.advance(REQUEST_TIMEOUT + 1)
    assert not client.is_open
    assert "iming out" in log.text
    assert "127.77" not in log.text


def keys_of(value: Any, place: str = "") -> Iterator[str]:
    """Yield the places of a report that are documented."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from keys_of(each, f"{place}.{key}" if place else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield place
        yield from keys_of(value[0], f"{place}[]")
    else:
        yield place


async def test_every_key_of_the_report_is_in_the_documentation(shown: Shown) -> None:
    text = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    report = await shown.report()
    for open_ended in ("connections_total", "outcomes"):
        report["listeners"][0][open_ended] = 0
    missing = {key.replace(".clearnet.", ".onion.") for key in keys_of(report)} - documented
    assert missing == set()
