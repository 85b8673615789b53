"""``--status`` of a running server: sums over workers that come and go, and nothing secret."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater

from tests.support.ground import Ground
from tests.support.peers import GRANTED, Peer, PeerFactory
from tests.support.processes import descendants, is_alive
from tests.support.running import Twistd
from tests.twistd.conftest import DIRECT, LOOPBACK

PAUSE = 0.1


class Origin(Peer):
    """Sends back what comes."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


def asking(host: str, port: int) -> bytes:
    """Return a request for an IPv4 address."""
    return b"\5\1\0\1" + bytes(map(int, host.split("."))) + port.to_bytes(2, "big")


async def get(server: Twistd, ground: Ground, path: str) -> tuple[int, bytes]:
    """Ask the status page of a server."""
    await server.said("status page at ")
    place = int(server.status_page.rpartition(":")[2])
    peer = await ground.connect(TCP4ClientEndpoint(reactor, "127.0.0.1", place))
    peer.send(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = (await peer.take_rest()).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


async def report_of(server: Twistd, ground: Ground) -> Any:
    return json.loads((await get(server, ground, "/status.json"))[1])


@asynccontextmanager
async def running(directory: Path, *options: str) -> AsyncIterator[Twistd]:
    """Give a server with a status page; whatever happens, it is ended."""
    listen = f"{LOOPBACK} Name=first"
    options = ("--listen", listen, "--status", LOOPBACK, *DIRECT, *options)
    server = Twistd(*options, directory=directory)
    try:
        yield server
        assert await server.stop() == -signal.SIGTERM
        assert "Traceback" not in server.output
    finally:
        if server.status is None:
            os.kill(server.pid, signal.SIGKILL)
            await server.end()


async def until_counted(server: Twistd, ground: Ground, now: int, made: int) -> Any:
    """Wait until a report has the streams of now and all; a worker may be about to count."""
    expected = [now, now, made, made, made, 4 * made, 4 * made]
    end = reactor.seconds() + 60
    while True:
        report = await report_of(server, ground)
        [first] = report["listeners"]
        found = [first["streams"], first["connections"], first["outcomes"]["open"]]
        found += [first["connections_total"]["socks5"]]
        found += [report["open_seconds"]["clearnet"]["count"]]
        found += [report["bytes"][way] for way in ("from_clients", "to_clients")]
        if found == expected or reactor.seconds() > end:
            assert found == expected
            return report
        await deferLater(reactor, PAUSE)


async def test_sums_stay_right_while_workers_are_killed(ground: Ground, tmp_path: Path) -> None:
    origin = await ground.listen(PeerFactory(Origin))
    host, port = map(str, ground.address(origin))
    request = asking(host, int(port))
    async with running(tmp_path, "--workers", "2") as server:
        await server.said("2 workers serve")
        assert "#warn] worker 1: NO TOR" in server.output
        made, killed = 0, 3
        for number in range(killed + 1):
            clients = []
            for _ in range(60):
                client = await ground.connect(server.endpoint)
                assert await client.negotiate(request) == GRANTED
                client.send(b"ping")
                assert await client.take(4) == b"ping"
                clients.append(client)
            made += len(clients)
            report = await until_counted(server, ground, 60, made)
            assert report["listeners"][0]["name"] == "first"
            assert (report["workers"], report["worker_restarts"]) == (2, number)
            if number < killed:
                first, *_ = [pid for pid in descendants(server.pid) if is_alive(pid)]
                os.kill(first, signal.SIGKILL)
                await server.said("another is started", number + 1)
                await server.said("clients at one time", number + 3)
            for client in clients:
                client.reset()
            await until_counted(server, ground, 0, made)


async def test_health_follows_the_server_from_start_to_stop(ground: Ground, tmp_path: Path) -> None:
    async with running(tmp_path, "--shutdown-grace", "60") as server:
        await server.up()
        assert await get(server, ground, "/health") == (200, b"ready\n")
        origin = await ground.listen(PeerFactory(Origin))
        host, port = map(str, ground.address(origin))
        client = await ground.connect(server.endpoint)
        assert await client.negotiate(asking(host, int(port))) == GRANTED
        os.kill(server.pid, signal.SIGTERM)
        await server.said("stopping: open connections")
        assert await get(server, ground, "/health") == (503, b"stopping\n")
        client.reset()
        assert await server.end() == -signal.SIGTERM
