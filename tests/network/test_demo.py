"""``make demo``: every step succeeds, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import start_python
from tests.support.running import run

pytestmark = [pytest.mark.network, pytest.mark.clients("curl", "torsocks", "tor-resolve")]

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo.py"


@pytest.mark.slow
async def test_every_step_of_the_demo_succeeds(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path), "NO_COLOR": "1"}
    ended = await run(sys.executable, str(DEMO), environment=environment, deadline=400)
    assert ended.status == 0, ended.text + ended.complaint
    assert ended.text.count("\nok ") == 17
    assert ended.text.endswith("Every step succeeded.")
    assert not list(tmp_path.iterdir())


async def test_demo_can_be_interrupted(tmp_path: Path) -> None:
    demo = start_python(str(DEMO), environment={"TMPDIR": str(tmp_path)})
    said = await demo.line()
    os.kill(demo.pid, signal.SIGINT)
    assert await demo.end() != 0
    assert "Traceback" not in "\n".join([said, *demo.lines, demo.errors.decode()])
    assert not list(tmp_path.iterdir())
