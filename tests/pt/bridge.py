"""The bridge of the example's transport."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
from itertools import cycle
from operator import xor
from types import ModuleType
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from tests.support.processes import ROOT
from torsocks_tx.pt import Codec
from torsocks_tx.pt.channel import Channel

EXAMPLE = ROOT / "examples" / "pluggable_transport.py"


def load_example() -> ModuleType:
    """Import the example, which is not in a package."""
    spec = importlib.util.spec_from_file_location("pluggable_transport", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Unveil(Codec):
    """The bridge's side of ``Veil``."""

    ready = False

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.heard = b""
        self.out: Any = None
        self.back: Any = None

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        answer = b""
        if not self.ready:
            self.heard += data
            nonce, data = self.heard[:32], self.heard[32:]
            if len(nonce) < 32:
                return b"", b""
            self.back = cycle(hashlib.sha512(b"to the bridge" + self.secret + nonce).digest())
            self.out = cycle(hashlib.sha512(b"from the bridge" + self.secret + nonce).digest())
            answer = hmac.digest(self.secret, b"proof" + nonce, "sha256")
            self.ready = True
        return bytes(map(xor, data, self.back)), answer

    def encode(self, data: bytes) -> bytes:
        return bytes(map(xor, data, self.out))


class Half(Protocol):
    """One of two connections that are joined."""

    transport: Any
    other: Half | None = None

    def __init__(self) -> None:
        self.held: list[bytes] = []

    def join(self, other: Half) -> None:
        """Forward all bytes, received and to come, both ways."""
        self.other, other.other = other, self
        self.transport.registerProducer(other.transport, True)
        other.transport.registerProducer(self.transport, True)
        for half in (self, other):
            half.other.transport.writeSequence(half.held)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self.other is None:
            self.held.append(data)
        else:
            self.other.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        if self.other is not None:
            self.other.transport.unregisterProducer()
            self.other.transport.loseConnection()


class Bridge(Factory):
    """Serves the transport, connects its streams to ``endpoint``, and counts them."""

    noisy = False

    def __init__(self, endpoint: IStreamClientEndpoint, secret: bytes) -> None:
        self.endpoint = endpoint
        self.secret = secret
        self.streams = 0

    def buildProtocol(self, addr: Any) -> Channel:
        channel = Channel(Unveil(self.secret), Factory.forProtocol(Half))
        channel.opened.addCallback(self._connect)
        channel.opened.addErrback(lambda _: None)
        return channel

    def _connect(self, client: Any) -> None:
        self.streams += 1
        relay = Factory.forProtocol(Half)
        relay.noisy = False
        connecting = self.endpoint.connect(relay)
        connecting.addCallback(client.join)
        connecting.addErrback(lambda _: client.transport.abortConnection())
