"""HAProxy in front of two servers with two workers each, over a pool of three tors."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from tests.network.asking import DEADLINE, Asker, becomes_true, request
from tests.support.clients import client
from tests.support.peers import PeerFactory
from tests.support.processes import ROOT, Program, descendants, is_alive, process_ended
from tests.support.running import Twistd
from torsocks_tx.policy.isolation import IsolationFlags, Isolator, isolation_key
from torsocks_tx.testing.tornet import PrivateNetwork
from torsocks_tx.testing.tornet.client import Client, StreamWatch
from torsocks_tx.testing.tornet.node import all_of
from torsocks_tx.twistd.options import Options

pytestmark = pytest.mark.network

CONFIG = ROOT / "contrib" / "haproxy" / "haproxy.cfg"
AT_ONCE = 100
"""Streams that are begun at one time."""


class Stream(Asker):
    """One stream, to a server that echoes."""

    _echo: Deferred[bool] | None = None

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.received:
            self.received = b""
            self._answer(True)

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self._answer(False)

    def _answer(self, is_alive: bool) -> None:
        echo, self._echo = self._echo, None
        if echo is not None:
            echo.callback(is_alive)

    def ping(self) -> Deferred[bool]:
        """Send a byte; fire with whether it came back before the stream was lost."""
        self._echo = echo = Deferred()
        if self.lost.called:
            self._answer(False)
        else:
            self.transport.write(b"x")
        return echo.addTimeout(DEADLINE, reactor)


class Server:
    """One server with two workers, and its status page."""

    def __init__(self, address: str, directory: Path, tors: list[Client]) -> None:
        self._address = address
        self._directory = directory
        self._tors = [word for tor in tors for word in ("--tor", tor.control_endpoint)]
        self.port = self.status_port = "0"

    async def start(self) -> None:
        """Start it, or start it again at the same ports."""
        place = f"interface={self._address}"
        flags = "ProxyProtocol=127.0.0.1 Name=socks"
        self.program = Twistd(
            *("--listen", f"tcp:{self.port}:{place} {flags}"),
            *("--status", f"tcp:{self.status_port}:{place}"),
            *("--workers", "2", "--drain-delay", "10", "--shutdown-grace", "1"),
            *("--isolation-secret-file", str(self._directory / "secret"), *self._tors),
            directory=self._directory,
        )
        await self.program.said("2 workers serve")
        self.port, self.status_port = (
            re.search(rf"{name} at {self._address}:(\d+)", self.program.output)[1]  # type: ignore[index]
            for name in ("SOCKS5", "status page")
        )

    @property
    def workers(self) -> list[int]:
        """The processes of its workers."""
        return [pid for pid in descendants(self.program.pid) if is_alive(pid)]

    async def status(self) -> Any:
        """Return what its status page says."""
        endpoint = TCP4ClientEndpoint(reactor, self._address, int(self.status_port))
        peer: Any = await endpoint.connect(PeerFactory())
        peer.send(b"GET /status.json HTTP/1.0\r\nHost: localhost\r\n\r\n")
        _, _, body = (await peer.take_rest()).partition(b"\r\n\r\n")
        peer.close()
        return json.loads(body)

    async def streams(self) -> int:
        """Return how many streams are open there."""
        return sum(each["streams"] for each in (await self.status())["listeners"])

    async def has_workers(self) -> bool:
        """Whether two workers serve."""
        return len(self.workers) == (await self.status())["workers"] == 2

    async def is_ready(self) -> bool:
        """Whether it sees all its tors."""
        tors = (await self.status())["tors"]
        return [tor["state"] for tor in tors] == ["ready"] * 3


class Site:
    """Three tors, two servers, HAProxy, and the streams of many clients."""

    def __init__(self, network: PrivateNetwork, directory: Path) -> None:
        self.network = network
        self.directory = directory
        self.tors: list[Client] = []
        self.servers: list[Server] = []
        self.balancer = Program()
        self.streams: dict[Stream, str] = {}
        self.watches: list[tuple[Client, StreamWatch]] = []
        self.refusals: list[float] = []
        self._turns = DeferredSemaphore(AT_ONCE)

    async def start(self) -> None:
        for _ in range(3):
            self.tors.append(await self.network.add_client())
            await self.watch(self.tors[-1])
        with pytest.raises(SystemExit):
            Options().parseOptions(["--new-isolation-secret", str(self.directory / "secret")])
        self.servers = [Server(f"127.0.9.{i}", self.directory, self.tors) for i in (1, 2)]
        await all_of(server.start() for server in self.servers)
        config = CONFIG.read_text()
        config = re.sub("    server three .*", "", config)
        for number, it in enumerate(self.servers, 1):
            config = re.sub(
                rf"172\.30\.0\.1{number}:1080 port 9180",
                f"127.0.9.{number}:{it.port} port {it.status_port}",
                config,
            )
        (self.directory / "haproxy.cfg").write_text(config)
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
            self._port = listening.getsockname()[1]
            command = [client("haproxy"), "-db", "-f", str(self.directory / "haproxy.cfg")]
            descriptors = {0: "w", 1: "r", 2: "r", 3: listening.fileno()}
            environment = {**os.environ, "TORSOCKS_BIND": "fd@3"}
            self.balancer.start(command, environment, descriptors=descriptors)

    async def stop(self) -> None:
        for stream in self.streams:
            stream.transport.abortConnection()
        if self.balancer.status is None:
            os.kill(self.balancer.pid, signal.SIGKILL)
            await self.balancer.end()
        for server in self.servers:
            await self.kill(server)
        await all_of(tor.node.stop() for tor in self.tors)

    async def watch(self, tor: Client) -> None:
        """Note the events of a tor from now on."""
        self.watches.append((tor, await tor.watch_streams()))

    async def kill(self, server: Server) -> None:
        """Kill all processes of a server, if it has not ended."""
        if server.program.status is not None:
            return
        ending = [server.program.pid, *server.workers]
        for pid in ending:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await gatherResults([process_ended(pid) for pid in ending])

    # The streams of clients.

    async def open(self, *addresses: str) -> None:
        """Open a stream for each of these clients; who is refused asks again at once."""
        await gatherResults([self._turns.run(self._open, address) for address in addresses])

    def _open(self, address: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open_one(address))

    async def _open_one(self, address: str) -> None:
        while True:
            stream = Stream(request("web.test", self.network.echo.port))
            proxy = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port, bindAddress=(address, 0))
            try:
                await proxy.connect(Factory.forProtocol(lambda stream=stream: stream))
                await stream.outcome.addTimeout(DEADLINE, reactor)
            except ConnectError:
                self.refusals.append(reactor.seconds())
                await deferLater(reactor, 0.1, lambda: None)
            else:
                self.streams[stream] = address
                return

    async def lost(self) -> Counter[str]:
        """Have every stream echo; return the clients of those that cannot, and forget these."""
        before = list(self.streams.items())
        alive = await gatherResults([stream.ping() for stream, _ in before])
        gone = [it for it, is_alive in zip(before, alive, strict=True) if not is_alive]
        for stream, _ in gone:
            del self.streams[stream]
        return Counter(address for _, address in gone)

    # What tor says.

    def key(self, address: str) -> str:
        """Return what a client is known by to every tor, whichever server it came by."""
        secret = (self.directory / "secret").read_bytes()
        what = request("web.test", self.network.echo.port)
        parts = isolation_key(IsolationFlags(), "socks", address, what)
        return Isolator(secret).credentials(parts).password.decode()

    def open_in(self, tor: Client) -> Counter[str]:
        """Return the keys of the streams that are open in a tor since it was started last."""
        watch = [each for its, each in self.watches if its is tor][-1]
        keys, found = {}, {}
        for event in watch.events:
            keys[event.stream_id] = event.socks_password or keys.get(event.stream_id, "")
            if event.status == "SUCCEEDED":
                found[event.stream_id] = keys[event.stream_id]
            elif event.status in ("CLOSED", "FAILED"):
                found.pop(event.stream_id, None)
        return Counter(found.values())

    def circuits(self) -> dict[tuple[int, int], set[str]]:
        """Return the keys of the streams that used each circuit of each run of a tor."""
        used: dict[tuple[int, int], set[str]] = defaultdict(set)
        for run, (_, watch) in enumerate(self.watches):
            for event in watch.events:
                if event.circuit_id and event.socks_password:
                    used[run, event.circuit_id].add(event.socks_password)
        return used

    def tors_ready(self) -> Deferred[None]:
        """Fire when both servers see all three tors."""
        return becomes_true(self._all_ready)

    async def _all_ready(self) -> bool:
        return all([await server.is_ready() for server in self.servers])


@pytest_twisted.async_yield_fixture
async def site(private_network: PrivateNetwork, tmp_path: Path) -> AsyncIterator[Site]:
    """Give a site; whatever happens, all of it is ended."""
    made = Site(private_network, tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


Outcome = tuple[Counter[str], Callable[[], Awaitable[Any]]]
"""The clients of the streams that were lost, and what starts again what has ended."""


async def survive(site: Site, clients: list[str], streams: int, victims: str) -> dict[str, Any]:
    """Kill one after the other, and see what is lost; return what was measured.

    ``victims``: a letter for each: tor, server, worker (the first of its kind, then the second and
    so on), or drained server.
    """
    await site.tors_ready()
    await site.open(*clients * streams)
    assert await site.lost() == Counter()
    assert all([await server.streams() for server in site.servers])
    measured: dict[str, Any] = {"lost": [], "refused": []}
    seen: Counter[str] = Counter()
    for victim in victims:
        number, site.refusals = seen[victim], []
        seen[victim] += 1
        began = reactor.seconds()
        lost, start_again = await END[victim](site, number)
        await site.open(*lost.elements())
        assert await site.lost() == Counter()
        await start_again()
        await site.tors_ready()
        measured["lost"].append((victim, lost.total()))
        measured["refused"].append(max(site.refusals, default=began) - began)
    await site.open(*clients)
    used = site.circuits()
    assert {len(keys) for keys in used.values()} == {1}
    keys = [site.key(address) for address in clients]
    assert {*keys} <= {key for each in used.values() for key in each}
    circuits = Counter((run, key) for (run, _), (key,) in used.items() if key in keys)
    measured["circuits"] = Counter(circuits.values())
    return measured


async def end_tor(site: Site, number: int) -> Outcome:
    """Kill a tor: the streams that it has open are lost, and no others."""
    tor = site.tors[number]
    expected = site.open_in(tor)
    tor.node.kill()
    await tor.node.when_exited()
    lost = await site.lost()
    assert Counter({site.key(address): count for address, count in lost.items()}) == expected

    async def start_again() -> None:
        await site.network.restart(tor.name)
        await site.watch(tor)

    return lost, start_again


async def end_server(site: Site, number: int) -> Outcome:
    """Kill a server: the streams that it has open are lost, and no others."""
    server = site.servers[number]
    expected = await server.streams()
    await site.kill(server)
    lost = await site.lost()
    assert lost.total() == expected
    return lost, server.start


async def end_worker(site: Site, number: int) -> Outcome:
    """Kill the oldest worker of a server: only streams of that server are lost."""
    which = number // 2
    server = site.servers[which]
    before = [await each.streams() for each in site.servers]
    pid = server.workers[0]
    os.kill(pid, signal.SIGKILL)
    await process_ended(pid)
    lost = await site.lost()
    before[which] -= lost.total()
    assert [await each.streams() for each in site.servers] == before
    return lost, lambda: becomes_true(server.has_workers)


async def drain_server(site: Site, _number: int) -> Outcome:
    """Stop the busier server in order: nobody is refused; its streams end with their grace."""
    counts = [await server.streams() for server in site.servers]
    expected, number = max((count, number) for number, count in enumerate(counts))
    server = site.servers[number]
    server.program.transport.signalProcess("TERM")
    await server.program.said("clients may come for 10 s more")
    await site.open("127.0.8.1")
    assert await server.program.end() == -signal.SIGTERM
    lost = await site.lost()
    assert lost.total() in (expected, expected + 1)
    assert site.refusals == []
    return lost, server.start


END = {"t": end_tor, "s": end_server, "w": end_worker, "d": drain_server}


@pytest.mark.clients("haproxy")
async def test_only_streams_of_what_was_killed_are_lost(site: Site) -> None:
    clients = [f"127.0.8.{number}" for number in range(1, 41)]
    measured = await survive(site, clients, 6, "twsd")
    assert max(measured["refused"]) < 60
    # A client has one circuit in a tor, by whichever servers; tor makes another if one fails.
    assert measured["circuits"][1] > 0.8 * measured["circuits"].total()
