"""``make demo``: every step succeeds, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from tests.support.running import run

pytestmark = [pytest.mark.network, pytest.mark.clients("curl", "torsocks", "tor-resolve")]

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo.py"


@pytest.mark.slow
async def test_every_step_of_the_demo_succeeds(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path), "NO_COLOR": "1"}
    ended = await run(sys.executable, str(DEMO), environment=environment, deadline=150)
    assert ended.status == 0, ended.text + ended.complaint
    assert ended.text.count("\nok ") == 14
    assert ended.text.endswith("Every step succeeded.")
    assert not list(tmp_path.iterdir())


class _Interrupted(ProcessProtocol):
    """Interrupts the demo at its first output, and records its end."""

    def __init__(self) -> None:
        self.ended: Deferred[object] = Deferred()
        self.output = b""

    def outReceived(self, data: bytes) -> None:
        if not self.output:
            os.kill(self.transport.pid, signal.SIGINT)
        self.output += data

    errReceived = outReceived

    def processEnded(self, reason: object) -> None:
        self.ended.callback(reason.value)


async def test_demo_can_be_interrupted(tmp_path: Path) -> None:
    demo = _Interrupted()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    reactor.spawnProcess(demo, sys.executable, [sys.executable, str(DEMO)], environment)
    ended = await demo.ended.addTimeout(60, reactor)
    assert ended.exitCode != 0
    assert b"Traceback" not in demo.output
    assert not list(tmp_path.iterdir())
