"""The signals of a process, and what they are to the service that runs in it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from torsocks_tx.twistd.service import RELOAD_PAUSE, ProcessSignals


class FakeService:
    """A service that notes what it is told."""

    def __init__(self) -> None:
        self.running = True
        self.told: list[str] = []
        self.reloading: Deferred[str] = succeed("all")

    def reload(self) -> Deferred[str]:
        self.told.append("reload")
        return self.reloading

    def new_identity(self) -> str:
        self.told.append("new_identity")
        return "done"

    def end_grace(self) -> None:
        self.told.append("end_grace")


class FakeReactor(Clock):
    """A reactor that can be asked to shut down."""

    def addSystemEventTrigger(self, _phase: str, _event: str, call: object) -> None:
        self.shut_down = call

    def callFromThread(self, call: object, *arguments: object) -> None:
        self.callLater(0, call, *arguments)


NUMBERS = (signal.SIGHUP, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM)


@pytest_twisted.async_yield_fixture  # once the real reactor runs, which takes signals too
async def taken() -> AsyncIterator[tuple[FakeReactor, FakeService]]:
    """Give a service to which signals are told; afterwards all handlers are those of before."""
    before = [signal.getsignal(number) for number in NUMBERS]
    clock, service = FakeReactor(), FakeService()
    signals = ProcessSignals(clock, service)
    signals.take()
    assert [signal.getsignal(number) for number in NUMBERS[2:]] == before[2:]
    yield clock, service
    signals.put_back()
    signals.put_back()
    # A service that stops earlier than the reactor leaves nothing to be taken.
    clock.shut_down()
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize(
    ("number", "running", "told"),
    [
        (signal.SIGHUP, True, ["reload"]),
        (signal.SIGHUP, False, []),
        (signal.SIGUSR2, True, ["new_identity"]),
        (signal.SIGUSR2, False, ["new_identity"]),
        (signal.SIGINT, False, ["end_grace"]),
        (signal.SIGTERM, False, ["end_grace"]),
    ],
)
def test_signals_reach_the_service(
    taken: Any, number: signal.Signals, running: bool, told: list[str]
) -> None:
    clock, service = taken
    service.running = running
    if number in NUMBERS[2:]:  # Twisted's own until the reactor stops
        clock.shut_down()
    os.kill(os.getpid(), number)
    clock.advance(0)
    assert service.told == told


def test_reload_that_takes_long_is_followed_by_one_more(taken: Any) -> None:
    clock, service = taken
    reloading = service.reloading = Deferred()
    for _ in range(9):
        os.kill(os.getpid(), signal.SIGHUP)
        clock.advance(0)
    assert service.told == ["reload"]
    service.reloading = succeed("all")
    reloading.callback("all")
    clock.advance(RELOAD_PAUSE)
    assert service.told == ["reload", "reload"]
    assert clock.getDelayedCalls() == []


def test_reactor_in_another_thread_takes_no_signals() -> None:
    before = signal.getsignal(signal.SIGHUP)
    signals = ProcessSignals(FakeReactor(), FakeService())
    thread = threading.Thread(target=signals.take)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGHUP) is before
    signals.put_back()
