"""A tor that is down is down: nothing goes around it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

import torsocks_tx
from tests.fakes import tor_like
from tests.ground import Ground
from tests.peers import named, refused


def test_only_the_command_line_and_the_public_names_know_of_it() -> None:
    root = Path(torsocks_tx.__file__).parent
    users = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and "direct" in f"{node.module}".split("."):
                users.add(path.relative_to(root).as_posix())
    assert users == {"__init__.py", "upstream.py"}


@pytest_twisted.ensureDeferred
async def test_a_tor_that_is_down_is_not_gone_around(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = await tor_like(ground)
    await ground.stop_listening()
    client = await ground.client(server)
    dialled: list[tuple[str, int]] = []
    connect = reactor.connectTCP

    def connect_tcp(host: str, port: int, *rest: Any, **options: Any) -> Any:
        dialled.append((host, port))
        return connect(host, port, *rest, **options)

    monkeypatch.setattr(reactor, "connectTCP", connect_tcp)
    assert await client.negotiate(named("127.0.0.1", 80)) == refused(1)
    # One attempt, at tor's own port.
    assert len(dialled) == (1 if ground.kind == "tcp" else 0)
    assert 80 not in [port for _, port in dialled]
