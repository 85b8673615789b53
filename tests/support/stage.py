"""A server with one client, in memory and with a clock of the test."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from tests.support.transports import FakeTransport, WholeTransport
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.server.factory import SOCKSFactory

GREETING = b"\5\1\0"


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
