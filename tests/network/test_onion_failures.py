"""Every failure of an onion service, on real tor: the reply codes of clients, and their time."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory

from tests.network.asking import Asker, Serving, ask, hang_up, request, serving
from tests.onion.recording import Recorder
from tests.onion.scenarios import (
    QUICK,
    SLOW,
    Provoke,
    Scenario,
    Stage,
    killed,
    never_published,
    removed,
    service_stopped,
    some_directories,
    up,
)
from tests.support.fakes import connected
from tests.support.http import Answer, read_answer
from tests.support.peers import until
from tests.support.rows import rows
from tests.support.running import Twistd
from torsocks_tx import ClientOptions, TorBackend
from torsocks_tx.backends.tor.provider import ProviderState
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.errors import OnionRefused, Refused, SOCKSError
from torsocks_tx.http.answers import meaning_of
from torsocks_tx.limits import RENDEZVOUS_TIMEOUT
from torsocks_tx.socks.constants import Version
from torsocks_tx.socks.replies import HIDDEN_SERVICE, refusal
from torsocks_tx.testing.tornet import Client, ClientKey, OnionService, PrivateNetwork

pytestmark = pytest.mark.network

TRIES = 12
"""Of the provocations that may come too late: those are over within a second."""
TOR_GIVES_UP = 120.0


@dataclass
class Servers:
    """Two listeners over one backend: with ExtendedErrors and without."""

    extended: str
    plain: str
    backend: TorBackend


def listen_twice(server: Serving) -> Servers:
    return Servers(server.listen("ExtendedErrors"), server.listen(), server.backend)


@pytest_twisted.async_yield_fixture
async def servers(private_network: PrivateNetwork) -> AsyncIterator[Servers]:
    """Servers in front of the first client of the network."""
    async with serving(private_network.client) as server:
        yield listen_twice(server)


@pytest_twisted.async_yield_fixture
async def socks_only(private_network: PrivateNetwork) -> AsyncIterator[Servers]:
    """Servers over a SocksPort with ExtendedErrors, without a control port."""
    proxy = TCP4ClientEndpoint(reactor, *private_network.client.socks_extended)
    async with serving(FixedTorProvider(proxy, pipelined=True)) as server:
        yield listen_twice(server)


async def code_of(server: str, host: str, port: int = 80, **options: Any) -> int:
    """Return the reply code that a client gets: 0 or 1 by SOCKS4."""
    try:
        await hang_up(await ask(server, request(host, port, **options), deadline=200.0))
    except Refused as reason:
        return int(reason.onion_code if isinstance(reason, OnionRefused) else reason.code)
    return 0


async def answer_of(server: str, host: str, port: int) -> Answer:
    """Return what a client hears by HTTP, which has no need of ExtendedErrors."""
    asker = Asker(request(host, port, version=Version.HTTP))
    name, _, number = server.rpartition(":")
    endpoint = TCP4ClientEndpoint(reactor, name, int(number))
    await endpoint.connect(Factory.forProtocol(lambda: asker))
    asker.outcome.addErrback(lambda failure: failure.trap(SOCKSError))
    await asker.outcome.addTimeout(200.0, reactor)
    await hang_up(asker)
    return read_answer(asker.heard)[0]


# The codes of proposal 229 for those of socks-extensions.
FOLD = {0xF0: 0xE0, 0xF1: 0xE0, 0xF6: 0xE0} | dict.fromkeys((0xF2, 0xF3, 0xF4, 0xF5, 0xF7), 0xE1)


async def reason_for(server: str, host: str, port: int) -> SOCKSError | None:
    """Return what our client hears, which offers method 0x97; None if it is connected."""
    name, _, number = server.rpartition(":")
    proxy = TCP4ClientEndpoint(reactor, name, int(number))
    try:
        (await connected(proxy, host, port, ClientOptions(), deadline=200.0)).reset()
    except SOCKSError as reason:
        return reason
    return None


def check_answer(answer: Answer, port: int, code: int) -> None:
    """Check that an answer by HTTP says the same as this code, or has nothing to say."""
    if port == 0 or code == 0:
        assert answer.status == (400 if port == 0 else 200)
        return
    status, error, token = meaning_of(refusal(code))
    assert answer.status == status
    assert answer.headers["tor-request-failed"] == f"torsocks_tx/{token}"
    assert f"; error={error}; " in answer.headers["proxy-status"]


@rows(
    "S-21", "S-22", "S-41", "S-42", "S-43", "S-44", "S-45", "S-46", "S-47", "S-48", "S-49", "S-50",
    "H-14", "H-15", "H-16", "P-01", "P-26", "P-27", "P-28"
)  # fmt: skip
@pytest.mark.parametrize("scenario", QUICK, ids=lambda scenario: scenario.name)
async def test_onion_failure_is_its_reply_code(
    private_network: PrivateNetwork, servers: Servers, scenario: Scenario
) -> None:
    """With the flag, without it, again, by SOCKS4, HTTP and 0x97: tor's cache changes nothing."""
    stage = Stage(private_network, private_network.client)

    async def attempts() -> tuple[list[int], Answer, SOCKSError | None, int]:
        async with scenario.provoke(stage) as target:
            host, port = target.host, target.port
            codes = [
                await code_of(servers.extended, host, port),
                await code_of(servers.plain, host, port),
                await code_of(servers.extended, host, port, version=Version.SOCKS4),
                await code_of(servers.extended, host, port, user=b"another", password=b"circuit"),
            ]
            answer = await answer_of(servers.plain, host, port)
            reason = await reason_for(servers.plain, host, port) if port else None
            return codes, answer, reason, port

    codes, answer, reason, port = await stage.in_one_period(attempts)
    assert codes == [scenario.code, scenario.plain, 1 if scenario.plain else 0, scenario.code]
    check_answer(answer, port, scenario.code)
    if scenario.code == 0:
        assert reason is None
    elif port:
        assert reason is not None
        assert reason.reply == FOLD.get(scenario.code, scenario.code)
        assert (type(reason) in HIDDEN_SERVICE) is (scenario.code in FOLD)


