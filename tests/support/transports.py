"""Transports in memory, and protocols for them: what each is told is written down, in order."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ITCPTransport, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from zope.interface import implementer

HERE = IPv4Address("TCP", "127.0.0.1", 40000)


@implementer(ITCPTransport)
class WholeTransport:
    """A transport that cannot half-close, as those of wrappers. ``asked`` lists its calls."""

    def __init__(self, peer: Any = HERE) -> None:
        self.written = bytearray()
        self.asked: list[str] = []
        self.reading = True
        self.producer: Any = None
        self.logstr = f"Protocol,0,{peer}"
        self.protocol: Any = None
        self._peer = peer

    def connect(self, protocol: Protocol) -> None:
        """Be the transport of this protocol."""
        self.protocol = protocol
        protocol.makeConnection(self)

    def lose(self, clean: bool = True) -> None:
        """Be gone: closed, or reset."""
        self.protocol.connectionLost(Failure(ConnectionDone() if clean else ConnectionLost()))

    def finish(self) -> None:
        """Carry out the close or the abort that was asked for."""
        aborted = "abortConnection" in self.asked
        self.protocol.connectionLost(Failure(ConnectionAborted() if aborted else ConnectionDone()))

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self.written)
        self.written.clear()
        return taken

    def write(self, data: bytes) -> None:
        self.written += data

    def writeSequence(self, data: Any) -> None:
        self.written += b"".join(data)

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return IPv4Address("TCP", "127.0.0.1", 1080)

    def loseConnection(self) -> None:
        self.asked.append("loseConnection")

    def abortConnection(self) -> None:
        self.asked.append("abortConnection")

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def stopProducing(self) -> None:
        self.asked.append("stopProducing")

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        assert self.producer is None
        self.producer = producer
        self.asked.append("registerProducer")

    def unregisterProducer(self) -> None:
        self.producer = None
        self.asked.append("unregisterProducer")

    def getTcpNoDelay(self) -> bool:
        return "noDelay" in self.asked

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.asked.append("noDelay" if enabled else "delay")

    def getTcpKeepAlive(self) -> bool:
        return "keepAlive" in self.asked

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.asked.append("keepAlive" if enabled else "noKeepAlive")


class FakeTransport(WholeTransport):
    """One that can half-close, as TCP and unix sockets do."""

    def loseWriteConnection(self) -> None:
        self.asked.append("loseWriteConnection")

    def flush(self) -> None:
        """Carry out the half-close that was asked for."""
        assert "loseWriteConnection" in self.asked
        self.protocol.writeConnectionLost()


BareTransport: Any = proxyForInterface(ITransport)
"""What ``ITransport`` asks for and nothing more, over another: no abort, no half-close."""


class App(Protocol):
    """Writes down what it hears; ``on_made`` runs when it is connected."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.on_made: Any = None

    def connectionMade(self) -> None:
        self.heard.append("made")
        if self.on_made is not None:
            self.on_made()

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.heard.append(reason.value)


@implementer(IHalfCloseableProtocol)
class HalfApp(App):
    """An ``App`` that can half-close."""

    def readConnectionLost(self) -> None:
        self.heard.append("eof")

    def writeConnectionLost(self) -> None:
        self.heard.append("shut")
