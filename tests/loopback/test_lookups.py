"""Nothing goes around tor: no name to this machine's resolver, and no connection."""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from twisted.internet import reactor
from twisted.internet.interfaces import IHostnameResolver
from twisted.logger import LogEvent
from zope.interface import implementer

import torsocks_tx
from tests.loopback.conftest import before_streams
from tests.support.fakes import grant, refuse, tor_like
from tests.support.ground import Ground, WatchedServer
from tests.support.names import ONION
from tests.support.peers import named, refused
from tests.support.rows import rows
from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.backends.names import NameResolver
from torsocks_tx.relay.connector import Attempt, Target


class Lookups(list[str]):
    """The names that somebody tried to look up on this machine."""

    def catch(self, *names: object, **more: object) -> NoReturn:
        self.append(str(names[-1] if isinstance(names[0], NameResolver) else names[0]))
        raise AssertionError("a name was looked up")


@implementer(IHostnameResolver)
class Trap:
    def __init__(self, lookups: Lookups) -> None:
        self.resolveHostName = lambda receiver, name, *rest: lookups.catch(name)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookups]:
    """Catch every way in which Python and Twisted look names up."""
    lookups = Lookups()
    for function in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        monkeypatch.setattr(socket, function, lookups.catch)
    for function in ("gethostbyaddr", "getnameinfo", "getfqdn"):
        monkeypatch.setattr(socket, function, lookups.catch)
    monkeypatch.setattr(reactor, "resolve", lookups.catch)
    for method in ("addresses", "name_of"):
        monkeypatch.setattr(NameResolver, method, lookups.catch)
    previous = reactor.installNameResolver(Trap(lookups))
    yield lookups
    reactor.installNameResolver(previous)


@rows("S-07", "S-08", "R-23", "R-24")
@before_streams
@pytest.mark.parametrize(
    ("host", "kind", "raw"),
    [
        ("example.com", 3, b"example.com"),
        ("Example.COM.", 3, b"Example.COM."),
        ("localhost", 3, b"localhost"),
        ("no-such-name.invalid", 3, b"no-such-name.invalid"),
        ("a_b.example", 3, b"a_b.example"),
        ("127.1", 3, b"127.1"),
        ("0x7f.0.0.1", 3, b"0x7f.0.0.1"),
        (ONION, 3, ONION.encode()),
        ("192.0.2.1", 1, bytes([192, 0, 2, 1])),
        ("[2001:db8::1]", 4, bytes.fromhex("20010db8000000000000000000000001")),
    ],
)
async def test_a_name_goes_to_tor_as_it_came_and_nobody_looks_it_up(
    ground: Ground, lookups: Lookups, host: str, kind: int, raw: bytes
) -> None:
    server, upstream = await tor_like(ground, grant)
    endpoint = await ground.listen(server)
    requests = [named(host, 443), named(host, 443, 0xF0)]
    for number, request in enumerate(requests[: 1 if kind != 3 else 2]):
        client = await ground.connect(endpoint)
        assert await client.negotiate(request)
        leg = await upstream.asked(number)
        assert leg.asked[1:3] == (kind, raw)
        leg.close()
        client.close()
    await server.emptied()
    assert lookups == []


@rows("S-07")
@before_streams
@pytest.mark.parametrize(
    "host", ["bad name", 'quo"ted', "a\0b.com", "-a", "x.onion", "a" * 64 + "."]
)
async def test_nor_is_a_name_that_is_refused(ground: Ground, lookups: Lookups, host: str) -> None:
    server, _ = await tor_like(ground, refuse(4))
    client = await ground.client(server)
    assert (await client.negotiate(named(host, 80)))[1] != 0
    client.close()
    await server.emptied()
    assert lookups == []


@before_streams
async def test_the_trap_catches(
    ground: Ground, lookups: Lookups, logged_failures: list[LogEvent]
) -> None:
    server = WatchedServer(DirectBackend(reactor))
    client = await ground.client(server)
    assert await client.negotiate(named("example.com", 80)) == refused(1)
    assert lookups == ["example.com"]
    with pytest.raises(AssertionError):
        socket.getaddrinfo("example.org", 80)
    assert lookups == ["example.com", "example.org"]
    logged_failures.clear()


def test_only_the_command_line_and_the_public_names_know_of_it() -> None:
    root = Path(torsocks_tx.__file__).parent
    users = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and "direct" in f"{node.module}".split("."):
                users.add(path.relative_to(root).as_posix())
    assert users == {"__init__.py", "twistd/upstream.py"}


@before_streams
async def test_a_tor_that_is_down_is_not_gone_around(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = await tor_like(ground)
    await ground.stop_listening()
    client = await ground.client(server)
    dialled: list[Target] = []
    begin = Attempt.begin

    def note(attempt: Attempt, targets: Sequence[Target]) -> None:
        dialled.extend(targets)
        begin(attempt, targets)

    monkeypatch.setattr(Attempt, "begin", note)
    assert await client.negotiate(named("127.0.0.1", 80)) == refused(1)
    # One attempt, at tor's own port.
    assert len(dialled) == 1
    assert dialled[0].address[1:] != (80,)
