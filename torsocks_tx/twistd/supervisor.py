"""``--workers N``: this process holds the listeners, and N others serve what comes there.

The listening sockets are inherited, so a client that waits in their queue outlives the worker that
would have served it. A worker ends when its standard input does: with an orderly stop, and with a
supervisor that is killed. All share one isolation secret, and the names of the listeners.
"""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.process import (
    Ending,
    LineProtocol,
    SpawnError,
    python_command,
    signal_if_alive,
    spawn,
)
from torsocks_tx.backends.tor.waiting import retry_delay
from torsocks_tx.policy.isolation import SECRET_BYTES
from torsocks_tx.server.serving import Server
from torsocks_tx.twistd.service import (
    StartError,
    abandon,
    give_up,
    log_failure,
    open_ports,
    signals,
)

STATUS_DESCRIPTOR = 3
"""Where a worker tells that it is ready, or why it cannot start."""

FIRST_DESCRIPTOR = 4
"""The first inherited listener in a worker; the others follow."""

READY = "ready"
"""What a worker says when it serves clients; anything else is the reason why it cannot."""

QUICK = 10.0
"""Seconds: a worker that ends sooner has failed, and one that takes longer to stop is stuck."""

START_TIMEOUT = 60.0
"""Seconds in which a worker must be ready."""


def _cancel(call: Any) -> None:
    """Cancel a delayed call, if there is one and it has not been made."""
    if call is not None and call.active():
        call.cancel()


class WorkerFailed(Exception):
    """A worker cannot serve; the text says why."""


class Worker(LineProtocol):
    """One process: its lines go to our log, its status to whoever waits for it."""

    _log = Logger()

    def __init__(self, reactor: Any, number: int) -> None:
        super().__init__(reactor, self._log_line, self._ended)
        self.number = number
        self.ready: Deferred[str] = Deferred()
        """Fires with ``READY``, or with the reason why it will never serve."""
        self.ended: Deferred[str] = Deferred()
        """Fires with how it ended, also if it could not be started."""
        self.is_ready = False
        self.lifetime = 0.0
        self._began = reactor.seconds()
        self._status = b""
        self._deadline = reactor.callLater(START_TIMEOUT, self.kill)

    def start(self, orders: dict[str, Any], descriptors: dict[int, Any]) -> None:
        """Start the process, and say what is to be done."""
        command = python_command("torsocks_tx.twistd.worker", not_from=orders["directory"])
        pipes = {0: "w", 1: "r", 2: "r", STATUS_DESCRIPTOR: "r"}
        try:
            process = spawn(self._reactor, self, command, descriptors={**pipes, **descriptors})
        except SpawnError as error:
            self._finish(str(error))
        else:
            process.write(json.dumps(orders).encode() + b"\n")

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Take its status from its descriptor, and lines for the log from the others."""
        if childFD != STATUS_DESCRIPTOR:
            super().childDataReceived(childFD, data)
            return
        self._status += data
        if self._status == READY.encode() and not self.is_ready:
            self.is_ready = True
            self._deadline.cancel()
            self.ready.callback(READY)

    def stop(self) -> None:
        """Let it end in order."""
        if self.transport is not None:
            self.transport.closeStdin()

    def reload(self) -> None:
        """Let it see what there is no more; a worker that is not ready has not seen it."""
        if self.is_ready:
            signal_if_alive(self.transport, signal.SIGHUP)

    def end_grace(self) -> None:
        """Let it reset its streams, if it has been told to stop before."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.transport is not None:
            signal_if_alive(self.transport, number)

    def _log_line(self, line: str) -> None:
        self._log.info("worker {number}: {line}", number=self.number, line=line)

    def _ended(self, ending: Ending) -> None:
        how = f"status {ending}" if isinstance(ending, int) else ending
        told = self._status.decode("utf-8", "replace")
        self._finish(told if told and not self.is_ready else how)

    def _finish(self, reason: str) -> None:
        self.lifetime = self._reactor.seconds() - self._began
        if not self.is_ready:
            _cancel(self._deadline)
            self.ready.callback(reason)
        self.ended.callback(reason)


class Unused(Factory):
    """A listener's factory here, where no client is ever accepted."""

    noisy = False


