"""The interfaces between the server and its backends.

An ``IBackend`` opens streams (``IOutbound``), and reports to an ``IReceiver`` what happens to them.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import Attribute, Interface

from torsocks_tx.errors import SOCKSError
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.messages import Address, Request


class IReceiver(Interface):
    """Gets the events of a stream, in the reactor thread.

    None of them comes from inside ``IBackend.open``. First ``opened`` or ``refused``, never both;
    after ``refused`` nothing more. After ``opened``: ``data`` any number of times, ``eof`` at most
    once, ``lost`` once and last.
    """

    def opened() -> None:
        """The remote is connected."""

    def refused(reason: SOCKSError) -> None:
        """The stream could not be opened."""

    def data(data: bytes) -> None:
        """Bytes from the remote."""

    def eof() -> None:
        """The remote has closed its sending side; it can still receive."""

    def lost(clean: bool) -> None:
        """The stream is closed; ``clean`` is False if it was reset."""


class IOutbound(IPushProducer):
    """One stream towards a destination, usable as soon as ``IBackend.open`` returns.

    What is written before ``opened`` is kept, in order; the caller bounds it. As a producer it can
    be paused after ``opened``.
    """

    transport = Attribute("The raw Twisted transport once there is one, else None.")

    def write(data: bytes) -> None:
        """Send bytes to the remote."""

    def register_producer(producer: IPushProducer) -> None:
        """After ``opened``: pause this producer while the remote takes no more."""

    def unregister_producer() -> None:
        """Forget the producer."""

    def lose_write() -> None:
        """Nothing more will be written. Passed on only where that does not lose the answer."""

    def close() -> None:
        """Send what was written, then close. ``lost`` follows unless it already came."""

    def abort() -> None:
        """Give the stream up at once, also while it opens; the receiver is called no more."""


class IBackend(Interface):
    """Opens streams and looks names up on behalf of clients.

    ``isolation.credentials`` are computed at their first use, so a backend that does not need them
    does not pay for them.
    """

    uses_tor = Attribute("Whether every stream goes over the Tor network: HTTP clients are told.")

    def open(request: Request, isolation: Isolation, receiver: IReceiver) -> IOutbound:
        """Open a stream to ``request.address``, and report its events to the receiver.

        Raises ``SOCKSError`` if it fails at once: then the receiver is never called.
        """

    def resolve(request: Request, isolation: Isolation) -> Deferred[Address]:
        """Look up the address of the name ``request.address.host``.

        Fires with an IPv4 or IPv6 address and port 0; errback ``SOCKSError``. It can be cancelled.
        """

    def resolve_ptr(request: Request, isolation: Isolation) -> Deferred[Address]:
        """Look up the canonical name of the IP address ``request.address``.

        Fires with a host name whose port is 0; errback ``SOCKSError``. It can be cancelled.
        """


class IExitBackend(IBackend):
    """A backend that carries streams through the exit relays that ``isolation.exits`` names."""


class IExitOutbound(IOutbound):
    """A stream through an exit that was asked for."""

    exit_text = Attribute("Fingerprint and country of the exit, which HTTP clients are told.")
