"""The receiver and the endpoint of a backend's stream, in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from zope.interface import implementer

from tests.support.transports import FakeTransport, WholeTransport
from torsocks_tx.client.connection import FailureExplainer, Stream
from torsocks_tx.errors import SOCKSError
from torsocks_tx.interfaces import IReceiver
from torsocks_tx.socks.client import ClientHandshake
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request


@implementer(IReceiver)
class Receiver:
    """Records the calls on it."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def opened(self) -> None:
        self.heard.append("opened")

    def refused(self, reason: SOCKSError) -> None:
        self.heard.append(reason)

    def data(self, data: bytes) -> None:
        self.heard.append(data)

    def eof(self) -> None:
        self.heard.append("eof")

    def lost(self, clean: bool) -> None:
        self.heard.append(("lost", clean))


@implementer(IStreamClientEndpoint)
class FakeEndpoint:
    """An endpoint that connects when the test calls ``come``."""

    def __init__(self, outcome: Any = None) -> None:
        self.cancelled = 0
        self.protocol: Any = None
        self.factory: Any = None
        self._outcome: Deferred[Any] = outcome or Deferred(self._cancel)

    def _cancel(self, _: object) -> None:
        self.cancelled += 1

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        self.factory = factory
        self.protocol = factory.buildProtocol(None)
        return self._outcome

    def come(self, transport: WholeTransport) -> None:
        transport.connect(self.protocol)
        self._outcome.callback(self.protocol)

    def fail(self, reason: Exception) -> None:
        self._outcome.errback(reason)


REQUEST = Request(
    Version.SOCKS5,
    Command.CONNECT,
    Address(AddressType.HOSTNAME, "example.com", 80),
    Credentials(b"u", b"p"),
)


class StreamStage:
    """A stream, its receiver and its endpoint."""

    def __init__(
        self,
        *,
        half_close: bool = True,
        pipelined: bool | None = None,
        early: bool = False,
        transport: WholeTransport | None = None,
        explainer: FailureExplainer | None = None,
        verify_f0: bool = False,
    ) -> None:
        self.clock = Clock()
        self.receiver = Receiver()
        self.endpoint = FakeEndpoint()
        self.transport: Any = transport or FakeTransport()
        self.stream = Stream(self.clock, self.receiver, half_close=half_close)
        if pipelined is not None:
            handshake = ClientHandshake(REQUEST, pipelined=pipelined, verify_f0=verify_f0)
            self.stream.ask(handshake, early_data=early, explainer=explainer)
        self.stream.connect(self.endpoint)

    @property
    def heard(self) -> list[object]:
        return self.receiver.heard

    def come(self) -> StreamStage:
        self.endpoint.come(self.transport)
        return self

    def open(self) -> StreamStage:
        self.come()
        assert self.heard.pop() == "opened"
        return self
