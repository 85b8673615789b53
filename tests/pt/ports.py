"""A transport's SOCKS port in memory, with an endpoint that the test connects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock

from tests.backends.ends import FakeEndpoint
from tests.support.transports import FakeTransport
from torsocks_tx.pt.transport import Target, TransportFactory

CONNECT = bytes.fromhex("05 01 00 01 C0000201 0FA0")
"""A request for 192.0.2.1:4000."""


class Port:
    """One connection of a parent; ``targets`` lists what the transport was called with."""

    def __init__(
        self,
        raises: Exception | None = None,
        acts: Callable[[Target], object] | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.targets: list[Target] = []
        self.endpoint = FakeEndpoint()
        self.far = FakeTransport()
        self.transport = FakeTransport()
        self._raises = raises
        self._acts = acts
        self.factory = TransportFactory(self.clock, self._transport, **options)
        self.protocol = self.factory.buildProtocol(None)
        assert self.protocol is not None
        self.transport.connect(self.protocol)

    def _transport(self, target: Target) -> IStreamClientEndpoint:
        self.targets.append(target)
        if self._raises is not None:
            raise self._raises
        if self._acts is not None:
            self._acts(target)
        return self.endpoint

    def greet(self, *methods: int) -> Port:
        """Offer these methods; return this port."""
        assert self.say(bytes([5, len(methods), *methods]))[:1] == b"\5"
        return self

    def say(self, data: bytes) -> bytes:
        """Send bytes; return what is answered at once, and in the reactor's next turn."""
        assert self.protocol is not None
        self.protocol.dataReceived(data)
        self.clock.advance(0)
        return self.transport.take()

    def then(self, act: Callable[..., None], *arguments: Any) -> bytes:
        """Call a function; return what is sent to the parent then."""
        act(*arguments)
        return self.transport.take()

    @property
    def target(self) -> Target:
        """The only target."""
        [target] = self.targets
        return target

    @property
    def is_closing(self) -> bool:
        """Whether the connection is closed once the answer is flushed."""
        return self.transport.asked[-1:] == ["loseWriteConnection"]


def userpass(username: bytes, password: bytes = b"\0") -> bytes:
    """Return the message of RFC 1929."""
    return bytes([1, len(username)]) + username + bytes([len(password)]) + password


def pairs(*of: tuple[bytes, bytes]) -> bytes:
    """Return the message of method X'97'."""
    body = b"".join(len(part).to_bytes(2, "big") + part for pair in of for part in pair)
    return b"\1" + len(of).to_bytes(2, "big") + body
