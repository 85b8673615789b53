"""The states of a provider, tor's bootstrap, and the provider of one fixed endpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from tests.backends.tor.fake_tor import BOOTSTRAPPED, STARTING
from tests.support.clocks import TurnClock
from torsocks_tx.backends.tor.ports import SocksPort
from torsocks_tx.backends.tor.provider import (
    NotStarted,
    Progress,
    ProviderState,
    TorProvider,
    parse_progress,
)
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.errors import NoSuchPort, TorDown
from torsocks_tx.relay.timeouts import WORK

ENDPOINT = TCP4ClientEndpoint(reactor, "127.0.0.1", 9050)
PORT = SocksPort(ENDPOINT, pipelined=True)


class Scripted(TorProvider):
    """A provider that does what the test says: ``script`` is called with it by ``_run``."""

    __module__ = TorProvider.__module__  # by which its log lines are found

    def __init__(self, script: Script | None = None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.waiting: Deferred[None] = Deferred()
        self.script = script
        super().__init__(self.clock)
        self.use_ports([PORT])

    async def _run(self) -> None:
        if self.script is not None:
            self.script(self)
        await self.waiting


Script = Callable[[Scripted], None]


@pytest.fixture
def provider() -> Scripted:
    """Give a provider that was started, with a port."""
    provider = Scripted()
    provider.start()
    return provider


async def test_clients_wait_while_tor_starts(provider: Scripted) -> None:
    first, second, third = (provider.when_ready() for _ in range(3))
    second.cancel()
    with pytest.raises(CancelledError):
        await second
    provider.mark_starting()
    assert not first.called
    provider.mark_ready()
    assert await first is PORT
    assert await third is PORT
    assert await provider.when_ready() is PORT
    assert provider.state is ProviderState.READY


@pytest.mark.parametrize(
    "change",
    [TorProvider.mark_ready, lambda it: it.mark_down("tor is gone"), TorProvider.stop],
    ids=["tor is ready", "tor is down", "stopped"],
)
async def test_clients_that_wait_are_told_in_several_turns_of_the_reactor(
    change: Callable[[TorProvider], object],
) -> None:
    clock, told = TurnClock(), []

    def tell(outcome: object) -> None:
        told.append(outcome)
        clock.rightNow += WORK / 10

    provider = Scripted(clock=clock)
    provider.start()
    for _ in range(100):
        provider.when_ready().addBoth(tell)
    change(provider)
    portions = [len(told)]
    while clock.turn():
        portions.append(len(told) - sum(portions))
    assert sum(portions) == 100
    assert max(portions) <= 11


async def test_clients_that_wait_are_refused_when_tor_is_down(provider: Scripted) -> None:
    waiting = [provider.when_ready(), provider.when_ready()]
    provider.mark_down("tor is gone")
    for asked in (*waiting, provider.when_ready()):
        with pytest.raises(TorDown, match="tor is gone"):
            await asked
    provider.mark_starting()
    later = provider.when_ready()
    assert not later.called
    await provider.stop()
    for asked in (later, provider.when_ready()):
        with pytest.raises(TorDown, match="stopped"):
            await asked
    provider.mark_starting()
    provider.mark_ready()
    provider.mark_down("late")
    assert provider.state is ProviderState.STOPPED
    provider.waiting = Deferred()
    provider.start()
    again = provider.when_ready()
    provider.mark_ready()
    assert await again is PORT


async def test_a_provider_that_was_never_started_says_so() -> None:
    with pytest.raises(NotStarted, match=r"never started \(call its start\(\)\)"):
        await Scripted().when_ready()


async def test_a_start_fires_when_it_has_begun_and_a_stop_when_all_is_over() -> None:
    provider = Scripted(lambda provider: provider._begun())
    assert await provider.start() is None
    with pytest.raises(RuntimeError, match="was started before"):
        provider.start()
    await provider.stop()
    await provider.stop()
    waiting = Scripted()
    started = waiting.start()
    assert not started.called
    await waiting.stop()
    assert await started is None


async def test_a_second_stop_waits_for_the_first_and_cuts_nothing_short() -> None:
    cleaning: Deferred[None] = Deferred()
    done: list[object] = []

    class Cleaning(Scripted):
        async def _run(self) -> None:
            try:
                await super()._run()
            finally:
                done.append(await cleaning)

    provider = Cleaning()
    provider.start()
    stops = [provider.stop(), provider.stop()]
    assert not any(stop.called for stop in stops)
    cleaning.callback(None)
    assert done == [None]
    assert all(stop.called for stop in stops)


async def test_an_error_before_a_start_has_begun_fails_it_and_refuses_clients() -> None:
    provider = Scripted(lambda _: {}["x"])
    started = provider.start()
    with pytest.raises(KeyError):
        await started
    assert provider.state is ProviderState.STOPPED
    with pytest.raises(TorDown):
        await provider.when_ready()


def test_an_error_after_the_start_is_logged_and_clients_are_refused(
    logged_failures: list[LogEvent], log_lines: list[str]
) -> None:
    provider = Scripted()
    provider.start()
    provider._begun()
    provider.waiting.errback(KeyError("x"))
    assert logged_failures.pop()["log_failure"].check(KeyError)
    assert provider.state is ProviderState.DOWN
    text = "tor is not followed any more; clients are refused until this program is started again"
    assert log_lines[-1] == f"warn: {text}"


@pytest.mark.parametrize("turns", [1, 2])
def test_a_provider_may_be_stopped_from_within(turns: int) -> None:
    provider = Scripted(lambda provider: provider.stop())
    started = provider.start()
    for _ in range(turns):
        provider.clock.advance(0)
    assert started.called
    assert provider.waiting.called


def test_there_is_a_usable_port_only_while_connections_can_be_made(provider: Scripted) -> None:
    assert provider.usable_port is None
    for leave in (provider.mark_starting, lambda: provider.mark_down("gone"), provider.stop):
        provider.mark_ready()
        assert provider.usable_port is PORT
        leave()
        assert provider.usable_port is None
    provider.mark_ready()
    assert provider.usable_port is None


def test_each_change_of_the_state_is_told_and_the_log_says_it_once(
    provider: Scripted, log_lines: list[str], logged_failures: list[LogEvent]
) -> None:
    told: list[str] = []
    provider.on_change(told.append)
    provider.on_change({}.__getitem__)  # which fails
    provider.mark_starting()
    provider.mark_ready()
    provider.mark_ready()
    provider.mark_down("tor is gone")
    provider.mark_starting()
    provider.mark_down("tor is gone")
    provider.mark_down("tor has no port")
    provider.mark_starting()
    provider.mark_ready()
    provider.mark_down("tor is gone")
    provider.stop()
    assert len(logged_failures) == 8
    logged_failures.clear()
    gone, no_port = (
        f"{reason}; clients are refused until tor is back"
        for reason in ("tor is gone", "tor has no port")
    )
    starting, back = "tor is starting", "tor is back"
    assert told == ["tor is ready", gone, starting, gone, no_port, starting, back, gone]
    said = [line for line in log_lines if "a listener to tor's state failed" not in line]
    assert said == [
        "info: tor is ready",
        f"warn: {gone}",
        f"warn: {no_port}",
        "info: tor is back",
        f"warn: {gone}",
    ]


async def test_a_fixed_endpoint_is_ready_from_start_to_stop(log_lines: list[str]) -> None:
    provider = FixedTorProvider(ENDPOINT, pipelined=True)
    assert provider.control is None
    with pytest.raises(TorDown):
        provider.port_for(())
    await provider.start()
    text = "without tor's control port, the first request shows whether tor is there"
    assert log_lines == [f"info: {text}"]
    port = await provider.when_ready()
    assert port == SocksPort(ENDPOINT, pipelined=True)
    assert provider.port_for(()) == provider.port_for(["IPv6Traffic"]) == port
    with pytest.raises(NoSuchPort, match="cannot be known without tor's control port"):
        provider.port_for(["NoIPv6Traffic"])
    with pytest.raises(ValueError, match="no flag"):
        provider.port_for(["NoSuchFlag"])
    await provider.stop()
    assert provider.state is ProviderState.STOPPED
    with pytest.raises(TorDown):
        await provider.when_ready()


STUCK = (
    'WARN BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay"'
    ' WARNING="Connection refused" REASON=CONNECTREFUSED COUNT=10 RECOMMENDATION={}'
    ' HOSTID="00" HOSTADDR="127.0.0.1:1"'
)

STEPS = [
    (BOOTSTRAPPED, Progress(100, "done", "Done")),
    (STARTING, Progress(45, "requesting_descriptors", "Asking for descriptors")),
    (STUCK.format("warn"), Progress(5, "conn", "Connecting to a relay", "Connection refused")),
    (STUCK.format("ignore"), Progress(5, "conn", "Connecting to a relay")),
    ("NOTICE BOOTSTRAP PROGRESS=1 NEW=2", Progress(1, "", "")),
]
NO_STEPS = [
    "",
    "NOTICE CIRCUIT_ESTABLISHED",
    "NOTICE BOOTSTRAP",
    "NOTICE BOOTSTRAP PROGRESS=much",
    'NOTICE BOOTSTRAP PROGRESS=1 SUMMARY="',
    "WARN SOCKS_BAD_HOSTNAME HOSTNAME=BOOTSTRAP PROGRESS=100",
]


@pytest.mark.parametrize(("text", "progress"), STEPS)
def test_a_step_of_the_bootstrap_is_read(text: str, progress: Progress) -> None:
    assert parse_progress(text) == progress


@pytest.mark.parametrize("text", NO_STEPS)
def test_other_events_are_no_steps_of_the_bootstrap(text: str) -> None:
    assert parse_progress(text) is None


def test_each_step_of_the_bootstrap_is_logged_once(
    provider: Scripted, log_lines: list[str]
) -> None:
    heard: list[Progress] = []
    provider.on_progress(heard.append)
    steps = [progress for text, _ in STEPS[:3] if (progress := parse_progress(text))]
    for step in (steps[2], steps[2], steps[1], steps[0], steps[0]):
        provider.note_progress(step)
    assert heard == [steps[2], steps[1], steps[0]]
    assert log_lines == [
        "warn: tor: bootstrapped 5% (Connecting to a relay): Connection refused",
        "info: tor: bootstrapped 45% (Asking for descriptors)",
        "info: tor: bootstrapped 100% (Done)",
    ]
