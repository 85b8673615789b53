"""What the options put behind the listeners, and what is seen at the start."""

from __future__ import annotations

import os
import pwd
import socket
import sys
import tempfile
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from tests.backends.tor.onion.staged import ADDRESS, staged
from tests.twistd.conftest import LOOPBACK, options_of
from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.launched import LaunchedTorProvider
from torsocks_tx.backends.tor.pool import TorPool
from torsocks_tx.backends.tor.provider import ProviderState
from torsocks_tx.backends.tor.providers import FixedTorProvider, RunningTorProvider
from torsocks_tx.errors import NoSuchPort
from torsocks_tx.testing.tornet.network import PrivateTorProvider
from torsocks_tx.twistd.options import Options
from torsocks_tx.twistd.upstream import HostEndpoint, Upstream, UpstreamError, make_upstream


def upstream_of(*arguments: str, keys: str | None = None) -> Upstream:
    return make_upstream(reactor, options_of(*arguments, directory="/base"), keys)


def provider_of(*arguments: str) -> object:
    [backend] = upstream_of(*arguments).tors.values()
    return backend.provider


LAUNCHED = ("--tor-binary", sys.executable, "--tor-data-directory", "/nowhere")


def test_each_kind_of_tor() -> None:
    assert isinstance(provider_of(*LAUNCHED), LaunchedTorProvider)
    assert isinstance(provider_of("--tor", "private"), PrivateTorProvider)
    assert isinstance(provider_of("--tor", "unix:/run/tor/control"), RunningTorProvider)
    assert isinstance(provider_of("--tor-socks", "tcp:127.0.0.1:9050"), FixedTorProvider)


def names_of(*arguments: str) -> list[str]:
    upstream = upstream_of(*arguments)
    assert isinstance(upstream.backend, TorPool)
    assert upstream.backend.tors == upstream.tors
    return list(upstream.tors)


def test_several_tors_are_a_pool_by_address_or_by_data_directory() -> None:
    assert names_of(*LAUNCHED, "--tors", "3") == ["nowhere", "nowhere-2", "nowhere-3"]
    odd = upstream_of(*LAUNCHED, "--tors", "2", "--tor-data-directory", "/t\udcff")
    assert [provider.log.label for provider in odd.providers] == [r"t\xff: ", r"t\xff-2: "]
    addresses = ["unix:/base/control", "tcp:127.0.0.1:9051"]
    assert names_of("--tor", "unix:control", "--tor", "tcp:127.0.0.1:9051") == addresses


def pool_with(failing: Exception | None) -> Upstream:
    """Return what is behind a server: a pool of tors, the second of which may not be started."""
    clock = Clock()
    tors = {name: TorBackend(clock, FailingProvider()) for name in ("one", "two", "three")}
    tors["two"].provider.failing = failing  # type: ignore[attr-defined]
    return Upstream(TorPool(clock, tors), tors)


class FailingProvider(FixedTorProvider):
    """A provider whose start fails by the exception ``failing``, if there is one."""

    failing: Exception | None = None

    def __init__(self) -> None:
        super().__init__(UNIXClientEndpoint(Clock(), "/nowhere"))

    async def _run(self) -> None:
        if self.failing is not None:
            raise self.failing
        await super()._run()


async def test_a_pool_starts_with_all_its_tors_or_not_at_all() -> None:
    upstream = pool_with(None)
    await upstream.start()
    assert upstream.backend.choose(b"key", ProviderState.READY) is not None
    assert upstream.new_identity() == "every new stream gets a fresh circuit"
    assert {backend.epoch.word[0] for backend in upstream.tors.values()} == {1}
    await upstream.stop()
    upstream = pool_with(OSError("it cannot be executed"))
    with pytest.raises(UpstreamError, match=r"^two: it cannot be executed$"):
        await upstream.start()
    states = {backend.provider.state for backend in upstream.tors.values()}
    assert states == {ProviderState.STOPPED}


async def test_keys_of_onion_services_are_given_to_each_tor_and_taken_from_each(
    tmp_path: Path, log_lines: list[str]
) -> None:
    (tmp_path / "bad.auth_private").write_text("")
    file = tmp_path / "one.auth_private"
    file.write_text(f"{ADDRESS}:descriptor:x25519:{'A' * 52}")
    upstream = upstream_of("--tor", "unix:/a", "--tor", "unix:/b", keys=str(tmp_path))
    controls = [staged(), staged()]
    for backend, control in zip(upstream.tors.values(), controls, strict=True):
        await backend.observer.follow(control)
    file.unlink()
    assert len(log_lines) == 1, "a bad file is named once, however many tors there are"
    assert await upstream.reload() == "0 client authorization keys for onion services"
    assert len(log_lines) == 2
    for control in controls:
        told = [line.split()[0] for line in control.commands if "CLIENT_AUTH" in line]
        assert told == ["ONION_CLIENT_AUTH_ADD", "ONION_CLIENT_AUTH_REMOVE"]


def test_a_tor_that_is_started_has_a_port_for_each_family_that_a_client_may_ask_for() -> None:
    provider = provider_of(*LAUNCHED, "--listen", "tcp:0:interface=127.0.0.1 PreferIPv6")
    assert isinstance(provider, LaunchedTorProvider)
    families = [{"NoIPv4Traffic"}, {"NoIPv6Traffic"}, {"PreferIPv6"}]
    assert provider._policies == [frozenset(), *families]


def test_no_tor_is_not_a_kind_of_tor() -> None:
    upstream = upstream_of("--backend", "direct")
    assert isinstance(upstream.backend, DirectBackend)
    assert upstream.tors == {}


