"""One of the processes of ``--workers N``, started by the supervisor.

Its orders are one line of JSON on standard input. A further line there, ``drain``, says that
another serves in its place: it then ends with its last client. The end of that input is the order
to stop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from twisted.internet import stdio
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import FileLogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner
from twisted.python.failure import Failure

from torsocks_tx.policy.fresh import CircuitCounts
from torsocks_tx.policy.isolation import Isolator
from torsocks_tx.relay.pipes import share_pool
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.listen import Listener
from torsocks_tx.server.ports import adopt
from torsocks_tx.status.registry import Registry, map_memory
from torsocks_tx.twistd.check import Options
from torsocks_tx.twistd.service import OwnProcess, TorsocksService, stop
from torsocks_tx.twistd.supervisor import (
    BEAT,
    COUNTS_DESCRIPTOR,
    FIRST_DESCRIPTOR,
    LENT_DESCRIPTOR,
    READY,
    STATUS_DESCRIPTOR,
)
from torsocks_tx.twistd.tap import make_own_process


class _StopOrder(Protocol):
    """Stops the reactor when standard input ends, or at SIGTERM; both may come, in any order."""

    def __init__(self, reactor: Any, serving: OwnProcess, drain_limit: float) -> None:
        self._reactor = reactor
        self._serving = serving
        self._drain_limit = drain_limit

    def dataReceived(self, data: bytes) -> None:
        """Serve the clients that there are, and then stop."""
        draining = Deferred.fromCoroutine(self._serving.drain(self._drain_limit))
        draining.addCallback(lambda _: self.connectionLost())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Stop."""
        stop(self._reactor)

    def take_signals(self) -> None:
        """Handle signals from now on."""
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(stop, self._reactor))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # SIGINT stays blocked


def _line(event: LogEvent) -> str | None:
    """Format an event as lines with its level, to which the supervisor adds the rest."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    level = event.get("log_level", LogLevel.info).name
    return "".join(f"<{level}>{line}\n" for line in text.splitlines()) or None


def read_orders() -> dict[str, Any]:
    """The one line of orders; nothing behind it is read."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    if not line.endswith(b"\n"):
        raise SystemExit("there are no orders: start this by twistd torsocks --workers")
    orders: dict[str, Any] = json.loads(line)
    return orders


class _WorkerOptions(Options):
    """The options of the supervisor, which has checked them."""

    def postOptions(self) -> None:
        """Complete them as the supervisor has."""
        self.complete()


def tell(status: str) -> None:
    """Tell the supervisor that we are ready, or why we cannot start."""
    os.write(STATUS_DESCRIPTOR, status.encode("utf-8", "backslashreplace"))


def _live(reactor: Any) -> None:
    """Tell that we are ready, and from then on that the reactor turns."""
    tell(READY)
    beating = LoopingCall(tell, ".")
    beating.clock = reactor
    # Nobody reads any more when the supervisor is gone: then we stop.
    beating.start(BEAT, now=False).addErrback(lambda failure: failure.trap(OSError))


def main() -> None:
    """Serve until standard input ends."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    orders = read_orders()
    globalLogBeginner.beginLoggingTo([FileLogObserver(sys.stdout, _line)], redirectStandardIO=False)
    options = _WorkerOptions(orders["directory"])
    try:
        options.parseOptions(orders["arguments"])
    except SystemExit as error:  # a password file has gone since the supervisor has read them
        tell(str(error).partition(": ")[2].partition("\n")[0])
        raise
    options["tor-password"] = orders["password"]
    if "tors" in orders:
        options.tor_names, options["tor"] = map(list, zip(*orders["tors"], strict=True))
    descriptors = iter(range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + orders["listeners"]))

    def adopt_next(_listener: Listener, factory: SOCKSFactory) -> Any:
        # Whoever is awake first would take the whole queue, and the others nothing.
        return adopt(reactor, next(descriptors), factory, at_once=1)

    share_pool(orders["share"])
    isolator = Isolator(bytes.fromhex(orders["secret"]))
    rates = [listener.policy.fresh_rate for listener in options.listeners]
    counts = CircuitCounts(rates, COUNTS_DESCRIPTOR)
    registry, share = Registry(map_memory(LENT_DESCRIPTOR)), orders["share"]
    serving = make_own_process(reactor, options, adopt_next, isolator, counts, share, registry)
    service = TorsocksService(reactor, serving, check=options.check_files, fail=tell)
    service.startService()
    service.started.addCallback(lambda _: reactor.callWhenRunning(_live, reactor))
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    order = _StopOrder(reactor, serving, options["drain-limit"])
    stdio.StandardIO(order)
    order.take_signals()
    reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()
