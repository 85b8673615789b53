"""The code in the documents for applications and for tests, run as its reader would run it."""

from __future__ import annotations

import ast
import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, clientFromString
from twisted.internet.error import ConnectionLost

from tests.support.peers import GRANTED, Peer, PeerFactory, named, refused
from tests.support.processes import ROOT, start_python
from torsocks_tx import MemoryBackend, serve
from torsocks_tx.testing.scripted import GRAMMAR
from torsocks_tx.testing.tornet import PrivateNetwork

DOCS = ROOT / "docs"
TIMEOUT = 400
WARNINGS = ("-W", "error", "-W", "ignore:'cgi' is deprecated:DeprecationWarning")


class Snippet(NamedTuple):
    """A code block of a document: its kind (after ``python``), its file name, and the code."""

    kind: str
    file: str
    code: str


def snippets(document: str) -> list[Snippet]:
    """Return the pieces of Python in a document."""
    found = re.findall(
        r"^```python *(\w*)\n(?:# file: (\S+)\n)?(.*?)^```$",
        (DOCS / document).read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    return [Snippet(*match) for match in found]


TESTING = snippets("testing.md")
EMBEDDING = snippets("embedding.md")
CLIENT = snippets("client.md")


def test_every_snippet_is_run_by_a_test() -> None:
    assert {piece.kind for piece in EMBEDDING} == {"", "tor", "program", "change"}
    assert {piece.kind for piece in CLIENT} == {"", "program", "scrapy"}
    assert {piece.kind for piece in TESTING} == {"", "network"}
    assert [piece.file for piece in TESTING] == [
        "conftest.py",
        "test_client.py",
        "test_passwords.py",
        "test_with_reactor.py",
        "trial_client.py",
        "test_far_end.py",
        "conftest.py",
        "test_over_tor.py",
        "trial_over_tor.py",
    ]


def test_document_has_the_grammar_of_scripted_names() -> None:
    assert f"```text\n{GRAMMAR}```" in (DOCS / "testing.md").read_text(encoding="utf-8")


def run(directory: Path, kind: str, runner: str, *arguments: str) -> str:
    """Write the files of one kind, and run one test runner on them; return its output."""
    for piece in TESTING:
        if piece.kind == kind:
            (directory / piece.file).write_text(piece.code, encoding="utf-8")
    # As the script `trial` does it: `-m twisted.trial` of Twisted 22.4 asks setuptools first.
    program = ["-c", TRIAL] if runner == "trial" else ["-m", runner]
    command = [sys.executable, "-X", "dev", *WARNINGS, *program, *arguments]
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()[-1] if runner == "pytest" else done.stdout


TRIAL = "from twisted.scripts.trial import run; run()"
PYTEST = ("pytest", *WARNINGS, "-q", "-p", "no:cacheprovider", "-c", os.devnull)


def test_pytest_snippets_of_the_scripted_server_run(tmp_path: Path) -> None:
    assert "10 passed" in run(tmp_path, "", *PYTEST, "--rootdir=.", ".")


def test_trial_snippets_of_the_scripted_server_run(tmp_path: Path) -> None:
    assert "PASSED (successes=1)" in run(tmp_path, "", "trial", "trial_client")


@pytest.mark.network
@pytest.mark.slow
def test_pytest_snippets_of_the_private_network_run(tmp_path: Path) -> None:
    assert "3 passed" in run(tmp_path, "network", *PYTEST, "--rootdir=.", ".")


@pytest.mark.network
@pytest.mark.slow
def test_trial_snippets_of_the_private_network_run(tmp_path: Path) -> None:
    assert "PASSED (successes=1)" in run(tmp_path, "network", "trial", "trial_over_tor")


async def execute(pieces: list[Snippet], names: dict[str, Any]) -> None:
    """Run pieces one after another, as if they stood in one coroutine."""
    for piece in pieces:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        outcome = eval(compile(piece.code, "embedding.md", "exec", flags), names)
        if inspect.isawaitable(outcome):
            await outcome


async def ask(address: Any, request: bytes) -> Peer:
    """Send a request to a server; leave its reply to be read."""
    client: Peer = await TCP4ClientEndpoint(reactor, address.host, address.port).connect(
        PeerFactory()
    )
    client.send(b"\5\1\0" + request)
    assert await client.take(2) == b"\5\0"
    return client


def pieces(document: list[Snippet], kind: str, **replaced: str) -> list[Snippet]:
    """Return the pieces of one kind, with other places in them: see ``PLACES``."""
    found = [piece for piece in document if piece.kind == kind]
    for name, place in replaced.items():
        found = [piece._replace(code=piece.code.replace(PLACES[name], place)) for piece in found]
    return found


PLACES = {
    "control": "unix:/run/tor/control",
    "files": "/run/app/",
    "keys": "/etc/app/onion_auth",
    "listen": "tcp:1080",
    "page": "https://check.torproject.org/api/ip",
    "socks": "9050",
}


async def test_snippets_for_applications_run() -> None:
    names: dict[str, Any] = {"__name__": "embedding"}
    await execute(pieces(EMBEDDING, ""), names)
    [address] = names["greeter"].addresses
    client = await ask(address, named("example.com", 80))
    assert await client.take_rest() == GRANTED + b"hello\r\n"
    client.close()
    client = await ask(address, named("example.com", 0, 0xF0))
    assert await client.take_rest() == bytes.fromhex("05 00 00 01 C0000201 0000")
    client.close()
    client = await ask(address, bytes.fromhex("05 F1 00 01 C0000201 0000"))
    assert await client.take_rest() == refused(4)
    client.close()
    await execute(pieces(CLIENT, "", socks=str(address.port)), names)
    assert names["address"] == "192.0.2.1"
    await names["greeter"].shutdown(0)


async def test_changes_to_the_first_program_run(tmp_path: Path) -> None:
    tor, again = Mock(), object()
    tor.protocol.when_disconnected = lambda: fail(ConnectionLost())
    names: dict[str, Any] = {
        "reactor": reactor,
        "serve": serve,
        "backend": MemoryBackend(),
        "tor": tor,
        "control": None,
        "txtorcon": Mock(connect=lambda *_: succeed(again)),
    }
    first, second, third, counted = pieces(
        EMBEDDING, "change", listen="tcp:0", files=f"{tmp_path}/"
    )
    for piece in (first, second, counted):
        await execute([piece], names)
        await names["server"].shutdown(0)
    assert names["registry"].snapshot().outcomes["open"] == 0
    names["backend"] = Mock()
    await execute([third], names)
    names["backend"].replace_tor.assert_called_once_with(again)


@pytest.mark.network
async def test_snippets_for_applications_run_through_tor(
    private_network: PrivateNetwork, tmp_path: Path
) -> None:
    control = private_network.client.control_endpoint
    found = pieces(EMBEDDING, "tor", keys=str(tmp_path))
    await execute(found, {"reactor": reactor, "control": control})


@pytest.mark.network
async def test_first_programs_run_through_tor(private_network: PrivateNetwork) -> None:
    net = private_network
    [server] = pieces(EMBEDDING, "program", control=net.client.control_endpoint, listen="tcp:0")
    # txtorcon.connect() leaves the cookie file open, and uses what Twisted 25.5 deprecates.
    running = start_python("-W", "ignore", "-c", server.code)
    host, _, port = (await running.line("SOCKS at ")).split()[-1].partition(":")
    client = await ask(IPv4Address("TCP", host, int(port)), named("web.test", net.web.port))
    assert await client.take(10) == GRANTED
    client.reset()
    os.kill(running.pid, signal.SIGINT)
    assert await running.end() in (0, -signal.SIGINT)
    assert running.errors == b""
    page, socks = f"http://web.test:{net.web.port}/", str(net.client.socks_tcp[1])
    [program] = pieces(CLIENT, "program", page=page, socks=socks)
    running = start_python("-c", program.code)
    assert await running.line() == "200 66 bytes"
    assert await running.end() == 0


def test_settings_for_scrapy_name_what_there_is() -> None:
    [piece] = pieces(CLIENT, "scrapy")
    settings: dict[str, Any] = {}
    exec(piece.code, settings)
    assert {*settings["DOWNLOAD_HANDLERS"].values()} == {"torsocks_tx.web.ScrapyDownloadHandler"}
    assert clientFromString(reactor, settings["SOCKS_PROXY"])
