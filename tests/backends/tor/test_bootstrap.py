"""The bootstrap of tor: its steps read, logged once, told on, and followed."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor

from tests.backends.tor.fake_tor import BOOTSTRAPPED, STARTING, FakeTor
from torsocks_tx.backends.tor.authentication import connect
from torsocks_tx.backends.tor.bootstrap import (
    BootstrapWatch,
    Progress,
    ProgressBoard,
    parse_progress,
)
from torsocks_tx.backends.tor.control import ControlLost

STUCK = (
    'WARN BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay"'
    ' WARNING="Connection refused" REASON=CONNECTREFUSED COUNT=10 RECOMMENDATION={}'
    ' HOSTID="00" HOSTADDR="127.0.0.1:1"'
)

STEPS = [
    (BOOTSTRAPPED, Progress(100, "done", "Done")),
    (STARTING, Progress(45, "requesting_descriptors", "Asking for descriptors")),
    (STUCK.format("warn"), Progress(5, "conn", "Connecting to a relay", "Connection refused")),
    (STUCK.format("ignore"), Progress(5, "conn", "Connecting to a relay")),
    ("NOTICE BOOTSTRAP PROGRESS=1 NEW=2", Progress(1, "", "")),
]
NO_STEPS = [
    "",
    "NOTICE CIRCUIT_ESTABLISHED",
    "NOTICE BOOTSTRAP",
    "NOTICE BOOTSTRAP PROGRESS=much",
    'NOTICE BOOTSTRAP PROGRESS=1 SUMMARY="',
    "WARN SOCKS_BAD_HOSTNAME HOSTNAME=BOOTSTRAP PROGRESS=100",
]


@pytest.mark.parametrize(("text", "progress"), STEPS)
def test_a_step_is_read(text: str, progress: Progress) -> None:
    assert parse_progress(text) == progress


@pytest.mark.parametrize("text", NO_STEPS)
def test_other_events_are_no_steps(text: str) -> None:
    assert parse_progress(text) is None


def test_each_step_is_told_once(log_lines: list[str]) -> None:
    board, heard = ProgressBoard(), []
    board.add(heard.append)
    steps = [progress for text, _ in STEPS[:3] if (progress := parse_progress(text))]
    for step in (steps[2], steps[2], steps[1], steps[0], steps[0]):
        board.tell(step)
    assert heard == [steps[2], steps[1], steps[0]]
    assert log_lines == [
        "warn: tor: bootstrapped 5% (Connecting to a relay): Connection refused",
        "info: tor: bootstrapped 45% (Asking for descriptors)",
        "info: tor: bootstrapped 100% (Done)",
    ]


@pytest_twisted.ensureDeferred
async def test_it_is_followed_to_its_end(fake_tor: FakeTor) -> None:
    fake_tor.info["status/bootstrap-phase"] = STARTING
    control = await connect(reactor, fake_tor.endpoint)
    board, heard, steps = ProgressBoard(), [], []
    board.add(heard.append)
    watch = BootstrapWatch(control, board, lambda: steps.append(watch.is_done))
    await watch.begin()
    assert not watch.is_done
    fake_tor.event("STATUS_CLIENT NOTICE CIRCUIT_ESTABLISHED")
    fake_tor.event(f"STATUS_CLIENT {BOOTSTRAPPED}")
    await control.command("FENCE")
    assert watch.is_done
    assert steps == [False, True]
    assert [progress.percent for progress in heard] == [45, 100]
    await watch.end()
    assert fake_tor.commands[-1] == "SETEVENTS "
    control.close()


@pytest_twisted.ensureDeferred
async def test_a_filtered_control_port_counts_as_bootstrapped(fake_tor: FakeTor) -> None:
    fake_tor.answers["GETINFO status/bootstrap-phase"] = "510 Filtered"
    control = await connect(reactor, fake_tor.endpoint)
    watch = BootstrapWatch(control, ProgressBoard(), lambda: None)
    await watch.begin()
    assert watch.is_done
    fake_tor.drop()
    await control.when_lost()
    with pytest.raises(ControlLost):
        await BootstrapWatch(control, ProgressBoard(), lambda: None).begin()