@rows(
    "S-21", "S-22", "S-41", "S-42", "S-43", "S-44", "S-45", "S-46", "S-47", "S-48", "S-49", "S-50",
    "H-14", "H-15", "H-16"
)  # fmt: skip
@pytest.mark.parametrize("scenario", SLOW, ids=lambda scenario: scenario.name)
@pytest.mark.slow
async def test_slow_onion_failure_is_its_reply_code(
    private_network: PrivateNetwork, servers: Servers, scenario: Scenario
) -> None:
    """The failures that tor takes minutes to find, with the defaults of tor and ours."""
    stage = Stage(private_network, private_network.client)

    async def attempts() -> tuple[list[Any], int, float]:
        async with scenario.provoke(stage) as target:
            began = reactor.seconds()
            heard = await gatherResults(
                Deferred.fromCoroutine(asking)
                for asking in (
                    code_of(servers.extended, target.host),
                    code_of(servers.plain, target.host),
                    code_of(servers.extended, target.host, version=Version.SOCKS4),
                    answer_of(servers.plain, target.host, target.port),
                )
            )
            return heard, target.port, reactor.seconds() - began

    for _ in range(TRIES):
        (*heard, answer), port, took = await stage.in_one_period(attempts)
        # An introduction point that is stopped too late has answered, or was never reached.
        if scenario.code != 0xF7 or heard[0] != 0xF2:
            break
    assert heard == [scenario.code, scenario.plain, 1]
    check_answer(answer, port, scenario.code)
    if scenario.provoke is service_stopped:
        assert RENDEZVOUS_TIMEOUT <= took < TOR_GIVES_UP


