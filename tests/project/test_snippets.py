"""The code in docs/embedding.md and docs/testing.md, run as its reader would run it."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, clientFromString

from tests.support.peers import GRANTED, Peer, PeerFactory, named, refused
from tests.support.processes import ROOT
from torsocks_tx.testing.scripted import GRAMMAR
from torsocks_tx.testing.tornet import PrivateNetwork

DOCS = ROOT / "docs"
TIMEOUT = 150
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


def test_every_snippet_is_run_by_a_test() -> None:
    assert {(piece.kind, bool(piece.file)) for piece in EMBEDDING} == {("", False), ("tor", False)}
    assert {piece.kind for piece in TESTING} == {"", "network"}
    assert [piece.file for piece in TESTING] == [
        "conftest.py",
        "test_client.py",
        "test_passwords.py",
        "test_with_reactor.py",
        "trial_client.py",
        "test_far_end.py",
        "test_over_tor.py",
        "trial_over_tor.py",
    ]


def test_document_has_the_grammar_of_scripted_names() -> None:
    assert f"```text\n{GRAMMAR}```" in (DOCS / "testing.md").read_text(encoding="utf-8")


def run(directory: Path, kind: str, runner: str, *arguments: str) -> str:
    """Write the files of one kind, and run one test runner on them; return its output."""
    for piece in TESTING:
        if piece.kind == kind or piece.file == "conftest.py":
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
    assert "2 passed" in run(tmp_path, "network", *PYTEST, "--rootdir=.", ".")


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


async def ask(port: Any, request: bytes) -> Peer:
    """Send a request to a listening port; leave its reply to be read."""
    address = port.getHost()
    client: Peer = await TCP4ClientEndpoint(reactor, address.host, address.port).connect(
        PeerFactory()
    )
    client.send(b"\5\1\0" + request)
    assert await client.take(2) == b"\5\0"
    return client


async def test_embedding_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passwords").write_text("alice:secret\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "embedding"}
    await execute([piece for piece in EMBEDDING if piece.kind == ""], names)
    greeter = names["greeter"]
    assert names["address"] == "192.0.2.1"
    client = await ask(greeter, named("example.com", 80))
    assert await client.take_rest() == GRANTED + b"hello\r\n"
    client.close()
    client = await ask(greeter, named("example.com", 0, 0xF0))
    assert await client.take_rest() == bytes.fromhex("05 00 00 01 C0000201 0000")
    client.close()
    client = await ask(greeter, bytes.fromhex("05 F1 00 01 C0000201 0000"))
    assert await client.take_rest() == refused(4)
    client.close()
    await greeter.stopListening()
    await names["greeter"].factory.when_empty()


@pytest.mark.network
async def test_embedding_snippets_run_through_tor(private_network: PrivateNetwork) -> None:
    from torsocks_tx.backends.tor.authentication import connect

    network = private_network
    endpoint = clientFromString(reactor, network.client.control_endpoint)
    control = await connect(reactor, endpoint)
    names: dict[str, Any] = {
        "reactor": reactor,
        "tor": control.protocol,
        "control": network.client.control_endpoint,
    }
    first = [piece for piece in EMBEDDING if piece.kind == ""][:1]
    await execute(first, names)
    await names["port"].stopListening()
    await execute([piece for piece in EMBEDDING if piece.kind == "tor"], names)
    client = await ask(names["port"], named("web.test", network.web.port))
    assert await client.take(10) == GRANTED
    client.reset()
    await names["port"].stopListening()
    await names["factory"].when_empty()
    await names["factory"].backend.provider.stop()
    control.close()
    await control.when_lost()
