"""What ``/status.json`` says, which the status page, the metrics and ``/health`` are made of."""

from __future__ import annotations

import os
import resource
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from operator import sub
from typing import Any

from twisted.internet.defer import CancelledError, TimeoutError
from twisted.internet.task import LoopingCall

from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.events import printable
from torsocks_tx.backends.tor.exits.circuits import Circuit
from torsocks_tx.backends.tor.provider import ProviderState, state_of
from torsocks_tx.backends.tor.providers import DONE
from torsocks_tx.backends.tor.waiting import limit
from torsocks_tx.errors import TorDown
from torsocks_tx.status.registry import (
    CONNECTIONS,
    EARLY_DATA,
    FROM_CLIENTS,
    LINGERING,
    OUTCOMES,
    STREAMS,
    TO_CLIENTS,
    ListenerInfo,
    Registry,
    Snapshot,
)

VERSION = metadata.version("torsocks_tx")
"""Read once: that takes a descriptor, and later there may be none left."""

INTERVAL, SAMPLES = 1, 600
"""Seconds between two samples for the rates, and how many are kept: ten minutes."""

RATES = ("streams", "bytes_from_clients", "bytes_to_clients")
"""What a sample is of."""

KEPT = 0.9
"""Seconds for which what is dear to find out serves all who ask: circuits and descriptors."""

CIRCUITS_TIMEOUT = 2.0
"""Seconds in which tor must tell its circuits; without them the report is made all the same."""


def open_descriptors(processes: Iterable[int]) -> int | None:
    """Return how many descriptors these processes have; None where the system does not tell."""
    try:
        return sum(len(os.listdir(f"/proc/{process}/fd")) for process in processes)
    except OSError:
        return None


class Monitor:
    """Knows how a server is. ``report`` says it all, ``state`` says it in one word.

    ``registry``: where the server counts. ``tors``: the backends that go over a tor, by name.
    ``workers``: returns the numbers of the worker processes; None where clients are served in this
    process. What a report holds is in docs/status.md: nothing in it names a destination, a client
    or a user.
    """

    def __init__(
        self,
        reactor: Any,
        registry: Registry,
        tors: Mapping[str, TorBackend] | None = None,
        workers: Callable[[], list[int]] | None = None,
    ) -> None:
        self.registry = registry
        self._reactor = reactor
        self._tors = tors or {}
        self._workers = workers
        self._began = reactor.seconds()
        self._counted: tuple[int, ...] | None = None
        self._samples: deque[tuple[int, ...]] = deque(maxlen=SAMPLES)
        self._sampling = LoopingCall(self._sample)
        self._sampling.clock = reactor
        self._is_serving = self._is_stopping = False
        self._found: dict[str, tuple[float, Any]] = {}

    def begin(self) -> None:
        """Take a sample of the counts each second from now on."""
        self._sampling.start(INTERVAL)

    def serving(self) -> None:
        """Note that clients are served."""
        self._is_serving = True

    def begin_stopping(self) -> None:
        """Say from now on that the server stops."""
        self._is_stopping = True

    def end(self) -> None:
        """Take no more samples."""
        if self._sampling.running:
            self._sampling.stop()

    def _sample(self) -> None:
        """Note what has happened since the last sample."""
        total = self.registry.snapshot()
        numbers = total.numbers
        now = (total.outcomes["open"], numbers[FROM_CLIENTS], numbers[TO_CLIENTS])
        self._samples.append(tuple(map(sub, now, self._counted or now)))
        self._counted = now

    @property
    def state(self) -> str:
        """``ready``, ``starting``, ``down`` or ``stopping``."""
        if self._is_stopping:
            return "stopping"
        if not self._is_serving:
            return "starting"
        providers = [backend.provider for backend in self._tors.values()]
        state = state_of(providers) if providers else ProviderState.READY
        return "down" if state is ProviderState.STOPPED else state.name.lower()

    async def report(self) -> dict[str, Any]:
        """Return what ``/status.json`` says."""
        total = self.registry.snapshot()
        return {
            "version": VERSION,
            "uptime": int(self._reactor.seconds() - self._began),
            "workers": 1 if self._workers is None else len(self._workers()),
            "worker_restarts": self.registry.worker_restarts,
            "state": self.state,
            "tors": [await self._tor(name, tor) for name, tor in self._tors.items()],
            "listeners": list(map(_listener, self.registry.listeners, self.registry.snapshots())),
            "outcomes": [
                {"code": code, "meaning": OUTCOMES[code], "count": count}
                for code, count in total.outcomes.items()
            ],
            "bytes": {
                "from_clients": total.numbers[FROM_CLIENTS],
                "to_clients": total.numbers[TO_CLIENTS],
            },
            "early_data_bytes": total.numbers[EARLY_DATA],
            "open_seconds": total.open_seconds,
            "rates": {
                "interval": INTERVAL,
                **{name: [it[i] for it in self._samples] for i, name in enumerate(RATES)},
            },
            "descriptors": self._descriptors(),
        }

    async def _tor(self, name: str, backend: TorBackend) -> dict[str, Any]:
        provider = backend.provider
        progress, control = provider.progress, provider.control
        is_ready = provider.state is ProviderState.READY
        return {
            "name": name,
            "state": provider.state.name.lower(),
            "bootstrap": {
                "percent": DONE * is_ready if progress is None else progress.percent,
                "summary": "" if progress is None else progress.summary,
            },
            "version": None if control is None else control.version,
            "reconnects": max(provider.sessions - 1, 0),
            "circuits": [] if control is None else await self._circuits(name, backend),
        }

    async def _circuits(self, name: str, backend: TorBackend) -> list[dict[str, Any]]:
        found: list[dict[str, Any]]
        since, found = self._found.get(name, (-KEPT, []))
        now = self._reactor.seconds()
        if now - since >= KEPT:
            try:
                circuits = await limit(backend.circuits(), CIRCUITS_TIMEOUT, self._reactor)
                found = [self._circuit(circuit) for circuit in circuits]
            except (TorDown, TimeoutError, CancelledError):
                found = []
            self._found[name] = now, found
        return found

    def _circuit(self, circuit: Circuit) -> dict[str, Any]:
        return {
            "purpose": circuit.purpose,
            "age": int(circuit.age),
            # Only the workers know which circuits their streams use.
            "streams": circuit.streams if self._workers is None else None,
            "path": [
                {"nickname": hop.nickname, "fingerprint": hop.fingerprint, "country": hop.country}
                for hop in circuit.path
            ],
        }

    def _descriptors(self) -> dict[str, int | None]:
        found: dict[str, int | None]
        since, found = self._found.get("", (-KEPT, {}))
        now = self._reactor.seconds()
        if now - since >= KEPT:
            processes = [os.getpid()] if self._workers is None else self._workers()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            most = soft if self._workers is None else hard * len(processes)
            found = {"open": open_descriptors(processes), "limit": most}
            self._found[""] = now, found
        return found


def _listener(info: ListenerInfo, counts: Snapshot) -> dict[str, Any]:
    return {
        "name": printable(info.name),
        "endpoint": printable(info.endpoint),
        "flags": list(map(printable, info.flags)),
        "connections": counts.numbers[CONNECTIONS],
        "streams": counts.numbers[STREAMS],
        "lingering": counts.numbers[LINGERING],
        "connections_total": counts.protocols,
        "outcomes": counts.outcomes,
    }
