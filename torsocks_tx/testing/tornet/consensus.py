"""Waiting until a daemon knows all the relays of the private network."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.waiters import Waiters

CONSENSUS_DEADLINE = 90.0
"""Seconds; a relay that missed the first consensus is in the next one or the one after."""

_RELAY_LINE = "r "


async def wait_for_relays(reactor: Any, control: Control, count: int) -> None:
    """Return when the daemon has a consensus with as many relays."""
    waiting = Deferred.fromCoroutine(_wait(control, count))
    await waiting.addTimeout(CONSENSUS_DEADLINE, reactor)


async def _wait(control: Control, count: int) -> None:
    news: Waiters[str] = Waiters()
    await control.listen("NEWCONSENSUS", news.fire)
    try:
        while True:
            changed = news.wait()  # before the question: news may come while it is answered
            if _count_relays(await control.get_info("ns/all")) >= count:
                changed.addErrback(lambda _: None).cancel()
                return
            await changed
    finally:
        await control.unlisten("NEWCONSENSUS", news.fire)


def _count_relays(statuses: str) -> int:
    return sum(line.startswith(_RELAY_LINE) for line in statuses.splitlines())
