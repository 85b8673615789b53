"""What all connections of one port share on their short way."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from torsocks_tx.fastpath.poller import Poller
from torsocks_tx.fastpath.waits import Waits
from torsocks_tx.relay.connector import Connect, Target
from torsocks_tx.relay.sockets import is_sending
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks.messages import Request


def _hand_over(visitor: Any) -> None:
    visitor.hand_over()


def _leave(visitor: Any) -> None:
    visitor.leave()


def _linger_no_more(visitor: Any) -> None:
    if is_sending(visitor.far):
        # The far end cannot answer yet.
        visitor.hand_over()
    else:
        visitor.leave()


class Hall:
    """What the visitors of one port share."""

    def __init__(self, port: Any, factory: SOCKSFactory) -> None:
        self.port = port
        self.family: int = port.addressFamily
        self.factory = factory
        self.reactor = port.reactor
        self.poller = Poller(port.reactor)
        self.options = factory.handshake_options(factory.protocol.versions)
        self.connect: Connect = getattr(factory.backend, "connect", socket.socket.connect_ex)
        clock, limits = factory.clock, factory.limits
        self.target: Callable[[Request], Target | None] | None = None
        # An ``idle_timeout`` is the relay's to keep, and what ``TestSocks`` says is said once.
        if limits.idle_timeout is None and not factory.policy.test_socks:
            self.target = getattr(factory.backend, "target", None)
        self.greetings = Waits(clock, limits.handshake_timeout, _hand_over)
        self.attempts = Waits(clock, limits.connect_timeout, _hand_over)
        self.clients_done = Waits(clock, limits.linger_timeout, _linger_no_more)
        self.origins_done = Waits(clock, limits.linger_limit, _leave)
