"""A protocol that hands each connection to a program's standard input and output, as inetd does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol, Protocol, connectionDone
from twisted.python.failure import Failure


class _Program(ProcessProtocol):
    def __init__(self, connection: Inetd) -> None:
        self._connection = connection

    def outReceived(self, data: bytes) -> None:
        self._connection.transport.write(data)

    def processEnded(self, reason: Any) -> None:
        self._connection.transport.loseConnection()


class Inetd(Protocol):
    """Serves one connection with one run of a command."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._program = _Program(self)

    def connectionMade(self) -> None:
        reactor.spawnProcess(self._program, self._command[0], self._command, os.environ)

    def dataReceived(self, data: bytes) -> None:
        self._program.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self._program.transport.signalProcess("HUP")