@rows("S-45", "S-46")
@pytest.mark.parametrize("end", [killed, removed])
@pytest.mark.slow
async def test_service_that_has_stopped_is_its_reply_code(
    private_network: PrivateNetwork, servers: Servers, end: Provoke
) -> None:
    """Until its introduction points notice, they acknowledge the client, without an answer."""
    stage = Stage(private_network, private_network.client)

    async def attempts() -> list[int]:
        async with end(stage) as target:
            return await gatherResults(
                Deferred.fromCoroutine(code_of(server, target.host))
                for server in (servers.extended, servers.plain)
            )

    heard = await stage.in_one_period(attempts)
    # Each client may meet another moment.
    assert heard[0] in (0xF2, 0xF3)
    assert heard[1] in (0x04, 0x06)


@rows("S-47")
async def test_missing_key_is_reported_again_at_the_next_attempt(
    private_network: PrivateNetwork, servers: Servers
) -> None:
    """Each attempt uses up one directory; when none is left tor says 04, and the reason is F4."""
    service = await private_network.add_onion_service(
        private_network.web.port, client_auth_key=ClientKey.generate()
    )
    stage = Stage(private_network, private_network.client)
    once = partial(code_of, servers.extended, service.address)
    assert [await stage.in_one_period(once) for _ in range(9)] == [0xF4] * 9


@rows("S-03", "S-43")
@pytest.mark.slow
async def test_working_streams_are_never_reported_as_failures(
    private_network: PrivateNetwork, servers: Servers, socks_only: Servers
) -> None:
    """tor's ExtendedErrors sends F0 for some working streams; our server never does."""
    stage = Stage(private_network, private_network.client)
    control = await stage.client.node.control()
    left = {servers.extended: 3, socks_only.extended: 3}
    while any(left.values()):
        async with some_directories(stage) as target:
            recorder = Recorder(control, target.host)
            await recorder.begin()
            server = max(left, key=lambda each: left[each])
            assert await stage.in_one_period(partial(code_of, server, target.host)) == 0
            await recorder.end()
            # Only where the first directory had no descriptor does tor say F0.
            left[server] -= recorder.has("REASON=NOT_FOUND")


@rows("S-43", "S-51")
async def test_reply_codes_without_a_control_port(
    private_network: PrivateNetwork, socks_only: Servers
) -> None:
    stage = Stage(private_network, private_network.client)

    async def attempts(provoke: Provoke) -> list[int]:
        async with provoke(stage) as target:
            both = (socks_only.extended, socks_only.plain)
            return [await code_of(server, target.host) for server in both]

    assert await stage.in_one_period(partial(attempts, never_published)) == [0xF0, 0x04]
    assert await stage.in_one_period(partial(attempts, up(80))) == [0, 0]


@rows("S-41")
async def test_lost_control_connection_loses_the_reason_only(
    private_network: PrivateNetwork, servers: Servers
) -> None:
    stage = Stage(private_network, private_network.client)
    async with never_published(stage) as target:
        watch = await stage.client.watch_streams()
        asking = Deferred.fromCoroutine(code_of(servers.extended, target.host))
        await watch.wait_for("NEW", f"{target.host}:80")
        provider = servers.backend.provider
        assert provider.control is not None
        provider.control.close()
        assert await asking == 0x04
        await watch.close()
        await until(lambda: provider.state is ProviderState.READY)
        assert await code_of(servers.extended, target.host) == 0xF0


async def test_tor_is_killed_during_an_attempt(private_network: PrivateNetwork) -> None:
    client = await private_network.add_client()
    stage = Stage(private_network, client)
    async with serving(client) as server, never_published(stage) as target:
        watch = await client.watch_streams()
        address = server.listen("ExtendedErrors")
        asking = Deferred.fromCoroutine(code_of(address, target.host))
        await watch.wait_for("NEW", f"{target.host}:80")
        client.node.kill()
        assert await asking == 0x01
        await private_network.restart(client.name)
        await until(lambda: server.provider.state is ProviderState.READY)
        assert await stage.in_one_period(partial(code_of, address, target.host)) == 0xF0


