"""Connections that leave from here: to the addresses of a destination in turn, or to an endpoint.

An ``Attempt`` connects a socket itself: Twisted's connectors, factories and Deferreds would cost
more than all the rest of a stream's beginning.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from twisted.internet import error, tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocolFactory,
    IReadWriteDescriptor,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.relay.poller import OUTGOING, poller_of

ATTEMPT_TIMEOUT = 10.0
"""Seconds for one address of several; the last may take as long as its caller lets it."""

RETRY = 0.01
"""Seconds until a unix socket is tried again whose listener has too many that wait."""

CONNECTED = (0, errno.EISCONN)
UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)

Connect = Callable[[socket.socket, Any], int]
"""The system call: as ``socket.connect_ex``."""


class Target(NamedTuple):
    """Where to connect to, as the socket module writes it."""

    family: int
    address: Any

    @classmethod
    def of(cls, host: str, port: int) -> Target:
        """The target for an IP address. Raises ``OSError`` for an interface that is not there."""
        if ":" not in host:
            return cls(socket.AF_INET, (host, port))
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        found = socket.getaddrinfo(host, port, socket.AF_INET6, socket.SOCK_STREAM, 0, flags)
        return cls(socket.AF_INET6, found[0][4])

    @classmethod
    def unix(cls, path: str) -> Target:
        """The target for a unix socket."""
        return cls(socket.AF_UNIX, path)

    def describe(self, address: Any) -> Any:
        """An address of this family as Twisted writes it."""
        if self.family == socket.AF_UNIX:
            return UNIXAddress(address or None)
        kind = IPv6Address if self.family == socket.AF_INET6 else IPv4Address
        return kind("TCP", *address)


class OutgoingConnection(tcp.Connection):
    """The transport of a connection that an ``Attempt`` has made."""

    def __init__(self, sock: socket.socket, target: Target, protocol: Protocol, reactor: Any):
        super().__init__(sock, protocol, reactor)
        self._target = target
        self.connected = 1
        self.logstr = type(protocol).__name__
        self.startReading()

    def getHost(self) -> Any:
        """Our end."""
        return self._target.describe(self.getHandle().getsockname())

    def getPeer(self) -> Any:
        """The remote end."""
        return self._target.describe(self._target.address)


@implementer(IReadWriteDescriptor)
class Attempt:
    """Tries to connect a protocol to one target after the other.

    ``refused`` hears the last failure; ``connect`` is the system call. It is what the reactor
    watches while a target does not answer.
    """

    __slots__ = ("_connect", "_left", "_protocol", "_reactor", "_refused", "_sock", "_target",
                 "_timer")  # fmt: skip

    def __init__(
        self,
        reactor: Any,
        protocol: Protocol,
        refused: Callable[[Failure], None],
        *,
        connect: Connect = socket.socket.connect_ex,
    ) -> None:
        self._reactor = poller_of(reactor, OUTGOING)
        self._protocol = protocol
        self._refused = refused
        self._connect = connect
        self._left: Sequence[Target] = ()
        self._target: Target
        self._sock: socket.socket | None = None
        self._timer: IDelayedCall | None = None

    def begin(self, targets: Sequence[Target]) -> None:
        """Try the first, and the others if that fails. Nothing comes of it before this returns."""
        self._target, self._left = targets[0], targets[1:]
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._sock = socket.socket(self._target.family, kind)
        except OSError as reason:
            # No descriptors, or a family that this machine does not have.
            self._timer = self._reactor.callLater(0, self._failed, Failure(reason))
        else:
            self._try()

    def _try(self) -> None:
        assert self._sock is not None
        self._timer = None
        status = self._connect(self._sock, self._target.address)
        if status == errno.EINPROGRESS:
            # Where both ends are on this machine, a second call finds it done.
            status = self._connect(self._sock, self._target.address)
        if status in UNDER_WAY:
            try:
                self._reactor.addWriter(self)
            except OSError as reason:
                # No descriptor is left for the poller.
                self.cancel()
                self._timer = self._reactor.callLater(0, self._failed, Failure(reason))
                return
            if self._left:
                self._timer = self._reactor.callLater(ATTEMPT_TIMEOUT, self._timed_out)
        elif status == errno.EAGAIN:
            # A unix socket whose listener has not come round to accepting yet.
            self._timer = self._reactor.callLater(RETRY, self._try)
        else:
            self._timer = self._reactor.callLater(0, self._ended, status)

    def cancel(self) -> None:
        """Give up; nobody is told."""
        self._stop_timer()
        if self._sock is not None:
            self._reactor.removeWriter(self)
            self._sock.close()
            self._sock = None

    # What the reactor calls: any of it may be meant for a descriptor that had this number before.

    def fileno(self) -> int:
        """The socket's descriptor, -1 when there is none that is being connected."""
        return -1 if self._sock is None else self._sock.fileno()

    def logPrefix(self) -> str:
        """What heads log lines."""
        return type(self).__name__

    def doRead(self) -> None:
        """Do nothing: the event was that of another descriptor."""

    def doWrite(self) -> None:
        """See what has come of it."""
        if self._sock is not None:
            status = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            # Without an error it is connected, or the event was that of another descriptor.
            status = status or self._connect(self._sock, self._target.address)
            if status not in UNDER_WAY:
                self._reactor.removeWriter(self)
                self._ended(status)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped, or met the refusal before it asked."""
        if self._sock is not None:
            status = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._ended(status or errno.ECONNREFUSED)

    # The outcome of one target.

    def _ended(self, status: int) -> None:
        sock, self._sock = self._sock, None
        assert sock is not None
        self._stop_timer()
        if status in CONNECTED:
            protocol = self._protocol
            try:
                transport = OutgoingConnection(sock, self._target, protocol, self._reactor)
            except OSError as reason:
                sock.close()
                self._failed(Failure(reason))
            else:
                protocol.makeConnection(transport)
        else:
            sock.close()
            self._failed(Failure(error.getConnectError((status, os.strerror(status)))))

    def _failed(self, reason: Failure) -> None:
        self._timer = None
        if self._left:
            self.begin(self._left)
        else:
            self._refused(reason)

    def _timed_out(self) -> None:
        self._timer = None
        self.cancel()
        self._failed(Failure(error.TimeoutError()))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


@dataclass(eq=False)
class OneProtocol(Factory):
    """Gives one connection to ``given``; ``connectProtocol`` makes a class for each of them."""

    noisy = False
    given: Protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        """Give the protocol."""
        return self.given


@implementer(IStreamClientEndpoint)
class SocketEndpoint:
    """An endpoint of Twisted's of which the target is known: an ``Attempt`` is quicker than that.

    Whoever connects sets the deadline.
    """

    def __init__(self, reactor: Any, target: Target, endpoint: IStreamClientEndpoint) -> None:
        self.reactor = reactor
        self.target = target
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Connect as the endpoint does."""
        return self._endpoint.connect(protocolFactory)


def endpoint_from_string(reactor: Any, description: str) -> IStreamClientEndpoint:
    """What Twisted's ``clientFromString`` gives; a ``SocketEndpoint`` if that is one address."""
    endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    kind, *place = description.split(":")
    try:
        if kind == "unix" and len(place) == 1 and not {"\\", "="} & {*place[0]}:
            return SocketEndpoint(reactor, Target.unix(place[0]), endpoint)
        if kind == "tcp" and len(place) == 2:
            socket.inet_pton(socket.AF_INET, place[0])
            return SocketEndpoint(reactor, Target.of(place[0], int(place[1])), endpoint)
    except (OSError, ValueError):
        pass  # a host name, or an argument that has a name
    return endpoint
