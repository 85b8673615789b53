"""The poller: bounds how long sockets are served in one turn of the reactor.

A reactor serves every socket that is ready before it looks for more: when tor ends, or a client
with thousands of connections, one turn would take hundreds of milliseconds. So our sockets have an
epoll of their own, which is one descriptor of the reactor, and serves them for some milliseconds at
a time. Where there is no epoll, the reactor itself must do. A paused socket is watched for its
peer's end alone.
"""

from __future__ import annotations

import contextlib
import select
from array import array
from collections.abc import Callable
from typing import Any

from twisted.internet import interfaces
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.selectreactor import SelectReactor
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.relay.sockets import is_socket
from torsocks_tx.relay.timeouts import one_for

CLIENTS, OUTGOING = 0.009, 0.0015
"""Seconds of one turn in which sockets of clients, and those of outgoing connections, are served.
With the timers that follow from it, and a look for garbage, a turn takes less than 20 ms."""

EVENTS = 16
"""Sockets that are served between two looks at the clock."""

_NAMED = 3

# EPOLLIN, EPOLLOUT, EPOLLRDHUP, which not every system has; and that with EPOLLERR and EPOLLHUP.
_IN, _OUT, _HANGUP, _BROKEN, _ANY = 0x1, 0x4, 0x2000, 0x2018, 0xFFFF
_REASONS: dict[type, Failure] = {kind: Failure(kind()) for kind in (ConnectionDone, ConnectionLost)}


