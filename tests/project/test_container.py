"""The container: what its first process makes of the environment, and what its steps promise.

The steps themselves take minutes: ``contrib/container/prove.py`` runs them.
"""

from __future__ import annotations

import http.server
import importlib.util
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import ROOT

PLACE = ROOT / "contrib" / "container"
STATUS = ["--status", "tcp:9180:interface=127.0.0.1"]
LISTEN = ["--listen", "tcp:1080:interface=0.0.0.0 AllowPublic"]
BRIDGES = "\n obfs4 192.0.2.1:443 cert=a\n\n192.0.2.2:443\n"
BRIDGE_LINES = [
    "Bridge obfs4 192.0.2.1:443 cert=a",
    "Bridge 192.0.2.2:443",
    "UseBridges 1",
    "ClientTransportPlugin obfs4 exec /usr/bin/obfs4proxy",
]


def module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, PLACE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


ENTRYPOINT = module("entrypoint")
ENVIRONMENTS: list[tuple[dict[str, str], list[str], list[str]]] = [
    ({}, [], [*STATUS, *LISTEN]),
    (
        {"TORSOCKS_OPTIONS": "--workers 2 --listen 'tcp:1:interface=0.0.0.0 AllowPublic'"},
        ["--check"],
        [*STATUS, *("--workers", "2", "--listen", LISTEN[1].replace("1080", "1"), "--check")],
    ),
    ({}, ["--listen=unix:/x"], [*STATUS, "--listen=unix:/x"]),
    (
        {"TORSOCKS_BRIDGES": BRIDGES},
        [],
        [*STATUS, *LISTEN, *(w for line in BRIDGE_LINES for w in ("--tor-option", line))],
    ),
]


@pytest.mark.parametrize(("environment", "arguments", "options"), ENVIRONMENTS)
def test_the_environment_becomes_options(
    environment: dict[str, str], arguments: list[str], options: list[str]
) -> None:
    assert ENTRYPOINT.options(environment, arguments) == options


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give the port of a server that answers with this status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/health"
            self.send_response(request.param)
            self.end_headers()
            self.wfile.write(b"word\n")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("answering", [200, 503], indirect=True)
def test_the_health_check_is_what_the_server_says(
    answering: int,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ENTRYPOINT, "STATUS_PORT", answering)
    expected = 0 if "200" in request.node.name else 1
    assert (ENTRYPOINT.health(), capsys.readouterr().out) == (expected, "word\n")


def test_no_answer_is_no_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENTRYPOINT, "STATUS_PORT", 0)
    assert ENTRYPOINT.health() == 1


def test_the_steps_name_files_that_are_there_and_no_kind_of_machine() -> None:
    text = (PLACE / "Containerfile").read_text()
    steps = list(module("prove").steps(text))
    for word, rest in steps:
        if word == "COPY" and "--from" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    kinds = dict(steps)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", kinds["USER"])
    assert ("ENV", f"XDG_STATE_HOME={kinds['VOLUME']}") in steps
    assert not re.search("amd64|arm64|x86|aarch|platform", text)
