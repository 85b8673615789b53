"""The client of this package with microsocks, dante and privoxy, servers without Tor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, clientFromString
from twisted.internet.error import ConnectError

from tests.support.clients import client
from tests.support.fakes import connected
from tests.support.peers import DEADLINE, Peer, PeerFactory, turn
from tests.support.processes import Program, start_program
from tests.support.rows import rows
from torsocks_tx import errors
from torsocks_tx.client.endpoint import resolve
from torsocks_tx.errors import SOCKSError
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.messages import Credentials
from torsocks_tx.testing.tornet.servers import LOOPBACK, PortReservations

pytestmark = pytest.mark.network

ANSWER = b"0123456789abcdef" * 65536
Start = Callable[..., Awaitable[TCP4ClientEndpoint]]

DANTE = """
logoutput: stderr
internal: {host} port = {port}
external: {host}
clientmethod: none
socksmethod: none
user.privileged: {user}
user.unprivileged: {user}
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
"""
PRIVOXY = """
listen-address {host}:{port}
confdir {directory}
logdir {directory}
"""


@pytest_twisted.async_yield_fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Give a function that starts a server and returns the endpoint to connect to it."""
    programs: list[Program] = []
    ports = PortReservations()

    async def run(name: str, *options: str) -> TCP4ClientEndpoint:
        port = ports.take()
        command = [client(name), "-i", LOOPBACK, "-p", str(port), *options]
        if name == "danted":
            settings = tmp_path / "danted.conf"
            user = settings.parent.owner()
            settings.write_text(DANTE.format(host=LOOPBACK, port=port, user=user))
            command = [client(name), "-f", str(settings), "-p", str(tmp_path / "pid")]
        if name == "privoxy":
            settings = tmp_path / "privoxy.conf"
            settings.write_text(PRIVOXY.format(host=LOOPBACK, port=port, directory=tmp_path))
            command = [client(name), "--no-daemon", str(settings)]
        programs.append(start_program(command))
        endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, port)
        await listening(endpoint, programs[-1])
        return endpoint

    yield run
    for program in programs:
        program.transport.signalProcess("TERM")
        await program.end()
    ports.release()


async def listening(endpoint: TCP4ClientEndpoint, program: Program) -> None:
    """Wait until the program accepts connections."""
    end = reactor.seconds() + DEADLINE
    while reactor.seconds() < end and program.status is None:
        try:
            peer: Any = await endpoint.connect(PeerFactory())
        except ConnectError:
            await turn()
        else:
            peer.close()
            return
    raise AssertionError(f"it does not listen: {program.errors.decode()}")


@pytest_twisted.async_yield_fixture
async def origin() -> AsyncIterator[tuple[PeerFactory, int]]:
    """A server to connect to, and its port."""
    factory = PeerFactory()
    port = reactor.listenTCP(0, factory, interface=LOOPBACK)
    yield factory, port.getHost().port
    await port.stopListening()


async def exchange(peer: Peer, origins: PeerFactory) -> None:
    """Send bytes both ways over a new stream, and close it."""
    peer.send(b"hello")
    remote = await origins.peer()
    assert await remote.take(5) == b"hello"
    remote.send(ANSWER)
    assert await peer.take(len(ANSWER)) == ANSWER
    peer.close()
    await remote.until(lambda: remote.over)
    remote.reset()


async def error_of(proxy: Any, host: str, port: int, options: ClientOptions) -> SOCKSError:
    with pytest.raises(SOCKSError) as caught:
        await connected(proxy, host, port, options)
    return caught.value


def server(name: str, *arguments: Any) -> Any:
    """Arguments of a test that needs this server."""
    return pytest.param(name, *arguments, marks=pytest.mark.clients(name))


HTTP = ClientOptions(protocol="http")
# dante knows no SOCKS4a. microsocks drops what comes in one segment with the request.
SERVERS = [
    server("microsocks", ClientOptions(), LOOPBACK),
    server("microsocks", ClientOptions(), "localhost"),
    server("danted", ClientOptions(), LOOPBACK),
    server("danted", ClientOptions(), "localhost"),
    server("danted", ClientOptions(version=4), LOOPBACK),
    server("danted", ClientOptions(optimistic=True), LOOPBACK),
    server("privoxy", HTTP, "localhost"),
    server("privoxy", replace(HTTP, credentials=Credentials(b"tor-iso", b"x")), LOOPBACK),
]
BOTH = [server("microsocks"), server("danted")]


@rows("P-35", "P-36", "R-34", "S-03")
@pytest.mark.parametrize(("name", "options", "host"), SERVERS)
async def test_a_stream_through_each_server(
    start: Start, origin: tuple[PeerFactory, int], name: str, options: ClientOptions, host: str
) -> None:
    origins, port = origin
    await exchange(await connected(await start(name), host, port, options), origins)


@rows("R-34")
@pytest.mark.parametrize("name", BOTH)
async def test_a_refused_connection_is_reported(start: Start, name: str) -> None:
    ports = PortReservations()
    error = await error_of(await start(name), LOOPBACK, ports.take(), ClientOptions())
    ports.release()
    assert (type(error), error.reply) == (errors.ConnectionRefused, 5)


@rows("R-34", "S-23", "H-20")
@pytest.mark.parametrize("name", [*BOTH, server("privoxy")])
async def test_a_server_that_cannot_isolate_is_not_used(
    start: Start, origin: tuple[PeerFactory, int], name: str
) -> None:
    origins, port = origin
    wished = HTTP if name == "privoxy" else ClientOptions()
    error = await error_of(await start(name), LOOPBACK, port, replace(wished, isolation=b"x"))
    assert type(error) is errors.NotIsolated
    assert origins.peers == []


@rows("R-34")
@pytest.mark.clients("microsocks")
async def test_a_login_to_microsocks(start: Start, origin: tuple[PeerFactory, int]) -> None:
    origins, port = origin
    proxy = await start("microsocks", "-u", "alice", "-P", "secret")
    good = ClientOptions(credentials=Credentials(b"alice", b"secret"))
    await exchange(await connected(proxy, LOOPBACK, port, good), origins)
    wrong = ClientOptions(credentials=Credentials(b"alice", b"wrong"))
    for options in (wrong, ClientOptions()):
        error = await error_of(proxy, LOOPBACK, port, options)
        assert isinstance(error, errors.LoginRefused)


@rows("S-24")
@pytest.mark.parametrize("name", BOTH)
async def test_look_ups_fail_as_these_servers_have_none(start: Start, name: str) -> None:
    proxy = await start(name)
    with pytest.raises(SOCKSError) as caught:
        await resolve(reactor, proxy, "localhost").addTimeout(DEADLINE, reactor)
    assert (
        isinstance(caught.value, errors.GeneralFailure | errors.ProxyBroken)
        or caught.value.reply == 7
    )


@pytest.mark.clients("microsocks")
async def test_an_endpoint_string_through_microsocks(
    start: Start, origin: tuple[PeerFactory, int]
) -> None:
    origins, port = origin
    proxy = await start("microsocks")
    text = f"socks:{LOOPBACK}:{port}:socksPort={proxy._port}"
    await exchange(await clientFromString(reactor, text).connect(PeerFactory()), origins)
