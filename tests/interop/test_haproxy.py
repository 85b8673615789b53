"""HAProxy in front of a server: which client address each of its PROXY headers gives."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint

from tests.support.clients import client
from tests.support.peers import DEADLINE, GRANTED, Peer, PeerFactory, named
from tests.support.processes import Program
from torsocks_tx import MemoryBackend, MemoryOutbound, serve
from torsocks_tx.policy.isolation import Isolator

REQUEST = named("example.com", 80)
HERE, THERE = "127.0.0.1", "127.0.0.5"
TLVS = "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,crc32c,authority,unique-id"

# How HAProxy sends its header to which listener, where its client comes from, and which address
# counts then: None is that of a unix socket.
WAYS: dict[str, tuple[str, str, str | None, str | None]] = {
    "1": ("send-proxy", "tcp", THERE, THERE),
    "1-unknown": ("send-proxy", "tcp", None, HERE),
    "1-unknown-by-unix": ("send-proxy", "unix", None, None),
    "2": ("send-proxy-v2", "unix", THERE, THERE),
    "2-unix": ("send-proxy-v2", "tcp", None, HERE),
    "2-tlvs": (TLVS, "tcp", THERE, THERE),
}
CHECKS = 4
DEFAULTS = """
defaults
    mode tcp
    log stdout format raw daemon
    timeout connect 20s
    timeout check 20s
    timeout client 1m
    timeout server 1m
"""
CHECK = """
    option tcp-check
    tcp-check connect send-proxy
    tcp-check send-binary 050100
    tcp-check expect binary 0500
"""


def configuration(places: dict[str, str]) -> Iterator[str]:
    """Yield the parts of a configuration; HAProxy inherits the sockets of its clients from 3 on."""
    yield DEFAULTS
    for number, (name, (header, listener, _, _)) in enumerate(WAYS.items(), 3):
        yield f"listen {name}\n    bind fd@{number}\n    unique-id-format %{{+X}}o%ci%cp\n"
        yield f"    server it {places[listener]} {header}\n"
    # Of HAProxy's own connections version 1 tells its address, and version 2 that they are LOCAL.
    for header in ("send-proxy", "send-proxy-v2"):
        yield f"backend check-{header}{CHECK}    tcp-check send-binary {REQUEST.hex()}\n"
        yield "    tcp-check expect binary 0500\n"
        yield f"    server it {places['checked']} {header} check inter 1s fall 1\n"


class Ground:
    """Servers that record how each stream is isolated; one of them is for checks."""

    def __init__(self, directory: Path) -> None:
        self.backend = MemoryBackend(self._open)
        self.checked = MemoryBackend(self._open)
        self.checks: Deferred[None] = Deferred()
        proxied, isolator = "SessionGroup=1 ProxyProtocol", Isolator(bytes(32))
        listen = [
            f"unix:{directory}/proxied {proxied}",
            f"unix:{directory}/plain SessionGroup=1",
            f"tcp:0:interface={HERE} {proxied}={HERE}",
            f"tcp:0:interface={HERE} SessionGroup=1",
        ]
        self.servers = [
            serve(reactor, listen, self.backend, isolator=isolator),
            serve(reactor, listen[2], self.checked, isolator=isolator),
        ]
        ports: list[Any] = [*self.servers[0].addresses[2:], *self.servers[1].addresses]
        self.plain = {None: f"{directory}/plain", HERE: (HERE, ports[1].port)}
        self.places = {
            "unix": f"unix@{directory}/proxied",
            "tcp": f"{HERE}:{ports[0].port}",
            "checked": f"{HERE}:{ports[2].port}",
        }

    def _open(self, outbound: MemoryOutbound) -> None:
        reactor.callLater(0, outbound.receiver.opened)
        if len(self.checked.outbounds) >= CHECKS and not self.checks.called:
            self.checks.callback(None)

    async def key(self, place: Any, host: str | None) -> bytes:
        """Return how a client is isolated that comes from this address, or by a socket file."""
        endpoint: Any = UNIXClientEndpoint(reactor, place)
        if host is not None:
            endpoint = TCP4ClientEndpoint(reactor, *place, bindAddress=(host, 0))
        peer: Peer = await endpoint.connect(PeerFactory())
        assert await peer.negotiate(REQUEST) == GRANTED
        peer.reset()
        return self.backend.outbounds[-1].isolation.credentials.password


def listening_sockets(directory: Path) -> Iterator[socket.socket]:
    """Yield a socket that listens for the clients of each way."""
    for name, (_, _, host, _) in WAYS.items():
        if host is not None:
            yield socket.create_server((HERE, 0))
        else:
            yield (listening := socket.socket(socket.AF_UNIX))
            listening.bind(str(directory / name))
            listening.listen()


@pytest.mark.network
@pytest.mark.clients("haproxy")
async def test_each_header_of_haproxy_gives_the_right_client_address(
    tmp_path: Path, log_lines: list[str]
) -> None:
    ground = Ground(tmp_path)
    plain = {None: ground.plain[None], HERE: ground.plain[HERE], THERE: ground.plain[HERE]}
    wanted = {host: await ground.key(place, host) for host, place in plain.items()}
    assert len({*wanted.values()}) == 3
    (tmp_path / "haproxy.cfg").write_text("".join(configuration(ground.places)))
    balancer = Program()
    with ExitStack() as stack:
        sockets = [stack.enter_context(each) for each in listening_sockets(tmp_path)]
        descriptors: dict[int, Any] = {0: "w", 1: "r", 2: "r"}
        descriptors |= {number: each.fileno() for number, each in enumerate(sockets, 3)}
        command = [client("haproxy"), "-db", "-f", str(tmp_path / "haproxy.cfg")]
        balancer.start(command, dict(os.environ), descriptors=descriptors)
        try:
            for listening, (name, (_, _, host, counts)) in zip(sockets, WAYS.items(), strict=True):
                assert await ground.key(listening.getsockname(), host) == wanted[counts], name
            await ground.checks.addTimeout(DEADLINE, reactor)
        finally:
            os.kill(balancer.pid, signal.SIGTERM)
            await balancer.end()
    keys = {it.isolation.credentials.password for it in ground.checked.outbounds}
    assert keys == {wanted[HERE]}
    assert not any("DOWN" in line for line in balancer.lines)
    for server in ground.servers:
        await server.shutdown(0)
    assert not any("PROXY" in line or "ProxyProtocol" in line for line in log_lines)
