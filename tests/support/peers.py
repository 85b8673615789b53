"""The ends of real connections in tests: clients and origins that keep what comes.

Nothing here uses the package: an error in it must not meet itself. Every wait has a deadline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

DEADLINE = 120.0
"""Seconds that a test waits for anything before it fails."""

GRANTED = bytes.fromhex("05 00 00 01 00000000 0000")
"""The whole answer to a SOCKS5 CONNECT that succeeded."""


def refused(code: int) -> bytes:
    """Return the whole answer to a SOCKS5 request that failed."""
    return bytes([5, code]) + GRANTED[2:]


def named(host: str | bytes, port: int, command: int = 1) -> bytes:
    """Return a SOCKS5 request for a host name."""
    name = host if isinstance(host, bytes) else host.encode()
    return bytes([5, command, 0, 3, len(name)]) + name + port.to_bytes(2, "big")


def turn() -> Deferred[None]:
    """Fire in the reactor's next turn, after the events that were there already."""
    return deferLater(reactor, 0, lambda: None)


async def until(condition: Callable[[], bool], pause: float = 0) -> None:
    """Let the reactor turn until the condition holds; ``pause``: seconds between two looks."""
    end = reactor.seconds() + DEADLINE
    while not condition():
        assert reactor.seconds() < end
        await deferLater(reactor, pause, lambda: None)


class Watcher:
    """Lets a test wait for a condition, which is looked at again on every ``notice``."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def notice(self) -> None:
        """Look again at what is being waited for."""
        waiting, self._waiting = self._waiting, []
        for condition, deferred in waiting:
            if deferred.called:
                continue
            if condition():
                deferred.callback(None)
            else:
                self._waiting.append((condition, deferred))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds, at most for ``DEADLINE``."""
        if not condition():
            deferred: Deferred[None] = Deferred()
            self._waiting.append((condition, deferred))
            await deferred.addTimeout(DEADLINE, reactor)


@implementer(IHalfCloseableProtocol)
class Peer(Protocol, Watcher):
    """One end of a real connection. ``received`` holds what came and was not yet taken."""

    transport: Any

    def __init__(self) -> None:
        Watcher.__init__(self)
        self.received = bytearray()
        self.eof = False
        self._shut = False
        self.lost: Failure | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self.eof or self.lost is not None

    def connectionMade(self) -> None:
        self.notice()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.notice()

    def readConnectionLost(self) -> None:
        self.eof = True
        if self._shut:
            self.transport.loseConnection()
        self.notice()

    def writeConnectionLost(self) -> None:
        self.notice()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.notice()

    async def take(self, count: int) -> bytes:
        """Wait for so many bytes and take them; fewer if no more can come."""
        await self.until(lambda: len(self.received) >= count or self.over)
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    async def take_rest(self) -> bytes:
        """Take all bytes up to the end of the stream."""
        await self.until(lambda: self.over)
        return await self.take(len(self.received))

    async def ended_well(self) -> bool:
        """Wait for the far end's end; say whether it was a FIN, not a RST."""
        await self.until(lambda: self.over)
        return self.lost is None or self.lost.check(ConnectionDone) is not None

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def flushed(self) -> None:
        """Wait until what was sent is in the kernel's hands."""
        await until(lambda: not (self.transport.dataBuffer or self.transport._tempDataLen))

    def shut(self) -> None:
        """Send a FIN once all is out, and go on reading to the end."""
        self._shut = True
        self.transport.loseWriteConnection()

    def close(self) -> None:
        """Close both ways, as a program does that exits."""
        self.transport.loseConnection()

    def reset(self) -> None:
        """Send a RST."""
        self.transport.abortConnection()

    async def negotiate(self, request: bytes, *, greeting: bytes = b"\5\1\0") -> bytes:
        """Speak SOCKS5 step by step, without credentials; return the 10 bytes of the answer."""
        self.send(greeting)
        assert await self.take(2) == b"\5\0"
        self.send(request)
        return await self.take(10)


async def talk(client: Peer, far: Peer) -> None:
    """Check that bytes go through a stream both ways."""
    for sender, receiver, data in ((client, far, b"hello"), (far, client, b"world")):
        sender.send(data)
        assert await receiver.take(5) == data


class PeerFactory(Factory, Watcher):
    """Makes one kind of ``Peer`` for each connection; ``peers`` holds all that there were."""

    noisy = False

    def __init__(self, kind: Callable[[], Peer] = Peer) -> None:
        Watcher.__init__(self)
        self.peers: list[Peer] = []
        self.kind = kind

    def buildProtocol(self, addr: Any) -> Peer:
        peer = self.kind()
        peer.factory = self
        self.peers.append(peer)
        self.notice()
        return peer

    async def peer(self, number: int = 0) -> Any:
        """Wait for a connection, the first by default, to be made."""
        await self.until(lambda: number < len(self.peers))
        peer = self.peers[number]
        await peer.until(lambda: peer.transport is not None)
        return peer


class Pump:
    """Sends without end, as much as the connection takes; ``sent`` counts what it took."""

    def __init__(self, peer: Peer, limit: int) -> None:
        self.sent = 0
        self.limit = limit
        self.digest = hashlib.sha256()
        self._peer = peer
        peer.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Send one more chunk: everything before it has left."""
        if self.sent >= self.limit:
            self.stop()
            return
        chunk = hashlib.sha256(self.sent.to_bytes(8, "big")).digest() * 2048
        self.sent += len(chunk)
        self.digest.update(chunk)
        self._peer.send(chunk)

    def stopProducing(self) -> None:
        """The connection is gone."""

    def stop(self) -> None:
        """Send no more."""
        self._peer.transport.unregisterProducer()

    async def stalled(self) -> None:
        """Wait until it takes no more, for many reads by the clock, or the limit is reached."""
        before, since, turns = -1, reactor.seconds(), 0
        # A sender whose window was closed asks again after 0.2 s; and turns count, since a busy
        # machine may let this process wait for as long.
        while self.sent < self.limit and (reactor.seconds() - since < 0.5 or turns < 50):
            turns += 1
            if self.sent > before:
                before, since, turns = self.sent, reactor.seconds(), 0
            await deferLater(reactor, 0.005)
