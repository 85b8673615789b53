"""One process of ``--workers N``, as its supervisor sees it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.twistd.service import RUNNING


class Worker(ProcessProtocol):
    """One process; its lines go to our log."""

    transport: Any = None
    _log = Logger()

    def __init__(self, number: int, orders: bytes, clock: Any) -> None:
        self.number = number
        self.running: Deferred[Worker] = Deferred()
        self.ended: Deferred[Worker] = Deferred()
        self.status = ""
        self._clock = clock
        self._orders = orders
        self._began = clock.seconds()
        self._line = b""
        self.lifetime = 0.0

    def connectionMade(self) -> None:
        """Say what is to be done."""
        self.transport.write(self._orders)

    def outReceived(self, data: bytes) -> None:
        """Pass whole lines on."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace")
            if RUNNING in text and not self.running.called:
                self.running.callback(self)
            self._log.info("worker {number}: {text}", number=self.number, text=text)

    errReceived = outReceived

    def stop(self) -> None:
        """Let it end in order."""
        self.transport.closeStdin()

    def reload(self) -> None:
        """Let it see what there is no more; a worker that does not run yet has not seen it."""
        if self.running.called:
            self._signal("HUP")

    def kill(self) -> None:
        """End it now."""
        self._signal("KILL")

    def _signal(self, name: str) -> None:
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            return

    def processEnded(self, reason: Failure) -> None:
        """Tell that it is over."""
        self.lifetime = self._clock.seconds() - self._began
        self.status = reason.getErrorMessage()
        self.ended.callback(self)
