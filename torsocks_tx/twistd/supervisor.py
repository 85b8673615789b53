"""``--workers N``: this process holds the listeners, and N others serve what comes there.

The listening sockets are inherited, so a client that waits in their queue outlives the worker that
would have served it. A worker ends when its standard input does: with an orderly stop, and with a
supervisor that is killed. All share one isolation secret, and the names of the listeners.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory
from twisted.logger import Logger, LogLevel

from torsocks_tx.backends.tor.process import (
    Ending,
    LineProtocol,
    SpawnError,
    python_command,
    signal_if_alive,
    spawn,
)
from torsocks_tx.backends.tor.provider import TorProvider
from torsocks_tx.backends.tor.waiting import retry_delay
from torsocks_tx.policy.fresh import CircuitCounts
from torsocks_tx.policy.isolation import SECRET_BYTES
from torsocks_tx.server.serving import Server
from torsocks_tx.status.registry import LentMemory, Registry
from torsocks_tx.status.report import Monitor
from torsocks_tx.twistd.upstream import Upstream

STATUS_DESCRIPTOR = 3
"""Where a worker tells that it is ready, or why it cannot start."""

COUNTS_DESCRIPTOR = 4
"""The memory in which workers count circuits together."""

LENT_DESCRIPTOR = 5
"""The memory in which a worker counts what it does."""

FIRST_DESCRIPTOR = 6
"""The first inherited listener in a worker; the others follow."""

READY = "ready"
"""What a worker says when it serves clients; anything else is the reason why it cannot."""

QUICK = 10.0
"""Seconds: a worker that ends sooner has failed, and one that takes longer to stop is stuck."""

START_TIMEOUT = 60.0
"""Seconds in which a worker must be ready."""

BEAT, SILENCE = 10.0, 60.0
"""Seconds between signs of life of a worker, and without one until it is killed: it is stuck."""

_LEVEL = re.compile(f"<({'|'.join(level.name for level in LogLevel.iterconstants())})>(.*)")
"""A line of a worker's log, with its level; others are what it printed."""

MOST_OLD = 4
"""Old workers for each new one: of more, the oldest ends as when the server stops."""


def _cancel(call: Any) -> None:
    """Cancel a delayed call, if there is one and it has not been made."""
    if call is not None and call.active():
        call.cancel()


class WorkerFailed(Exception):
    """A worker cannot serve; the text says why."""