def upstream_with(*flags: str) -> Upstream:
    clock = Clock()
    provider = FixedTorProvider(UNIXClientEndpoint(clock, "/nowhere"))
    policies = [frozenset(), frozenset(flags)]
    backend = TorBackend(clock, provider)
    return Upstream(backend, {"tor": backend}, policies)


async def test_flags_that_the_port_may_not_have_are_refused_at_the_start() -> None:
    upstream = upstream_with("NoIPv6Traffic")
    with pytest.raises(NoSuchPort, match="NoIPv6Traffic"):
        await upstream.start()
    assert upstream.backend.provider.state is ProviderState.STOPPED


async def test_without_such_flags_it_starts() -> None:
    upstream = upstream_with()
    await upstream.start()
    assert upstream.backend.provider.state is ProviderState.READY


class Geoip:
    """A control connection to a tor with or without a GeoIPFile."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    async def command(self, line: str) -> str:
        assert line == "GETINFO ip-to-country/ipv4-available"
        return f"{line.removeprefix('GETINFO ')}={self.answer}"


@pytest.mark.parametrize("answer", ["0", "1"])
async def test_countries_that_tor_does_not_know_are_refused_at_the_start(answer: str) -> None:
    upstream = upstream_with()
    upstream._needs_countries = True
    upstream.backend.provider.control = Geoip(answer)
    if answer == "0":
        with pytest.raises(UpstreamError, match="tor-geoipdb"):
            await upstream.start()
    else:
        await upstream.start()
    assert (upstream.backend.provider.state is ProviderState.STOPPED) is (answer == "0")


@pytest.mark.parametrize(
    ("flags", "needed"), [("", False), ("ExitCountry=de", True), ("ClientParameters", True),
                          (f"ExitNode={'A' * 40}", False), ("RotateAfter=1", False)]
)  # fmt: skip
def test_countries_are_needed_where_they_can_be_asked_for(flags: str, needed: bool) -> None:
    upstream = upstream_of("--tor", "unix:/x", "--listen", f"{LOOPBACK} {flags}")
    assert upstream._needs_countries is needed


TOR_THAT_REFUSES = """#!/bin/sh
grep -q '^Bad 1$' || exit 0
echo 'Jan 01 00:00:00.000 [warn] Unknown option Bad.  Failing.'
echo 'Jan 01 00:00:00.000 [err] Reading config failed--see warnings above.'
exit 1
"""


def test_options_that_tor_refuses_are_told_before_anything_starts(tmp_path: Path) -> None:
    tor = tmp_path / "tor"
    tor.write_text(TOR_THAT_REFUSES)
    tor.chmod(0o755)
    arguments = ("--tor-binary", str(tor), "--tor-data-directory", str(tmp_path / "data"))
    with pytest.raises(ValueError, match="tor refuses its options: Unknown option Bad"):
        provider_of(*arguments, "--tor-option", "Good 1", "--tor-option", "Bad 1")
    provider_of(*arguments, "--tor-option", "Good 1")
    assert not (tmp_path / "data").exists()


def test_options_of_tor_are_judged_by_the_user_that_serves() -> None:
    # Only root can become another user.
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _, _, user, group, *_ = pwd.getpwnam("nobody")
    options = Options()
    options.parent = {"uid": user}  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        tor = Path(directory, "tor")
        tor.write_text(
            '#!/bin/sh\necho "[warn] user $(/usr/bin/id -u) of group $(/usr/bin/id -g)"; exit 1\n'
        )
        tor.chmod(0o755)
        arguments = ("--tor-binary", str(tor), "--tor-data-directory", f"{directory}/data")
        options.parseOptions([*arguments, "--tor-option", "A 1"])
        with pytest.raises(ValueError, match=f"user {user} of group {group}$"):
            make_upstream(Clock(), options)


class TestAHostName:
    """The SocksPort of a tor that is named by its host."""

    def endpoint(self, port: int) -> IStreamClientEndpoint:
        provider = provider_of("--tor-socks", f"tcp:tor.test:{port}")
        assert isinstance(provider, FixedTorProvider)
        endpoint = provider._port.endpoint
        assert isinstance(endpoint, HostEndpoint)
        assert reactor.running
        return endpoint

    def look_up(self, monkeypatch: pytest.MonkeyPatch, *found: str) -> tuple[list[str], Event]:
        """Return whose addresses are asked for, and what lets a look-up go on."""
        asked, go_on = [], Event()

        def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
            asked.append(host)
            assert go_on.wait(60)
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            return [(0, 0, 0, "", (address, port)) for address in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked, go_on

    @pytest_twisted.ensureDeferred
    async def test_it_is_looked_up_once_for_all_who_wait(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listening = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        port = listening.getHost().port
        asked, go_on = self.look_up(monkeypatch, "127.0.0.9", "127.0.0.1")
        endpoint = self.endpoint(port)
        made = [connectProtocol(endpoint, Protocol()) for _ in range(20)]
        made[0].cancel()
        go_on.set()
        outcomes = await DeferredList(made, consumeErrors=True)
        assert [success for success, _ in outcomes] == [False] + [True] * 19
        assert asked == ["tor.test"]
        for _, protocol in outcomes[1:]:
            protocol.transport.abortConnection()
        await listening.stopListening()

    @pytest_twisted.ensureDeferred
    async def test_who_waits_for_a_name_that_is_unknown_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, go_on = self.look_up(monkeypatch)
        go_on.set()
        for _ in range(2):
            with pytest.raises(DNSLookupError):
                await connectProtocol(self.endpoint(1), Protocol())
