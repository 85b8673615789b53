"""The provider for a running tor: connects to it, and again after each loss."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from tests.backends.tor.fake_tor import BOOTSTRAPPED, COOKIE, STARTING, FakeTor, listen_at
from tests.backends.tor.real_tor import UNREACHABLE, RealTor
from tests.support.peers import until
from torsocks_tx.backends.tor.authentication import ControlRefused
from torsocks_tx.backends.tor.ports import SocksPort
from torsocks_tx.backends.tor.provider import ProviderState, TorProvider
from torsocks_tx.backends.tor.providers import RunningTorProvider
from torsocks_tx.errors import NoSuchPort, TorDown

network = pytest.mark.network
DEADLINE = 90.0
MOST_COMMANDS = 10

REFUSED = "clients are refused until tor is back"
GONE = f"tor is gone (the control connection is lost); {REFUSED}"
NO_PORT = (
    "this tor has no SocksPort (SocksPort 0 or DisableNetwork 1): give it one, for example"
    f" 'SocksPort unix:/run/tor/socks'; {REFUSED}"
)

Make = Callable[..., RunningTorProvider]


@pytest_twisted.async_yield_fixture
async def running() -> AsyncIterator[Make]:
    """Give a maker of providers that are stopped at the end; they try again at once."""
    made: list[RunningTorProvider] = []

    def make(tor: FakeTor | RealTor, **options: object) -> RunningTorProvider:
        provider = RunningTorProvider(reactor, tor.endpoint, **{"delays": Delays(), **options})
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.stop()


async def state_of(provider: TorProvider, *states: ProviderState) -> None:
    """Wait until the provider has this state, then the next."""
    for state in states:
        await until(lambda state=state: provider.state is state)


class Delays:
    """Delays of a millisecond; ``failures``: what they were asked for."""

    def __init__(self) -> None:
        self.failures: list[int] = []

    def __call__(self, failures: int) -> float:
        self.failures.append(failures)
        return 0.001


async def connect_to(port: SocksPort) -> None:
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    protocol = await port.endpoint.connect(factory)
    protocol.transport.abortConnection()


async def test_a_bootstrapped_tor_is_ready(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    provider = running(fake_tor)
    started = provider.start()
    assert provider.state is ProviderState.STARTING
    asked = provider.when_ready()
    await started
    assert provider.state is ProviderState.READY
    port = await asked
    assert (port.pipelined, port.flags) == (True, frozenset())
    assert provider.port_for(()) == port
    await connect_to(port)
    assert len(fake_tor.commands) <= MOST_COMMANDS - 1, "a safe cookie takes one more"
    assert not [line for line in fake_tor.commands if "SETCONF" in line or "STREAM" in line]
    assert provider.control is not None
    assert provider.control.version == "0.4.9.11"
    assert log_lines == ["info: tor: bootstrapped 100% (Done)", "info: tor is ready"]
    await provider.stop()
    await until(lambda: fake_tor.connections == [])
    assert provider.state is ProviderState.STOPPED
    assert provider.control is None
    with pytest.raises(TorDown):
        await provider.when_ready()
    await provider.start()
    assert provider.state is ProviderState.READY


async def test_another_tor_than_c_tor_is_not_pipelined(fake_tor: FakeTor, running: Make) -> None:
    fake_tor.info["version"] = "Arti 2.0.0"
    provider = running(fake_tor)
    await provider.start()
    assert not (await provider.when_ready()).pipelined


async def test_tor_goes_and_comes_back(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    provider = running(fake_tor)
    await provider.start()
    port = await provider.when_ready()
    log_lines.clear()
    fake_tor.info["status/bootstrap-phase"] = STARTING
    lost = provider.control.when_lost()
    await fake_tor.stop()
    await lost
    await state_of(provider, ProviderState.DOWN)
    assert provider.control is None
    assert provider.port_for(()) == port, "the last known"
    with pytest.raises(TorDown, match="tor is gone"):
        await provider.when_ready()
    fake_tor.conf["SocksPort"] = [f"unix:{fake_tor.socks} ExtendedErrors"]
    await fake_tor.listen()
    await state_of(provider, ProviderState.STARTING)
    asked = provider.when_ready()
    fake_tor.event('STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=90 TAG=x SUMMARY="y"')
    await provider.control.command("FENCE")
    assert not asked.called
    fake_tor.event(f"STATUS_CLIENT {BOOTSTRAPPED}")
    port = await asked.addTimeout(DEADLINE, reactor)
    assert port.flags == {"ExtendedErrors"}, "it is found anew"
    assert log_lines == [
        f"warn: {GONE}",
        "info: tor: bootstrapped 45% (Asking for descriptors)",
        "info: tor: bootstrapped 90% (y)",
        "info: tor: bootstrapped 100% (Done)",
        "info: tor is back",
    ]
    assert len(fake_tor.commands) <= MOST_COMMANDS - 1


async def test_a_tor_that_is_not_there_yet_is_waited_for_with_growing_delays(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    delays = Delays()
    await fake_tor.stop()
    provider = running(fake_tor, delays=delays, name="this port")
    await provider.start()
    with pytest.raises(TorDown, match="this port cannot be reached"):
        await provider.when_ready()
    await until(lambda: len(delays.failures) >= 4)
    assert delays.failures[:4] == [0, 1, 2, 3]
    await fake_tor.listen()
    await state_of(provider, ProviderState.READY)
    assert log_lines[0].startswith("warn: this port cannot be reached (No such file")
    assert log_lines[1:] == ["info: tor: bootstrapped 100% (Done)", "info: tor is back"]
    fake_tor.drop()
    await state_of(provider, ProviderState.DOWN)
    assert delays.failures[-1] == 0
    await state_of(provider, ProviderState.READY)


async def test_what_somebody_must_fix_fails_the_start(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    fake_tor.offer("HASHEDPASSWORD")
    provider = running(fake_tor)
    with pytest.raises(ControlRefused, match="wants a password"):
        await provider.start()
    assert provider.state is ProviderState.STOPPED
    assert log_lines == [], "whoever has called start says it"
    with pytest.raises(TorDown, match="wants a password"):
        await provider.when_ready()
    await running(fake_tor, password="right").start()


async def test_a_tor_without_socks_port_is_down_until_it_has_one(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    listeners = fake_tor.info["net/listeners/socks"]
    fake_tor.info["net/listeners/socks"] = ""
    provider = running(fake_tor)
    await provider.start()
    assert provider.state is ProviderState.DOWN
    with pytest.raises(TorDown, match=r"has no SocksPort \(SocksPort 0 or DisableNet"):
        await provider.when_ready()
    with pytest.raises(TorDown):
        provider.port_for(())
    assert "this tor has no SocksPort" in log_lines[-1]
    fake_tor.info["net/listeners/socks"] = listeners
    fake_tor.event("CONF_CHANGED")
    fake_tor.event("CONF_CHANGED Nickname=x")
    await provider.control.command("FENCE")
    assert provider.state is ProviderState.DOWN
    fake_tor.change("SocksPort=9050")
    await state_of(provider, ProviderState.READY)
    fake_tor.info["net/listeners/socks"] = ""
    fake_tor.change("DisableNetwork=1")
    await state_of(provider, ProviderState.DOWN)
    assert log_lines[-2:] == ["info: tor is back", f"warn: {NO_PORT}"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            '250-net/listeners/socks="unix:/nonexistent/socks" "192.0.2.7:9050"\n250 OK',
            r"can be reached from here \(unix:/nonexistent/socks, 192\.0\.2\.7:9050\)",
        ),
        ("250-other=1\n250 OK", r"does not tell its SocksPorts \(no value of net/listeners/socks"),
    ],
)
async def test_without_a_socks_port_that_can_be_used_tor_is_down(
    fake_tor: FakeTor, running: Make, answer: str, reason: str
) -> None:
    fake_tor.answers["GETINFO net/listeners/socks"] = answer
    provider = running(fake_tor)
    await provider.start()
    with pytest.raises(TorDown, match=reason):
        await provider.when_ready()


async def test_a_reachable_port_is_used_before_a_better_one(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    fake_tor.info["net/listeners/socks"] = f'"unix:/nonexistent" "unix:{fake_tor.socks}"'
    flags = "KeepAliveIsolateSOCKSAuth ExtendedErrors"
    fake_tor.conf["SocksPort"] = ["unix:/nonexistent", f"unix:{fake_tor.socks} {flags}"]
    provider = running(fake_tor)
    await provider.start()
    assert "ExtendedErrors" in (await provider.when_ready()).flags
    fake_tor.drop()
    await state_of(provider, ProviderState.DOWN, ProviderState.READY)
    assert len([line for line in log_lines if "KeepAliveIsolateSOCKSAuth" in line]) == 1


async def test_a_port_for_each_policy(fake_tor: FakeTor, running: Make) -> None:
    other = fake_tor.socks + "6"
    listening = await listen_at(other)
    fake_tor.info["net/listeners/socks"] += f' "unix:{other}"'
    fake_tor.conf["SocksPort"].append(f"unix:{other} NoIPv4Traffic")
    provider = running(fake_tor)
    await provider.start()
    assert provider.port_for(()).flags == frozenset()
    assert provider.port_for(["noipv4traffic"]).flags == {"NoIPv4Traffic"}
    with pytest.raises(NoSuchPort, match="no SocksPort with NoIPv6Traffic: add such a line"):
        provider.port_for(["NoIPv6Traffic"])
    await listening.stopListening()


@pytest.mark.parametrize("until", ["AUTHENTICATE", "SETEVENTS STATUS_CLIENT", "GETCONF SocksPort"])
async def test_a_provider_can_be_stopped_at_any_time(
    fake_tor: FakeTor, running: Make, until: str
) -> None:
    reached: Deferred[None] = Deferred()
    fake_tor.intercepted[until] = lambda: reached.callback(None)
    provider = running(fake_tor)
    started = provider.start()
    await reached
    await provider.stop()
    await started
    assert provider.state is ProviderState.STOPPED
    assert provider.control is None


async def test_a_search_that_ends_after_the_stop_revives_nothing(
    fake_tor: FakeTor, running: Make
) -> None:
    provider = running(fake_tor)
    await provider.start()
    fake_tor.answers["GETCONF SocksPort __SocksPort"] = None
    fake_tor.change("SocksPort=9050")
    await provider.control.get_info("net/listeners/socks")
    await provider.stop()
    assert provider.state is ProviderState.STOPPED


@network
async def test_a_real_tor_that_is_killed_and_started_again(
    real_tor: RealTor, running: Make, log_lines: list[str]
) -> None:
    options = (f"SocksPort unix:{real_tor.directory}/socks", "CookieAuthentication 1", *UNREACHABLE)
    await real_tor.start(options)
    provider = running(real_tor)
    await provider.start()
    assert provider.state is ProviderState.STARTING
    port = provider.port_for(())
    assert port.pipelined
    await connect_to(port)
    asked = provider.when_ready()
    await real_tor.kill()
    with pytest.raises(TorDown, match="tor is gone"):
        await asked
    await real_tor.start(options)
    await state_of(provider, ProviderState.STARTING)
    assert provider.control is not None
    await provider.control.command("SETCONF DisableNetwork=1")
    await state_of(provider, ProviderState.DOWN)
    with pytest.raises(TorDown, match="has no SocksPort"):
        await provider.when_ready()
    await provider.control.command("SETCONF DisableNetwork=0")
    await state_of(provider, ProviderState.STARTING)
    assert [line for line in log_lines if line.startswith("warn")] == [
        f"warn: {GONE}",
        f"warn: {NO_PORT}",
    ]
    await provider.stop()


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        ("NULL", "does not prove any more that it is tor"),
        ("HASHEDPASSWORD", "does not prove any more that it is tor"),
        ("SAFECOOKIE", "is not 32 bytes"),
    ],
)
async def test_a_stranger_who_answers_while_tor_is_down_is_not_followed(
    fake_tor: FakeTor, running: Make, cookie: Path, log_lines: list[str], methods: str, reason: str
) -> None:
    """Tor proved to know its cookie; who does not is refused until tor is there again."""
    fake_tor.offer("SAFECOOKIE", cookie)
    provider = running(fake_tor)
    await provider.start()
    fake_tor.offer(methods, cookie)
    cookie.write_bytes(COOKIE[1:])
    fake_tor.drop()
    await state_of(provider, ProviderState.DOWN)
    fake_tor.commands.clear()
    await until(lambda: fake_tor.commands.count("PROTOCOLINFO 1") > 1)
    assert set(fake_tor.commands) == {"PROTOCOLINFO 1"}
    assert provider.state is ProviderState.DOWN
    assert any(reason in line for line in log_lines)
    cookie.write_bytes(COOKIE)
    fake_tor.offer("SAFECOOKIE", cookie)
    await state_of(provider, ProviderState.READY)


async def test_a_tcp_port_that_proves_nothing_is_one_line_in_the_log(
    fake_tor: FakeTor, running: Make, log_lines: list[str]
) -> None:
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(fake_tor)
    fake_tor.endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    provider = running(fake_tor)
    await provider.start()
    fake_tor.drop()
    await state_of(provider, ProviderState.DOWN, ProviderState.READY)
    assert len([line for line in log_lines if "nothing proves that it is tor" in line]) == 1
    await provider.stop()
    await port.stopListening()
