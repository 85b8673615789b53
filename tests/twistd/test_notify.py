"""What systemd hears of the server by its notification socket, and that nothing waits for it."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock

from tests.backends.tor.fake_tor import BOOTSTRAPPED, FakeTor
from tests.support.peers import DEADLINE, PeerFactory, named, refused
from tests.support.running import Twistd
from tests.twistd.conftest import LOOPBACK
from torsocks_tx.twistd.standing import Stage, Standing, notifier_from


class Manager(DatagramProtocol):
    """What listens at NOTIFY_SOCKET."""

    noisy = False

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[str] = []
        self.every: list[str] = []
        self._waiting: Deferred[None] = Deferred()

    def datagramReceived(self, datagram: bytes, _address: object) -> None:
        self.messages.append(datagram.decode())
        self.every.append(datagram.decode())
        waiting, self._waiting = self._waiting, Deferred()
        waiting.callback(None)

    async def told(self, *lines: str) -> None:
        """Take the messages up to the first that has all these lines."""

        async def look() -> None:
            while True:
                while self.messages:
                    if {*lines} <= {*self.messages.pop(0).split("\n")}:
                        return
                await self._waiting

        await Deferred.fromCoroutine(look()).addTimeout(DEADLINE, reactor)


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """Give a manager that listens, at a socket of either kind."""
    is_file = request.param == "file"
    address = str(tmp_path / "notify") if is_file else f"@{os.urandom(8).hex()}"
    found = Manager(address)
    port = reactor.listenUNIXDatagram(address.replace("@", "\0"), found)
    yield found
    pytest_twisted.blockon(maybeDeferred(port.stopListening))


def environment(address: str, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": address, "HOME": "/root", **more}


STANDINGS = [
    (Stage.STARTING, []),
    (Stage.RELOADING, []),  # systemd knows of no reload before the first READY
    (Stage.READY, ["READY=1"]),
    (Stage.DOWN, ["READY=1"]),
    (Stage.RELOADING, ["RELOADING=1"]),
    (Stage.DOWN, ["READY=1"]),
    (Stage.STOPPING, ["STOPPING=1"]),
]


async def test_each_standing_is_told_as_systemd_wants_it(manager: Manager) -> None:
    notifier = notifier_from(Clock(), environment(manager.address))
    assert notifier is not None
    for stage, lines in STANDINGS:
        notifier(Standing(stage, "in\nwords"))
        await manager.told("STATUS=in words", *lines)
    notifier(Standing(Stage.READY, "again"))
    notifier(Standing(Stage.RELOADING, "now"))
    await manager.told("STATUS=again", "READY=1")
    while not manager.messages:
        await manager._waiting
    assert re.fullmatch(r"STATUS=now\nRELOADING=1\nMONOTONIC_USEC=\d+", manager.messages[0])


async def test_the_watchdog_is_fed_and_a_slow_start_is_no_failure(manager: Manager) -> None:
    clock = Clock()
    given = environment(manager.address, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    notifier = notifier_from(clock, given)
    assert notifier is not None
    assert given == {"HOME": "/root"}  # nothing is left for a tor that we start
    await manager.told("WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000")
    notifier(Standing(Stage.READY, "tor is ready"))
    await manager.told("READY=1")
    clock.advance(10)
    await manager.told("WATCHDOG=1")
    assert manager.messages == []


@pytest.mark.parametrize(
    "given",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"WATCHDOG_USEC": "1000000"}],
    ids=str,
)
def test_nobody_is_told_where_nobody_asks(given: dict[str, str]) -> None:
    assert notifier_from(Clock(), given) is None


@pytest.mark.parametrize(
    "watchdog", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": ""}], ids=str
)
def test_a_watchdog_of_another_process_is_not_fed(watchdog: dict[str, str]) -> None:
    clock = Clock()
    given = environment("@nobody", WATCHDOG_USEC="3000000") | watchdog
    assert notifier_from(clock, given) is not None
    assert clock.getDelayedCalls() == []


def test_a_manager_that_is_not_there_or_does_not_read_stops_nothing(tmp_path: Path) -> None:
    for place in ("/nowhere/notify", "@nobody", "/" + "x" * 200, str(tmp_path / "full")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
            silent.bind(str(tmp_path / "full"))
            notifier = notifier_from(Clock(), environment(place))
            assert notifier is not None
            for _ in range(1000):  # more than a socket holds
                notifier(Standing(Stage.READY, "tor is ready"))
        (tmp_path / "full").unlink()


@pytest.fixture
def command(manager: Manager, tor: FakeTor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the command of a server in front of a tor that a test speaks for."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    place = ("--tor", f"unix:{tor.path}", "--listen", LOOPBACK)
    return [sys.executable, "-X", "dev", "-m", "torsocks_tx", *place]


@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
async def test_the_states_of_tor_reach_systemd_and_nothing_of_a_client(
    manager: Manager, tor: FakeTor, command: list[str], tmp_path: Path
) -> None:
    server = Twistd(directory=tmp_path, command=command)
    await server.up()
    asking = "STATUS=tor: bootstrapped 45% (Asking for descriptors)"
    await manager.told(asking)
    await manager.told("WATCHDOG=1", "EXTEND_TIMEOUT_USEC=3000000")
    tor.event(f"STATUS_CLIENT {BOOTSTRAPPED}")
    await manager.told("READY=1", "STATUS=tor is ready")
    client: Any = await server.endpoint.connect(PeerFactory())
    client.send(b"\5\1\2\1\7qzjxusr\7qzjxpwd" + named("qzjx.example", 80))
    assert await client.take_rest() == b"\5\2\1\0" + refused(1)
    await tor.stop()
    gone = "tor is gone (the control connection is lost); clients are refused until tor is back"
    await manager.told("READY=1", f"STATUS={gone}")
    server.transport.signalProcess(signal.SIGHUP)
    await manager.told("RELOADING=1", "STATUS=reading files again")
    await manager.told("READY=1", f"STATUS={gone}")
    tor.info["status/bootstrap-phase"] = BOOTSTRAPPED
    await tor.listen()
    await manager.told("STATUS=tor is back")
    await manager.told("WATCHDOG=1")
    server.transport.signalProcess("TERM")
    await manager.told("STOPPING=1", "STATUS=stopping")
    assert await server.end() == 0
    client.close()
    told = "\n".join(manager.every) + server.output
    assert f"READY=1\n{asking}" not in told
    for secret in ("qzjx", "127.0.0.1:1"):
        assert secret not in told


@pytest.mark.parametrize("manager", ["file"], indirect=True)
async def test_the_supervisor_of_workers_tells_systemd_for_them(
    manager: Manager, tor: FakeTor, command: list[str], tmp_path: Path
) -> None:
    server = Twistd(directory=tmp_path, command=[*command, "--workers", "2"])
    await server.up()
    await manager.told("STATUS=tor: bootstrapped 45% (Asking for descriptors)")
    await server.said("2 workers serve")
    assert not any("READY=1" in message for message in manager.messages)
    tor.event(f"STATUS_CLIENT {BOOTSTRAPPED}")
    tor.info["status/bootstrap-phase"] = BOOTSTRAPPED
    await manager.told("READY=1")
    variables = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for child in variables:
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{child}/environ").read_bytes()
    server.transport.signalProcess(signal.SIGHUP)
    await manager.told("RELOADING=1")
    await manager.told("READY=1")
    await manager.told("WATCHDOG=1")
    server.transport.signalProcess("TERM")
    await manager.told("STOPPING=1")
    assert await server.end() == 0
