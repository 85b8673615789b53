"""What the options put behind the listeners, and what is seen at the start."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import Clock

from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.backends.tor.launched import LaunchedTorProvider
from torsocks_tx.backends.tor.provider import NoSuchPort, ProviderState
from torsocks_tx.backends.tor.providers import FixedTorProvider, RunningTorProvider
from torsocks_tx.testing.tornet.provider import PrivateTorProvider
from torsocks_tx.twistd.options import Options
from torsocks_tx.twistd.upstream import TorUpstream, make_upstream


def supply_of(*arguments: str) -> object:
    from twisted.internet import reactor

    options = Options()
    options.parseOptions(arguments)
    return make_upstream(reactor, options).provider


def test_each_kind_of_tor(tmp_path: object) -> None:
    assert isinstance(supply_of("--tor-data-directory", str(tmp_path)), LaunchedTorProvider)
    assert isinstance(supply_of("--tor", "private"), PrivateTorProvider)
    assert isinstance(supply_of("--tor", "unix:/run/tor/control"), RunningTorProvider)
    assert isinstance(supply_of("--tor-socks", "tcp:127.0.0.1:9050"), FixedTorProvider)


def test_no_tor_is_not_a_kind_of_tor() -> None:
    from twisted.internet import reactor

    options = Options()
    options.parseOptions(["--backend", "direct"])
    upstream = make_upstream(reactor, options)
    assert isinstance(upstream.backend, DirectBackend)
    assert not hasattr(upstream, "provider")


def upstream_with(*flags: str) -> TorUpstream:
    clock = Clock()
    provider = FixedTorProvider(UNIXClientEndpoint(clock, "/nowhere"))
    return TorUpstream(clock, provider, None, [frozenset(), frozenset(flags)])


@pytest_twisted.ensureDeferred
async def test_flags_that_the_port_may_not_have_are_refused_at_the_start() -> None:
    upstream = upstream_with("NoIPv6Traffic")
    with pytest.raises(NoSuchPort, match="NoIPv6Traffic"):
        await upstream.start()
    assert upstream.provider.state is ProviderState.STOPPED


@pytest_twisted.ensureDeferred
async def test_without_such_flags_it_starts() -> None:
    upstream = upstream_with()
    await upstream.start()
    assert upstream.provider.state is ProviderState.READY
