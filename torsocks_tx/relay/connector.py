"""Connections that leave from here without Twisted's connectors, factories and Deferreds.

Those cost more than all the rest of a stream's beginning. An ``Attempt`` tries the addresses of a
destination in turn; where the kernel has the answer at once, as on loopback, so does the caller.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from twisted.internet import error, tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from torsocks_tx.relay.transports import OneProtocol

ATTEMPT_TIMEOUT = 10.0
"""Seconds for one address of several; the last may take as long as its caller lets it."""

ENDPOINT_TIMEOUT = 30
"""Seconds that Twisted's endpoints give themselves: one with another number is asked itself."""

CONNECTED = (0, errno.EISCONN)
UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)


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


def target_of(endpoint: Any) -> Target | None:
    """Where an endpoint of Twisted's leads to, if that can be dialled: a literal, by sockets."""
    if not isinstance(getattr(endpoint, "_reactor", None), PosixReactorBase):
        return None
    kind = type(endpoint)
    if getattr(endpoint, "_timeout", None) != ENDPOINT_TIMEOUT:
        return None
    if kind is UNIXClientEndpoint and not endpoint._checkPID:
        return Target(socket.AF_UNIX, endpoint._path)
    if kind not in (TCP4ClientEndpoint, TCP6ClientEndpoint) or endpoint._bindAddress is not None:
        return None
    try:
        socket.inet_pton(socket.AF_INET, endpoint._host)
    except (OSError, TypeError):
        return None
    return Target(socket.AF_INET, (endpoint._host, endpoint._port))


Connect = Callable[[socket.socket, Any], int]
"""The system call: as ``socket.connect_ex``."""


def connect_at_once(connect: Connect, sock: socket.socket, address: Any) -> int:
    """What ``connect`` says; where both ends are on this machine, a second call finds it done."""
    status = connect(sock, address)
    return connect(sock, address) if status == errno.EINPROGRESS else status


class Dialled(tcp.Connection):
    """An outgoing connection; ``attempt`` hears instead of the protocol if there is none.

    ``sock`` is a socket that was told to connect already.
    """

    def __init__(
        self,
        reactor: Any,
        target: Target,
        protocol: Protocol,
        attempt: Attempt,
        sock: socket.socket | None = None,
    ) -> None:
        sock = sock or socket.socket(target.family, socket.SOCK_STREAM)
        super().__init__(sock, protocol, reactor)
        self._target = target
        self._attempt: Attempt | None = attempt

    def begin(self, connect: Connect, *, at_once: bool) -> None:
        """Connect; ``at_once``: the outcome may come before this returns."""
        sock, address = self.socket, self._target.address
        status = connect_at_once(connect, sock, address) if at_once else connect(sock, address)
        if at_once and status in CONNECTED:
            self._connected()
        elif status in CONNECTED or status in UNDER_WAY:
            self.doWrite = self._outcome  # type: ignore[method-assign]
            self.startWriting()
        else:
            self._fail(status)

    def _outcome(self) -> None:
        del self.doWrite
        self.stopWriting()
        status = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            self._fail(status)
        else:
            self._connected()

    def _connected(self) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        attempt.succeeded()
        self.connected = 1
        self.logstr = type(self.protocol).__name__
        self.startReading()
        self.protocol.makeConnection(self)

    def _fail(self, status: int) -> None:
        attempt = self._attempt
        self.give_up()
        if attempt is not None:
            attempt.failed(Failure(error.getConnectError((status, os.strerror(status)))))

    def give_up(self) -> None:
        """Close a socket that is not connected; nobody is told."""
        self._attempt = None
        self.__dict__.pop("doWrite", None)
        self.stopWriting()
        self.socket.close()
        self.disconnected = 1

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone, or was never made: the reactor does not tell these apart."""
        if self._attempt is None:
            super().connectionLost(reason)
        else:
            status = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._fail(status or errno.ECONNREFUSED)

    def getHost(self) -> Any:
        """Our end."""
        return _address(self._target.family, self.socket.getsockname())

    def getPeer(self) -> Any:
        """The far end."""
        return _address(self._target.family, self._target.address)


def _address(family: int, address: Any) -> Any:
    if family == socket.AF_UNIX:
        return UNIXAddress(address or None)
    kind = IPv6Address if family == socket.AF_INET6 else IPv4Address
    return kind("TCP", *address)


class Attempt:
    """Dials targets in turn, the first by ``sock`` if given; ``refused`` hears the last failure."""

    __slots__ = ("_at_once", "_connect", "_dialled", "_left", "_protocol", "_reactor", "_refused",
                 "_sock", "_timer")  # fmt: skip

    def __init__(
        self,
        reactor: Any,
        protocol: Protocol,
        refused: Callable[[Failure], None],
        *,
        connect: Connect = socket.socket.connect_ex,
        at_once: bool = False,
        sock: socket.socket | None = None,
    ) -> None:
        self._reactor = reactor
        self._protocol = protocol
        self._refused = refused
        self._connect = connect
        self._at_once = at_once
        self._sock = sock
        self._left: Sequence[Target] = ()
        self._dialled: Dialled | None = None
        self._timer: IDelayedCall | None = None

    def begin(self, targets: Sequence[Target]) -> None:
        """Try the first, and the others if that fails."""
        self._left = targets[1:]
        sock, self._sock = self._sock, None
        try:
            self._dialled = Dialled(self._reactor, targets[0], self._protocol, self, sock)
        except OSError as reason:
            # No descriptors, or a family that this machine does not have.
            self.failed(Failure(reason))
            return
        if self._left:
            self._timer = self._reactor.callLater(ATTEMPT_TIMEOUT, self._timed_out)
        self._dialled.begin(self._connect, at_once=self._at_once)

    def succeeded(self) -> None:
        """The protocol gets its connection now."""
        self._stop_timer()
        self._dialled = None

    def failed(self, reason: Failure) -> None:
        """The target has failed."""
        self._stop_timer()
        self._dialled = None
        if self._left:
            self.begin(self._left)
        else:
            self._refused(reason)

    def cancel(self) -> None:
        """Give up; nobody is told."""
        self._stop_timer()
        if self._dialled is not None:
            self._dialled.give_up()
            self._dialled = None

    def _timed_out(self) -> None:
        self._timer = None
        if self._dialled is not None:
            self._dialled.give_up()
        self.failed(Failure(error.TimeoutError()))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def connect_to(
    endpoint: IStreamClientEndpoint, protocol: Protocol, refused: Callable[[Failure], None]
) -> Attempt | Deferred[Any]:
    """Connect a protocol to an endpoint, by a short way if there is one; what to cancel."""
    target = target_of(endpoint)
    if target is not None:
        attempt = Attempt(endpoint._reactor, protocol, refused)  # type: ignore[attr-defined]
        attempt.begin([target])
        return attempt
    return endpoint.connect(OneProtocol(protocol)).addErrback(refused)
