"""Several processes that serve together: as processes, and the rules of their supervisor."""

from __future__ import annotations

import atexit
import errno
import json
import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import ANY, Mock

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated, ReactorNotRunning
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.support.fakes import Upstream, grant
from tests.support.ground import Ground
from tests.support.peers import GRANTED, named, until
from tests.support.processes import descendants, is_alive, process_ended, start_python
from tests.support.rows import rows
from tests.support.running import Twistd
from tests.twistd.conftest import LOOPBACK, options_of
from torsocks_tx.backends.tor.provider import ProviderState
from torsocks_tx.policy.circuits import FRESH_RATE
from torsocks_tx.policy.fresh import CircuitCounts
from torsocks_tx.server.listen import parse_listener
from torsocks_tx.server.serving import Server
from torsocks_tx.status.registry import Registry
from torsocks_tx.twistd import service
from torsocks_tx.twistd import supervisor as module
from torsocks_tx.twistd.service import ProcessSignals, StartError, TorsocksService
from torsocks_tx.twistd.supervisor import (
    BEAT,
    COUNTS_DESCRIPTOR,
    MOST_OLD,
    QUICK,
    SILENCE,
    START_TIMEOUT,
    Supervisor,
    Unused,
    Worker,
)
from torsocks_tx.twistd.tap import make_supervisor

HELD = {signal.SIGINT, signal.SIGTERM}


def workers_of(server: Twistd) -> list[int]:
    return [pid for pid in descendants(server.pid) if is_alive(pid)]


class Site:
    """A server with two workers in front of a fake tor, and what that was asked."""

    def __init__(self, ground: Ground, directory: Path) -> None:
        self.ground = ground
        self.upstream = Upstream(grant)
        self._directory = directory

    async def start(self, *more: str, flags: str = "") -> Twistd:
        tor = self.ground.address(await self.ground.listen(self.upstream))
        place = f"unix:{tor}" if isinstance(tor, str) else f"tcp:{tor[0]}:{tor[1]}"
        self.server = Twistd(
            "--listen", LOOPBACK + flags, "--listen", f"unix:{self._directory / 's'}",
            "--tor-socks", place, "--workers", "2", *more, directory=self._directory, listeners=2,
        )  # fmt: skip
        await self.server.said("2 workers serve")
        assert "factory" not in self.server.output
        return self.server

    async def ask(self, *, unix: bool = False) -> Any:
        """Open a stream; return its two ends."""
        place: Any = self.server.endpoint
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
async def test_two_workers_share_the_listeners_and_the_isolation(site: Site) -> None:
    server = await site.start("--shutdown-grace", "0.2")
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


async def test_a_signal_to_workers_that_start_waits_until_they_have(tmp_path: Path) -> None:
    arguments = ("--listen", LOOPBACK, "--backend", "direct", "--workers", "2")
    server = Twistd(*arguments, directory=tmp_path)
    await until(lambda: len(workers_of(server)) == 2)
    for pid in workers_of(server):
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    await server.said("2 workers serve")
    assert await server.stop() == -signal.SIGTERM
    assert "Traceback" not in server.output


async def test_workers_end_with_a_supervisor_that_is_killed(site: Site) -> None:
    server = await site.start()
    workers = workers_of(server)
    assert len(workers) == 2
    os.kill(server.pid, signal.SIGKILL)
    for pid in workers:
        await process_ended(pid)


async def test_streams_outlive_the_workers_that_sighup_replaces(site: Site) -> None:
    server = await site.start("--shutdown-grace", "0")
    before = workers_of(server)
    streams = []
    for count in (1, 2):
        streams.append(await site.ask())
        os.kill(server.pid, signal.SIGHUP)
        await server.said("SIGHUP: the workers have been started anew\n", count)
        # Until they have read that, the old ones may still accept the next client.
        await server.said("replaced: open connections have 3600 s to end (1 now)", count)
        await server.said("an old worker", count)
    for client, leg in streams:
        client.send(b"still there")
        assert await leg.take(11) == b"still there"
        leg.send(bytes(1 << 20))
        assert await client.take(1 << 20) == bytes(1 << 20)
        # A FIN would let the stream linger.
        client.reset()
    for pid in before:
        await process_ended(pid)
    await server.said("an old worker", 4)
    assert len(workers_of(server)) == 2


