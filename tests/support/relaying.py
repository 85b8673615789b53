"""A relay between a transport in memory and a scripted far end, with a clock of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from twisted.internet.task import Clock

from tests.support.transports import FakeTransport, WholeTransport
from torsocks_tx.backends.memory import MemoryOutbound
from torsocks_tx.errors import SOCKSError
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.relay.relay import Relay
from torsocks_tx.relay.timeouts import Deadline
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request

REQUEST = Request(Version.SOCKS5, Command.CONNECT, Address(AddressType.HOSTNAME, "example.com", 80))
ISOLATION = Isolation(Credentials(b"<torS0X>0", b"key"))


class RelayStage:
    """A relay with everything around it; ``heard`` is what its owner was told."""

    def __init__(self, transport: WholeTransport | None = None, **limits: Any) -> None:
        self.clock = Clock()
        self.transport = transport or FakeTransport()
        self.heard: list[str] = []
        self.limits = dataclasses.replace(Limits(), **limits)
        self.deadline = Deadline(self.clock)
        self.meter = memoryview(bytearray(16)).cast("q")
        self.relay = Relay(self, self.transport, self.clock, self.deadline, self.limits, self.meter)
        self.outbound = MemoryOutbound(REQUEST, ISOLATION, self.relay)

    def begin(self, early: bytes = b"") -> RelayStage:
        self.relay.begin(self.outbound, early, 120)
        return self

    def open(self) -> RelayStage:
        self.begin()
        self.relay.opened()
        assert self.heard.pop() == "opened"
        return self

    def relay_opened(self) -> None:
        self.heard.append("opened")

    def relay_refused(self, reason: SOCKSError) -> None:
        self.heard.append(f"refused: {type(reason).__name__}")

    def relay_over(self, clean: bool) -> None:
        self.heard.append("over" if clean else "reset")

    def relay_remote_eof(self) -> None:
        self.heard.append("remote eof")

    @property
    def events(self) -> list[str]:
        """What was done to the outbound."""
        return self.outbound.events

    @property
    def idle(self) -> bool:
        """Whether nothing is waited for."""
        return not self.deadline.is_waiting
