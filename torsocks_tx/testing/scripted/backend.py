"""The scripted backend: each stream does what the name of its destination says (see ``names``).

It serves any factory. A backend does not choose the bytes of a reply: behind ``ScriptedServer``
they are exactly as scripted, behind another factory the nearest that it sends.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from torsocks_tx.interfaces import IBackend, IOutbound, IReceiver
from torsocks_tx.limits import check_arguments
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.relay.timeouts import Deadline
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Request
from torsocks_tx.socks.replies import refusal
from torsocks_tx.testing.scripted.names import Act, Script, pointer_of, script_of

BANNER = b"220 this server speaks first\r\n"
"""What the action banner sends."""

CHUNK = 65536

RESET_PAUSE = 0.05
"""Seconds to wait before a reset: it discards bytes that have not been sent yet."""

_ECHOING = frozenset({Act.ECHO, Act.REPLY, Act.BANNER, Act.DROP})


class State(Enum):
    """The state of a stream."""

    OPENING = auto()
    OPEN = auto()
    OVER = auto()


@implementer(IOutbound)
class ScriptedStream:
    """A stream that follows a script in place of a remote."""

    transport = None

    def __init__(
        self, clock: IReactorTime, script: Script, version: Version, receiver: IReceiver
    ) -> None:
        self._script = script
        self._version = version
        self._receiver = receiver
        self._timer = Deadline(clock)
        self._state = State.OPENING
        self._paused = False
        self._producer: IPushProducer | None = None
        self._pending = bytearray()
        self._left = script.size if script.act is Act.BYTES else 0
        self._taken = 0
        self._ends = script.act is Act.BYTES
        self._timer.start(script.delay, self._begin)

    def _begin(self) -> None:
        script = self._script
        if script.act is Act.SILENT:
            return
        if not script.opens(self._version):
            self._state = State.OVER
            self._receiver.refused(refusal(script.code))
            return
        self._state = State.OPEN
        self._pending[:0] = BANNER if script.act is Act.BANNER else b""
        self._receiver.opened()
        self._flow()

    def _flow(self) -> None:
        """Send to the client until it pauses the stream; end the stream where the script does."""
        while self._is_flowing() and (chunk := self._next_chunk()):
            self._receiver.data(chunk)
        if not self._is_flowing():
            return
        if self._script.act is Act.DROP and self._taken >= self._script.size:
            self._timer.start(RESET_PAUSE, partial(self._lose, False))
        elif self._ends:
            self._lose(True)

    def _is_flowing(self) -> bool:
        return self._state is State.OPEN and not self._paused

    def _next_chunk(self) -> bytes:
        if self._left:
            chunk = b"x" * min(self._left, CHUNK)
            self._left -= len(chunk)
            return chunk
        chunk = bytes(self._pending[:CHUNK])
        del self._pending[:CHUNK]
        return chunk

    def _lose(self, clean: bool) -> None:
        self._state = State.OVER
        self._receiver.lost(clean)

    # IOutbound.

    def write(self, data: bytes) -> None:
        """Take bytes from the client; echo them if the script does."""
        if self._script.act in _ECHOING:
            self._taken += len(data)
            self._pending += data
            self._flow()

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause this producer while an echo is not read."""
        self._producer = producer

    def unregister_producer(self) -> None:
        """Forget the producer."""
        self._producer = None

    def lose_write(self) -> None:
        """Take the client's FIN: send the rest, then close."""
        self._ends = True
        # In the next turn: the caller does not expect the end from inside this call.
        if self._state is State.OPEN:
            self._timer.start(0, self._flow)

    def close(self) -> None:
        """End the stream."""
        if self._state is State.OPEN:
            self._timer.stop()
            self._lose(True)
        else:
            self.abort()

    def abort(self) -> None:
        """End the stream without telling the receiver."""
        self._state = State.OVER
        self._timer.stop()

    def pauseProducing(self) -> None:
        """Send nothing; with an echo, read nothing either."""
        self._paused = True
        if self._producer is not None and self._script.act in _ECHOING:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Send and read again."""
        self._paused = False
        self._flow()
        if self._producer is not None and not self._paused:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the relay decides when to close."""


@implementer(IBackend)
class ScriptedBackend:
    """Opens, refuses and looks up as the name of each destination says."""

    uses_tor = False

    def __init__(self, clock: IReactorTime) -> None:
        check_arguments(IReactorTime, clock=clock)
        self._clock = clock

    def open(self, request: Request, isolation: Isolation, receiver: IReceiver) -> ScriptedStream:
        """Begin a stream."""
        return ScriptedStream(self._clock, script_of(request), request.version, receiver)

    def resolve(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Look up a name (or, with RESOLVE_PTR, the name of an address)."""
        script = script_of(request)
        if script.act is Act.SILENT:
            return Deferred()
        return deferLater(self._clock, script.delay, _find, request, script)

    resolve_ptr = resolve


def _find(request: Request, script: Script) -> Address:
    if not script.granted(request.version):
        raise refusal(script.code)
    if request.command is Command.RESOLVE_PTR:
        return Address(AddressType.HOSTNAME, pointer_of(request.address.literal()))
    return script.answer
