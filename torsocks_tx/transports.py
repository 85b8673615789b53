"""What is done to Twisted transports in more than one place: deadlines, throttles, farewells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from torsocks_tx.limits import Limits


class Deadline:
    """The one timer of a connection: starting it again replaces what it waited for."""

    __slots__ = ("_call", "_clock")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._call: IDelayedCall | None = None

    @property
    def is_running(self) -> bool:
        """Whether it waits for something."""
        return self._call is not None

    def start(self, seconds: float | None, expired: Callable[[], None]) -> None:
        """Call ``expired`` after so many seconds; None means never."""
        self.stop()
        if seconds is not None:
            self._call = self._clock.callLater(seconds, self._expire, expired)

    def stop(self) -> None:
        """Wait for nothing."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _expire(self, expired: Callable[[], None]) -> None:
        self._call = None
        expired()


class OneProtocol(Factory):
    """Gives the one connection that it is used for to a protocol that exists already."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        """Give the protocol."""
        return self._protocol


@implementer(IPushProducer)
class Throttle:
    """Lets one side of a relay be paused by the other, and by nothing else.

    Twisted calls ``stopProducing`` on the producer of a transport that is lost. For a transport
    that would mean closing: the relay decides that, so here it does nothing.
    """

    __slots__ = ("_producer", "paused")

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.paused = False

    def pauseProducing(self) -> None:
        """Read no more from this side."""
        self.paused = True
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        self.paused = False
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing."""


def prepare(transport: Any) -> None:
    """Switch Nagle off and keepalive on, where the transport is TCP."""
    # Twisted 22.4 has these methods on unix transports too, where they raise.
    if ITCPTransport.providedBy(transport) and not isinstance(transport.getHost(), UNIXAddress):
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)


def abort(transport: Any) -> None:
    """Close at once, and drop what is not sent yet, where the transport can; else close.

    An ``ITransport`` need not have ``abortConnection``: the pipes to a process have none.
    """
    if hasattr(transport, "abortConnection"):
        transport.abortConnection()
    else:
        transport.loseConnection()


def can_half_close(transport: Any) -> bool:
    """Whether the sending side can be shut down alone.

    Wrappers such as TLS pass unknown attributes on to the transport below them, where shutting down
    would cut the wrapper's own protocol short: only a method of the transport's own class counts.
    """
    own = hasattr(type(transport), "loseWriteConnection")
    return own and not getattr(transport, "TLS", False)


class Farewell:
    """Ends a connection so that the peer can read everything that was written to it.

    Write, shut down our sending side, take and drop what still comes for a bounded time, close. A
    plain close with unread bytes becomes a reset, which destroys what the peer has not read yet.
    """

    __slots__ = ("_deadline", "_dropped", "_limits", "_transport")

    def __init__(self, transport: Any, deadline: Deadline, limits: Limits) -> None:
        self._transport = transport
        self._deadline = deadline
        self._limits = limits
        self._dropped = 0

    def begin(self) -> None:
        """Flush and shut down. A peer that does not read is given up after ``linger_limit``.

        No producer may be registered any more: Twisted would wait for it.
        """
        self._deadline.start(self._limits.linger_limit, partial(abort, self._transport))
        if can_half_close(self._transport):
            self._transport.loseWriteConnection()
            self._transport.resumeProducing()
        else:
            self._transport.loseConnection()

    def flushed(self) -> None:
        """Our sending side is shut down: the peer has ``drain_timeout`` to close its own."""
        self._deadline.start(self._limits.drain_timeout, self._transport.loseConnection)

    def received(self, data: bytes) -> None:
        """Drop bytes; after ``drain_bytes`` of them, close."""
        self._dropped += len(data)
        if self._dropped > self._limits.drain_bytes:
            self.closed()

    def closed(self) -> None:
        """The peer will send no more: close as soon as everything is flushed."""
        self._transport.loseConnection()
