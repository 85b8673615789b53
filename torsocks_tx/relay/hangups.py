"""The EPOLLRDHUP watcher: hears that the peer of a paused socket hangs up.

A paused transport hears nothing. One epoll of our own, edge-triggered, watches all paused sockets
of a reactor for that alone: more bytes do not wake it. Where there is no epoll, a deadline must do.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.relay.sockets import is_socket

MOST = 64
"""Peers that are heard of in one turn of the reactor."""


@implementer(IReadWriteDescriptor)
class HangupWatcher:
    """Watches the paused sockets of one reactor, by their descriptors.

    A FIN that is queued behind bytes for which there is no room cannot be heard; a reset can.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._watched: dict[int, Callable[[], None]] = {}
        self._epoll: Any = None

    def watch(self, descriptor: int, hung_up: Callable[[], None]) -> None:
        """Call ``hung_up`` once when the peer closes or resets, if that can be heard here."""
        # No descriptors, or this user watches too much already.
        with contextlib.suppress(OSError):
            if self._epoll is None and hasattr(select, "epoll"):
                self._epoll = select.epoll()
            if self._epoll is not None:
                # Also if we had been there: trial removes all that a test has left in the reactor.
                self._reactor.addReader(self)
                self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLET)
                self._watched[descriptor] = hung_up
        self._close_if_idle()

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no more; harmless for one that is not watched, or closed."""
        if self._watched.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._epoll is not None and not self._watched:
            self._reactor.removeReader(self)
            epoll, self._epoll = self._epoll, None
            epoll.close()
            _watchers.pop(self._reactor, None)

    def doRead(self) -> None:
        """Tell of those who have hung up."""
        events = self._epoll.poll(0, MOST) if self._epoll is not None else []
        told = [(descriptor, self._watched.get(descriptor)) for descriptor, _ in events]
        for descriptor, hung_up in told:
            # Whoever was told before may have closed this one, whose number another has now.
            if hung_up is not None and self._watched.get(descriptor) is hung_up:
                self.forget(descriptor)
                hung_up()

    def doWrite(self) -> None:
        """Do nothing: the event was that of another descriptor."""

    def fileno(self) -> int:
        """The descriptor of the epoll, -1 if nothing is watched."""
        return -1 if self._epoll is None else int(self._epoll.fileno())

    def connectionLost(self, reason: Failure) -> None:
        """The reactor watches this no more: it has stopped, or took another's event for ours."""
        if self._epoll is not None and self._reactor.running:
            self._reactor.addReader(self)
        else:
            self._watched.clear()
            self._close_if_idle()

    def logPrefix(self) -> str:
        """What heads log lines."""
        return type(self).__name__


_watchers: dict[Any, HangupWatcher] = {}


def watcher_of(reactor: Any) -> HangupWatcher:
    """The one watcher of a reactor."""
    watcher = _watchers.get(reactor)
    if watcher is None:
        watcher = _watchers[reactor] = HangupWatcher(reactor)
    return watcher


def pause(transport: Any) -> int | None:
    """Read no more, and abort a plain socket once its peer hangs up.

    Returns the descriptor for ``forget``, or None if nothing is watched.
    """
    transport.pauseProducing()
    if not is_socket(transport):
        return None
    descriptor: int = transport.fileno()
    watcher_of(transport.reactor).watch(descriptor, transport.abortConnection)
    return descriptor


def forget(transport: Any, descriptor: int | None) -> None:
    """Watch no more what ``pause`` has returned."""
    if descriptor is not None:
        watcher_of(transport.reactor).forget(descriptor)
