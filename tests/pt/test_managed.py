"""A managed transport in its own process: the example, and smaller ones."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock

from tests.pt.bridge import EXAMPLE
from tests.pt.ports import CONNECT
from tests.support.peers import Peer, PeerFactory, refused
from tests.support.processes import Program, start_program, start_python
from tests.support.rows import rows
from tests.support.tables import octets, table
from tests.support.transports import FakeTransport
from torsocks_tx.pt import run
from torsocks_tx.pt.managed import DEBUG_LOG, ManagedTransports, Parent

ENVIRONMENT = {"TOR_PT_MANAGED_TRANSPORT_VER": "1", "TOR_PT_CLIENT_TRANSPORTS": "veil"}
UNTIL_CLOSED = {**ENVIRONMENT, "TOR_PT_EXIT_ON_STDIN_CLOSE": "1"}

OWN = """
import sys
from torsocks_tx.pt import InvalidBridge, run

def chatty(target):
    print("by accident")
    print("oh", file=sys.stderr)
    target.setting.report({"CONNECT": "Success", "HOW": 'very "well"'})
    raise InvalidBridge("never")

def broken(target):
    raise ValueError(f"to {target.address.host}")

run({"chatty": chatty, "broken": broken}, debug=DEBUG)
"""

Start = Callable[..., Program]


def own(names: str, debug: bool = False, **more: str) -> tuple[dict[str, str], str, str]:
    """Return the environment and the arguments that start transports of ours."""
    environment = {**UNTIL_CLOSED, "TOR_PT_CLIENT_TRANSPORTS": names, **more}
    return environment, "-c", OWN.replace("DEBUG", str(debug))


@pytest_twisted.async_yield_fixture
async def start() -> AsyncIterator[Start]:
    """Give a function that starts the example, or another transport, with an environment."""
    programs: list[Program] = []

    def start(environment: Mapping[str, str], *arguments: str) -> Program:
        strict = ("-X", "dev", "-W", "error", "-W", "ignore:'cgi' is deprecated")
        program = start_python(
            *strict, *(arguments or (str(EXAMPLE),)), environment=dict(environment)
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        if program.status is None:
            os.kill(program.pid, signal.SIGTERM)
        await program.end()
        assert program.errors == b""


async def said(program: Program, last: str) -> list[str]:
    """Return the lines up to this one."""
    found: list[str] = []
    while not found or not found[-1].startswith(last):
        found.append(await program.line())
    return found


async def connect(cmethod: str) -> Peer:
    """Connect as the parent does, to where a CMETHOD line says."""
    word, _, kind, place = cmethod.split(" ")
    host, _, port = place.partition(":")
    assert (word, kind, host) == ("CMETHOD", "socks5", "127.0.0.1")
    client: Peer = await TCP4ClientEndpoint(reactor, host, int(port)).connect(PeerFactory())
    return client


@rows("P-02")
async def test_program_announces_its_transports_and_serves_them(start: Start) -> None:
    program = start(UNTIL_CLOSED)
    lines = await said(program, "CMETHODS DONE")
    assert lines[0] == "VERSION 1"
    assert lines[1].startswith("CMETHOD veil socks5 127.0.0.1:")
    assert lines[2:] == ["CMETHODS DONE"]
    client = await connect(lines[1])
    assert await client.negotiate(CONNECT) == refused(5)
    assert await client.take_rest() == b""
    [line] = await said(program, "LOG ")
    assert "the bridge line has no argument secret); attempts refused: 1" in line
    client.close()
    program.transport.closeStdin()
    assert await program.end() == 0


CRAMPED = """
import resource
from twisted.internet.defer import Deferred
from torsocks_tx.pt import run

class Never:
    def connect(self, factory):
        return Deferred()

def held(target):
    target.setting.report({"CONNECT": "Heard"})
    return Never()

