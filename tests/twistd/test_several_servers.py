"""Several servers behind one balancer: one secret for all, and an end that the balancer sees."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from stat import S_IMODE
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import Clock

from tests.support.fakes import Upstream, grant
from tests.support.ground import Ground
from tests.support.peers import GRANTED, named
from tests.support.running import Twistd
from tests.twistd.conftest import options_of
from torsocks_tx.twistd.service import TorsocksService


def new_secret(path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        options_of("--new-isolation-secret", str(path))
    assert ended.value.code == 0


@pytest.mark.usefixtures("capsys")  # strict where it is told
def test_a_new_secret_is_for_its_owner_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "secret\udcff"
    previous = os.umask(0)
    try:
        new_secret(path)
    finally:
        os.umask(previous)
    assert S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_bytes()
    assert len(secret) == 32
    assert options_of("--isolation-secret-file", str(path))["isolation-secret"] == secret
    with pytest.raises(SystemExit, match="File exists; choose another name"):
        options_of("--new-isolation-secret", str(path))
    assert path.read_bytes() == secret


@pytest.mark.parametrize(
    "fault", ["missing", "group", "others", "short", "long", "fifo", "directory"]
)
def test_a_secret_that_others_may_know_is_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "secret"
    if fault == "fifo":
        os.mkfifo(path, 0o600)
    elif fault == "directory":
        path.mkdir(0o700)
    elif fault != "missing":
        path.write_bytes(bytes({"short": 31, "long": 33}.get(fault, 32)))
        path.chmod({"group": 0o640, "others": 0o604}.get(fault, 0o600))
    with pytest.raises(SystemExit) as ended:
        options_of("--isolation-secret-file", str(path))
    said = str(ended.value)
    assert f"--isolation-secret-file '{path}': " in said
    assert ("chmod it to 600" if fault in ("group", "others") else "--new-isolation-secret") in said


def test_a_secret_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    new_secret(path)
    owner = path.stat().st_uid or 12345
    os.chown(path, owner, -1)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SystemExit, match=f"chown it to uid {owner + 1}"):
        options_of("--isolation-secret-file", str(path))


class Servers:
    """Two servers, one of them with workers, that share a secret in front of one fake tor."""

    def __init__(self, ground: Ground, directory: Path) -> None:
        self.ground = ground
        self.directory = directory
        self.upstream = Upstream(grant)
        self.running: list[Twistd] = []

    async def start(self, *options: str) -> None:
        host, port = self.ground.address(await self.ground.listen(self.upstream))
        new_secret(self.directory / "secret")
        for name, workers in (("one", "1"), ("two", "2")):
            server = Twistd(
                *("--listen", f"unix:{self.directory / name} ProxyProtocol Name=socks"),
                *("--status", f"unix:{self.directory / name}-status"),
                *("--tor-socks", f"tcp:{host}:{port}", "--workers", workers),
                *("--isolation-secret-file", str(self.directory / "secret"), *options),
                directory=self.directory,
            )
            self.running.append(server)
        for server, words in zip(self.running, ("clients at one", "2 workers serve"), strict=True):
            await server.said(words)

    async def key(self, name: str, client: str) -> bytes:
        """Return what tor hears of a client that comes by this server."""
        peer: Any = await self.ground.connect(
            UNIXClientEndpoint(reactor, str(self.directory / name))
        )
        number = len(self.upstream.peers)
        peer.send(f"PROXY TCP4 {client} 192.0.2.1 1 2\r\n".encode())
        assert await peer.negotiate(named("example.com", 80)) == GRANTED
        leg = await self.upstream.asked(number)
        peer.reset()
        assert leg.credentials is not None
        return leg.credentials[1]

    async def health(self, name: str) -> bytes:
        """Return what a balancer hears of a server's health."""
        place = UNIXClientEndpoint(reactor, f"{self.directory / name}-status")
        peer: Any = await self.ground.connect(place)
        peer.send(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer: bytes = await peer.take_rest()
        return answer.split(b" ")[1] + b" " + answer.split(b"\r\n\r\n")[1]


@pytest_twisted.async_yield_fixture
async def servers(tmp_path: Path) -> Any:
    """Give servers; whatever happens, they are ended."""
    ground = Ground("tcp", tmp_path)
    made = Servers(ground, tmp_path)
    yield made
    for server in made.running:
        if not server.ended.called:
            server.transport.signalProcess("KILL")
            await server.end()
    await ground.close()


async def test_a_client_has_one_key_on_all_servers_until_they_have_stopped(
    servers: Servers,
) -> None:
    await servers.start("--drain-delay", "600")
    keys = [
        await servers.key(name, client)
        for client in ("198.51.100.7", "198.51.100.8")
        for name in ("one", "two", "two")
    ]
    assert keys[:3] == keys[:1] * 3
    assert keys[3:] == keys[3:4] * 3
    assert keys[0] != keys[3]
    assert [await servers.health(name) for name in ("one", "two")] == [b"200 ready\n"] * 2
    for server in servers.running:
        server.transport.signalProcess("TERM")
        await server.said("stopping: clients may come for 600 s more")
    assert [await servers.health(name) for name in ("one", "two")] == [b"503 stopping\n"] * 2
    assert [await servers.key(name, "198.51.100.7") for name in ("one", "two")] == keys[:2]
    for server in servers.running:
        server.transport.signalProcess("TERM")
        assert await server.end() == -signal.SIGTERM


class Serving:
    """What a service stops; ``told`` is what it was asked for."""

    providers = ()

    def __init__(self) -> None:
        self.told: list[str] = []
        self.server = Mock()

    async def start(self) -> None:
        """Serve at once."""

    async def stop(self) -> None:
        self.told.append("stop")

    def end_grace(self) -> None:
        self.told.append("end_grace")


def test_clients_are_served_for_the_drain_delay_or_until_a_second_signal() -> None:
    clock: Any = Clock()
    clock.addSystemEventTrigger = Mock()
    clock.callWhenRunning = lambda call, *arguments: call(*arguments)
    for early in (False, True):
        serving: Any = Serving()
        service = TorsocksService(clock, serving, drain_delay=10)
        service.startService()
        ended = service.stopService()
        clock.advance(9)
        assert (serving.told, ended.called) == ([], False)
        if early:
            service.end_grace()
            assert serving.told == ["stop", "end_grace"]
        else:
            clock.advance(1)
            assert serving.told == ["stop"]
        assert ended.called
        assert clock.getDelayedCalls() == []
        with pytest.raises(RuntimeError, match="make another"):
            service.startService()


def test_a_server_that_never_served_has_no_drain_delay() -> None:
    serving: Any = Serving()
    serving.start = lambda: succeed(None).addCallback(lambda _: None)
    service = TorsocksService(Mock(), serving, drain_delay=10)
    service.stopService()
    assert serving.told == ["stop"]
