"""The examples, run as a reader would run them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint

from tests.support.peers import GRANTED, Peer, PeerFactory, named, refused
from tests.support.processes import ROOT, Program, start_python
from torsocks_tx import ClientOptions, KeyValues, SOCKSClientEndpoint
from torsocks_tx.errors import ArgumentsRefused
from torsocks_tx.testing.scripted import ScriptedServer
from torsocks_tx.testing.tornet import PrivateNetwork

EXAMPLES = ROOT / "examples"
LISTEN = "tcp:0:interface=127.0.0.1"
# The exception is for what Twisted 22.4 itself imports.
STRICT = ("-X", "dev", "-W", "error", "-W", "ignore:'cgi' is deprecated:DeprecationWarning")
# txtorcon.connect() leaves the cookie file open, and uses what Twisted 25.5 deprecates.
LENIENT = ("-W", "ignore")


class Connect:
    """Connects a client to an example."""

    def __init__(self, endpoint: TCP4ClientEndpoint, clients: list[Peer]) -> None:
        self.endpoint = endpoint
        self._clients = clients

    async def __call__(self) -> Peer:
        client: Peer = await self.endpoint.connect(PeerFactory())
        self._clients.append(client)
        return client


Run = Callable[..., Awaitable[Connect]]


@pytest_twisted.async_yield_fixture
async def run() -> AsyncIterator[Run]:
    """Give a function that starts an example and returns one that connects a client to it."""
    programs: list[Program] = []
    clients: list[Peer] = []

    async def start(name: str, *arguments: str) -> Connect:
        example = str(EXAMPLES / name)
        warnings = LENIENT if name == "over_txtorcon.py" else STRICT
        if name != "with_keys.py":
            arguments += (LISTEN,)
        program = start_python(*warnings, example, *arguments)
        programs.append(program)
        host, _, port = (await program.line("SOCKS at ")).split()[-1].partition(":")
        endpoint = TCP4ClientEndpoint(reactor, host, int(port))

        return Connect(endpoint, clients)

    yield start
    for peer in clients:
        peer.reset()
    for program in programs:
        if program.status is None:
            os.kill(program.pid, signal.SIGINT)
        assert await program.end() in (0, -signal.SIGINT)
        assert program.errors == b""


def test_every_example_is_run_by_a_test() -> None:
    examples = {path.name for path in EXAMPLES.iterdir()} - {"__pycache__"}
    text = "".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    assert {name for name in examples if f'{name}"' not in text} == set()


async def visit(client: Peer, port: int) -> bytes:
    """Ask for the front page of the private network's web server."""
    assert await client.negotiate(named("web.test", port)) == GRANTED
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    return await client.take_rest()


@pytest.mark.network
@pytest.mark.parametrize("example", ["embed.py", "over_txtorcon.py"])
async def test_embedding_example_connects_through_tor(
    run: Run, private_network: PrivateNetwork, example: str
) -> None:
    connect = await run(example, private_network.client.control_endpoint)
    page = await visit(await connect(), private_network.web.port)
    assert b"This is the IPv4 origin." in page
    client = await connect()
    assert await client.negotiate(named("doc.test", 0, 0xF0)) == (
        bytes.fromhex("05 00 00 01 CB007109 0000")
    )


async def test_embedding_example_refuses_clients_without_tor(run: Run, tmp_path: Path) -> None:
    connect = await run("embed.py", f"unix:{tmp_path}/control")
    client = await connect()
    assert await client.negotiate(named("web.test", 80)) == refused(1)
    assert await client.take_rest() == b""


async def test_backend_example_serves_its_own_answers(run: Run) -> None:
    connect = await run("own_backend.py")
    client = await connect()
    assert await client.negotiate(named("Echo.test", 80)) == GRANTED
    client.send(b"hello")
    assert await client.take(5) == b"hello"
    client = await connect()
    assert await client.negotiate(named("time.test", 13)) == GRANTED
    assert len((await client.take_rest()).split()) == 5
    client = await connect()
    assert await client.negotiate(named("example.com", 80)) == refused(2)


async def log_in(client: Peer, name: bytes, password: bytes) -> bytes:
    client.send(b"\5\2\0\2")
    assert await client.take(2) == b"\5\2"
    client.send(bytes([1, len(name)]) + name + bytes([len(password)]) + password)
    return await client.take(2)


