"""The end of a process is told whatever its output does to whoever reads it."""

from __future__ import annotations

from typing import NoReturn

import pytest
from twisted.internet.error import ProcessDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.process_output import Ending, LineProtocol


def test_a_fault_at_the_last_line_does_not_hide_the_end() -> None:
    def fault(_: str) -> NoReturn:
        raise RuntimeError("a fault")

    ends: list[Ending] = []
    clock = Clock()
    process = LineProtocol(clock, fault, ends.append)
    process.childDataReceived(1, b"a line without an end")
    process._closing = clock.callLater(1, int)
    with pytest.raises(RuntimeError):
        process.processEnded(Failure(ProcessDone(0)))
    assert len(ends) == 1