async def test_streams_of_an_old_worker_are_reset_at_the_drain_limit(site: Site) -> None:
    server = await site.start("--drain-limit", "0.5")
    client, leg = await site.ask()
    os.kill(server.pid, signal.SIGHUP)
    await server.said("replaced: open connections have 0.5 s to end (1 now)")
    assert not await client.ended_well()
    assert not await leg.ended_well()
    await server.said("an old worker", 2)


async def test_old_workers_stop_with_the_server(site: Site) -> None:
    server = await site.start("--shutdown-grace", "0")
    before = workers_of(server)
    client, _ = await site.ask()
    os.kill(server.pid, signal.SIGHUP)
    await server.said("started anew")
    assert await server.stop() == -signal.SIGTERM
    assert not await client.ended_well()
    for pid in before:
        await process_ended(pid)


async def test_second_sigterm_ends_the_grace_by_resets(site: Site) -> None:
    server = await site.start("--shutdown-grace", "60")
    client, leg = await site.ask()
    os.kill(server.pid, signal.SIGTERM)
    await server.said("open connections have 60 s to end (1 now)")
    assert await server.stop() == -signal.SIGTERM
    assert not await client.ended_well()
    assert not await leg.ended_well()


class Process:
    """What a process protocol has as its transport."""

    def __init__(self) -> None:
        self.written = b""
        self.asked: list[Any] = []
        self.has_ended = False

    def write(self, data: bytes) -> None:
        if self.written:
            self.asked.append(data.decode().strip())
        else:
            self.written = data

    def closeStdin(self) -> None:
        self.asked.append("stop")

    def loseConnection(self) -> None:
        pass

    def signalProcess(self, number: int) -> None:
        if self.has_ended:
            raise ProcessExitedAlready
        self.asked.append(signal.Signals(number).name)


class FakeReactor(Clock):
    """A reactor that only pretends to start processes, and may fail to."""

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[Worker] = []
        self.counted_in: list[int] = []
        self.trouble: OSError | None = None
        self.stopped = False

    def spawnProcess(self, worker: Any, *_: Any, childFDs: Any, **__: Any) -> Process:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= HELD
        if self.trouble is not None:
            raise self.trouble
        assert childFDs == {0: "w", 1: "r", 2: "r", 3: "r", 4: ANY, 5: ANY, 6: 77}
        self.counted_in.append(childFDs[COUNTS_DESCRIPTOR])
        worker.transport = Process()
        self.spawned.append(worker)
        return worker.transport

    def addSystemEventTrigger(self, *_: Any) -> None:
        pass

    def callWhenRunning(self, call: Any, *arguments: Any) -> None:
        call(*arguments)

    def stop(self) -> None:
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & HELD
        if self.stopped:
            raise ReactorNotRunning
        self.stopped = True


def tor_of(outcome: Deferred[None]) -> Mock:
    """Return an upstream of two tors that are started here, with this outcome."""
    names = {"tor": "unix:/control", "tor-2": "unix:/control-2"}
    providers = [Mock(control_address=at, state=ProviderState.READY) for at in names.values()]
    tors = {name: Mock(provider=each) for name, each in zip(names, providers, strict=True)}
    stop = Mock(side_effect=lambda: succeed(None))
    return Mock(tors=tors, providers=providers, start=lambda: outcome, stop=stop, outcome=outcome)