@implementer(interfaces.IReactorFDSet, interfaces.IReactorTime, interfaces.IReadWriteDescriptor)
class Poller:
    """Looks to its sockets like the reactor, and to the reactor like one descriptor.

    Those that have been ready for longest are served first, for so many seconds of each turn.
    """

    def __init__(self, reactor: Any, budget: float) -> None:
        self.reactor = reactor
        self._budget = budget
        self._epoll: Any = None
        # By the number of the descriptor: who has it, and which events are watched. Arrays cost
        # an idle connection less than dictionaries.
        self._descriptors: list[Any] = []
        self._events = array("H")
        self._watched = 0

    # What a socket asks of a reactor.

    def addReader(self, reader: Any) -> None:
        """Serve a descriptor when there is something to read."""
        self._add(reader, _IN)

    def addWriter(self, writer: Any) -> None:
        """Serve a descriptor when it can be written to."""
        self._add(writer, _OUT)

    def removeReader(self, reader: Any) -> None:
        """Read from a descriptor no more."""
        self._remove(reader, _IN)

    def removeWriter(self, writer: Any) -> None:
        """Write to a descriptor no more."""
        self._remove(writer, _OUT)

    def addHangup(self, paused: Any) -> None:
        """Tell a descriptor that the connection is lost once its peer closes or resets."""
        self._add(paused, _HANGUP)

    def removeHangup(self, paused: Any) -> None:
        """Watch a descriptor's peer no more."""
        self._remove(paused, _HANGUP)

    def removeAll(self) -> list[Any]:
        """Serve none any more; returns those that were served."""
        removed = self._watching(_ANY)
        for number, events in enumerate(self._events):
            if events:
                self._forget(number)
        return removed

    def getReaders(self) -> list[Any]:
        """Those that are served when there is something to read."""
        return self._watching(_IN)

    def getWriters(self) -> list[Any]:
        """Those that are served when they can be written to."""
        return self._watching(_OUT)

    def seconds(self) -> float:
        """The time of the reactor."""
        return float(self.reactor.seconds())

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> Any:
        """Have the reactor call a function later."""
        return self.reactor.callLater(delay, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Any:
        """The calls that the reactor will make."""
        return self.reactor.getDelayedCalls()

    @property
    def running(self) -> bool:
        """Whether the reactor runs."""
        return bool(self.reactor.running)

    def _add(self, descriptor: Any, event: int) -> None:
        number = descriptor.fileno()
        if number < 0:
            raise ValueError("what is closed cannot be watched")
        missing = number + 1 - len(self._events)
        if missing > 0:
            self._descriptors.extend([None] * missing)
            self._events.extend([0] * missing)
        before = self._events[number]
        if before & event and self._descriptors[number] is descriptor:
            return
        if self._epoll is None:
            self._epoll = select.epoll()
        if not before:
            # Also if we had been there: trial removes all that a test has left in the reactor.
            self.reactor.addReader(self)
            self._watched += 1
        self._events[number] = before | event
        self._descriptors[number] = descriptor
        try:
            if before:
                self._epoll.modify(number, before | event)
            else:
                self._epoll.register(number, event)
        except FileNotFoundError:
            # Whoever had this number has closed it without a word.
            self._events[number] = event
            self._epoll.register(number, event)
        except OSError:
            # This user watches too much already.
            self._forget(number)
            raise

    def _remove(self, descriptor: Any, event: int) -> None:
        number = descriptor.fileno()
        events = self._events[number] if 0 <= number < len(self._events) else 0
        if not events & event:
            return
        if events == event:
            self._forget(number)
        else:
            self._events[number] = events & ~event
            with contextlib.suppress(OSError):
                self._epoll.modify(number, events & ~event)

    def _forget(self, number: int) -> None:
        if not self._events[number]:
            return
        self._descriptors[number], self._events[number] = None, 0
        self._watched -= 1
        if self._watched:
            with contextlib.suppress(OSError):
                self._epoll.unregister(number)
        else:
            self.reactor.removeReader(self)
            epoll, self._epoll = self._epoll, None
            epoll.close()

    def __repr__(self) -> str:
        """Name some of its sockets, such as those that a test has left open."""
        some = ", ".join(map(repr, self._watching(_ANY)[:_NAMED]))
        return f"<{type(self).__name__} of {self._watched}: {some}>"

    def _watching(self, event: int) -> list[Any]:
        return [
            d for d, events in zip(self._descriptors, self._events, strict=True) if events & event
        ]

    # What the reactor asks of a descriptor.

    def fileno(self) -> int:
        """The descriptor of the epoll, -1 if nothing is watched."""
        return -1 if self._epoll is None else int(self._epoll.fileno())

    def logPrefix(self) -> str:
        """What heads log lines."""
        return type(self).__name__

    def doRead(self) -> None:
        """Serve those that are ready, for as long as one turn allows."""
        end = self.reactor.seconds() + self._budget
        while self._epoll is not None:
            ready = self._epoll.poll(0, EVENTS)
            # One that is closed meanwhile leaves its number to another, whose event it is not.
            served = [(number, self._descriptors[number], events) for number, events in ready]
            for number, descriptor, events in served:
                if self._descriptors[number] is not descriptor:
                    continue
                if descriptor is None or descriptor.fileno() != number:
                    self._forget(number)
                else:
                    self._serve(number, descriptor, events)
            if len(ready) < EVENTS or self.reactor.seconds() >= end:
                return

    def doWrite(self) -> None:
        """Do nothing: the event was that of another descriptor."""

    def connectionLost(self, reason: Failure) -> None:
        """The reactor watches this no more: it has stopped, or took another's event for ours."""
        if self._epoll is not None and self.reactor.running:
            self.reactor.addReader(self)
            return
        for descriptor in self.removeAll():
            try:
                descriptor.connectionLost(reason)
            except Exception:
                log.err()

    def _serve(self, number: int, descriptor: Any, events: int) -> None:
        """Tell a descriptor of its events, as reactors do."""
        why: Any = None
        is_reading = True
        if events & _BROKEN and not events & _IN:
            is_reading = bool(self._events[number] & _IN)
            why = ConnectionDone() if is_reading else ConnectionLost()
        else:
            try:
                if events & self._events[number] & _IN:
                    why = descriptor.doRead()
                is_there = self._descriptors[number] is descriptor
                if not why and is_there and events & self._events[number] & _OUT:
                    why = descriptor.doWrite()
                    is_reading = False
            except BaseException as error:
                log.err()
                why = error
        if why:
            self._lose(descriptor, why, is_reading)

    def _lose(self, descriptor: Any, why: Exception, is_reading: bool) -> None:
        self.removeReader(descriptor)
        reason = _REASONS.get(type(why)) or Failure(why)
        try:
            half_closes = interfaces.IHalfCloseableDescriptor.providedBy(descriptor)
            if is_reading and half_closes and type(why) is ConnectionDone:
                descriptor.readConnectionLost(reason)
            else:
                self.removeWriter(descriptor)
                descriptor.connectionLost(reason)
        except Exception:
            log.err()


def poller_of(reactor: Any, budget: float) -> Any:
    """The one poller of a reactor with this budget, or the reactor where there is no epoll.

    A ``SelectReactor`` is not given one: an epoll whose number is 1,024 or more it cannot watch.
    """
    if not hasattr(select, "epoll") or isinstance(reactor, SelectReactor):
        return reactor
    return one_for(reactor, Poller, budget)


@implementer(interfaces.IReadWriteDescriptor)
class Paused:
    """A transport that is not read; if it is a plain socket, it is aborted when its peer hangs up.

    More bytes do not wake it. A FIN that is queued behind bytes for which there is no room cannot
    be heard; a reset can. Where there is no epoll, or no room in it, a deadline must do.
    """

    __slots__ = ("_number", "_poller", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._poller: Poller | None = None
        self._number = -1
        transport.pauseProducing()
        if is_socket(transport) and hasattr(select, "epoll"):
            reactor = transport.reactor
            # Also for a SelectReactor, which can watch one epoll, if not surely all of them.
            below = reactor.reactor if isinstance(reactor, Poller) else reactor
            poller = one_for(below, Poller, OUTGOING)
            self._number = transport.fileno()
            with contextlib.suppress(OSError):
                poller.addHangup(self)
                self._poller = poller

    def forget(self) -> None:
        """Do not wait for its peer's end any more: it is resumed, or closed."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.removeHangup(self)

    def resume(self) -> None:
        """Read on."""
        self.forget()
        self._transport.resumeProducing()

    def fileno(self) -> int:
        """The number that the socket's descriptor has, or had."""
        return self._number

    def logPrefix(self) -> str:
        """What heads log lines."""
        return type(self).__name__

    def doRead(self) -> None:
        """Do nothing: the event was that of another descriptor."""

    def doWrite(self) -> None:
        """Do nothing: the event was that of another descriptor."""

    def connectionLost(self, reason: Failure) -> None:
        """The peer has hung up."""
        if self._poller is not None:
            self.forget()
            self._transport.abortConnection()
