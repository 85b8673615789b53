"""Several processes that serve together: as processes, and the rules of their supervisor."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.support.fakes import Upstream, grant
from tests.support.ground import Ground
from tests.support.peers import GRANTED, named
from tests.support.processes import descendants, is_alive, process_ended
from tests.support.rows import rows
from tests.support.running import Twistd
from torsocks_tx.twistd import supervisor as module
from torsocks_tx.twistd.binding import StartError
from torsocks_tx.twistd.listen import parse_listener
from torsocks_tx.twistd.supervisor import QUICK, QUICK_FAILURES, Supervisor

LOOPBACK = "tcp:0:interface=127.0.0.1"


def workers_of(server: Twistd) -> list[int]:
    return [pid for pid in descendants(server.pid) if is_alive(pid)]


class Site:
    """A server with two workers in front of a fake tor, and what that was asked."""

    def __init__(self, ground: Ground, directory: Path) -> None:
        self.ground = ground
        self.upstream = Upstream(grant)
        self._directory = directory
        self._port = 0

    async def start(self, *more: str) -> Twistd:
        tor = self.ground.address(await self.ground.listen(self.upstream))
        place = f"unix:{tor}" if isinstance(tor, str) else f"tcp:{tor[0]}:{tor[1]}"
        self.server = Twistd(
            "--listen", LOOPBACK, "--listen", f"unix:{self._directory / 's'}", "--tor-socks", place,
            "--workers", "2", *more, directory=self._directory, listeners=2,
        )  # fmt: skip
        await self.server.said("worker 1: serving up to")
        await self.server.said("worker 2: serving up to")
        self._port = int(self.server.addresses[0].rpartition(":")[2])
        return self.server

    async def ask(self, *, unix: bool = False) -> Any:
        """Open a stream; return its two ends."""
        place: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        if unix:
            place = UNIXClientEndpoint(reactor, str(self._directory / "s"))
        number = len(self.upstream.peers)
        client = await self.ground.connect(place)
        assert await client.negotiate(named("example.com", 80)) == GRANTED
        return client, await self.upstream.asked(number)


@pytest_twisted.async_yield_fixture
async def site(tmp_path: Path) -> Any:
    """Give a site; whatever happens, its server is ended."""
    ground = Ground("tcp", tmp_path)
    site = Site(ground, tmp_path)
    yield site
    await site.server.stop()
    await ground.close()


@rows("S-08")
@pytest_twisted.ensureDeferred
async def test_two_workers_share_the_listeners_and_the_isolation(site: Site) -> None:
    server = await site.start()
    first, second = workers_of(server)
    passwords = set()
    for stopped in (first, second):
        # Stopped, one worker leaves all to the other.
        os.kill(stopped, signal.SIGSTOP)
        client, leg = await site.ask()
        passwords.add(leg.credentials)
        client.send(b"ping")
        assert await leg.take(4) == b"ping"
        os.kill(stopped, signal.SIGCONT)
        client.reset()
    assert len(passwords) == 1
    unix, leg = await site.ask(unix=True)
    assert leg.credentials not in passwords
    unix.reset()
    assert (site._directory / "s").stat().st_mode & 0o777 == 0o600
    assert await server.stop() == -signal.SIGTERM
    assert not is_alive(first)
    assert not is_alive(second)
    assert not (site._directory / "s").exists()
    assert "Traceback" not in server.output


@pytest_twisted.ensureDeferred
async def test_a_worker_that_is_killed_is_replaced(site: Site) -> None:
    server = await site.start()
    before = workers_of(server)
    os.kill(before[0], signal.SIGKILL)
    await server.said("another is started")
    client, _ = await site.ask()
    client.reset()
    await process_ended(before[0])
    assert await server.stop() == -signal.SIGTERM


@pytest_twisted.ensureDeferred
async def test_a_signal_to_all_of_them_is_an_orderly_end(site: Site) -> None:
    server = await site.start()
    workers = workers_of(server)
    for pid in workers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert await server.stop() == -signal.SIGTERM
    for pid in workers:
        await process_ended(pid)
    assert "Traceback" not in server.output


@pytest_twisted.ensureDeferred
async def test_workers_end_with_a_supervisor_that_is_killed(site: Site) -> None:
    server = await site.start()
    workers = workers_of(server)
    assert len(workers) == 2
    os.kill(server.pid, signal.SIGKILL)
    for pid in workers:
        await process_ended(pid)


@pytest_twisted.ensureDeferred
async def test_sighup_starts_them_anew_and_streams_go_on(site: Site) -> None:
    server = await site.start("--shutdown-grace", "60")
    before = workers_of(server)
    client, leg = await site.ask()
    os.kill(server.pid, signal.SIGHUP)
    await server.said("started anew")
    await server.said("1 connections have 60 s to end")
    client.send(b"still there")
    assert await leg.take(11) == b"still there"
    late, _ = await site.ask()
    # A FIN would let the streams linger.
    late.reset()
    client.reset()
    for pid in before:
        await process_ended(pid)
    assert len(workers_of(server)) == 2


class Process:
    """What a process protocol has as its transport."""

    def __init__(self) -> None:
        self.written = b""
        self.asked: list[str] = []

    def write(self, data: bytes) -> None:
        self.written += data

    def closeStdin(self) -> None:
        self.asked.append("stop")

    def signalProcess(self, name: str) -> None:
        if "ended" in self.asked:
            raise ProcessExitedAlready
        self.asked.append(name)


class Nursery(Clock):
    """A reactor that only pretends to start processes."""

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[Any] = []
        self.stopped = False

    def spawnProcess(self, protocol: Any, *_: Any, childFDs: Any, **__: Any) -> None:
        assert childFDs == {0: "w", 1: "r", 2: "r", 3: 77}
        process = protocol.transport = Process()
        self.spawned.append(protocol)
        protocol.connectionMade()
        assert process.written.endswith(b"\n")

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        call(*arguments)

    def stop(self) -> None:
        self.stopped = True


class Port:
    """A listening port."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def fileno(self) -> int:
        return 77

    def stopReading(self) -> None:
        self.asked.append("stopReading")

    def stopListening(self) -> None:
        self.asked.append("stopListening")


