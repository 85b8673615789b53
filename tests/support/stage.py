"""Servers with clients in memory, and with a clock of the test."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from tests.support.peers import named
from tests.support.transports import FakeTransport, WholeTransport
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks.messages import Credentials

GREETING = b"\5\1\0"
LOGIN = b"\1\2me\3you"
CONNECT = named("example.com", 80)
REJECTED_4 = bytes.fromhex("00 5B 0000 00000000")


def come(factory: SOCKSFactory, *said: bytes, peer: Any = None) -> Any:
    """Connect a client that says these portions; return its transport, None if it is turned away.

    ``peer``: where it comes from.
    """
    protocol = factory.buildProtocol(peer)
    if protocol is None:
        return None
    transport = FakeTransport() if peer is None else FakeTransport(peer)
    transport.connect(protocol)
    for portion in said:
        protocol.dataReceived(portion)
    assert isinstance(factory.clock, Clock), "a request may wait for a turn"
    factory.clock.advance(0)
    return transport


def key_of(factory: Any, said: bytes, peer: Any = None) -> bytes:
    """Return what the stream that a new client opens is isolated by upstream."""
    come(factory, said, peer=peer)
    credentials: Credentials = factory.backend.outbounds[-1].isolation.credentials
    assert credentials.username == b"<torS0X>0"
    return credentials.password


class Stage:
    """A client in memory, and a server for it with a scripted backend."""

    def __init__(
        self,
        backend: Any = None,
        *,
        kind: type[SOCKSFactory] = SOCKSFactory,
        transport: WholeTransport | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.backend = MemoryBackend() if backend is None else backend
        self.server = kind(self.backend, clock=self.clock, **options)
        self.transport = transport or FakeTransport()
        protocol = self.server.buildProtocol(None)
        assert protocol is not None
        self.protocol = protocol
        self.transport.connect(protocol)

    def say(self, data: bytes) -> bytes:
        """Send bytes; return what is answered at once."""
        self.protocol.dataReceived(data)
        return self.transport.take()

    def ask(self, request: bytes) -> bytes:
        """Send a SOCKS5 greeting and a request; return what is answered at once to the latter."""
        answer = self.say(GREETING + request)
        assert answer[:2] == b"\5\0"
        return answer[2:]

    @property
    def closes(self) -> bool:
        """Whether the reply is flushed and the connection then closed."""
        return self.transport.asked[-1:] == ["loseWriteConnection"]
