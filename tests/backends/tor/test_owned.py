"""A tor that an application controls by its own txtorcon."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from txtorcon import Tor, TorProtocolFactory

from tests.backends.tor.fake_tor import BOOTSTRAPPED, STARTING, FakeTor
from tests.support.peers import until
from tests.support.processes import ROOT, start_python
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.onion.observer import OnionObserver
from torsocks_tx.backends.tor.provider import ProviderState
from torsocks_tx.backends.tor.providers import OwnedTorProvider
from torsocks_tx.errors import TorDown


async def protocol_of(tor: FakeTor) -> Any:
    """The application's txtorcon protocol, not yet ready."""
    protocol = await tor.endpoint.connect(TorProtocolFactory())
    protocol.on_disconnect = None  # txtorcon 26 reads a deprecated attribute of it at the loss
    return protocol


@pytest_twisted.async_yield_fixture
async def protocol(fake_tor: FakeTor) -> AsyncIterator[Any]:
    """Give the application's txtorcon protocol, ready; it is lost at the end."""
    protocol = await protocol_of(fake_tor)
    await protocol.post_bootstrap
    yield protocol
    fake_tor.drop()
    await protocol.when_disconnected().addErrback(lambda _: None)


@pytest.mark.parametrize("wrapped", [False, True])
async def test_the_protocol_or_the_tor_of_an_application_is_used_as_it_is(
    fake_tor: FakeTor, protocol: Any, wrapped: bool
) -> None:
    commands = len(fake_tor.commands)
    tor = Tor(reactor, protocol) if wrapped else protocol
    provider = OwnedTorProvider(reactor, tor)
    await provider.start()
    port = await provider.when_ready()
    assert port.pipelined
    assert provider.control is not None
    assert provider.control.protocol is protocol
    assert len(fake_tor.commands) - commands <= 5
    await provider.stop()
    assert provider.state is ProviderState.STOPPED
    assert provider.control is None
    assert fake_tor.commands[-1] == "SETEVENTS "
    await protocol.queue_command("STILL THERE")
    assert fake_tor.commands[-1] == "STILL THERE"


async def test_a_protocol_that_is_not_ready_yet_is_waited_for(fake_tor: FakeTor) -> None:
    protocol = await protocol_of(fake_tor)
    heard: list[object] = []
    provider = OwnedTorProvider(reactor, protocol)
    started = provider.start()
    protocol.post_bootstrap.addCallback(heard.append)
    assert not heard
    await started
    await until(lambda: heard == [protocol])
    assert provider.state is ProviderState.READY
    await provider.stop()


async def test_the_applications_own_listeners_stay(fake_tor: FakeTor, protocol: Any) -> None:
    fake_tor.info["status/bootstrap-phase"] = STARTING
    heard: list[str] = []
    await protocol.add_event_listener("STATUS_CLIENT", heard.append)
    provider = OwnedTorProvider(reactor, protocol)
    await provider.start()
    assert provider.state is ProviderState.STARTING
    fake_tor.event(f"STATUS_CLIENT {BOOTSTRAPPED}")
    await provider.when_ready()
    await provider.stop()
    assert fake_tor.commands[-1] == "SETEVENTS STATUS_CLIENT"
    fake_tor.event("STATUS_CLIENT NOTICE CIRCUIT_ESTABLISHED")
    await protocol.queue_command("FENCE")
    assert len(heard) == 2


async def test_an_observer_leaves_the_connection_as_it_was(
    fake_tor: FakeTor, protocol: Any
) -> None:
    """It listens from the first attempt on an onion service to the end of the provider."""
    circuits: list[str] = []
    await protocol.add_event_listener("CIRC", circuits.append)
    provider = OwnedTorProvider(reactor, protocol)
    await provider.start()
    backend = TorBackend(reactor, provider)
    assert "HS_DESC" not in " ".join(fake_tor.commands)
    await backend.observer.follow(provider.control)
    assert backend.observer.is_following
    (subscription,) = [line for line in fake_tor.commands if "SIGNAL" in line]
    assert set(subscription.split()) >= {"HS_DESC", "CIRC", "CIRC_MINOR", "SIGNAL"}
    await provider.stop()
    await until(lambda: fake_tor.commands[-1] == "SETEVENTS CIRC")
    fake_tor.event("CIRC 7 BUILT")
    await until(lambda: circuits == ["7 BUILT"])


