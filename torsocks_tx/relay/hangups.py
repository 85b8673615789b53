"""Hears that a peer hangs up whose transport is paused, and so deaf.

An epoll of its own watches for that alone, edge-triggered: more bytes do not wake it. Where there
is no epoll, or no descriptor for one, nothing is heard, and a deadline must do.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.relay.sockets import is_socket


@implementer(IReadWriteDescriptor)
class Hangup:
    """Calls ``told`` once if the peer of a paused plain socket closes or resets; or ``stop`` it.

    A FIN that is queued behind bytes for which there is no room cannot be heard; a reset can.
    Descriptor numbers are used again within one turn of the reactor, so any event may be that of
    another descriptor: each is checked, or ignored.
    """

    __slots__ = ("_epoll", "_fd", "_reactor", "_told")

    def __init__(self, epoll: Any, reactor: IReactorFDSet, told: Callable[[], None]) -> None:
        self._epoll = epoll
        self._fd = int(epoll.fileno())
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
        """Hear no more; harmless a second time. To be called before the transport closes."""
        if self._fd != -1:
            self._reactor.removeReader(self)
            self._fd = -1
            self._epoll.close()

    def fileno(self) -> int:
        """The descriptor of the epoll, -1 once it is closed."""
        return self._fd

    def doRead(self) -> None:
        """Tell, if the peer has hung up."""
        if self._fd != -1 and self._epoll.poll(0):
            self.stop()
            self._told()

    def doWrite(self) -> None:
        """Do nothing: the event was that of another descriptor."""

    def connectionLost(self, reason: Failure) -> None:
        """The reactor watches this no more: nothing is heard from now on."""
        self.stop()

    def logPrefix(self) -> str:
        """What heads log lines."""
        return type(self).__name__
