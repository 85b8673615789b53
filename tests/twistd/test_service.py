"""``twistd torsocks`` as a process: how it starts, stops, and says what is wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred

from tests.support.peers import GRANTED, Peer, PeerFactory, named, refused
from tests.support.rows import rows
from tests.support.running import Ended, Twistd, run
from tests.twistd.conftest import DIRECT, LOOPBACK
from torsocks_tx import ClientOptions, Credentials, SOCKSClientEndpoint
from torsocks_tx.errors import LoginRefused


async def twistd(*arguments: str) -> Ended:
    """Run twistd to its end."""
    program = str(Path(sys.executable).with_name("twistd"))
    command = [sys.executable, program, "-n", "--pidfile=", "torsocks", *arguments]
    return await run(*command)


async def test_direct_says_so_loudly_and_a_storm_of_sighups_is_few_readings(tmp_path: Path) -> None:
    server = Twistd("--listen", LOOPBACK, *DIRECT, directory=tmp_path)
    await server.up()
    await server.said("NO TOR")
    await server.said("--allow-internal: clients can reach this machine and its local networks")
    for _ in range(100):
        os.kill(server.pid, signal.SIGHUP)
    await server.said("SIGHUP")
    assert await server.stop() == -signal.SIGTERM
    assert server.output.count("SIGHUP: there is no --onion-auth-dir to read again") < 20
    assert "Traceback" not in server.output
    assert not list(tmp_path.iterdir())


@rows("R-33", "P-39")
async def test_public_listener_is_told_of(tmp_path: Path) -> None:
    server = Twistd("--listen", "tcp:0 AllowPublic", *DIRECT, directory=tmp_path)
    await server.up()
    await server.said("OTHERS CAN REACH this proxy")
    await server.stop()


@pytest.mark.network
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tor-binary", "/nonexistent/tor"], "/nonexistent/tor"),
        (["--tor-option", "NoSuchOption 1"], "NoSuchOption"),
        (["--tor-data-directory", "/dev/null/x"], "/dev/null"),
    ],
)
async def test_a_tor_that_cannot_start_is_one_line_and_status_1(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    data = ["--tor-data-directory", str(tmp_path / "tor"), "--tor-option", "DisableNetwork 1"]
    ended = await twistd("--listen", LOOPBACK, *data, *arguments)
    assert ended.status == 1
    assert words in ended.text + ended.complaint
    assert "Traceback" not in ended.text + ended.complaint


async def test_why_it_cannot_start_is_told_whatever_bytes_a_path_has() -> None:
    ended = await twistd("--listen", "unix:/nowhere\udcff/s", *DIRECT)
    assert ended.status == 1
    assert r"--listen unix:/nowhere\xff/s: No such file or directory" in ended.text


async def test_usage_error_is_one_line_and_how_to_get_help() -> None:
    ended = await twistd("--listen", "tcp:1080")
    assert (ended.status, ended.text) == (1, "")
    mistake, advice = ended.complaint.splitlines()
    assert "others could reach this proxy" in mistake
    assert advice == "Try 'twistd torsocks --help'."


async def test_a_running_tor_that_is_not_there(tmp_path: Path) -> None:
    """The server starts, says what is missing, and refuses clients at once."""
    place = tmp_path / "control"
    server = Twistd("--listen", LOOPBACK, "--tor", f"unix:{place}", directory=tmp_path)
    await server.up()
    await server.said("clients are refused until tor is back")
    client: Peer = await server.endpoint.connect(PeerFactory())
    client.send(b"\5\1\0" + named("a", 80))
    assert await client.take_rest() == b"\5\0" + refused(1)
    client.close()
    assert "#debug" not in server.output
    assert await server.stop() == -signal.SIGTERM


async def test_a_control_port_that_is_given_as_the_socksport_is_told_of(tmp_path: Path) -> None:
    control = PeerFactory()
    port = reactor.listenTCP(0, control, interface="127.0.0.1")
    place = f"tcp:127.0.0.1:{port.getHost().port}"
    server = Twistd("--listen", LOOPBACK, "--tor-socks", place, directory=tmp_path)
    await server.up()
    client: Peer = await server.endpoint.connect(PeerFactory())
    client.send(b"\5\1\0" + named("example.com", 80))
    peer = await control.peer()
    peer.send(b"514 Authentication required.\r\n")
    assert await client.take_rest() == b"\5\0" + refused(1)
    client.close()
    peer.close()
    await server.said("--tor-socks is for a SocksPort")
    assert await server.stop() == -signal.SIGTERM
    await port.stopListening()


@pytest.fixture
def origin() -> Iterator[tuple[PeerFactory, bytes]]:
    """Give a server to connect to, and the request that leads there."""
    peers = PeerFactory()
    port = reactor.listenTCP(0, peers, interface="127.0.0.1")
    yield peers, b"\5\1\0\1\x7f\0\0\1" + port.getHost().port.to_bytes(2, "big")
    pytest_twisted.blockon(maybeDeferred(port.stopListening))


async def greeted(directory: Path, *options: str) -> tuple[Twistd, Peer]:
    """Start a server without tor; return it with a client that may make its request."""
    server = Twistd("--listen", LOOPBACK, *DIRECT, *options, directory=directory)
    await server.up()
    client: Peer = await server.endpoint.connect(PeerFactory())
    client.send(b"\5\1\0")
    assert await client.take(2) == b"\5\0"
    return server, client


async def test_open_streams_get_their_grace(
    tmp_path: Path, origin: tuple[PeerFactory, bytes]
) -> None:
    """A stream that is open when the server stops may still end by itself; the next may not."""
    origins, request = origin
    server, client = await greeted(tmp_path, "--shutdown-grace", "30")
    client.send(request)
    assert await client.take(10) == GRANTED
    server.transport.signalProcess("TERM")
    await server.said("open connections have 30 s to end (1 now)")
    far = await origins.peer()
    far.send(b"the last words")
    far.close()
    assert await client.take_rest() == b"the last words"
    client.close()
    assert await server.ended == -signal.SIGTERM


@pytest.mark.parametrize("size", [10, 1 << 20])
async def test_what_is_cut_by_the_end_of_the_grace_is_reset(
    tmp_path: Path, origin: tuple[PeerFactory, bytes], size: int
) -> None:
    """On both sides: to the far one too a FIN would say that this was all."""
    origins, request = origin
    server, client = await greeted(tmp_path, "--shutdown-grace", "0.1")
    client.send(request)
    assert await client.take(10) == GRANTED
    client.send(bytes(size))
    far = await origins.peer()
    assert await far.take(size) == bytes(size)
    assert await server.stop() == -signal.SIGTERM
    assert not await far.ended_well()
    assert not await client.ended_well()


@rows("P-05", "P-37", "H-17")
async def test_passwords_and_isolation_at_once(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("alice:secret\n")
    auth = ("--auth", f"file:{tmp_path / 'passwords'}")
    server = Twistd("--listen", LOOPBACK, *DIRECT, *auth, "--debug", directory=tmp_path)
    await server.up()
    origins = PeerFactory()
    port = reactor.listenTCP(0, origins, interface="127.0.0.1")
    wishes = ClientOptions(isolation=b"qzjx7", timeout=30), ClientOptions(protocol="http")
    for (number, wished), password in product(enumerate(wishes), (b"secret", b"qzjx7")):
        options = replace(wished, credentials=Credentials(b"alice", password))
        place = ("127.0.0.1", port.getHost().port)
        endpoint = SOCKSClientEndpoint(reactor, server.endpoint, *place, options)
        if password == b"secret":
            peer: Any = await endpoint.connect(PeerFactory())
            (await origins.peer(number)).send(b"hello")
            assert await peer.take(5) == b"hello"
            peer.reset()
        else:
            with pytest.raises(LoginRefused, match=r"status 01|answered 407"):
                await endpoint.connect(PeerFactory())
    await port.stopListening()
    await server.stop()
    for word in ("alice", "secret", "qzjx7"):
        assert word not in server.output.replace(str(tmp_path), "")
