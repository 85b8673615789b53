"""Hears that a peer hangs up whose transport is paused, and so deaf.

An epoll of its own watches for that alone, edge-triggered: more bytes do not wake it. Where there
is no epoll, or no descriptor for one, nothing is heard, and a deadline must do.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.relay.sockets import is_socket


@implementer(IReadDescriptor)
class Hangup:
    """Calls ``told`` once if the peer of a paused plain socket closes or resets; or ``stop`` it.

    A FIN that is queued behind bytes for which there is no room cannot be heard; a reset can.
    """

    __slots__ = ("_epoll", "_reactor", "_told")

    def __init__(self, epoll: Any, reactor: IReactorFDSet, told: Callable[[], None]) -> None:
        self._epoll = epoll
        self._reactor = reactor
        self._told = told
        reactor.addReader(self)

    @classmethod
    def watch(cls, transport: Any, told: Callable[[], None]) -> Hangup | None:
        """Begin, if that is possible here."""
        if not (hasattr(select, "epoll") and is_socket(transport)):
            return None
        try:
            epoll = select.epoll()
        except OSError:
            return None
        try:
            epoll.register(transport.fileno(), select.EPOLLRDHUP | select.EPOLLET)
        except OSError:
            # This user watches too much already.
            epoll.close()
            return None
        return cls(epoll, transport.reactor, told)

    def stop(self) -> None:
        """Hear no more. To be called before the transport closes."""
        self._reactor.removeReader(self)
        self._epoll.close()

    def fileno(self) -> int:
        """The descriptor of the epoll."""
        return int(self._epoll.fileno())

    def doRead(self) -> None:
        """Something has happened, and there is only one thing that can."""
        self.stop()
        self._told()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has closed: nothing is heard any more."""
        self._epoll.close()

    def logPrefix(self) -> str:
        """What heads log lines."""
        return type(self).__name__
