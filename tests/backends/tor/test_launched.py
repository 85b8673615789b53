"""The provider that starts a tor: its torrc, a scripted tor, and a real one without network."""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from tests.backends.tor import scripted_tor
from tests.backends.tor.real_tor import NO_NETWORK, UNREACHABLE
from tests.backends.tor.test_daemon import ENDED_BY_ITSELF
from tests.backends.tor.test_process import no_descriptors
from tests.backends.tor.test_running import Delays, connect_to, state_of
from tests.support.peers import until
from tests.support.processes import is_alive, process_ended, start_python, write_program
from torsocks_tx.backends.tor import files, launched
from torsocks_tx.backends.tor.daemon import TorNotFound
from torsocks_tx.backends.tor.files import DirectoryError
from torsocks_tx.backends.tor.launched import (
    QUICK_FAILURES,
    LaunchedTorProvider,
    LaunchError,
    complaint,
    policy_sets,
    torrc_lines,
)
from torsocks_tx.backends.tor.process import SpawnError
from torsocks_tx.backends.tor.provider import ProviderState
from torsocks_tx.errors import NoSuchPort, TorDown

network = pytest.mark.network
OFFLINE = [tuple(line.split(" ", 1)) for line in NO_NETWORK]
ALONE = [tuple(line.split(" ", 1)) for line in UNREACHABLE]

Make = Callable[..., LaunchedTorProvider]


@pytest.fixture
def program(tmp_path: Path) -> str:
    """Give the path of a scripted program in tor's place."""
    return write_program(tmp_path / "tor", sys.executable, "-I", "-S", scripted_tor.__file__)


@pytest_twisted.async_yield_fixture
async def launch(tmp_path: Path) -> AsyncIterator[Make]:
    """Give a maker of providers; they are stopped at the end, and nothing may be left of them."""
    made: list[LaunchedTorProvider] = []

    def make(*torrc_options: tuple[str, str], **options: object) -> LaunchedTorProvider:
        provider = LaunchedTorProvider(
            reactor, tmp_path / "data", torrc_options, **{"delays": Delays(), **options}
        )
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.stop()


def pid_of(provider: LaunchedTorProvider) -> int:
    daemon = provider._daemon
    assert daemon is not None
    assert daemon.pid is not None
    return daemon.pid


def socket_directory_of(provider: LaunchedTorProvider) -> Path:
    assert provider._sockets is not None
    return provider._sockets


async def test_a_launched_tor_is_ready_when_it_is_bootstrapped(
    launch: Make, program: str, log_lines: list[str], tmp_path: Path
) -> None:
    provider = launch(tor_binary=program)
    heard: list[str] = []
    provider.on_progress(lambda progress: heard.append(str(progress)))
    started = provider.start()
    assert provider.state is ProviderState.STARTING
    port = await provider.when_ready()
    await started
    assert provider.state is ProviderState.READY
    assert provider.port_for(()) == port
    assert (port.pipelined, port.flags) == (True, frozenset())
    assert provider.control is not None
    assert any("TAKEOWNERSHIP" in line for line in provider._daemon.last_lines)
    assert heard == ["bootstrapped 100% (Done)"]
    assert log_lines == ["info: tor: bootstrapped 100% (Done)", "info: tor is ready"]
    pid, sockets = pid_of(provider), socket_directory_of(provider)
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    await provider.stop()
    assert provider.state is ProviderState.STOPPED
    assert provider.control is None
    assert not is_alive(pid)
    assert not sockets.exists()
    assert (tmp_path / "data").exists()
    with pytest.raises(TorDown):
        await provider.when_ready()
    await provider.stop()
    await provider.start()
    await provider.when_ready()


async def test_a_tor_that_is_killed_is_started_again(
    launch: Make, program: str, log_lines: list[str]
) -> None:
    provider = launch(tor_binary=program)
    await provider.start()
    port = await provider.when_ready()
    first = pid_of(provider)
    os.kill(first, signal.SIGKILL)
    await state_of(provider, ProviderState.STARTING)
    asked = provider.when_ready()
    assert await asked == port, "at the same place"
    assert pid_of(provider) != first
    assert [line for line in log_lines if "ended" in line] == [
        "warn: tor has ended (SIGKILL); it is started again in 0.0 s"
    ]
    assert log_lines[-1] == "info: tor is ready"


