"""One worker, as its supervisor sees it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from torsocks_tx.twistd.child import Worker


class Process:
    """What a process protocol has as its transport."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.gone = False

    def write(self, data: bytes) -> None:
        self.asked.append(data)

    def closeStdin(self) -> None:
        self.asked.append("stop")

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.asked.append(name)


class Play:
    """A worker in a process that is none."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.worker = Worker(7, b"orders\n", self.clock)
        self.process = Process()
        self.worker.makeConnection(self.process)

    def run(self) -> None:
        # Lines come in pieces.
        self.worker.outReceived(b"serving up to 7 clients")
        assert not self.worker.running.called
        self.worker.outReceived(b" at one time\n")
        assert self.worker.running.called


@pytest.fixture
def play() -> Play:
    return Play()


def test_it_gets_its_orders(play: Play) -> None:
    assert play.process.asked == [b"orders\n"]


def test_it_is_told_to_stop_and_killed(play: Play) -> None:
    play.worker.stop()
    play.worker.kill()
    assert play.process.asked[1:] == ["stop", "KILL"]
    play.process.gone = True
    play.worker.kill()


def test_it_reads_keys_again_only_once_it_runs(play: Play) -> None:
    play.worker.reload()
    assert play.process.asked[1:] == []
    play.run()
    play.worker.reload()
    assert play.process.asked[1:] == ["HUP"]


def test_its_end(play: Play) -> None:
    play.clock.advance(3)
    play.worker.processEnded(Failure(ProcessTerminated(signal=9)))
    assert play.worker.ended.called
    assert play.worker.lifetime == 3
    assert "signal 9" in play.worker.status
