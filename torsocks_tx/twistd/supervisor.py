"""``--workers N``: this process holds the listeners, and N others serve what comes there.

The listening sockets are inherited, so a client that waits in their queue outlives the worker that
would have served it. A worker ends when its standard input does: with an orderly stop, and with a
supervisor that is killed. All share one isolation secret, and the names of the listeners.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.policy.isolation import SECRET_BYTES
from torsocks_tx.twistd.binding import StartError, bind
from torsocks_tx.twistd.child import Worker
from torsocks_tx.twistd.listen import Listener
from torsocks_tx.twistd.service import exit_with_failure

FIRST_DESCRIPTOR = 3
"""The first inherited listener in a worker; the others follow."""

QUICK = 10.0
"""Seconds: a worker that ends sooner has failed."""

QUICK_FAILURES = 6
"""So many quick failures in a row, and the server ends."""

_PACKAGE = Path(__file__).resolve().parents[1]


class Supervisor(Service):
    """Starts ``workers`` processes with ``arguments``, and starts another for each that ends."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        listeners: Sequence[Listener],
        arguments: Sequence[str],
        upstream: Any,
        *,
        authenticated: bool,
        workers: int,
        grace: float,
    ) -> None:
        self._reactor = reactor
        self._listeners = listeners
        self._arguments = list(arguments)
        self._upstream = upstream
        self._authenticated = authenticated
        self._grace = grace
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._ports: list[Any] = []
        self._wanted = workers
        self._workers: dict[int, Worker] = {}
        self._leaving: set[Worker] = set()
        self._failures = 0
        self._old_hangup: Any = None

    def privilegedStartService(self) -> None:
        """Bind the listeners; nobody is accepted here."""
        for listener in self._listeners:
            try:
                port = bind(self._reactor, listener, Factory(), authenticated=self._authenticated)
            except StartError as error:
                self._log.critical("{error}", error=error)
                raise SystemExit(1) from None
            port.stopReading()
            self._ports.append(port)

    def startService(self) -> None:
        """Start tor, if it is ours, and then the workers."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()
        self._old_hangup = signal.signal(signal.SIGHUP, self._hangup)
        starting = maybeDeferred(self._upstream.start if self._upstream else lambda: None)
        starting.addCallbacks(lambda _: self._spawn_all(), self._start_failed)

    def _start_failed(self, failure: Failure) -> None:
        if self.running:
            self._give_up(failure.getErrorMessage())

    def _give_up(self, reason: str) -> None:
        self._log.critical("{reason}", reason=reason)
        exit_with_failure()
        self._reactor.callLater(0, self._reactor.stop)

    def _spawn_all(self) -> None:
        if self.running:
            for number in range(1, self._wanted + 1):
                self._spawn(number)

    def _spawn(self, number: int) -> None:
        if not self.running:
            return
        orders = {
            "arguments": self._arguments,
            "listeners": len(self._ports),
            "secret": self._secret.hex(),
            "share": self._wanted,
            "tor": self._upstream.control_address() if self._upstream else None,
        }
        worker = Worker(number, json.dumps(orders).encode() + b"\n", self._reactor)
        self._workers[number] = worker
        worker.running.addCallback(self._running)
        worker.ended.addCallback(self._ended)
        path = os.environ.get("PYTHONPATH")
        places = [str(_PACKAGE.parent), *([path] if path else [])]
        descriptors: dict[int, Any] = {0: "w", 1: "r", 2: "r"}
        for index, port in enumerate(self._ports):
            descriptors[FIRST_DESCRIPTOR + index] = port.fileno()
        self._reactor.spawnProcess(
            worker,
            sys.executable,
            [sys.executable, "-m", "torsocks_tx.twistd.worker"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            childFDs=descriptors,
        )

    def _running(self, worker: Worker) -> None:
        """Its place is taken: let go of those that had it before."""
        if self._workers.get(worker.number) is not worker:
            return
        for old in [old for old in self._leaving if old.number == worker.number]:
            old.stop()

    def _ended(self, worker: Worker) -> None:
        self._leaving.discard(worker)
        if self._workers.get(worker.number) is not worker:
            return
        del self._workers[worker.number]
        if not self.running:
            return
        self._failures = self._failures + 1 if worker.lifetime < QUICK else 0
        if self._failures >= QUICK_FAILURES:
            self._give_up("the workers end as soon as they are started")
            return
        delay = 0.1 * 2**self._failures if self._failures else 0.0
        self._log.warn(
            "worker {number} has ended ({status}); another is started in {delay:.1f} s",
            number=worker.number,
            status=worker.status,
            delay=delay,
        )
        self._reactor.callLater(delay, self._spawn, worker.number)

    def _hangup(self, _number: int, _frame: Any) -> None:
        self._reactor.callFromThread(self.restart)

    def restart(self) -> None:
        """Start every worker anew; the old ones serve their streams to the end of the grace."""
        self._log.info("SIGHUP: the workers are started anew")
        # A new worker cannot take keys of onion services from tor that it has never known.
        for worker in [*self._workers.values(), *self._leaving]:
            worker.reload()
        for worker in list(self._workers.values()):
            self._leaving.add(worker)
            self._spawn(worker.number)

    def _hurry(self, _number: int, _frame: Any) -> None:
        self._reactor.callFromThread(self._kill_all)

    def _kill_all(self) -> None:
        for worker in [*self._workers.values(), *self._leaving]:
            worker.kill()

    def stopService(self) -> Deferred[Any]:
        """Stop the workers in order, then the listeners, then tor."""
        super().stopService()
        if self._old_hangup is not None:
            signal.signal(signal.SIGHUP, self._old_hangup)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hurry)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        workers = [*self._workers.values(), *self._leaving]
        for worker in workers:
            worker.stop()
        # They end by themselves after the grace; one that does not is stuck.
        timer = self._reactor.callLater(self._grace + QUICK, self._kill_all)
        await DeferredList([worker.ended for worker in workers])
        if timer.active():
            timer.cancel()
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        self._ports.clear()
        if self._upstream is not None:
            await self._upstream.stop()
