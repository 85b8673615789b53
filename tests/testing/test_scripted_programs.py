"""The scripted server as a program and as a process of a test that has no reactor."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import GRANTED, named, refused
from tests.support.processes import Program, process_ended, start_python
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials
from torsocks_tx.testing.scripted import GRAMMAR, ScriptedProcess, ScriptedRequest
from torsocks_tx.testing.scripted.server import from_json, to_json

MODULE = "torsocks_tx.testing.scripted"
TIMEOUT = 20


def connected(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), TIMEOUT)


def take(client: socket.socket, count: int) -> bytes:
    """Return ``count`` bytes; fewer if the connection ends."""
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def ask(host: str, port: int, request: bytes) -> bytes:
    """Return all that a blocking client receives."""
    received = b""
    with connected(host, port) as client:
        client.sendall(b"\5\1\0" + request)
        while data := client.recv(4096):
            received += data
    assert received[:2] == b"\5\0"
    return received[2:]


# In a process.


def test_process_serves_a_blocking_client() -> None:
    with ScriptedProcess() as server:
        assert server.requests == []
        for code in (1, 5, 0xF7):
            request = named(f"reply-{code:02x}.test", 80)
            assert ask(server.host, server.port, request) == refused(code)
        assert [request.address.host for request in server.requests] == [
            "reply-01.test",
            "reply-05.test",
            "reply-f7.test",
        ]
        server.forget()
        assert server.requests == []
        assert ask(server.host, server.port, named("bytes-1.test", 443)) == GRANTED + b"x"
        (request_,) = server.requests
        assert request_ == ScriptedRequest(
            Version.SOCKS5,
            Command.CONNECT,
            Address.of("bytes-1.test", 443),
            None,
            b"\5\1\0" + named("bytes-1.test", 443),
            "",
        )
    with pytest.raises(ConnectionRefusedError), connected(server.host, server.port):
        pass
    server.stop()


@pytest.mark.parametrize(
    ("options", "sent", "heard"),
    [
        ({"methods": [2]}, b"\5\1\0", b"\5\xff"),
        ({"methods": []}, b"\5\2\0\2", b"\5\xff"),
        ({"users": {"alice": "a:b"}}, b"\5\1\2\1\5alice\1a", b"\5\2\1\1"),
        (
            {"methods": [2], "users": {"alice": "a:b"}},
            b"\5\1\2\1\5alice\3a:b" + named("reply-05.test", 80),
            b"\5\2\1\0" + refused(5),
        ),
    ],
)
def test_process_has_methods_and_users(options: dict[str, Any], sent: bytes, heard: bytes) -> None:
    with ScriptedProcess(**options) as server, connected(server.host, server.port) as client:
        client.sendall(sent)
        assert take(client, 20) == heard
        known = [request.credentials for request in server.requests]
        assert known == [Credentials(b"alice", b"a:b")][: heard.endswith(refused(5))]


def test_process_that_cannot_listen_raises(capfd: pytest.CaptureFixture[str]) -> None:
    server = ScriptedProcess("tcp:nowhere")
    with pytest.raises(RuntimeError, match="ended; its standard error says why"):
        server.start()
    assert "cannot listen at tcp:nowhere: " in capfd.readouterr().err
    server.stop()


async def test_process_ends_with_its_parent() -> None:
    starter = start_python(
        "-c",
        "from torsocks_tx.testing.scripted import ScriptedProcess\n"
        "server = ScriptedProcess()\n"
        "server.start()\n"
        "print(server._process.pid, flush=True)\n"
        "import signal; signal.pause()\n",
    )
    pid = int(await starter.line())
    os.kill(starter.pid, signal.SIGKILL)
    await process_ended(pid)
    assert await starter.end() == -signal.SIGKILL


@pytest.mark.parametrize(
    "credentials", [None, Credentials(b"\0\xff", b""), Credentials(b"a", b"b")]
)
def test_request_is_the_same_after_json(credentials: Credentials | None) -> None:
    request = ScriptedRequest(
        Version.SOCKS4, Command.RESOLVE, Address.of("x.test", 1), credentials, b"\4\xff", "mistake"
    )
    assert from_json(json.loads(json.dumps(to_json(request)))) == request


# As a program.


async def person(*options: str) -> tuple[Program, tuple[str, int]]:
    program = start_python("-m", MODULE, *options)
    host, port = (await program.line("HTTP CONNECT, SOCKS4")).split(" at ")[1].split(":")
    return program, (host, int(port.partition(".")[0]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_program_prints_grammar_and_requests(number: int) -> None:
    program, where = await person("--user", "alice:secret", "--methods", "02")
    for line in GRAMMAR.splitlines():
        assert await program.line(line) == line
    with connected(*where) as client:
        client.sendall(b"\5\1\2\1\5alice\6secret" + named("replay-05.test", 80))
        assert take(client, 14) == b"\5\2\1\0" + refused(4)
    assert await program.line("SOCKS5") == (
        "SOCKS5 CONNECT replay-05.test:80 as b'alice'  (there is no label replay-05)"
    )
    with connected(*where) as client:
        client.sendall(b"\5\1\2\1\0\0")
        assert take(client, 4) == b"\5\2\1\1"
    os.kill(program.pid, number)
    assert await program.end() in (0, -number)
    assert program.errors == b""


async def test_program_prints_unix_paths_and_ipv6_addresses(tmp_path: Path) -> None:
    path = tmp_path / "socks"
    program = start_python("-m", MODULE, "--listen", f"unix:{path}")
    assert str(path) in await program.line("HTTP CONNECT, SOCKS4")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(path))
        client.sendall(b"\5\1\0\5\xf1\0\4" + bytes(15) + b"\1\0\0")
        assert take(client, 2) == b"\5\0"
    assert await program.line("SOCKS5 RESOLVE_PTR ") == "SOCKS5 RESOLVE_PTR [::1]:0"
    os.kill(program.pid, signal.SIGTERM)
    await program.end()


async def test_program_with_json_prints_requests_and_marks() -> None:
    program = start_python("-m", MODULE, "--json", "--listen", "tcp:0:interface=127.0.0.1")
    where = json.loads(await program.line())
    assert ask(where["host"], where["port"], named("reply-02.test", 80)) == refused(2)
    program.transport.write(b"so far\n")
    assert json.loads(await program.line()) == {
        "version": 5,
        "command": "CONNECT",
        "address_type": "HOSTNAME",
        "host": "reply-02.test",
        "port": 80,
        "username": None,
        "password": None,
        "handshake": (b"\5\1\0" + named("reply-02.test", 80)).hex(),
        "mistake": "",
    }
    assert json.loads(await program.line()) == {"mark": "so far"}
    program.transport.closeStdin()
    assert await program.end() == 0
    assert program.errors == b""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen", "nowhere"], "cannot listen at nowhere: "),
        (["--listen", "tcp:1:interface=192.0.2.1"], "cannot listen at tcp:1:interface=192.0.2.1: "),
        (["--methods", "97"], "argument --methods: 97 is not 02, 00, "),
        (["--user", "alice"], "argument --user: alice has no colon "),
    ],
)
async def test_invalid_option_is_an_error(options: list[str], complaint: str) -> None:
    program = start_python("-m", MODULE, *options)
    assert await program.end() != 0
    assert complaint in str(program)
    assert "Traceback" not in str(program)


async def test_help_has_the_grammar_and_every_option() -> None:
    program = start_python("-m", MODULE, "--help")
    assert await program.end() == 0
    text = "\n".join(program.lines)
    assert GRAMMAR in text + "\n"
    for option in ("--listen", "--methods", "--user", "--json"):
        assert option in text