resource.setrlimit(resource.RLIMIT_NOFILE, (98, 102))
run({"one": held, "two": held})
"""


async def test_streams_beyond_the_descriptor_limit_are_closed_and_logged_once(start: Start) -> None:
    program = start({**UNTIL_CLOSED, "TOR_PT_CLIENT_TRANSPORTS": "one,two"}, "-c", CRAMPED)
    _, one, two, _ = await said(program, "CMETHODS DONE")
    clients = [await connect(one if number % 2 else two) for number in range(3)]
    for client in clients:
        client.send(octets("05 01 00") + CONNECT)
        assert await client.take(2) == octets("05 00")
    for _ in clients:
        await said(program, "STATUS")
    for cmethod in (one, two):
        clients.append(await connect(cmethod))
        assert await clients[-1].take_rest() == b""
    for client in clients:
        client.reset()
    program.transport.closeStdin()
    assert await program.end() == 0
    text = "3 clients are connected: more are turned away"
    assert program.lines.count(f'LOG SEVERITY=warning MESSAGE="{text}"') == 1


ANNOUNCED = table(
    ("asked for twice", {"TOR_PT_CLIENT_TRANSPORTS": "obfs4,veil,veil"}, ["CMETHOD veil"]),
    ("of other programs", {"TOR_PT_CLIENT_TRANSPORTS": "obfs4,9x,meek"}, []),
    (
        "by way of a proxy",
        {"TOR_PT_PROXY": "socks5://me:hunter2@127.0.0.1:1"},
        ["PROXY DONE", "CMETHOD veil"],
    ),
)


@pytest.mark.parametrize(("environment", "between"), ANNOUNCED)
async def test_what_the_parent_asked_for_is_announced_once(
    start: Start, environment: dict[str, str], between: list[str]
) -> None:
    lines = await said(start(UNTIL_CLOSED | environment), "CMETHODS DONE")
    expected = ["VERSION 1", *between, "CMETHODS DONE"]
    assert [" ".join(line.split()[:2]) for line in lines] == expected


ERRORS = table(
    ("version", {"TOR_PT_MANAGED_TRANSPORT_VER": "2"}, ["VERSION-ERROR no-version"]),
    (
        "no parent",
        {"TOR_PT_MANAGED_TRANSPORT_VER": ""},
        ["ENV-ERROR no TOR_PT_MANAGED_TRANSPORT_VER environment variable"],
    ),
    (
        "environment",
        {"TOR_PT_OUTBOUND_BIND_ADDRESS_V4": "here"},
        ["VERSION 1", "ENV-ERROR TOR_PT_OUTBOUND_BIND_ADDRESS_V4 is not an IPv4 address"],
    ),
    (
        "directory",
        {"TOR_PT_STATE_LOCATION": "/dev/null/state"},
        ["VERSION 1", "ENV-ERROR cannot make TOR_PT_STATE_LOCATION: File exists"],
    ),
    (
        "proxy",
        {"TOR_PT_PROXY": "https://me:hunter2@127.0.0.1:1"},
        ["VERSION 1", "PROXY-ERROR the kind of proxy is not supported"],
    ),
)


@pytest.mark.parametrize(("environment", "lines"), ERRORS)
async def test_unusable_environment_ends_the_program(
    start: Start, environment: dict[str, str], lines: list[str]
) -> None:
    program = start({**UNTIL_CLOSED, **environment})
    assert await program.end() == 1
    assert [line for line in program.lines if not line.startswith("LOG")] == lines
    assert "hunter2" not in "".join(program.lines)


async def test_state_directory_and_those_above_it_are_made_with_mode_0700(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "state"
    program = start({**UNTIL_CLOSED, "TOR_PT_STATE_LOCATION": str(path)})
    await said(program, "CMETHODS DONE")
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)] == [0o700] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_the_program_and_its_streams(
    start: Start, number: signal.Signals
) -> None:
    program = start(ENVIRONMENT)
    lines = await said(program, "CMETHODS DONE")
    client = await connect(lines[1])
    program.transport.closeStdin()  # which says nothing where the parent did not announce it
    client.send(b"\5\1\0")
    assert await client.take(2) == b"\5\0"
    os.kill(program.pid, number)
    assert await program.end() == 0
    await client.until(lambda: client.over)
    client.reset()
    await client.until(lambda: client.lost is not None)


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-"], ids=["ended", "missing"])
async def test_standard_input_may_be_over_before_the_start(redirection: str) -> None:
    words = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, str(EXAMPLE)]
    program = start_program(words, dict(UNTIL_CLOSED))
    assert await program.end() == 0
    assert program.lines[0] == "VERSION 1"
    assert "CMETHODS DONE" in program.lines
    assert program.errors == b""


async def test_parent_that_closes_standard_output_is_still_served(start: Start) -> None:
    program = start(*own("chatty"))
    lines = await said(program, "CMETHODS DONE")
    program.transport.closeChildFD(1)
    for _ in range(3):
        client = await connect(lines[1])
        assert await client.negotiate(CONNECT) == refused(5)
        client.close()
    program.transport.closeStdin()
    assert await program.end() == 0


async def test_printed_text_status_and_faults_become_lines_of_the_protocol(start: Start) -> None:
    program = start(*own("chatty,broken"))
    lines = await said(program, "CMETHODS DONE")
    client = await connect(lines[1])
    assert await client.negotiate(CONNECT) == refused(5)
    client.close()
    assert await said(program, "STATUS") == [
        'LOG SEVERITY=info MESSAGE="by accident"',
        'LOG SEVERITY=error MESSAGE="oh"',
        'STATUS TRANSPORT=chatty CONNECT="Success" HOW="very \\"well\\""',
    ]
    client = await connect(lines[2])
    assert await client.negotiate(CONNECT) == refused(1)
    client.close()
    assert await program.line("LOG SEVERITY=error") == (
        'LOG SEVERITY=error MESSAGE="a fault of a transport; the parent is refused'
        ' (ValueError at <string>:12)"'
    )
    program.transport.closeStdin()
    await program.end()
    assert all("192.0.2.1" not in line for line in program.lines)


async def test_debug_log_has_the_text_and_traceback_of_a_fault(
    start: Start, tmp_path: Path
) -> None:
    for debug in (False, True):
        program = start(*own("broken", debug, TOR_PT_STATE_LOCATION=str(tmp_path)))
        lines = await said(program, "CMETHODS DONE")
        client = await connect(lines[1])
        assert await client.negotiate(CONNECT) == refused(1)
        client.close()
        program.transport.closeStdin()
        assert await program.end() == 0
        assert "192.0.2.1" not in "".join(program.lines)
        assert (tmp_path / DEBUG_LOG).exists() is debug
    assert stat.S_IMODE((tmp_path / DEBUG_LOG).stat().st_mode) == 0o600
    text = (tmp_path / DEBUG_LOG).read_text("utf-8")
    assert "in broken" in text
    assert "ValueError: to 192.0.2.1" in text


@pytest.mark.parametrize(
    ("has_place", "why"),
    [(True, "Is a directory"), (False, "TOR_PT_STATE_LOCATION is not set")],
    ids=["not-writable", "no-state-location"],
)
async def test_debug_log_that_cannot_be_written_is_told(
    start: Start, tmp_path: Path, has_place: bool, why: str
) -> None:
    (tmp_path / DEBUG_LOG).mkdir()
    state = {"TOR_PT_STATE_LOCATION": str(tmp_path)} if has_place else {}
    program = start(*own("broken", debug=True, **state))
    told = f'LOG SEVERITY=warning MESSAGE="there is no debug log: {why}"'
    assert told in await said(program, "CMETHODS DONE")


def test_invalid_transport_name_is_refused() -> None:
    for name in ("", "9x", "a-b", "a b"):
        with pytest.raises(ValueError, match="not a name of a transport"):
            run({name: lambda target: target.endpoint})


class FullReactor(MemoryReactorClock):
    """A reactor that cannot listen."""

    def listenTCP(self, *arguments: Any, **options: Any) -> Any:
        raise CannotListenError("127.0.0.1", 0, OSError("no room"))


@pytest.mark.parametrize(
    ("kind", "word"), [(MemoryReactorClock, b"CMETHOD veil"), (FullReactor, b"CMETHOD-ERROR veil")]
)
def test_transport_that_cannot_listen_is_a_cmethod_error(
    kind: type[MemoryReactorClock], word: bytes
) -> None:
    memory = kind()
    parent, transport = Parent(memory), FakeTransport()
    transport.connect(parent)
    managed = ManagedTransports(memory, parent, {"veil": lambda target: target.endpoint})
    outcome: list[Any] = []
    Deferred.fromCoroutine(managed.start(ENVIRONMENT)).addBoth(outcome.append)
    version, method, done = transport.take().splitlines()
    assert version == b"VERSION 1"
    assert method.startswith(word)
    assert done == b"CMETHODS DONE"
    assert not outcome[0].exit_on_stdin_close
    Deferred.fromCoroutine(managed.stop())