class Worker(LineProtocol):
    """One process: its lines go to our log, its status to whoever waits for it.

    It is killed if it is not ready in time, gives no sign of life, or does not end in time once it
    is told to.
    """

    _log = Logger()

    def __init__(self, reactor: Any, number: int) -> None:
        super().__init__(reactor, self._log_line, self._ended)
        self.number = number
        self.lent: LentMemory | None = None
        """Where it counts; None if it could not be lent any."""
        self.ready: Deferred[str] = Deferred()
        """Fires with ``READY``, or with the reason why it will never serve."""
        self.ended: Deferred[str] = Deferred()
        """Fires with how it ended, also if it could not be started."""
        self.is_ready = False
        self.lifetime = 0.0
        self._now = reactor.seconds
        self._began = self._now()
        self._status = b""
        self._killing: Any = None
        self._is_alive = False
        self._watching: Any = None

    def start(
        self, orders: dict[str, Any], descriptors: dict[int, Any], registry: Registry
    ) -> None:
        """Start the process, lend it memory to count in, and say what is to be done."""
        command = python_command("torsocks_tx.twistd.worker", not_from=orders["directory"])
        pipes = {0: "w", 1: "r", 2: "r", STATUS_DESCRIPTOR: "r"}
        try:
            # Memory takes descriptors too, of which there may be none left.
            self.lent = registry.lend()
            descriptors = {**pipes, **descriptors, LENT_DESCRIPTOR: self.lent.descriptor}
            process = spawn(self._reactor, self, command, descriptors=descriptors)
        except (OSError, SpawnError) as error:
            self._finish(str(error))
        else:
            process.write(json.dumps(orders).encode() + b"\n")
            self._kill_after(START_TIMEOUT)
        finally:
            if self.lent is not None:
                self.lent.close()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Take its status from its descriptor, and lines for the log from the others."""
        if childFD != STATUS_DESCRIPTOR:
            super().childDataReceived(childFD, data)
            return
        self._is_alive = True
        if self.is_ready:
            return
        self._status += data
        if self._status.startswith(READY.encode()):
            self.is_ready = True
            _cancel(self._killing)
            self._watch()
            self.ready.callback(READY)

    def _watch(self, silent: float = 0.0) -> None:
        """Look for signs of life; only so many looks without one count, whatever the clock says."""
        silent = 0.0 if self._is_alive else silent + BEAT
        self._is_alive = False
        if silent >= SILENCE:
            text = "worker {number} has given no sign of life for {s:g} s: it is killed"
            self._log.error(text, number=self.number, s=silent)
            signal_if_alive(self.transport, signal.SIGKILL)
        else:
            self._watching = self._reactor.callLater(BEAT, self._watch, silent)

    def retire(self, limit: float) -> None:
        """Let it take no more clients, and end with the last, or after so many seconds."""
        if self.is_ready:
            self.transport.write(b"drain\n")
            self._kill_after(limit + QUICK)
        else:
            self.stop(0)

    def stop(self, grace: float) -> None:
        """Let it end in order: its streams have so many seconds."""
        if self.transport is not None:
            self.transport.closeStdin()
            self._kill_after(grace + QUICK)

    def reload(self) -> None:
        """Let it see what there is no more; a worker that is not ready has not seen it."""
        if self.is_ready:
            signal_if_alive(self.transport, signal.SIGHUP)

    def end_grace(self) -> None:
        """Let it reset its streams, if it has been told to stop before."""
        if self.transport is not None:
            signal_if_alive(self.transport, signal.SIGTERM)
            self._kill_after(QUICK)

    def _kill_after(self, seconds: float) -> None:
        """Kill it then, if it is not to be killed earlier already."""
        killing = self._killing
        if killing is None or not killing.active() or killing.getTime() > self._now() + seconds:
            _cancel(killing)
            kill = signal_if_alive, self.transport, signal.SIGKILL
            self._killing = self._reactor.callLater(seconds, *kill)

    def _log_line(self, line: str) -> None:
        told = _LEVEL.match(line)
        level = LogLevel.lookupByName(told[1]) if told else LogLevel.info
        text = told[2] if told else line
        self._log.emit(level, "worker {number}: {line}", number=self.number, line=text)

    def _ended(self, ending: Ending) -> None:
        how = f"status {ending}" if isinstance(ending, int) else ending
        told = self._status.decode("utf-8", "replace")
        self._finish(told if told and not self.is_ready else how)

    def _finish(self, reason: str) -> None:
        self.lifetime = self._now() - self._began
        _cancel(self._killing)
        _cancel(self._watching)
        if not self.is_ready:
            self.ready.callback(reason)
        self.ended.callback(reason)


class Unused(Factory):
    """A listener's factory here, where no client is ever accepted."""

    noisy = False