async def test_password_example_accepts_its_users_only(run: Run, tmp_path: Path) -> None:
    """A scripted server in place of tor records what tor would get."""
    passwords = tmp_path / "passwords"
    passwords.write_text("alice:secret\nbob:hunter2\n")
    tor = ScriptedServer(reactor)
    address = await tor.start()
    connect = await run("with_passwords.py", str(passwords), f"tcp:127.0.0.1:{address.port}")
    for name, password in ((b"alice", b"secret"), (b"alice", b"secret"), (b"bob", b"hunter2")):
        client = await connect()
        assert await log_in(client, name, password) == b"\1\0"
        client.send(named("banner.test", 22))
        assert (await client.take(20)).startswith(GRANTED + b"220")
    first, again, other = (request.credentials for request in tor.requests)
    assert first is not None
    assert first.username == b"<torS0X>0"
    assert first == again != other
    for name, password in ((b"alice", b"hunter2"), (b"carol", b"secret"), (b"", b"")):
        client = await connect()
        assert await log_in(client, name, password) == b"\1\1"
        assert await client.take_rest() == b""
    client = await connect()
    client.send(b"\5\1\0")
    assert await client.take_rest() == b"\5\xff"
    assert len(tor.requests) == 3
    await tor.stop()


async def fetch(*arguments: str) -> Program:
    program = start_python(*STRICT, str(ROOT / "examples" / "fetch.py"), *arguments)
    await program.end()
    return program


async def test_client_example_fetches_a_page_and_explains_failures() -> None:
    server = ScriptedServer(reactor)
    address = await server.start()
    proxy = f"tcp:127.0.0.1:{address.port}"
    program = await fetch("bytes-5.test", "80", proxy)
    assert (program.status, program.errors) == (0, b"")
    first = server.requests[0].credentials
    assert first is not None
    assert first.username == b"<torS0X>0"
    program = await fetch("reply-05.test", "80", proxy)
    assert program.status == 1
    expected = b"The destination refused the connection. (reply 05) Try again: later."
    assert program.errors.strip() == expected
    assert server.requests[1].credentials != first
    await server.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("with_passwords.py", b"give a file with a line name:password for each user"),
        ("fetch.py", b"give the name of a host"),
        ("fetch.py web.test 99999", b"a port must be a whole number from 1 to 65535"),
        (f"fetch.py web.test 80 unix:{ROOT}/no/such/socket", b"The proxy could not be reached"),
    ],
)
async def test_example_reports_an_error_in_one_line(arguments: str, words: bytes) -> None:
    example, *more = arguments.split()
    program = start_python(*STRICT, str(EXAMPLES / example), *more)
    assert await program.end() == 1
    assert program.errors.count(b"\n") == 1
    assert words in program.errors


@pytest.mark.network
async def test_client_example_fetches_a_page_through_tor(private_network: PrivateNetwork) -> None:
    host, port = private_network.client.socks_tcp
    program = await fetch("web.test", str(private_network.web.port), f"tcp:{host}:{port}")
    assert program.status == 0
    assert any("This is the IPv4 origin." in line for line in program.lines)


async def test_asyncio_example_serves_and_stops(run: Run) -> None:
    tor = ScriptedServer(reactor)
    address = await tor.start()
    connect = await run("over_asyncio.py", f"tcp:127.0.0.1:{address.port}")
    client = await connect()
    assert await client.negotiate(named("echo.test", 22)) == GRANTED
    client.send(b"hello")
    assert await client.take(5) == b"hello"
    client.close()
    await tor.stop()


async def test_key_example_chooses_a_tor_by_the_key_of_a_client(run: Run) -> None:
    tors = [ScriptedServer(reactor) for _ in range(2)]
    places = [f"tcp:127.0.0.1:{(await tor.start()).port}" for tor in tors]
    connect = await run("with_keys.py", f"DE={places[0]}", f"FR={places[1]}")
    for country, served in ((b"FR", 1), (b"DE", 0), (None, 0)):
        pairs = KeyValues() if country is None else KeyValues.of({"X-example.country": country})
        options = ClientOptions(pairs=pairs, isolation=b"alice")
        endpoint = SOCKSClientEndpoint(reactor, connect.endpoint, "echo.test", 80, options)
        (await endpoint.connect(PeerFactory())).reset()
        assert [len(tor.requests) for tor in tors] == [served == 0, served == 1]
        [request] = tors[served].requests
        assert request.credentials is not None
        tors[served].requests.clear()
    options = ClientOptions(pairs=KeyValues.of({"X-example.country": b"XX"}))
    endpoint = SOCKSClientEndpoint(reactor, connect.endpoint, "echo.test", 80, options)
    with pytest.raises(ArgumentsRefused) as caught:
        await endpoint.connect(PeerFactory())
    assert caught.value.pairs.get("X-example.countries") == b"DE,FR"
    for tor in tors:
        await tor.stop()


@pytest.mark.network
@pytest.mark.clients("curl")
async def test_pytest_example_tests_curl() -> None:
    plugin = ("-p", "torsocks_tx.testing.scripted.pytest_plugin", "-p", "no:cacheprovider")
    config = ("-c", os.devnull, "--rootdir", str(EXAMPLES))
    example = str(EXAMPLES / "test_my_client.py")
    program = start_python("-m", "pytest", "-q", *plugin, *config, example)
    assert await program.end() == 0, program.lines
    assert "9 passed" in program.lines[-1]
