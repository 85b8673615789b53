"""How many clients there may be over all listeners, and who makes room."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.limits import Limits
from torsocks_tx.server.connections import Crowd
from torsocks_tx.server.factory import SOCKSFactory


class Guest:
    """A connection that notes whether it was reset."""

    was_reset = False

    def reset(self) -> None:
        self.was_reset = True


@pytest.fixture
def warnings() -> list[LogEvent]:
    """What the crowd logs."""
    seen: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if "turned away" in str(event.get("log_format")):
            seen.append(event)

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)


def test_any_number() -> None:
    crowd = Crowd()
    for _ in range(1000):
        crowd.join(Guest())
    assert crowd.has_room()


def test_a_full_house_says_so_once(warnings: list[LogEvent]) -> None:
    crowd, guest = Crowd(1), Guest()
    assert crowd.has_room()
    crowd.join(guest)
    assert not crowd.has_room()
    assert not crowd.has_room()
    assert len(warnings) == 1
    crowd.leave(guest)
    crowd.leave(guest)
    assert len(crowd) == 0
    assert crowd.has_room()


def test_the_one_that_lingered_longest_makes_room(warnings: list[LogEvent]) -> None:
    crowd = Crowd(3)
    guests = [Guest(), Guest(), Guest()]
    for guest in guests:
        crowd.join(guest)
    crowd.linger(guests[2])
    crowd.linger(guests[0])
    crowd.linger(Guest())
    assert crowd.has_room()
    assert [guest.was_reset for guest in guests] == [False, False, True]
    crowd.join(Guest())
    assert crowd.has_room()
    assert [guest.was_reset for guest in guests] == [True, False, True]
    crowd.join(Guest())
    assert not crowd.has_room()
    assert len(warnings) == 1


def test_listeners_share_one_bound(warnings: list[LogEvent]) -> None:
    crowd = Crowd(1)
    one, other = (
        SOCKSFactory(MemoryBackend(), limits=Limits(), crowd=crowd, clock=Clock()) for _ in range(2)
    )
    crowd.join(Guest())
    assert one.buildProtocol(None) is None
    assert other.buildProtocol(None) is None
    assert len(warnings) == 1
