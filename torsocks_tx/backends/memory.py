"""A backend without a network: a test, or its script, acts as the remote of every stream.

Public: programs that embed a server, and authors of SOCKS clients, test with it. Without a script
each opened ``MemoryOutbound`` waits in ``MemoryBackend.outbounds`` for calls on its ``receiver``.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from torsocks_tx.interfaces import IBackend, IOutbound, IReceiver
from torsocks_tx.limits import check_arguments
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.messages import Address, Request


@implementer(IOutbound)
class MemoryOutbound:
    """One stream: its request, the bytes written to it, and the calls made on it.

    ``events`` lists in order "pause", "resume", "lose_write", "close" and "abort".
    """

    transport = None

    def __init__(self, request: Request, isolation: Isolation, receiver: IReceiver) -> None:
        self.request = request
        self.isolation = isolation
        self.receiver = receiver
        self.written = bytearray()
        self.events: list[str] = []
        self.producer: IPushProducer | None = None
        self.on_write: Callable[[bytes], None] | None = None

    def write(self, data: bytes) -> None:
        """Record bytes, and hand them to ``on_write`` if that is set."""
        self.written += data
        if self.on_write is not None:
            self.on_write(data)

    def register_producer(self, producer: IPushProducer) -> None:
        """Keep the producer, for scripts that pause it."""
        self.producer = producer

    def unregister_producer(self) -> None:
        """Forget the producer."""
        self.producer = None

    def lose_write(self) -> None:
        """Record the call."""
        self.events.append("lose_write")

    def close(self) -> None:
        """Record the call, and end the stream as a real one does."""
        self.events.append("close")
        self.receiver.lost(True)

    def abort(self) -> None:
        """Record the call."""
        self.events.append("abort")

    def pauseProducing(self) -> None:
        """Record the call."""
        self.events.append("pause")

    def resumeProducing(self) -> None:
        """Record the call."""
        self.events.append("resume")

    def stopProducing(self) -> None:
        """Do nothing."""


Script = Callable[[MemoryOutbound], None]
LookUp = Callable[[Request], Deferred[Address]]


@implementer(IBackend)
class MemoryBackend:
    """Passes every stream to ``script``, and every look-up to ``look_up``.

    ``script`` is called once for each stream, before ``open`` returns: it must call the receiver
    later (from a reactor's ``callLater(0, ...)``, say) or keep the outbound. ``outbounds`` and
    ``lookups`` record all that was asked.
    """

    uses_tor = False

    def __init__(self, script: Script | None = None, look_up: LookUp | None = None) -> None:
        check_arguments(Callable, None, script=script, look_up=look_up)
        self._script = script
        self._look_up = look_up
        self.outbounds: list[MemoryOutbound] = []
        self.lookups: list[tuple[Request, Isolation, Deferred[Address]]] = []

    def open(self, request: Request, isolation: Isolation, receiver: IReceiver) -> MemoryOutbound:
        """Begin a stream."""
        outbound = MemoryOutbound(request, isolation, receiver)
        self.outbounds.append(outbound)
        if self._script is not None:
            self._script(outbound)
        return outbound

    def resolve(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Look up a name."""
        answer = Deferred() if self._look_up is None else self._look_up(request)
        self.lookups.append((request, isolation, answer))
        return answer

    resolve_ptr = resolve