class Team:
    """A supervisor of two workers, in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tor: Any = None) -> None:
        self.reactor = FakeReactor()
        self.port = Mock(fileno=lambda: 77)
        self.said: list[str] = []
        self.left = 0
        monkeypatch.setattr(atexit, "register", self._leave)
        monkeypatch.setattr(service, "signals", Mock(ProcessSignals))
        monkeypatch.setattr(module, "retry_delay", lambda failures: float(2**failures))
        self.counts = CircuitCounts([FRESH_RATE])
        self.supervisor = Supervisor(
            self.reactor, Server([(parse_listener(LOOPBACK), Unused())], lambda *_: self.port),
            {"directory": "/", "keys": True}, self.counts, Registry(), tor,
            is_ours=True, workers=2, grace=5, drain_limit=60,
        )  # fmt: skip
        self.service = TorsocksService(self.reactor, self.supervisor, fail=self.said.append)

    def _leave(self, _call: object) -> None:
        self.left += 1

    def start(self) -> list[Worker]:
        """Start, and have both workers ready."""
        self.service.startService()
        self.get_ready(0, 1)
        return self.spawned

    @property
    def spawned(self) -> list[Worker]:
        return self.reactor.spawned

    def get_ready(self, *numbers: int) -> None:
        for number in numbers:
            # A status comes in pieces.
            self.spawned[number].childDataReceived(3, b"re")
            self.spawned[number].childDataReceived(3, b"ady")

    def end(self, number: int, status: bytes = b"") -> None:
        worker = self.spawned[number]
        worker.childDataReceived(3, status)
        worker.transport.has_ended = True
        worker.processExited(Failure(ProcessTerminated(signal=9)))
        worker.processEnded(Failure(ProcessTerminated(signal=9)))

    def reload(self) -> Deferred[str]:
        return Deferred.fromCoroutine(self.supervisor.reload())

    def asked(self) -> list[list[str]]:
        return [worker.transport.asked for worker in self.spawned]


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Team:
    return Team(monkeypatch)


def test_supervisor_accepts_nobody() -> None:
    port = Mock()
    options = options_of("--listen", LOOPBACK, "--backend", "direct", "--workers", "2")
    make_supervisor(FakeReactor(), options, lambda *_: port).server.open()
    port.stopReading.assert_called_once_with()


def test_worker_that_is_stuck_ends_and_is_replaced(team: Team) -> None:
    team.start()
    looks = int(SILENCE / BEAT)
    for _ in range(3):
        team.reactor.pump([BEAT] * (looks - 2))
        team.reactor.advance(1000)  # a machine that slept: what comes late is not missing
        for worker in team.spawned:
            worker.childDataReceived(3, b".")
    for _ in range(looks + 1):
        team.reactor.advance(BEAT)
        team.spawned[1].childDataReceived(3, b".")
    assert team.asked() == [["SIGKILL"], []]
    team.end(0)
    team.reactor.advance(1)
    assert len(team.spawned) == 3


def test_all_workers_have_the_same_orders(team: Team) -> None:
    first, second = (json.loads(worker.transport.written) for worker in team.start())
    assert first == second
    assert len(bytes.fromhex(first["secret"])) == 32
    assert {**first, "secret": ""} == {
        "directory": "/", "keys": True, "listeners": 1, "secret": "", "share": 2,
    }  # fmt: skip


def test_workers_start_once_a_launched_tor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    tor = tor_of(Deferred())
    team = Team(monkeypatch, tor)
    team.service.startService()
    assert team.spawned == []
    tor.outcome.callback(None)
    assert json.loads(team.spawned[0].transport.written)["tors"] == [
        ["tor", "unix:/control"],
        ["tor-2", "unix:/control-2"],
    ]


@pytest.mark.parametrize("later", [False, True])
def test_tor_that_cannot_start_ends_the_start(monkeypatch: pytest.MonkeyPatch, later: bool) -> None:
    tor = tor_of(Deferred())
    team = Team(monkeypatch, tor)
    if later:
        team.service.startService()
        tor.outcome.errback(RuntimeError("no tor"))
        team.reactor.advance(0)
        assert (team.reactor.stopped, team.left) == (True, 1)
    else:
        tor.outcome.errback(RuntimeError("no tor"))
        with pytest.raises(StartError):
            team.service.startService()
    assert team.said == ["no tor"]


def test_worker_that_cannot_be_spawned_at_first_ends_the_start(team: Team) -> None:
    team.reactor.trouble = BlockingIOError(errno.EAGAIN, "Try again")
    with pytest.raises(StartError, match=r"worker 1 cannot start: .*Try again"):
        team.service.startService()
    assert len(team.said) == 1
    team.port.stopListening.assert_called_once_with()


@pytest.mark.parametrize(("number", "is_stopping"), [(0, False), (1, False), (1, True)])
def test_worker_that_ends_before_it_is_ready_ends_the_start(
    team: Team, number: int, is_stopping: bool
) -> None:
    team.service.startService()
    team.reactor.stopped = is_stopping
    team.get_ready(1 - number)
    team.end(number, b"it has no file")
    team.reactor.advance(0)
    assert team.said == [f"worker {number + 1} cannot start: it has no file"]
    assert (team.reactor.stopped, team.left) == (True, 1)


def test_worker_that_is_never_ready_is_killed(team: Team) -> None:
    team.service.startService()
    team.reactor.advance(START_TIMEOUT)
    assert team.asked() == [["SIGKILL"], ["SIGKILL"]]


def test_worker_that_ends_is_replaced_ever_later_and_for_ever(team: Team) -> None:
    team.start()
    team.end(0)
    for failures in range(8):
        delay = 2**failures
        team.reactor.advance(delay * 0.99)
        assert len(team.spawned) == failures + 2
        team.reactor.advance(delay * 0.02)
        assert len(team.spawned) == failures + 3
        team.end(-1, b"it has no file")
    assert not team.reactor.stopped


def test_delay_is_short_again_after_a_worker_that_lived_long(team: Team) -> None:
    team.start()
    team.end(0)
    team.reactor.advance(1)
    team.get_ready(2)
    team.reactor.advance(QUICK)
    team.end(2)
    team.reactor.advance(1)
    assert [worker.number for worker in team.spawned] == [1, 2, 1, 1]


@pytest.mark.parametrize("lacking", ["a process", "memory", "the second descriptor of memory"])
def test_worker_that_cannot_be_spawned_later_is_tried_again(
    lacking: str, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.start()
    before = os.listdir("/proc/self/fd")
    lack = BlockingIOError(errno.EAGAIN, "Try again")
    with monkeypatch.context() as patch:
        if lacking == "a process":
            patch.setattr(team.reactor, "trouble", lack)
        else:
            call = "memfd_create" if lacking == "memory" else "dup"
            patch.setattr(os, call, Mock(side_effect=lack))
        team.end(0)
        team.reactor.advance(1)
        team.reactor.advance(2)
        outcome: list[Any] = []
        team.reload().addBoth(outcome.append)
        assert "Try again" in str(outcome[0].value)
    assert len(os.listdir("/proc/self/fd")) <= len(before), "descriptors were left open"
    team.reactor.advance(4)
    assert [worker.number for worker in team.spawned] == [1, 2, 1]


def test_reload_replaces_one_worker_after_the_other(team: Team) -> None:
    team.start()
    outcome: list[str] = []
    team.reload().addCallback(outcome.append)
    # The old ones see at once which keys of onion services have gone.
    assert team.asked() == [["SIGHUP"], ["SIGHUP"], []]
    team.get_ready(2)
    assert team.asked() == [["SIGHUP", "drain"], ["SIGHUP"], [], []]
    team.end(0)
    assert not outcome
    team.get_ready(3)
    assert [worker.number for worker in team.spawned] == [1, 2, 1, 2]
    assert team.spawned[1].transport.asked == ["SIGHUP", "drain"]
    assert outcome == ["the workers have been started anew"]


def test_all_workers_count_circuits_and_the_epoch_in_the_same_memory(team: Team) -> None:
    team.service.startService()
    assert team.supervisor.new_identity() == "every new stream gets a fresh circuit"
    team.get_ready(0, 1)
    team.end(0)
    team.reactor.advance(4)
    assert team.reactor.counted_in == [team.counts.descriptor] * 3
    worker = CircuitCounts([FRESH_RATE], team.counts.descriptor)
    team.supervisor.new_identity()
    assert worker.epoch.word[0] == 2


async def ask_both(site: Site, server: Twistd) -> list[Any]:
    """Open a stream by each of the two workers; return the credentials that tor got."""
    found = []
    for stopped in workers_of(server):
        os.kill(stopped, signal.SIGSTOP)
        try:
            client, leg = await site.ask()
        finally:
            os.kill(stopped, signal.SIGCONT)
        found.append(leg.credentials)
        client.reset()
    return found


async def test_sigusr2_gives_fresh_circuits_in_every_worker(site: Site) -> None:
    server = await site.start("--shutdown-grace", "0.2")
    credentials = []
    for number in range(3):
        credentials.append(set(await ask_both(site, server)))
        os.kill(server.pid, signal.SIGUSR2)
        await server.said("SIGUSR2: every new stream gets a fresh circuit", number + 1)
    assert [len(each) for each in credentials] == [1, 1, 1]
    assert len(set.union(*credentials)) == 3
    assert "Traceback" not in server.output


async def test_workers_count_rotation_together_also_those_that_were_replaced(site: Site) -> None:
    server = await site.start("--shutdown-grace", "0.2", flags=" RotateAfter=3 FreshRate=2")
    first = await ask_both(site, server)
    os.kill(server.pid, signal.SIGHUP)
    await server.said("have been started anew")
    await server.until(lambda: len(workers_of(server)) == 2)
    second = await ask_both(site, server)
    third = await ask_both(site, server)
    assert first[0] == first[1] == second[0] != second[1] == third[0] == third[1]

    async def ask_more() -> None:
        for _ in range(7):  # on a slow machine the first two circuits are of an earlier minute
            await site.ask()

    with pytest.raises(AssertionError, match=r"x05.x01"):
        await ask_more()
    await server.said("fresh circuits were refused")


def test_old_workers_are_few_and_none_is_for_ever(team: Team) -> None:
    team.start()
    for generation in range(MOST_OLD + 1):
        assert all("stop" not in asked for asked in team.asked())
        team.reload()
        team.get_ready(-1)
        team.get_ready(2 * generation + 3)
    assert ["stop" in asked for asked in team.asked()].count(True) == 2
    assert team.asked()[0][-2:] == team.asked()[1][-2:] == ["SIGHUP", "stop"]
    team.reactor.advance(60 + QUICK)
    killed = ["SIGKILL" in asked for asked in team.asked()]
    assert killed == [True] * 2 * (MOST_OLD + 1) + [False] * 2


def test_worker_that_is_replaced_before_it_is_ready_is_stopped(team: Team) -> None:
    team.start()
    team.end(0)
    team.reactor.advance(1)
    team.reload()
    team.get_ready(3)
    assert team.asked()[2] == ["stop"]


def test_reload_during_the_start_disturbs_no_worker(team: Team) -> None:
    team.service.startService()
    outcome: list[Failure] = []
    team.reload().addErrback(outcome.append)
    assert outcome[0].getErrorMessage() == "the first workers are still starting"
    team.get_ready(0, 1)
    assert team.asked() == [[], []]


def test_reload_that_fails_leaves_the_old_workers(team: Team) -> None:
    team.start()
    for _ in range(3):
        outcome: list[Failure] = []
        team.reload().addErrback(outcome.append)
        team.end(-1, b"it has no file")
        assert outcome[0].getErrorMessage() == "a new worker cannot start: it has no file"
    team.reactor.advance(1000)
    assert len(team.spawned) == 5
    assert {*team.spawned[0].transport.asked, *team.spawned[1].transport.asked} == {"SIGHUP"}
    team.end(0)
    team.reactor.advance(1)
    assert len(team.spawned) == 6


def test_worker_that_ends_during_a_reload_has_one_successor(team: Team) -> None:
    team.start()
    team.reload()
    team.end(0)
    team.get_ready(2)
    team.reactor.advance(1000)
    assert [worker.number for worker in team.spawned] == [1, 2, 1, 2]


def test_stop_waits_for_the_workers_and_kills_those_that_are_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tor = tor_of(succeed(None))
    team = Team(monkeypatch, tor)
    team.start()
    done: list[Any] = []
    team.service.stopService().addCallback(done.append)
    assert team.asked() == [["stop"], ["stop"]]
    team.end(0)
    tor.stop.assert_not_called()
    team.supervisor.end_grace()
    team.reactor.advance(QUICK)
    assert team.spawned[1].transport.asked == ["stop", "SIGTERM", "SIGKILL"]
    assert not done
    team.end(1)
    assert done
    tor.stop.assert_called_once_with()
    team.port.stopListening.assert_called_once_with()
    assert team.reactor.getDelayedCalls() == []


def test_nobody_is_started_after_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    tor = tor_of(Deferred())
    team = Team(monkeypatch, tor)
    team.service.startService()
    team.service.stopService()
    tor.outcome.callback(None)
    assert team.spawned == []


async def test_a_worker_is_not_for_people() -> None:
    program = start_python("-m", "torsocks_tx.twistd.worker")
    program.transport.closeStdin()
    await program.complaint("start this by twistd torsocks --workers")
    assert await program.end() == 1
