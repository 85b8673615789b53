"""What is done to Twisted transports in more than one place: deadlines, throttles, farewells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from socket import IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, TCP_NODELAY
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from torsocks_tx.limits import Limits
from torsocks_tx.relay.sockets import is_quiet, is_sending, is_socket, lose, shut

_ROUNDING = 1e-6


class Deadline:
    """The one timer of a connection: starting it again replaces what it waited for.

    Neither that nor ``rest`` touches the reactor's timer, unless it is too late for the new
    deadline: when it fires, it waits for what is left, if anything is.
    """

    __slots__ = ("_call", "_clock", "_due", "_expired")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._due = 0.0
        self._expired: Callable[[], None] | None = None

    def start(self, seconds: float | None, expired: Callable[[], None]) -> None:
        """Call ``expired`` after so many seconds; None means never."""
        if seconds is None:
            self.stop()
            return
        self._expired = expired
        self._due = self._clock.seconds() + seconds
        if self._call is not None:
            if self._call.getTime() <= self._due:
                return
            self._call.cancel()
        self._call = self._clock.callLater(seconds, self._expire)

    def rest(self) -> None:
        """Wait for nothing for now. For connections, whose end is a ``stop``."""
        self._expired = None

    def stop(self) -> None:
        """Wait for nothing."""
        self._expired = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    @property
    def is_waiting(self) -> bool:
        """Whether something will be called."""
        return self._expired is not None

    def _expire(self) -> None:
        self._call = None
        if self._expired is None:
            return
        left = self._due - self._clock.seconds()
        if left > _ROUNDING:
            self._call = self._clock.callLater(left, self._expire)
        else:
            expired, self._expired = self._expired, None
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

    @property
    def is_sending(self) -> bool:
        """Whether what was written to this side is still on its way there."""
        transport = getattr(self._producer, "transport", self._producer)
        return is_socket(transport) and is_sending(transport)


Way = tuple[Throttle, Callable[[int], None]]
"""One direction of a relay: its source as a producer, and what counts its bytes."""


def prepare(transport: Any) -> None:
    """Switch Nagle off and keepalive on, where the transport is TCP."""
    if is_socket(transport):
        setsockopt = transport.socket.setsockopt
        try:
            setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        except OSError:
            # A unix socket has no Nagle; a client that has gone already has nothing.
            return
    # Twisted 22.4 has these methods on unix transports too, where they raise.
    elif ITCPTransport.providedBy(transport) and not isinstance(transport.getHost(), UNIXAddress):
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

    def begin(self, *, heard_out: bool = False) -> None:
        """Flush and shut down. A peer that does not read is given up after ``linger_limit``.

        ``heard_out``: the peer will send no more. No producer may be registered any more: Twisted
        would wait for it.
        """
        if heard_out and is_quiet(self._transport):
            lose(self._transport)
            return
        self._deadline.start(self._limits.linger_limit, partial(abort, self._transport))
        if not heard_out and can_half_close(self._transport):
            shut(self._transport)
            self._transport.resumeProducing()
        else:
            lose(self._transport)

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
        lose(self._transport)