async def test_a_tor_that_dies_again_and_again_is_down(
    launch: Make, program: str, log_lines: list[str]
) -> None:
    delays = Delays()
    provider = launch(("Nickname", "dying"), tor_binary=program, delays=delays)
    starting = provider.start()
    await state_of(provider, ProviderState.DOWN)
    await starting
    assert delays.failures[:QUICK_FAILURES] == list(range(QUICK_FAILURES))
    with pytest.raises(TorDown, match="has ended 5 times soon after its start"):
        await provider.when_ready()
    down = [line for line in log_lines if "clients are refused" in line]
    assert len(down) == 1
    await until(lambda: len(delays.failures) > QUICK_FAILURES + 1)
    assert provider.state in (ProviderState.DOWN, ProviderState.READY)


async def test_the_end_of_a_tor_that_lived_long_is_no_failure(
    launch: Make, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launched, "QUICK", 0.0)
    delays = Delays()
    provider = launch(("Nickname", "dying"), tor_binary=program, delays=delays)
    await provider.start()
    await until(lambda: len(delays.failures) > QUICK_FAILURES)
    assert set(delays.failures) == {0}


async def test_a_tor_that_cannot_be_controlled_fails_the_start(
    launch: Make, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launched, "START_TIMEOUT", 0.2)
    provider = launch(("Nickname", "mute"), tor_binary=program)
    with pytest.raises(LaunchError, match="tor runs, but cannot be controlled: tor's control port"):
        await provider.start()
    assert provider.state is ProviderState.STOPPED
    assert provider._daemon is None


