"""A server that runs out of file descriptors goes on when it has some again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectError

from tests.loopback.conftest import extended_before_streams
from tests.support.ground import Ground
from tests.support.peers import GRANTED, Peer, named
from tests.support.processes import start_python

pytestmark = extended_before_streams  # the server is another process

FILES = 40
CLIENT = "127.77.66.55"


async def first_served(ground: Ground, endpoint: Any) -> Peer:
    """Return a client that was let in, once the server has noticed that others have gone."""
    for _ in range(200):
        with contextlib.suppress(ConnectError):
            client = await ground.connect(endpoint)
            client.send(b"\5\1\0")
            if await client.take(2) == b"\5\0":
                return client
    raise AssertionError("nobody is let in")


async def test_the_listener_survives_and_resumes(ground: Ground, tmp_path: Path) -> None:
    path = str(tmp_path / "listener")
    where = "tcp" if ground.kind == "tcp" else f"unix:{path}"
    program = start_python("-m", "tests.loopback.servers", "crowded", str(FILES), where)
    port = int((await program.line("listening")).split()[1])
    endpoint: Any = UNIXClientEndpoint(reactor, path)
    if ground.kind == "tcp":
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port, bindAddress=(CLIENT, 0))
    served = []
    # Who finds no place is closed at once; until then everybody is served.
    with contextlib.suppress(ConnectError):
        for _ in range(2 * FILES):
            client = await ground.connect(endpoint)
            client.send(b"\5\1\0")
            if await client.take(2) != b"\5\0":
                break
            served.append(client)
    assert FILES // 2 < len(served) < FILES
    for client in served:
        client.reset()
        await client.until(lambda client=client: client.lost is not None)
    client = await first_served(ground, endpoint)
    client.send(named("example.com", 80))
    assert await client.take(10) == GRANTED
    client.send(b"hello")
    assert await client.take(5) == b"hello"
    assert program.errors.count(b"no file descriptors are left") == 1
    # Twisted's own ports log the address of each client that they turn away.
    assert CLIENT.encode() not in program.errors
    program.transport.closeStdin()
    assert await program.end() == 0
