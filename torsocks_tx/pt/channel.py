"""A connection whose bytes a codec encodes and decodes.

::

    protocol  <->  Channel (its transport)  <->  Codec  <->  connection to the bridge

``CodecEndpoint`` connects, lets the codec finish its handshake, and only then connects the
protocol. Half-close, resets and backpressure pass through as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.errors import (
    ConnectionRefused,
    GeneralFailure,
    SOCKSError,
    Temporary,
    without_text,
)
from torsocks_tx.limits import check_arguments
from torsocks_tx.relay.connector import OneProtocol
from torsocks_tx.relay.sockets import abort, can_half_close, prepare


def log_fault(log: Logger, message: str, failure: Failure) -> None:
    """Log the kind and place of an exception, and its text, which may be secret, for debugging."""
    log.failure(message, without_text(failure))
    log.debug("{traceback()}", traceback=failure.getTraceback)


def kind_and_place(failure: Failure) -> str:
    """Return such as ``ValueError at veil.py:42``: what may be logged of an exception."""
    kind = type(failure.value).__name__
    if not failure.frames:
        return kind
    _, path, line, *_ = failure.frames[-1]
    return f"{kind} at {os.path.basename(path)}:{line}"


class Codec:
    """Encodes and decodes the bytes of one stream, without I/O. This one changes nothing.

    ``ready`` says whether the handshake is finished; nothing is encoded before. A codec that raises
    ``SOCKSError`` ends the connection; during the handshake that is also the answer to the parent.
    """

    ready = True

    def start(self) -> bytes:
        """Return the bytes to send first; none where the bridge begins."""
        return b""

    def ended(self) -> SOCKSError:
        """Return the error for a bridge that closes the connection during the handshake."""
        return Temporary("the far end closed during the handshake")

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        """Turn bytes from the bridge into payload, and bytes to answer at once."""
        return data, b""

    def encode(self, data: bytes) -> bytes:
        """Turn payload into the bytes to send to the bridge."""
        return data


class State(Enum):
    """The state of a channel."""

    HANDSHAKE = auto()
    OPEN = auto()
    OVER = auto()


_Transport: Any = proxyForInterface(ITransport, "transport")
_Consumer: Any = proxyForInterface(IConsumer, "transport")
_Producer: Any = proxyForInterface(IPushProducer, "transport")


@implementer(IHalfCloseableProtocol)
class Channel(Protocol, _Transport, _Consumer, _Producer):  # type: ignore[misc]
    """The transport of the protocol that ``factory`` makes once the codec is ready."""

    transport: Any = None
    _log = Logger()

    def __init__(self, codec: Codec, factory: IProtocolFactory) -> None:
        self.opened: Deferred[IProtocol] = Deferred(self._cancelled)
        self._codec = codec
        self._factory = factory
        self._state = State.HANDSHAKE
        self._protocol: Any = None
        self._connecting: Deferred[IProtocol] | None = None

    def wait_for(self, connecting: Deferred[IProtocol]) -> Deferred[IProtocol]:
        """Return ``opened``; it fails if ``connecting`` does, and cancels it when cancelled."""
        self._connecting = connecting
        connecting.addErrback(self._fail)
        return self.opened

    # IProtocol.

    def connectionMade(self) -> None:
        """Begin the handshake."""
        if self._state is not State.HANDSHAKE:
            abort(self.transport)
            return
        prepare(self.transport)
        # Twisted's own name for a transport holds an address, and it heads log lines.
        self.transport.logstr = type(self).__name__
        first = self._ask(self._codec.start)
        if first is not None:
            self.transport.write(first)
            self._open_if_ready()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the bridge."""
        decoded = self._ask(self._codec.decode, data)
        if decoded is None:
            return
        payload, answer = decoded
        if answer:
            self.transport.write(answer)
        self._open_if_ready()
        if payload and self._state is State.OPEN:
            self._protocol.dataReceived(payload)

    def readConnectionLost(self) -> None:
        """Take the end of what the bridge sends."""
        if self._state is State.OPEN and IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Take that our sending side is shut down."""
        if IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take the end of the connection."""
        previous, self._state = self._state, State.OVER
        if previous is State.OPEN:
            self._protocol.connectionLost(reason)
        elif reason.check(ConnectionDone) is not None:
            self._fail(Failure(self._codec.ended()))
        else:
            self._fail(Failure(ConnectionRefused("reset during the handshake")))

    def _open_if_ready(self) -> None:
        if self._state is not State.HANDSHAKE or not self._codec.ready:
            return
        protocol: Any = self._factory.buildProtocol(self.transport.getPeer())
        if protocol is None:
            self._fail(Failure(GeneralFailure("no protocol for the connection")))
            abort(self.transport)
            return
        self._protocol = protocol
        self._state = State.OPEN
        protocol.makeConnection(self)
        self.opened.callback(protocol)

    def _ask(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Call the codec; return None where the stream is over, or where the codec failed."""
        if self._state is State.OVER:
            return None
        try:
            return act(*arguments)
        except Exception as error:
            failure = Failure()
            if self._state is State.OPEN and not isinstance(error, SOCKSError):
                log_fault(self._log, "a fault of a transport; its stream is reset", failure)
            self._fail(failure)
            abort(self.transport)
            return None

    def _fail(self, reason: Failure) -> None:
        if not self.opened.called:
            self._state = State.OVER
            self.opened.errback(reason)

    def _cancelled(self, _: Deferred[IProtocol]) -> None:
        self._state = State.OVER
        if self.transport is not None:
            abort(self.transport)
        elif self._connecting is not None:
            self._connecting.cancel()

    # The transport of the protocol: what is not here is that of the connection.

    def write(self, data: bytes) -> None:
        """Encode and send."""
        encoded = self._ask(self._codec.encode, data)
        if encoded:
            self.transport.write(encoded)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Encode and send."""
        self.write(b"".join(data))

    def abortConnection(self) -> None:
        """Close with a reset."""
        abort(self.transport)

    def loseWriteConnection(self) -> None:
        """Send what was written, then a FIN, where the connection can do that."""
        if can_half_close(self.transport):
            self.transport.loseWriteConnection()


@implementer(IStreamClientEndpoint)
class CodecEndpoint:
    """Connects to ``endpoint`` through a codec; ``make_codec`` is called for each connection."""

    def __init__(self, endpoint: IStreamClientEndpoint, make_codec: Callable[[], Codec]) -> None:
        check_arguments(IStreamClientEndpoint, endpoint=endpoint)
        check_arguments(Callable, make_codec=make_codec)
        self._endpoint = endpoint
        self._make_codec = make_codec

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect the protocol once the codec's handshake is finished.

        Fails as ``endpoint`` does, or with what the codec raises. If the bridge closes during the
        handshake, fails with ``Codec.ended()``; if it resets, with ``ConnectionRefused``.
        """
        channel = Channel(self._make_codec(), protocolFactory)
        return channel.wait_for(self._endpoint.connect(OneProtocol(channel)))