class Tor:
    """An upstream that was started here."""

    def __init__(self, outcome: Deferred[None]) -> None:
        self.outcome = outcome
        self.stopped = False

    def start(self) -> Deferred[None]:
        return self.outcome

    def stop(self) -> Deferred[None]:
        self.stopped = True
        return succeed(None)

    def control_address(self) -> str:
        return "unix:/control"


class Team:
    """A supervisor of two, in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tor: Tor | None = None) -> None:
        self.nursery = Nursery()
        self.port = Port()
        self.left = 0
        monkeypatch.setattr(module, "bind", lambda *_, **__: self.port)
        monkeypatch.setattr(module, "exit_with_failure", self.leave)
        self.supervisor = Supervisor(
            self.nursery, [parse_listener(LOOPBACK)], ["--debug"], tor,
            authenticated=False, workers=2, grace=5,
        )  # fmt: skip
        self.supervisor.startService()

    def leave(self) -> None:
        self.left += 1

    @property
    def spawned(self) -> list[Any]:
        return self.nursery.spawned

    def run(self, *numbers: int) -> None:
        """Let these processes say that they run."""
        for number in numbers:
            self.spawned[number].outReceived(b"serving up to 7 clients at one time\n")

    def end(self, number: int) -> None:
        self.spawned[number].transport.asked.append("ended")
        self.spawned[number].processEnded(Failure(ProcessTerminated(signal=9)))


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give back the handlers that a supervisor takes."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class TestRules:
    def test_nobody_is_accepted_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        team = Team(monkeypatch)
        assert team.port.asked == ["stopReading"]
        assert [worker.number for worker in team.spawned] == [1, 2]

    def test_all_have_the_same_orders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        team = Team(monkeypatch)
        first, second = (json.loads(worker.transport.written) for worker in team.spawned)
        assert first == second
        assert len(bytes.fromhex(first["secret"])) == 32
        assert {**first, "secret": ""} == {
            "arguments": ["--debug"], "listeners": 1, "secret": "", "share": 2, "tor": None,
        }  # fmt: skip

    def test_a_tor_of_ours_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tor = Tor(Deferred())
        team = Team(monkeypatch, tor)
        assert team.spawned == []
        tor.outcome.callback(None)
        assert json.loads(team.spawned[0].transport.written)["tor"] == "unix:/control"

    def test_without_it_there_is_no_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        team = Team(monkeypatch, Tor(fail(RuntimeError("no tor"))))
        team.nursery.advance(0)
        assert team.nursery.stopped
        assert team.left == 1

    def test_an_end_after_long_is_mended_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        team = Team(monkeypatch)
        team.nursery.advance(QUICK)
        team.end(0)
        team.nursery.advance(0)
        assert [worker.number for worker in team.spawned] == [1, 2, 1]

    def test_quick_ends_are_mended_ever_later_and_then_no_more(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        team = Team(monkeypatch)
        for failures in range(1, QUICK_FAILURES):
            team.end(len(team.spawned) - 1)
            delay = 0.1 * 2**failures
            team.nursery.advance(delay * 0.99)
            assert len(team.spawned) == failures + 1
            team.nursery.advance(delay * 0.02)
            assert len(team.spawned) == failures + 2
        team.end(len(team.spawned) - 1)
        team.nursery.advance(0)
        assert team.nursery.stopped
        assert team.left == 1

    def test_old_ones_leave_once_the_new_ones_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        team = Team(monkeypatch)
        team.supervisor._hangup(signal.SIGHUP, None)
        assert [worker.number for worker in team.spawned] == [1, 2, 1, 2]
        team.run(2)
        assert [worker.transport.asked for worker in team.spawned] == [["stop"], [], [], []]
        team.end(0)
        assert len(team.spawned) == 4
        # A new one that fails leaves the old one where it is, until another has come.
        team.end(3)
        assert team.spawned[1].transport.asked == []
        team.nursery.advance(1)
        team.run(4)
        assert team.spawned[1].transport.asked == ["stop"]

    def test_old_ones_see_which_keys_have_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        team = Team(monkeypatch)
        team.run(0)
        team.supervisor.restart()
        # One that does not run yet has given tor no keys.
        assert [worker.transport.asked for worker in team.spawned] == [["HUP"], [], [], []]
        team.run(1, 3)
        team.supervisor.restart()
        asked = [worker.transport.asked for worker in team.spawned]
        assert asked == [["HUP", "HUP"], ["stop", "HUP"], [], ["HUP"], [], []]

    def test_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tor = Tor(succeed(None))
        team = Team(monkeypatch, tor)
        done: list[Any] = []
        team.supervisor.stopService().addCallback(done.append)
        assert [worker.transport.asked for worker in team.spawned] == [["stop"], ["stop"]]
        team.end(0)
        assert not tor.stopped
        # One that is stuck is killed, and so are all at a second Ctrl-C.
        team.supervisor._hurry(signal.SIGINT, None)
        team.nursery.advance(15)
        assert team.spawned[1].transport.asked == ["stop", "KILL", "KILL"]
        assert not done
        team.end(1)
        assert done
        assert tor.stopped
        assert team.port.asked[-1] == "stopListening"
        assert team.nursery.getDelayedCalls() == []

    def test_after_it_nobody_is_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tor = Tor(Deferred())
        team = Team(monkeypatch, tor)
        team.supervisor.stopService()
        tor.outcome.callback(None)
        assert team.spawned == []

    def test_a_listener_that_cannot_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise StartError("no")

        team = Team(monkeypatch)
        monkeypatch.setattr(module, "bind", refuse)
        with pytest.raises(SystemExit):
            team.supervisor.privilegedStartService()


@pytest_twisted.ensureDeferred
async def test_a_worker_is_not_for_people() -> None:
    from tests.support.processes import start_python

    program = start_python("-m", "torsocks_tx.twistd.worker")
    program.transport.closeStdin()
    await program.complaint("start this by twistd torsocks --workers")
    assert await program.end() == 1