class Supervisor(Service):
    """Keeps ``workers`` processes that serve with ``orders``: starts another for each that ends.

    ``server`` has their listeners. ``check`` raises ``StartError`` if the user that serves cannot
    use what the options name. ``upstream`` is a tor that we start, or None.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        server: Server,
        orders: dict[str, Any],
        upstream: Any,
        *,
        check: Callable[[], None],
        workers: int,
        grace: float,
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._orders = {
            **orders,
            "secret": secrets.token_bytes(SECRET_BYTES).hex(),
            "share": workers,
        }
        self._upstream = upstream
        self._check = check
        self._grace = grace
        self._delay = retry_delay()
        self._failures = dict.fromkeys(range(1, workers + 1), 0)
        self._workers: dict[int, Worker] = {}
        self._living: set[Worker] = set()
        self._replacements: dict[int, Any] = {}
        self._killing: Any = None
        self._has_started = False

    def privilegedStartService(self) -> None:
        """Bind the listeners; nobody is accepted here. ``StartError`` if one cannot be."""
        open_ports(self._server, log_failure)
        for port in self._server.ports:
            port.stopReading()

    def startService(self) -> None:
        """Start tor, if it is ours, and then the workers; ``StartError`` if that fails at once."""
        super().startService()
        self.privilegedStartService()
        failures: list[Failure] = []
        try:
            self._check()
            starting = Deferred.fromCoroutine(self._start()).addErrback(failures.append)
            if failures:
                raise StartError(failures[0].getErrorMessage())
        except StartError as error:
            abandon(self._server, log_failure, str(error))
        starting.addCallback(lambda _: self._start_failed(*failures) if failures else None)
        signals.add(self._reactor, self)

    async def _start(self) -> None:
        if self._upstream is not None:
            await self._upstream.start()
        if not self.running:
            return
        started = [self._serve(number) for number in self._failures]
        for worker in started:
            if (reason := await worker.ready) != READY:
                raise WorkerFailed(f"worker {worker.number} cannot start: {reason}")
        self._has_started = True
        self._log.info("{count} workers serve", count=len(started))

    def _start_failed(self, failure: Failure) -> None:
        if self.running:
            log_failure(failure.getErrorMessage())
            give_up(self._reactor, self)

    def _serve(self, number: int) -> Worker:
        """Start a worker for a place that has none."""
        worker = self._new_worker(number)
        self._workers[number] = worker
        self._launch(worker)
        return worker

    def _new_worker(self, number: int) -> Worker:
        worker = Worker(self._reactor, number)
        self._living.add(worker)
        worker.ended.addCallback(self._has_ended, worker)
        return worker

    def _launch(self, worker: Worker) -> None:
        orders = {**self._orders, "listeners": len(self._server.ports)}
        if self._upstream is not None:
            orders["tor"] = self._upstream.control_address()
        ports = enumerate(self._server.ports, FIRST_DESCRIPTOR)
        worker.start(orders, {number: port.fileno() for number, port in ports})

    def _has_ended(self, reason: str, worker: Worker) -> None:
        number = worker.number
        self._living.discard(worker)
        if self._workers.get(number) is not worker:
            return
        del self._workers[number]
        if not self.running or not (worker.is_ready or self._has_started):
            return
        if worker.lifetime >= QUICK:
            self._failures[number] = 0
        delay = self._delay(self._failures[number])
        self._failures[number] += 1
        self._log.warn(
            "worker {number} has ended ({reason}); another is started in {delay:.1f} s",
            number=number,
            reason=reason,
            delay=delay,
        )
        self._replacements[number] = self._reactor.callLater(delay, self._serve, number)

    def reload(self) -> Deferred[str]:
        """Put a new worker in the place of each, one after the other.

        An old one serves until the new one is ready, and then its streams to the end of the grace.
        If a new one cannot start, the old ones stay.
        """
        return Deferred.fromCoroutine(self._renew())

    async def _renew(self) -> str:
        if self._orders["keys"]:
            # A new worker cannot take keys of onion services from tor that it has never known.
            for worker in self._living:
                worker.reload()
        for number in self._failures:
            new = self._new_worker(number)
            self._launch(new)
            reason = await new.ready
            if not self.running:
                break
            if reason != READY:
                raise WorkerFailed(f"a new worker cannot start: {reason}")
            old = self._workers.get(number)
            _cancel(self._replacements.pop(number, None))
            self._workers[number] = new
            if old is not None:
                old.stop()
        return "the workers have been started anew"

    def end_grace(self) -> None:
        """Have the workers reset their streams, and kill those that are stuck."""
        for worker in self._living:
            worker.end_grace()
        self._kill_after(QUICK)

    def _kill_after(self, seconds: float) -> None:
        _cancel(self._killing)
        self._killing = self._reactor.callLater(seconds, self._kill_all)

    def _kill_all(self) -> None:
        for worker in self._living:
            worker.kill()

    def stopService(self) -> Deferred[Any]:
        """Stop the workers in order, then the listeners, then tor."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for call in self._replacements.values():
            _cancel(call)
        for worker in self._living:
            worker.stop()
        # They end by themselves after the grace.
        self._kill_after(self._grace + QUICK)
        await DeferredList([worker.ended for worker in self._living])
        _cancel(self._killing)
        try:
            await self._server.close()
            if self._upstream is not None:
                await self._upstream.stop()
        finally:
            signals.remove(self)
