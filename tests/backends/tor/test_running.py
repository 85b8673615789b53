"""A tor that runs already: found, lost and found again, on a fake tor and on a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, UNIXServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from tests.backends.tor.fake_tor import BOOTSTRAPPED, STARTING, FakeTor
from tests.backends.tor.real_tor import UNREACHABLE, RealTor
from tests.backends.tor.test_authentication import COOKIE, offer
from torsocks_tx.backends.tor.authentication import ControlRefused
from torsocks_tx.backends.tor.running import RunningSupply
from torsocks_tx.backends.tor.supply import NoSuchPort, SocksPort, SupplyState
from torsocks_tx.errors import TorDown

network = pytest.mark.network
DEADLINE = 30.0
MOST_COMMANDS = 12

REFUSED = "clients are refused until tor is back"
GONE = f"tor is gone (the control connection is lost); {REFUSED}"
NO_PORT = (
    "this tor has no SocksPort (SocksPort 0 or DisableNetwork 1): give it one, for example"
    f" 'SocksPort unix:/run/tor/socks'; {REFUSED}"
)

Make = Callable[..., RunningSupply]


@pytest_twisted.async_yield_fixture
async def running() -> AsyncIterator[Make]:
    """Give a maker of supplies that are stopped at the end; they try again at once."""
    made: list[RunningSupply] = []

    def make(tor: FakeTor | RealTor, **options: object) -> RunningSupply:
        supply = RunningSupply(reactor, tor.endpoint, delays=lambda _: 0.01, **options)
        made.append(supply)
        return supply

    yield make
    for supply in made:
        await supply.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Let the reactor turn until the condition holds."""
    deadline = reactor.seconds() + DEADLINE
    while not condition():
        assert reactor.seconds() < deadline
        await deferLater(reactor, 0)


async def state_of(supply: RunningSupply, state: SupplyState) -> None:
    """Wait until the supply has this state."""
    await until(lambda: supply.state is state)


