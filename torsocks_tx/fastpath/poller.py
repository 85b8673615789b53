"""Many descriptors that are one to the reactor: an epoll of our own, below the reactor's.

A descriptor is registered once, edge-triggered, and never changed. The reactor's own way costs
twice as many system calls for each, and a context for each event.
"""

from __future__ import annotations

import select
import sys
from typing import Any, Protocol

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

MOST = 64
"""Events that are taken in one turn of the reactor."""


class Watcher(Protocol):
    """Whoever hears of events."""

    def ready(self, number: int, events: int) -> None:
        """Something has happened to this descriptor, once: it may be more than one read."""

    def reset(self) -> None:
        """Close everything with a reset, after a fault."""

    def leave(self) -> None:
        """Close everything."""


_NOBODY: tuple[int, Any] = (sys.maxsize, None)


@implementer(IReadWriteDescriptor)
class Poller:
    """Watches descriptors; is a reader of the reactor only while there are any."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[int, Watcher]] = {}
        self._turn = 0

    def watch(self, number: int, watcher: Watcher, events: int) -> None:
        """Tell ``watcher`` of these events (as ``select.epoll.register``)."""
        self._epoll.register(number, events)
        if not self._watched:
            self._reactor.addReader(self)
        self._watched[number] = self._turn, watcher

    def forget(self, number: int) -> None:
        """Watch a descriptor no more, before it is closed or lives on elsewhere.

        One that could not be watched in the first place may be forgotten too.
        """
        if self._watched.pop(number, None) is None:
            return
        # To close it is not enough: a process that was forked from this one may still hold it, and
        # its events would be those of whoever gets the number next.
        self._epoll.unregister(number)
        if not self._watched:
            self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Tell of what has happened."""
        self._turn += 1
        for number, events in self._epoll.poll(0, MOST):
            turn, watcher = self._watched.get(number, _NOBODY)
            # A number that is watched since this turn only is another descriptor than that of the
            # event, which was closed meanwhile.
            if turn >= self._turn:
                continue
            try:
                watcher.ready(number, events)
            except Exception:
                self.fault(watcher)

    def fault(self, watcher: Watcher) -> None:
        """Log the exception that is being handled; nobody but its watcher is to suffer."""
        self._log.failure("a fault of this server; the client is reset")
        try:
            watcher.reset()
        except Exception:
            self._log.failure("a fault of this server while resetting a client")

    def doWrite(self) -> None:
        """Do nothing: the event was that of another descriptor, whose number this one has now."""

    def fileno(self) -> int:
        """The descriptor of the epoll."""
        return int(self._epoll.fileno())

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped: nobody will hear of anything any more."""
        for _, watcher in list(self._watched.values()):
            watcher.leave()

    def logPrefix(self) -> str:
        """What heads log lines."""
        return type(self).__name__