class Supervisor:
    """Keeps ``workers`` processes that serve with ``orders``: starts another for each that ends.

    ``server`` has their listeners. ``counts``: the circuits that they count together. ``registry``
    adds up what they count. ``upstream``: the tor that we start, or at which we only look, if
    ``is_ours`` is false; or None. ``grace``: seconds for open streams when the server stops;
    ``drain_limit``: those of a worker that is replaced.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        server: Server,
        orders: dict[str, Any],
        counts: CircuitCounts,
        registry: Registry,
        upstream: Upstream | None,
        *,
        is_ours: bool,
        workers: int,
        grace: float,
        drain_limit: float,
    ) -> None:
        self._registry = registry
        self._is_ours = is_ours
        self._reactor = reactor
        self.server = server
        secret = orders.get("secret") or secrets.token_hex(SECRET_BYTES)
        self._orders = {**orders, "secret": secret, "share": workers}
        self._counts = counts
        self._upstream = upstream
        self._grace = grace
        self._drain_limit = drain_limit
        self._failures = dict.fromkeys(range(1, workers + 1), 0)
        self._workers: dict[int, Worker] = {}
        self._living: list[Worker] = []
        self._replacements: dict[int, Any] = {}
        self._has_started = False
        self._is_stopping = False

    @property
    def providers(self) -> Sequence[TorProvider]:
        """The tors that this process has started, or at which it looks."""
        return () if self._upstream is None else self._upstream.providers

    def monitor(self) -> Monitor:
        """What knows how the server is."""
        tors = {} if self._upstream is None else self._upstream.tors
        return Monitor(self._reactor, self._registry, tors, self._processes)

    def _processes(self) -> list[int]:
        processes = (each.transport for each in self._living if each.transport is not None)
        return [process.pid for process in processes if process.pid is not None]

    async def start(self) -> None:
        """Start tor, if it is ours, and then the workers."""
        if self._upstream is not None and self._is_ours:
            await self._upstream.start()
        else:
            for provider in self.providers:
                # Why that cannot be, the workers say.
                provider.start().addErrback(lambda _: None)
        if self._is_stopping:
            return
        started = [self._serve(number) for number in self._failures]
        for worker in started:
            if (reason := await worker.ready) != READY:
                raise WorkerFailed(f"worker {worker.number} cannot start: {reason}")
        self._has_started = True
        self._log.info("{count} workers serve", count=len(started))

    def _serve(self, number: int) -> Worker:
        """Start a worker for a place that has none."""
        worker = self._workers[number] = Worker(self._reactor, number)
        self._launch(worker)
        return worker

    def _launch(self, worker: Worker) -> None:
        self._living.append(worker)
        worker.ended.addCallback(self._has_ended, worker)
        orders = {**self._orders, "listeners": len(self.server.ports)}
        if self._upstream is not None and self._is_ours:
            ours: dict[str, Any] = {n: tor.provider for n, tor in self._upstream.tors.items()}
            orders["tors"] = [(name, tor.control_address) for name, tor in ours.items()]
        descriptors = {
            COUNTS_DESCRIPTOR: self._counts.descriptor,
            **{n: port.fileno() for n, port in enumerate(self.server.ports, FIRST_DESCRIPTOR)},
        }
        worker.start(orders, descriptors, self._registry)

    def new_identity(self) -> str:
        """Give fresh circuits to all from now on, the same in every worker."""
        self._counts.epoch.advance()
        return "every new stream gets a fresh circuit"

    def _has_ended(self, reason: str, worker: Worker) -> None:
        number = worker.number
        self._living.remove(worker)
        if worker.lent is not None:
            self._registry.take_back(worker.lent)
        if self._workers.get(number) is not worker:
            if worker.is_ready:
                self._log.info("an old worker {number} has ended", number=number)
            return
        del self._workers[number]
        if self._is_stopping or not (worker.is_ready or self._has_started):
            return
        if worker.lifetime >= QUICK:
            self._failures[number] = 0
        self._registry.worker_restarts += 1
        delay = retry_delay(self._failures[number])
        self._failures[number] += 1
        self._log.warn(
            "worker {number} has ended ({reason}); another is started in {delay:.1f} s",
            number=number,
            reason=reason,
            delay=delay,
        )
        self._replacements[number] = self._reactor.callLater(delay, self._serve, number)

    async def reload(self) -> str:
        """Put a new worker in the place of each, one after the other.

        An old one serves until the new one is ready, and then its streams until they end, up to the
        drain limit. If a new one cannot start, the old ones stay.
        """
        if not self._has_started:
            raise WorkerFailed("the first workers are still starting")
        if self._orders["keys"]:
            # A new worker cannot take keys of onion services from tor that it has never known.
            for worker in self._living:
                worker.reload()
        for number in self._failures:
            new = Worker(self._reactor, number)
            self._launch(new)
            reason = await new.ready
            if self._is_stopping:
                return "the server is stopping"
            if reason != READY:
                raise WorkerFailed(f"a new worker cannot start: {reason}")
            _cancel(self._replacements.pop(number, None))
            if number in self._workers:
                self._workers[number].retire(self._drain_limit)
            self._workers[number] = new
            old = [each for each in self._living if each.number == number and each is not new]
            for worker in old[:-MOST_OLD]:
                text = "worker {number} has more than {most} old ones: the oldest stops"
                self._log.warn(text, number=number, most=MOST_OLD)
                worker.stop(self._grace)
        return "the workers have been started anew"

    def end_grace(self) -> None:
        """Have the workers reset their streams, and kill those that are stuck."""
        for worker in self._living:
            worker.end_grace()

    async def stop(self) -> None:
        """Stop the workers in order, then tor."""
        self._is_stopping = True
        for call in self._replacements.values():
            _cancel(call)
        # The workers hold the sockets of the listeners, too: they close them when they stop.
        await self.server.close()
        for worker in self._living:
            worker.stop(self._grace)
        await DeferredList([worker.ended for worker in self._living])
        if self._upstream is not None:
            await self._upstream.stop()