async def test_a_start_without_tor_or_without_processes_fails_and_leaves_nothing(
    launch: Make, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    provider = launch(tor_binary=str(tmp_path / "none"))
    with pytest.raises(TorNotFound, match="is not an executable program"):
        await provider.start()
    provider = launch(tor_binary=program)
    with no_descriptors(), pytest.raises((SpawnError, DirectoryError), match="Too many open"):
        await provider.start()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(SpawnError, match="/nonexistent/python cannot be started"):
        await provider.start()
    assert provider.state is ProviderState.STOPPED
    assert not list(tmp_path.glob(f"{files.PREFIX}*"))


async def test_a_program_that_is_no_program_fails_the_start(launch: Make, tmp_path: Path) -> None:
    (tmp_path / "tor").write_bytes(b"\x7fELF")
    (tmp_path / "tor").chmod(0o755)
    with pytest.raises(LaunchError, match=r"\(status 127\): .*/tor: Exec format error"):
        await launch(tor_binary=str(tmp_path / "tor")).start()


@contextmanager
def moved_away(program: str) -> Iterator[None]:
    """Move the program away for a while."""
    away = Path(program).rename(program + ".away")
    yield
    away.rename(program)


@pytest.mark.parametrize("why_not", [moved_away, lambda _: no_descriptors()])
async def test_a_tor_that_cannot_be_started_again_is_a_failure_and_tried_again(
    launch: Make, program: str, log_lines: list[str], why_not: Any
) -> None:
    delays = Delays()
    provider = launch(tor_binary=program, delays=delays)
    await provider.start()
    await provider.when_ready()
    pid = pid_of(provider)
    with why_not(program):
        os.kill(pid, signal.SIGKILL)
        await state_of(provider, ProviderState.DOWN)
    await state_of(provider, ProviderState.READY)
    assert delays.failures[:QUICK_FAILURES] == list(range(QUICK_FAILURES))
    assert sum("tor cannot be started" in line for line in log_lines) >= QUICK_FAILURES - 1


async def test_a_launched_tor_can_be_stopped_while_it_starts(launch: Make, program: str) -> None:
    provider = launch(("Nickname", "mute"), tor_binary=program)
    starting = provider.start()
    await until(lambda: provider._daemon is not None and provider._daemon.pid is not None)
    pid, sockets = pid_of(provider), socket_directory_of(provider)
    await provider.stop()
    await starting
    assert not is_alive(pid)
    assert not sockets.exists()
    again = launch(tor_binary=program)
    starting = again.start()
    sockets = socket_directory_of(again)
    await again.stop()
    await starting
    assert not sockets.exists()


async def test_a_port_for_each_policy(launch: Make, program: str) -> None:
    provider = launch(tor_binary=program, policies=[("NoIPv6Traffic",), ("OnionTrafficOnly",)])
    await provider.start()
    plain, no_ipv6 = provider.port_for(()), provider.port_for(["noipv6traffic"])
    assert plain == await provider.when_ready()
    assert no_ipv6.flags == {"NoIPv6Traffic"}
    assert no_ipv6.endpoint is not plain.endpoint
    assert provider.port_for(["OnionTrafficOnly"]).flags >= {"NoIPv4Traffic", "NoIPv6Traffic"}
    with pytest.raises(NoSuchPort, match="without a SocksPort for NoOnionTraffic: add that"):
        provider.port_for(["NoOnionTraffic"])


@network
async def test_a_real_tor_is_launched_killed_and_launched_again(
    launch: Make, tmp_path: Path, log_lines: list[str]
) -> None:
    policies = [("NoIPv6Traffic",), ("OnionTrafficOnly",), ("NoIPv4Traffic", "NoIPv6Traffic")]
    provider = launch(*ALONE, ("Nickname", "unused"), policies=policies)
    await provider.start()
    assert provider.state is ProviderState.STARTING
    first = pid_of(provider)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    ports = [provider.port_for(flags) for flags in ((), *policies)]
    for port in ports:
        await connect_to(port)
    assert provider.control is not None
    listeners = await provider.control.get_info("net/listeners/socks")
    sockets = socket_directory_of(provider)
    assert listeners.split() == [f'"unix:{sockets}/socks{number}"' for number in range(4)]
    os.kill(first, signal.SIGKILL)
    await until(lambda: provider.control is None)
    await until(lambda: provider.control is not None)
    assert pid_of(provider) != first
    await state_of(provider, ProviderState.STARTING)
    for port in ports:
        await connect_to(port)
    second = pid_of(provider)
    await provider.stop()
    await process_ended(second)
    assert not sockets.exists()
    assert [line for line in log_lines if "ended" in line] == [
        "warn: tor has ended (SIGKILL); it is started again in 0.0 s"
    ]


@network
async def test_an_option_that_a_real_tor_refuses_fails_the_start(launch: Make) -> None:
    provider = launch(*OFFLINE, ("NoSuchOption", "1"))
    with pytest.raises(
        LaunchError, match=r"tor has ended \(status 1\): .*Unknown option 'NoSuchOption'"
    ):
        await provider.start()
    assert provider.state is ProviderState.STOPPED


@network
async def test_a_data_directory_that_a_real_tor_uses_fails_the_start(launch: Make) -> None:
    first = launch(*OFFLINE)
    await first.start()
    second = launch(*OFFLINE)
    with pytest.raises(DirectoryError, match="is in use by another tor"):
        await second.start()
    await first.stop()
    await second.start()


@network
async def test_a_real_tor_that_is_stopped_by_sigstop_is_ended(
    launch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = launch(*OFFLINE)
    await provider.start()
    monkeypatch.setattr(launched, "STOP_GRACE", 240)
    assert (daemon := provider._daemon) is not None
    os.kill(pid_of(provider), signal.SIGSTOP)
    await provider.stop()
    assert await daemon.when_exited() in ENDED_BY_ITSELF


OWNER = """
import sys
from twisted.internet import reactor
from torsocks_tx.backends.tor.launched import LaunchedTorProvider

provider = LaunchedTorProvider(reactor, sys.argv[1], [("DisableNetwork", "1")])

def started(_):
    print(f"up {provider._daemon.pid} {provider._sockets}", flush=True)

provider.start().addCallback(started)
reactor.run()
"""


@network
async def test_nothing_is_left_when_we_are_killed(tmp_path: Path) -> None:
    owner = start_python("-W", "ignore", "-c", OWNER, str(tmp_path / "data"))
    _, pid, sockets = (await owner.line("up")).split()
    assert Path(sockets, "control").exists()
    ended = process_ended(int(pid))
    os.kill(owner.pid, signal.SIGKILL)
    await ended
    await owner.end()
    await until(lambda: not Path(sockets).exists())


NONE = frozenset[str]()
HOME = Path("/run/x")

BAD_OPTIONS: list[tuple[Any, str]] = [
    (("DataDirectory", "/x"), "DataDirectory cannot be given: give the data directory"),
    (("controlsocket", "/x"), "controlsocket cannot be given"),
    (("RunAsDaemon", "1"), "RunAsDaemon cannot be given: it runs under this program"),
    (("Two Words", "1"), "'Two Words' is not the name"),
    (("", "1"), "is not the name"),
    (("Nickname\n", "1"), "is not the name"),
    (("%include", "/x"), "is not the name"),
    (("Nickname", "a\nControlPort 1"), "must be one whole line"),
    (("Nickname", "a\0"), "must be one whole line"),
    (("Nickname", "a\\"), "must be one whole line"),
    ("ExitNodes {de}", r"a pair such as .*, not 'ExitNodes {de}'"),
]
BAD_POLICIES = [
    (["NoSuch"], "has no flag 'NoSuch'"),
    (["ExtendedErrors"], "ExtendedErrors is not a flag for tor's own SocksPort"),
    (["NoIPv4Traffic", "NoIPv6Traffic", "NoOnionTraffic"], "leave nothing to connect to"),
]

OUTPUTS = [
    (1, [], "tor has ended (status 1)"),
    ("SIGKILL", [], "tor has ended (SIGKILL)"),
    (
        1,
        [
            "Nov 23 01:05:49.922 [notice] Read configuration file",
            "Nov 23 01:05:49.922 [warn] Failed to parse/validate config: Unknown option 'Foo'.",
            "Nov 23 01:05:49.922 [err] Reading config failed--see warnings above.",
        ],
        "tor has ended (status 1): Failed to parse/validate config: Unknown option 'Foo'.",
    ),
    (
        1,
        [
            "Nov  3 01:05:49 [warn] Earlier.",
            "Nov  3 01:05:49 [warn] Too few items to Bridge line.",
            "Nov  3 01:05:49 [warn] Bridge line did not parse.",
            "not a line of the log",
        ],
        "tor has ended (status 1): Too few items to Bridge line.; Bridge line did not parse.",
    ),
    (
        1,
        [
            "Nov 23 01:06:25.000 [err] No, it's still there.  Exiting.",
            "Nov 23 01:06:25.000 [err] set_options(): Bug: Acting on config options left us",
        ],
        "tor has ended (status 1): No, it's still there.  Exiting.",
    ),
    (127, ["/x/tor: Exec format error"], "tor has ended (status 127): /x/tor: Exec format error"),
]


def test_policy_sets_are_distinct_and_the_fewest_flags_come_first() -> None:
    assert policy_sets([]) == [NONE]
    assert policy_sets(
        [("NoIPv6Traffic",), ("noipv6traffic",), (), ("OnionTrafficOnly",), ("PreferIPv6",)]
    ) == [
        NONE,
        {"NoIPv6Traffic"},
        {"PreferIPv6"},
        {"NoDNSRequest", "NoIPv4Traffic", "NoIPv6Traffic"},
    ]


def test_the_torrc_has_a_port_for_each_policy() -> None:
    policies = policy_sets([("NoIPv6Traffic",), ("NoIPv4Traffic", "NoIPv6Traffic")])
    assert torrc_lines(HOME, policies, [("Nickname", "me"), ("SocksPort", "9050")]) == [
        "Log notice stdout",
        'ControlPort unix:"/run/x/control"',
        "CookieAuthentication 1",
        'SocksPort unix:"/run/x/socks0"',
        'SocksPort unix:"/run/x/socks1" NoIPv6Traffic',
        'SocksPort unix:"/run/x/socks2" NoIPv4Traffic NoIPv6Traffic NoDNSRequest',
        "Nickname me",
        "SocksPort 9050",
    ]


@pytest.mark.parametrize(("option", "message"), BAD_OPTIONS)
def test_options_that_cannot_be_given_are_errors(launch: Make, option: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(option)


@pytest.mark.parametrize(("policy", "message"), BAD_POLICIES)
def test_policies_that_cannot_be_are_errors(launch: Make, policy: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(policies=[policy])


@pytest.mark.parametrize(("ending", "output", "sentence"), OUTPUTS)
def test_tors_output_says_why_it_ended(ending: int | str, output: list[str], sentence: str) -> None:
    assert complaint(ending, output) == sentence