async def test_an_application_replaces_the_tor_whose_connection_was_lost(
    fake_tor: FakeTor, log_lines: list[str]
) -> None:
    backend = TorBackend.from_tor(reactor, await protocol_of(fake_tor))
    provider = backend.provider
    await provider.when_ready()
    fake_tor.drop()
    await until(lambda: provider.state is ProviderState.DOWN)
    with pytest.raises(TorDown, match="the application's control connection to tor is lost"):
        await provider.when_ready()
    assert provider.control is None
    assert provider.port_for(()).pipelined
    assert fake_tor.connections == [], "it is not made again"
    assert log_lines[-1] == (
        "warn: the application's control connection to tor is lost;"
        " clients are refused until the backend's replace_tor is called"
    )
    with pytest.raises(TypeError, match=r"tor must be a txtorcon\.Tor"):
        backend.replace_tor(None)
    backend.replace_tor(Tor(reactor, await protocol_of(fake_tor)))
    assert provider.state is ProviderState.STARTING
    await provider.when_ready()
    assert log_lines[-1] == "info: tor is ready"
    second = provider.control
    backend.replace_tor(third := await protocol_of(fake_tor))
    await provider.when_ready()
    assert second is not provider.control
    assert provider.control.protocol is third
    await until(lambda: fake_tor.commands.count("SETEVENTS ") == 1)
    await backend.stop()
    assert provider.state is ProviderState.STOPPED
    assert len(fake_tor.connections) == 2, "they are the application's"


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_tor_can_be_replaced_and_stopped_by_a_callback_of_the_one_before(
    fake_tor: FakeTor, is_stopped: bool
) -> None:
    first, second, third = [await protocol_of(fake_tor) for _ in range(3)]
    backend = TorBackend.from_tor(reactor, first)
    provider = backend.provider
    await provider.when_ready()  # it goes on in a callback
    backend.replace_tor(second)
    backend.replace_tor(third)
    if is_stopped:
        await backend.stop()
        assert provider.control is None
    else:
        await until(lambda: provider.control is not None and provider.control.protocol is third)
        await provider.when_ready()
        await backend.stop()
    assert provider.state is ProviderState.STOPPED


async def test_a_backend_over_an_applications_tor_takes_all_that_a_backend_takes(
    fake_tor: FakeTor, protocol: Any
) -> None:
    observer = OnionObserver(reactor)
    backend = TorBackend.from_tor(reactor, protocol, onion_observer=observer, optimistic_data=False)
    assert backend.observer is observer
    assert backend._optimistic_data is False
    await backend.stop()


async def test_clients_do_not_wait_for_an_application_that_may_not_control_tor(
    fake_tor: FakeTor, log_lines: list[str]
) -> None:
    fake_tor.answers["AUTHENTICATE"] = "515 Bad authentication"
    protocol = await protocol_of(fake_tor)
    backend = TorBackend.from_tor(reactor, protocol)
    application: list[object] = []
    protocol.post_bootstrap.addErrback(application.append)
    with pytest.raises(TorDown):
        await backend.provider.when_ready()
    await until(lambda: len(application) == len(log_lines) == 1)
    (line,) = log_lines
    assert line.startswith("error: the application's control connection failed (")
    assert line.endswith("; clients are refused")


@pytest.mark.parametrize("tor", [None, object(), UNIXClientEndpoint(reactor, "/run/tor/control")])
def test_what_is_no_tor_is_refused_at_the_call(tor: object) -> None:
    wanted = rf"tor must be a txtorcon\.Tor, .* not {type(tor).__name__}"
    with pytest.raises(TypeError, match=wanted):
        TorBackend.from_tor(reactor, tor)


async def test_program_of_the_readme_ends_without_a_word_at_ctrl_c(fake_tor: FakeTor) -> None:
    text = (ROOT / "README.md").read_text()
    program = text.partition("```python\n")[2].partition("```")[0]
    program = program.replace("/run/tor/control", fake_tor.path).replace("tcp:1080", "tcp:0")
    for key in ("config/names", "config/defaults"):  # what txtorcon.connect asks for
        fake_tor.answers[f"GETINFO {key}"] = f"250+{key}=\n.\n250 OK"
    running = start_python("-W", "ignore", "-c", program)
    await until(lambda: "GETCONF SocksPort __SocksPort" in fake_tor.commands)
    os.kill(running.pid, signal.SIGINT)
    assert await running.end() in (0, -signal.SIGINT)
    assert running.errors == b""


async def test_a_connection_that_was_lost_before_the_start_is_down(
    fake_tor: FakeTor, protocol: Any
) -> None:
    fake_tor.drop()
    await protocol.when_disconnected().addErrback(lambda _: None)
    provider = OwnedTorProvider(reactor, protocol)
    await provider.start()
    assert provider.state is ProviderState.DOWN


async def test_the_provider_can_be_stopped_while_it_waits_for_the_protocol(
    fake_tor: FakeTor,
) -> None:
    fake_tor.answers["AUTHENTICATE"] = None
    protocol = await protocol_of(fake_tor)
    provider = OwnedTorProvider(reactor, protocol)
    started = provider.start()
    await until(lambda: "AUTHENTICATE" in fake_tor.commands)
    await provider.stop()
    await started
    assert provider.state is ProviderState.STOPPED
    protocol.post_bootstrap.addErrback(lambda _: None)
    fake_tor.drop()
    await protocol.when_disconnected().addErrback(lambda _: None)
