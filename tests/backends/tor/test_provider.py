"""The states of a provider, and the provider that is nothing but an endpoint."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ClientEndpoint

from torsocks_tx.backends.tor.provider import NoSuchPort, ProviderState, Readiness, SocksPort
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.errors import GeneralFailure, TorDown

ENDPOINT = TCP4ClientEndpoint(reactor, "127.0.0.1", 9050)
PORT = SocksPort(ENDPOINT, pipelined=True)


class OnePort:
    def port_for(self, flags: Iterable[str]) -> SocksPort:
        assert tuple(flags) == ()
        return PORT


PORTS = OnePort()


@pytest_twisted.ensureDeferred
async def test_whoever_asks_while_starting_waits() -> None:
    readiness = Readiness()
    readiness.ports = PORTS
    first, second, third = (readiness.when_ready() for _ in range(3))
    second.cancel()
    with pytest.raises(CancelledError):
        await second
    readiness.starting()
    assert not first.called
    readiness.ready()
    assert await first is PORT
    assert await third is PORT
    assert await readiness.when_ready() is PORT
    assert readiness.state is ProviderState.READY


@pytest_twisted.ensureDeferred
async def test_whoever_waits_is_refused_when_tor_is_down() -> None:
    readiness = Readiness()
    readiness.ports = PORTS
    waiting = [readiness.when_ready(), readiness.when_ready()]
    readiness.down("tor is gone")
    for asked in (*waiting, readiness.when_ready()):
        with pytest.raises(TorDown, match="tor is gone"):
            await asked
    readiness.starting()
    later = readiness.when_ready()
    assert not later.called
    readiness.stopped()
    for asked in (later, readiness.when_ready()):
        with pytest.raises(TorDown, match="stopped"):
            await asked
    readiness.starting()
    readiness.ready()
    readiness.down("late")
    assert readiness.state is ProviderState.STOPPED
    readiness.started()
    again = readiness.when_ready()
    readiness.ready()
    assert await again is PORT


def test_there_is_a_usable_port_only_while_connections_can_be_made() -> None:
    readiness = Readiness()
    readiness.ports = PORTS
    assert readiness.usable_port is None
    for leave in (readiness.starting, lambda: readiness.down("gone"), readiness.stopped):
        readiness.ready()
        assert readiness.usable_port is PORT
        leave()
        assert readiness.usable_port is None
    readiness.ready()
    assert readiness.usable_port is None


def test_the_log_says_once_when_tor_goes_and_when_it_is_back(log_lines: list[str]) -> None:
    readiness = Readiness()
    readiness.ports = PORTS
    readiness.starting()
    readiness.ready()
    readiness.ready()
    readiness.down("tor is gone")
    readiness.starting()
    readiness.down("tor is gone")
    readiness.down("tor has no port")
    readiness.starting()
    readiness.ready()
    readiness.down("tor is gone")
    readiness.stopped()
    assert log_lines == [
        "info: tor is ready",
        "warn: tor is gone; clients are refused until tor is back",
        "warn: tor has no port; clients are refused until tor is back",
        "info: tor is back",
        "warn: tor is gone; clients are refused until tor is back",
    ]


@pytest_twisted.ensureDeferred
async def test_a_fixed_endpoint_is_ready_from_start_to_stop() -> None:
    provider = FixedTorProvider(ENDPOINT, extended_errors=True)
    assert provider.state is ProviderState.STARTING
    assert provider.port is None
    assert provider.control is None
    with pytest.raises(TorDown):
        provider.port_for(())
    asked = provider.when_ready()
    await provider.start()
    port = await asked
    assert port == SocksPort(ENDPOINT, pipelined=False, extended_errors=True)
    assert provider.port == provider.port_for(()) == provider.port_for(["IPv6Traffic"]) == port
    with pytest.raises(NoSuchPort, match="cannot be known without tor's control port"):
        provider.port_for(["NoIPv6Traffic"])
    with pytest.raises(ValueError, match="no flag"):
        provider.port_for(["NoSuchFlag"])
    assert issubclass(NoSuchPort, GeneralFailure)
    await provider.stop()
    assert provider.state is ProviderState.STOPPED
    with pytest.raises(TorDown):
        await provider.when_ready()


@pytest_twisted.ensureDeferred
async def test_a_fixed_endpoint_may_be_known_to_be_c_tors() -> None:
    provider = FixedTorProvider(ENDPOINT, pipelined=True)
    await provider.start()
    assert (await provider.when_ready()).pipelined
