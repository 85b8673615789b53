"""Tests of a program that speaks SOCKS, against a server that gives any answer on demand.

    python -m pytest -p torsocks_tx.testing.scripted.pytest_plugin examples/test_my_client.py

The program under test is curl here; the fixture ``scripted_socks`` is a SOCKS server in a process
of its own, and the name of the destination says what happens.
"""

import subprocess

import pytest

from torsocks_tx.testing.scripted import ScriptedProcess


def curl(proxy: ScriptedProcess, url: str, *, user: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program under test."""
    server = f"socks5h://{user}{proxy.host}:{proxy.port}"
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--proxy", server, url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [0x01, 0x05, 0xF0, 0xF7])
def test_every_refusal_is_reported_with_its_code(
    scripted_socks: ScriptedProcess, code: int
) -> None:
    done = curl(scripted_socks, f"http://reply-{code:02x}.test/")
    assert done.returncode == 97
    assert f"({code})" in done.stderr


def test_names_go_to_the_server(scripted_socks: ScriptedProcess) -> None:
    curl(scripted_socks, "http://bytes-0.test/", user="alice:x@")
    [request] = scripted_socks.requests
    assert request.address.host == "bytes-0.test"
    assert request.credentials is not None
    assert request.credentials.username == b"alice"


@pytest.mark.parametrize("answer", ["truncated.reply-00", "close", "reset", "raw-0502ff"])
def test_broken_answers_are_failures(scripted_socks: ScriptedProcess, answer: str) -> None:
    assert curl(scripted_socks, f"http://{answer}.test/").returncode != 0
