"""The signals of a process in which several services run, as in a larger application."""

from __future__ import annotations

import os
import signal
import threading

import pytest
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


@pytest.mark.parametrize(
    ("number", "told", "stopping"),
    [(signal.SIGHUP, "reload", []), (signal.SIGUSR2, "new_identity", ["new_identity"])],
)
def test_signals_reach_every_service_that_runs_and_fresh_circuits_who_stop(
    number: signal.Signals, told: str, stopping: list[str]
) -> None:
    signals, clock = ProcessSignals(), FakeReactor()
    before = signal.getsignal(number)
    services = [FakeService() for _ in range(3)]
    for service in services:
        signals.add(clock, service)
    services[1].running = False
    signals.remove(services[2])
    os.kill(os.getpid(), number)
    clock.advance(0)
    assert [service.told for service in services] == [[told], stopping, []]
    for service in services:
        signals.remove(service)
    assert signal.getsignal(number) is before
    signals.add(clock, services[0])
    signal.signal(number, signal.SIG_IGN)  # by the application, and it stays
    signals.remove(services[0])
    assert signal.signal(number, before) is signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_sigint_and_sigterm_are_taken_only_once_the_reactor_stops(number: signal.Signals) -> None:
    signals, clock, services = ProcessSignals(), FakeReactor(), [FakeService(), FakeService()]
    before = signal.getsignal(number)
    for service in services:
        signals.add(clock, service)
    services[0].running = False
    assert signal.getsignal(number) == before
    clock.shut_down()
    os.kill(os.getpid(), number)
    clock.advance(0)
    assert [service.told for service in services] == [["end_grace"], ["end_grace"]]
    for service in services:
        signals.remove(service)
        signals.remove(service)
    # A service that stops earlier than the reactor leaves nothing to be taken.
    clock.shut_down()
    assert signal.getsignal(number) == before


def test_reload_that_takes_long_is_followed_by_one_more() -> None:
    signals, clock, service = ProcessSignals(), FakeReactor(), FakeService()
    signals.add(clock, service)
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
    signals.remove(service)


def test_reactor_in_another_thread_takes_no_signals() -> None:
    signals, service = ProcessSignals(), FakeService()
    before = signal.getsignal(signal.SIGHUP)
    thread = threading.Thread(target=signals.add, args=(FakeReactor(), service))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGHUP) is before
    signals.remove(service)