@dataclass
class Keyed:
    """A server with a directory of keys, and an onion service that needs ``key``."""

    stage: Stage
    client: Client
    service: OnionService
    key: ClientKey
    file: Path
    twistd: Twistd

    def write_key(self, key: ClientKey) -> None:
        """Write the file with the key of the service, right or wrong."""
        self.file.write_text(key.auth_private(self.service.address) + "\n")

    async def reload(self, *lines: str) -> None:
        """Have the server read the directory again, until it has logged these lines."""
        os.kill(self.twistd.pid, signal.SIGHUP)
        for line in lines:
            await self.twistd.said(line)

    async def newnym(self) -> None:
        """Have tor forget the keys that were added by its control port."""
        await (await self.client.node.control()).command("SIGNAL NEWNYM")

    async def code(self, user: bytes) -> int:
        """Return the reply code of a request for the service, on a circuit of its own."""
        server, host = self.twistd.addresses[0], self.service.address
        return await self.stage.in_one_period(partial(code_of, server, host, user=user))


@asynccontextmanager
async def keyed(network: PrivateNetwork, directory: Path, *options: str) -> AsyncIterator[Keyed]:
    client, key = await network.add_client(), ClientKey.generate()
    service = await network.add_onion_service(network.web.port, client_auth_key=key)
    keys = directory / "keys"
    keys.mkdir()
    listen = "tcp:0:interface=127.0.0.1 ExtendedErrors"
    tor = ("--tor", client.control_endpoint, "--onion-auth-dir", str(keys))
    twistd = Twistd("--debug", "--listen", listen, *tor, *options, directory=directory)
    try:
        yield Keyed(Stage(network, client), client, service, key, keys / "one.auth_private", twistd)
    finally:
        assert await twistd.stop() == -signal.SIGTERM
    assert service.address[:56] not in twistd.output
    assert "Traceback" not in twistd.output


@rows("S-47", "S-48")
async def test_keys_of_a_directory_authorize_the_client(
    private_network: PrivateNetwork, tmp_path: Path
) -> None:
    """They work at once, after NEWNYM and after a restart of tor, until their file is removed."""
    async with keyed(private_network, tmp_path) as it:
        it.write_key(it.key)
        (it.file.parent / "bad.auth_private").write_text("nothing of use\n")
        await it.twistd.up()
        await it.twistd.said("1 client authorization key for onion services")
        assert await it.code(b"0") == 0
        await it.newnym()
        assert await it.code(b"1") == 0
        it.client.node.kill()
        await it.twistd.said("tor is gone")
        await private_network.restart(it.client.name)
        await it.twistd.said("#info] tor is back")
        assert await it.code(b"2") == 0
        it.write_key(ClientKey.generate())
        await it.reload("SIGHUP: 1 client authorization key for onion services")
        await it.newnym()
        assert await it.code(b"3") == 0xF5
        it.file.unlink()
        await it.reload("SIGHUP: 0 client authorization keys for onion services")
        assert await it.code(b"4") == 0xF4
    assert it.twistd.output.count("bad.auth_private: not a client authorization key") == 3


@rows("S-47", "S-48")
async def test_keys_of_a_directory_authorize_every_worker(
    private_network: PrivateNetwork, tmp_path: Path
) -> None:
    """SIGHUP starts new workers, and tor loses keys whose files are removed."""
    limits = ("--rendezvous-timeout", "50", "--extended-bytes", "9000", "--extended-pairs", "9")
    async with keyed(private_network, tmp_path, "--workers", "2", *limits) as it:
        await it.twistd.up()
        for worker in (1, 2):
            await it.twistd.said(f"worker {worker}: 0 client authorization keys")
        assert await it.code(b"0") == 0xF4
        it.write_key(it.key)
        await it.reload(
            *(f"worker {n}: 1 client authorization key for onion services" for n in (1, 2))
        )
        assert await it.code(b"1") == 0
        it.file.unlink()
        await it.reload(*(f"worker {n}: SIGHUP: 0 client authorization keys" for n in (1, 2)))
        await it.newnym()
        assert await it.code(b"2") == 0xF4
