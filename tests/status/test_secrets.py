"""Nothing of a client is shown or logged: not its host, address, name, password or isolation."""

from __future__ import annotations

import signal
from base64 import b64encode
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint

from tests.loopback.test_logs import Log, log
from tests.status.test_site import Shown, shown
from tests.support.fakes import Leg, Upstream
from tests.support.ground import Ground
from tests.support.peers import Peer, named
from tests.support.running import Twistd
from torsocks_tx import KeyValues, MemoryOutbound, Request, errors
from torsocks_tx.errors import SOCKSError
from torsocks_tx.policy.listener import parse_flags
from torsocks_tx.socks.extended import build_request

__all__ = ["log", "shown"]

ADDRESS = "127.77.66.55"
HOST = b"canary-host.example"
ONION = b"canary" + b"x" * 44 + b"aaaaad.onion"
SECRETS = ("canary", ADDRESS, "Y2FuYXJ5", "198.51.100.77")
FLAGS = [
    "IsolateDestAddr",
    "IsolateDestPort",
    "IsolateClientProtocol",
    "ExtendedErrors",
    "TestSocks",
]
FAILURES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SOCKSError) and kind is not errors.OnionRefused
]
PAGES = ("/", "/events", "/status.json", "/metrics", "/health", "/canary-page?canary=canary")
USER, PASSWORD = b"canary-user", b"canary-password"


def greetings(host: bytes) -> list[bytes]:
    """Return requests for a host, early data with each, by every protocol and kind of address."""
    login = b"\1\x0b" + USER + b"\x0f" + PASSWORD
    pairs = [("SOCKSUSER", USER), ("ISOLATE", b"canary"), ("canary-key", b"canary")]
    basic = b64encode(USER + b":" + PASSWORD)
    target = named(host, 7777)
    return [
        b"\4\1\x1e\x61\0\0\0\1" + USER + b"\0" + host + b"\0canary",
        b"\4\1\x1e\x61\xc6\x33\x64\x4d" + USER + b"\0canary",
        b"\5\1\0" + target + b"canary",
        b"\5\1\2" + login + target + b"canary",
        b"\5\1\0\5\1\0\1\xc6\x33\x64\x4d\x1e\x61canary",
        b"\5\1\0" + named(host, 0, 0xF0),
        b"\5\1\0\5\xf1\0\1\xc6\x33\x64\x4d\0\0",
        b"\5\1\x97" + build_request(KeyValues.of(pairs)) + target,
        b"CONNECT " + host + b":7777 HTTP/1.1\r\nHost: canary\r\nProxy-Authorization: Basic "
        + basic + b"\r\nTor-Stream-Isolation: canary\r\nUser-Agent: canary\r\n\r\ncanary",
        b"CONNECT canary HTTP/1.1\r\n\r\n",
        b"GET http://canary/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\5\1\xfecanary",
        b"canary\r\n",
        b"\4\1",
    ]  # fmt: skip


class Scripted:
    """What the backend does with the next stream: opens it, or refuses it."""

    def __init__(self) -> None:
        self.failure: type[SOCKSError] | None = None

    def __call__(self, outbound: MemoryOutbound) -> None:
        receiver, failure = outbound.receiver, self.failure
        if failure is None:
            reactor.callLater(0, self._open, receiver)
        else:
            reactor.callLater(0, receiver.refused, failure("a reason"))

    def _open(self, receiver: Any) -> None:
        receiver.opened()
        receiver.data(b"canary")
        reactor.callLater(0, receiver.lost, False)

    def look_up(self, _request: Request) -> Deferred[Any]:
        return fail((self.failure or errors.HostUnreachable)("a reason"))


async def ask_for(ground: Ground, place: tuple[str, int], hosts: Iterable[bytes]) -> int:
    """Make every request for these hosts, from an address that nobody else has; count them."""
    requests = 0
    for host in hosts:
        peers: list[Peer] = []
        for greeting in greetings(host):
            near: Any = TCP4ClientEndpoint(reactor, *place, bindAddress=(ADDRESS, 0))
            peer = await ground.connect(near)
            peer.send(greeting)
            peer.shut()
            peers.append(peer)
        for peer in peers:
            await peer.until(lambda peer=peer: peer.over)  # type: ignore[misc]
        requests += len(peers)
    return requests


async def check_that_nothing_shows(ground: Ground, status: tuple[str, int], log: str) -> None:
    """Check the log and all pages, the events of an open one among them."""
    texts = {"log": log}
    for path in PAGES:
        peer = await ground.connect(TCP4ClientEndpoint(reactor, *status))
        peer.send(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        if path == "/events":
            await peer.until(lambda peer=peer: b'"process": ' in peer.received)  # type: ignore[misc]
            peer.reset()
        texts[path] = (await peer.take_rest()).decode()
    assert "<html" in texts["/"]
    found = {name: [it for it in SECRETS if it in text] for name, text in texts.items()}
    assert found == {name: [] for name in texts}


async def test_secrets_of_clients_are_nowhere(shown: Shown, log: Log) -> None:
    script = Scripted()
    shown.backend._script = script
    shown.backend._look_up = script.look_up
    shown.server.policy, _ = parse_flags(FLAGS)
    place = shown.ground.address(await shown.ground.listen(shown.server))
    requests = 0
    for failure in (None, *FAILURES):
        script.failure = failure
        requests += await ask_for(shown.ground, place, (HOST, ONION))
    await shown.server.emptied()
    total = shown.registry.snapshot()
    assert sum(total.protocols.values()) == requests
    assert sum(total.outcomes.values()) == requests - total.protocols["none"]
    status = ("127.0.0.1", shown.status.port.getHost().port)
    await check_that_nothing_shows(shown.ground, status, log.text + repr(total))


async def test_secrets_of_clients_of_workers_are_nowhere(ground: Ground, tmp_path: Path) -> None:
    refused = cycle([False, True])

    def script(leg: Leg) -> None:
        leg.answer(5 if next(refused) else 0, b"canary")
        leg.close()

    tor = ground.address(await ground.listen(Upstream(script)))
    loopback = "tcp:0:interface=127.0.0.1"
    listen = ("--listen", " ".join([loopback, *FLAGS]), "--status", loopback)
    over = ("--tor-socks", f"tcp:127.0.0.1:{tor[1]}", "--workers", "2")
    server = Twistd(*listen, *over, directory=tmp_path)
    await server.said("2 workers serve")
    socks, page = (it.rpartition(":") for it in (server.addresses[0], server.status_page))
    await ask_for(ground, (socks[0], int(socks[2])), (HOST, ONION))
    await check_that_nothing_shows(ground, (page[0], int(page[2])), server.output)
    assert await server.stop() == -signal.SIGTERM
    assert [it for it in SECRETS if it in server.output] == []