async def connect_to(port: SocksPort) -> None:
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    protocol = await port.endpoint.connect(factory)
    protocol.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_a_bootstrapped_tor_is_ready(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    supply = running(fake_tor)
    asked = supply.when_ready()
    assert supply.state is SupplyState.STARTING
    await supply.start()
    assert supply.state is SupplyState.READY
    port = await asked
    assert (port.pipelined, port.extended_errors, port.flags) == (True, False, frozenset())
    assert supply.port == port
    await connect_to(port)
    assert len(fake_tor.commands) <= MOST_COMMANDS - 1, "a safe cookie takes one more"
    assert not [line for line in fake_tor.commands if "SETCONF" in line or "STREAM" in line]
    assert supply.control is not None
    assert supply.control.version == "0.4.9.11"
    assert log_lines == ["info: tor: bootstrapped 100% (Done)", "info: tor is ready"]
    await supply.stop()
    await until(lambda: fake_tor.connections == [])
    assert supply.state is SupplyState.STOPPED
    assert supply.control is None
    with pytest.raises(TorDown):
        await supply.when_ready()


@pytest_twisted.ensureDeferred
async def test_clients_wait_for_the_bootstrap(fake_tor: FakeTor, running: Make) -> None:
    fake_tor.info["status/bootstrap-phase"] = STARTING
    supply = running(fake_tor)
    heard: list[int] = []
    supply.on_progress(lambda progress: heard.append(progress.percent))
    await supply.start()
    assert supply.state is SupplyState.STARTING
    asked = supply.when_ready()
    fake_tor.event('STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=90 TAG=x SUMMARY="y"')
    assert supply.control is not None
    await supply.control.command("FENCE")
    assert not asked.called
    fake_tor.event(f"STATUS_CLIENT {BOOTSTRAPPED}")
    assert await asked == supply.port
    assert heard == [45, 90, 100]


@pytest_twisted.ensureDeferred
async def test_something_that_is_not_c_tor_is_not_pipelined(
    fake_tor: FakeTor, running: Make
) -> None:
    fake_tor.info["version"] = "Arti 2.0.0"
    supply = running(fake_tor)
    await supply.start()
    assert not (await supply.when_ready()).pipelined


@pytest_twisted.ensureDeferred
async def test_tor_goes_and_comes_back(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    supply = running(fake_tor)
    await supply.start()
    port = await supply.when_ready()
    log_lines.clear()
    fake_tor.info["status/bootstrap-phase"] = STARTING
    lost = supply.control.when_lost()
    await fake_tor.stop()
    await lost
    await state_of(supply, SupplyState.DOWN)
    assert supply.control is None
    assert supply.port == port, "the last known"
    with pytest.raises(TorDown, match="tor is gone"):
        await supply.when_ready()
    await fake_tor.listen()
    await state_of(supply, SupplyState.STARTING)
    asked = supply.when_ready()
    fake_tor.conf["SocksPort"] = [f"unix:{fake_tor.socks} ExtendedErrors"]
    fake_tor.event(f"STATUS_CLIENT {BOOTSTRAPPED}")
    await asked.addTimeout(DEADLINE, reactor)
    assert log_lines == [
        f"warn: {GONE}",
        "info: tor: bootstrapped 45% (Asking for descriptors)",
        "info: tor: bootstrapped 100% (Done)",
        "info: tor is back",
    ]
    assert len(fake_tor.commands) <= MOST_COMMANDS - 1


@pytest_twisted.ensureDeferred
async def test_those_who_wait_are_refused_when_tor_goes(fake_tor: FakeTor, running: Make) -> None:
    fake_tor.info["status/bootstrap-phase"] = STARTING
    supply = running(fake_tor)
    await supply.start()
    asked = supply.when_ready()
    await fake_tor.stop()
    with pytest.raises(TorDown):
        await asked


@pytest_twisted.ensureDeferred
async def test_the_socks_port_is_found_anew_at_each_return(
    fake_tor: FakeTor, running: Make
) -> None:
    supply = running(fake_tor)
    await supply.start()
    assert not (await supply.when_ready()).extended_errors
    fake_tor.conf["SocksPort"] = [f"unix:{fake_tor.socks} ExtendedErrors NoIPv6Traffic"]
    fake_tor.drop()
    await state_of(supply, SupplyState.DOWN)
    await state_of(supply, SupplyState.READY)
    port = await supply.when_ready()
    assert port.extended_errors
    assert port.flags == {"ExtendedErrors", "NoIPv6Traffic"}


@pytest_twisted.ensureDeferred
async def test_the_waits_grow_until_tor_is_of_use(fake_tor: FakeTor) -> None:
    waits: list[int] = []

    def delays(failures: int) -> float:
        waits.append(failures)
        return 0.001

    await fake_tor.stop()
    supply = RunningSupply(reactor, fake_tor.endpoint, delays=delays, name="this port")
    await supply.start()
    with pytest.raises(TorDown, match="this port cannot be reached"):
        await supply.when_ready()
    await until(lambda: len(waits) >= 4)
    assert waits[:4] == [0, 1, 2, 3]
    await fake_tor.listen()
    await state_of(supply, SupplyState.READY)
    fake_tor.drop()
    await state_of(supply, SupplyState.DOWN)
    assert waits[-1] == 0
    await state_of(supply, SupplyState.READY)
    await supply.stop()


@pytest_twisted.ensureDeferred
async def test_a_tor_that_is_not_there_yet_is_waited_for(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    await fake_tor.stop()
    supply = running(fake_tor)
    await supply.start()
    assert supply.state is SupplyState.DOWN
    await fake_tor.listen()
    await state_of(supply, SupplyState.READY)
    assert log_lines[0].startswith("warn: tor's control port cannot be reached (No such file")
    assert log_lines[-1] == "info: tor is back"
    assert len(log_lines) == 3


@pytest_twisted.ensureDeferred
async def test_what_somebody_must_mend_fails_the_start(fake_tor: FakeTor, running: Make) -> None:
    fake_tor.answers["PROTOCOLINFO 1"] = (
        "250-PROTOCOLINFO 1\n250-AUTH METHODS=HASHEDPASSWORD\n250 OK"
    )
    supply = running(fake_tor)
    with pytest.raises(ControlRefused, match="wants a password"):
        await supply.start()
    assert supply.state is SupplyState.DOWN
    with pytest.raises(TorDown, match="wants a password"):
        await supply.when_ready()
    await running(fake_tor, password="right").start()


@pytest_twisted.ensureDeferred
async def test_what_must_be_mended_later_is_told_and_tried_again(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    supply = running(fake_tor)
    await supply.start()
    answer = fake_tor.answers["PROTOCOLINFO 1"]
    fake_tor.answers["PROTOCOLINFO 1"] = (
        "250-PROTOCOLINFO 1\n250-AUTH METHODS=HASHEDPASSWORD\n250 OK"
    )
    lost = supply.control.when_lost()
    fake_tor.drop()
    await lost
    await until(lambda: any("wants a password" in line for line in log_lines))
    fake_tor.answers["PROTOCOLINFO 1"] = answer
    await state_of(supply, SupplyState.READY)


@pytest_twisted.ensureDeferred
async def test_a_tor_without_socks_port(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    listeners = fake_tor.info["net/listeners/socks"]
    fake_tor.info["net/listeners/socks"] = ""
    supply = running(fake_tor)
    await supply.start()
    assert supply.state is SupplyState.DOWN
    with pytest.raises(TorDown, match=r"has no SocksPort \(SocksPort 0 or DisableNet"):
        await supply.when_ready()
    with pytest.raises(TorDown):
        supply.port_for(())
    assert "this tor has no SocksPort" in log_lines[-1]
    fake_tor.info["net/listeners/socks"] = listeners
    fake_tor.event("CONF_CHANGED")
    fake_tor.event("CONF_CHANGED Nickname=x")
    await supply.control.command("FENCE")
    assert supply.state is SupplyState.DOWN
    for connection in fake_tor.connections:
        connection.send("650-CONF_CHANGED\n650-SocksPort=9050\n650 OK")
    await state_of(supply, SupplyState.READY)
    fake_tor.info["net/listeners/socks"] = ""
    for connection in fake_tor.connections:
        connection.send("650-CONF_CHANGED\n650-DisableNetwork=1\n650 OK")
    await state_of(supply, SupplyState.DOWN)
    assert log_lines[-2:] == [
        "info: tor is back",
        f"warn: {NO_PORT}",
    ]


@pytest_twisted.ensureDeferred
async def test_a_socks_port_out_of_reach(fake_tor: FakeTor, running: Make) -> None:
    fake_tor.info["net/listeners/socks"] = '"unix:/nonexistent/socks" "192.0.2.7:9050"'
    supply = running(fake_tor)
    await supply.start()
    with pytest.raises(
        TorDown, match=r"can be reached from here \(unix:/nonexistent/socks, 192\.0\.2\.7:9050\)"
    ):
        await supply.when_ready()


@pytest_twisted.ensureDeferred
async def test_the_reachable_one_is_used_before_the_better_one(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    fake_tor.info["net/listeners/socks"] = f'"unix:/nonexistent" "unix:{fake_tor.socks}"'
    flags = "KeepAliveIsolateSOCKSAuth ExtendedErrors"
    fake_tor.conf["SocksPort"] = ["unix:/nonexistent", f"unix:{fake_tor.socks} {flags}"]
    supply = running(fake_tor)
    await supply.start()
    assert (await supply.when_ready()).extended_errors
    fake_tor.drop()
    await state_of(supply, SupplyState.DOWN)
    await state_of(supply, SupplyState.READY)
    assert len([line for line in log_lines if "KeepAliveIsolateSOCKSAuth" in line]) == 1


@pytest_twisted.ensureDeferred
async def test_a_port_for_each_policy(fake_tor: FakeTor, running: Make) -> None:
    other = fake_tor.socks + "6"
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    listening = await UNIXServerEndpoint(reactor, other).listen(factory)
    fake_tor.info["net/listeners/socks"] += f' "unix:{other}"'
    fake_tor.conf["SocksPort"].append(f"unix:{other} NoIPv4Traffic")
    supply = running(fake_tor)
    await supply.start()
    assert supply.port_for(()).flags == frozenset()
    assert supply.port_for(["noipv4traffic"]).flags == {"NoIPv4Traffic"}
    with pytest.raises(NoSuchPort, match="no SocksPort with NoIPv6Traffic: add such a line"):
        supply.port_for(["NoIPv6Traffic"])
    await listening.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_filter_that_hides_the_configuration(fake_tor: FakeTor, running: Make) -> None:
    fake_tor.answers["GETCONF SocksPort __SocksPort"] = "510 Filtered"
    fake_tor.answers["SETEVENTS STATUS_CLIENT CONF_CHANGED"] = "552 Filtered"
    supply = running(fake_tor)
    await supply.start()
    assert (await supply.when_ready()).flags == frozenset()
    with pytest.raises(NoSuchPort):
        supply.port_for(["NoIPv6Traffic"])


@pytest_twisted.ensureDeferred
async def test_a_filter_that_hides_the_listeners(fake_tor: FakeTor, running: Make) -> None:
    fake_tor.answers["GETINFO net/listeners/socks"] = "510 Filtered"
    supply = running(fake_tor)
    await supply.start()
    with pytest.raises(TorDown, match=r"does not tell its SocksPorts \(510 Filtered\)"):
        await supply.when_ready()


@pytest.mark.parametrize("until", ["AUTHENTICATE", "SETEVENTS STATUS_CLIENT", "GETCONF SocksPort"])
@pytest_twisted.ensureDeferred
async def test_it_can_be_stopped_at_any_time(fake_tor: FakeTor, running: Make, until: str) -> None:
    reached: Deferred[None] = Deferred()
    answer = fake_tor.answer

    def hang(command: str) -> str | None:
        if not command.startswith(until):
            return answer(command)
        reached.callback(None)
        return None

    fake_tor.answer = hang  # type: ignore[method-assign]
    supply = running(fake_tor)
    started = supply.start()
    await reached
    await supply.stop()
    await started
    assert supply.state is SupplyState.STOPPED
    assert supply.control is None


@pytest_twisted.ensureDeferred
async def test_it_can_be_started_again(fake_tor: FakeTor, running: Make) -> None:
    supply = running(fake_tor)
    await supply.start()
    await supply.stop()
    await supply.start()
    assert supply.state is SupplyState.READY


@pytest_twisted.ensureDeferred
async def test_it_can_be_stopped_by_one_whom_it_tells_something(
    fake_tor: FakeTor, running: Make
) -> None:
    fake_tor.info["status/bootstrap-phase"] = STARTING
    supply = running(fake_tor)
    stopped: list[Deferred[None]] = []
    supply.on_progress(lambda _: stopped.append(supply.stop()))
    await supply.start()
    await stopped[0]
    assert supply.state is SupplyState.STOPPED
    assert supply.control is None
    other = running(fake_tor)
    fake_tor.info["status/bootstrap-phase"] = BOOTSTRAPPED
    stopping = other.when_ready().addCallback(lambda _: other.stop())
    await other.start()
    await stopping
    assert other.state is SupplyState.STOPPED


@pytest_twisted.ensureDeferred
async def test_a_search_that_ends_after_the_stop_revives_nothing(
    fake_tor: FakeTor, running: Make
) -> None:
    supply = running(fake_tor)
    await supply.start()
    fake_tor.answers["GETCONF SocksPort __SocksPort"] = None
    for connection in fake_tor.connections:
        connection.send("650-CONF_CHANGED\n650-SocksPort=9050\n650 OK")
    await supply.control.get_info("net/listeners/socks")
    await supply.stop()
    assert supply.state is SupplyState.STOPPED


@network
@pytest_twisted.ensureDeferred
async def test_a_real_tor_that_is_killed_and_started_again(
    real_tor: RealTor, running: Make, log_lines: list[str]
) -> None:
    options = (f"SocksPort unix:{real_tor.directory}/socks", "CookieAuthentication 1", *UNREACHABLE)
    await real_tor.start(options)
    supply = running(real_tor)
    await supply.start()
    assert supply.state is SupplyState.STARTING
    port = supply.port_for(())
    assert port.pipelined
    await connect_to(port)
    asked = supply.when_ready()
    await real_tor.kill()
    with pytest.raises(TorDown, match="tor is gone"):
        await asked
    await real_tor.start(options)
    await state_of(supply, SupplyState.STARTING)
    assert supply.control is not None
    await supply.control.command("SETCONF DisableNetwork=1")
    await state_of(supply, SupplyState.DOWN)
    with pytest.raises(TorDown, match="has no SocksPort"):
        await supply.when_ready()
    await supply.control.command("SETCONF DisableNetwork=0")
    await state_of(supply, SupplyState.STARTING)
    assert [line for line in log_lines if line.startswith("warn")] == [
        f"warn: {GONE}",
        f"warn: {NO_PORT}",
    ]
    await supply.stop()


@pytest_twisted.ensureDeferred
async def test_a_stranger_who_answers_while_tor_is_down_is_not_followed(
    fake_tor: FakeTor, running: Make, short_directory: Path, log_lines: list[str]
) -> None:
    """Tor proved to know its cookie; then somebody else asks for no authentication at all."""
    cookie = short_directory / "cookie"
    cookie.write_bytes(COOKIE)
    plain = fake_tor.answer
    offer(fake_tor, "SAFECOOKIE", cookie)
    supply = running(fake_tor)
    await supply.start()
    fake_tor.answer = plain  # type: ignore[method-assign]
    offer(fake_tor, "NULL")
    fake_tor.drop()
    await state_of(supply, SupplyState.DOWN)
    fake_tor.commands.clear()
    await until(lambda: fake_tor.commands.count("PROTOCOLINFO 1") > 1)
    assert set(fake_tor.commands) == {"PROTOCOLINFO 1"}
    assert supply.state is SupplyState.DOWN
    assert any("does not prove any more that it is tor" in line for line in log_lines)


@pytest_twisted.ensureDeferred
async def test_a_tcp_port_that_proves_nothing_is_one_line(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(fake_tor)
    fake_tor.endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    supply = running(fake_tor)
    await supply.start()
    fake_tor.drop()
    await state_of(supply, SupplyState.DOWN)
    await state_of(supply, SupplyState.READY)
    assert len([line for line in log_lines if "nothing proves that it is tor" in line]) == 1
    await supply.stop()
    await port.stopListening()
