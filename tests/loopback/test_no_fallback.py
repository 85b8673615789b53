"""A tor that is down is down: nothing goes around it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

import torsocks_tx
from tests.loopback.conftest import before_streams
from tests.support.fakes import tor_like
from tests.support.ground import Ground
from tests.support.peers import named, refused
from torsocks_tx.relay.connector import Attempt, Target


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
