"""What was seen of onion services: in each attempt to reach one, and shortly before. Pure.

Everything is a count, a last outcome or a time, so that no stream of events can make it grow. What
is remembered of services that nobody tries to reach is bounded in number and, by the rules that use
it, in age.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any

from torsocks_tx.backends.tor.onion.events import Fetch, HSCircuitEvent, HSDescEvent, Step

INTRODUCTION_MEMORY = 120.0
"""Seconds for which tor does not try an introduction point again that failed (hs_cache.c)."""

INTRODUCTION_DOUBT = 150.0
"""Seconds after which it certainly tries again: it forgets in rounds of half a minute."""

UNDECRYPTABLE_MEMORY = 900.0
"""Seconds for which tor does not ask a directory again for the same descriptor (hs_common.c)."""

MOST_ACKNOWLEDGED = 64
"""Tokens of one address that are remembered because their rendezvous circuit waits."""

REMEMBERED_ADDRESSES = 1024
"""Addresses without a live attempt whose history is kept; the one idle for longest goes first."""

Introductions = Counter[Step | str]
"""How introductions ended; under the name of an introduction point, the circuits that broke."""


def note_introduction(counts: Introductions, event: HSCircuitEvent) -> None:
    """Count a circuit event if an introduction ended by it."""
    if event.step in (Step.ACKNOWLEDGED, Step.NACKED, Step.TIMED_OUT, Step.BROKEN):
        counts[event.step] += 1
    if event.step is Step.BROKEN:
        counts[event.relay] += 1


@dataclass(slots=True)
class ServiceHistory:
    """What earlier attempts on one service showed, kept for as long as tor remembers it.

    Times are those of the last such event, in seconds of the server's clock. ``undecryptable_at``:
    a descriptor came that tor could not decrypt; ``silent_at``: every introduction point was
    silent. ``acknowledged``: tokens whose introduction was acknowledged, and whose rendezvous
    circuit still waits: tor uses it for the next stream, too.
    """

    nacked_at: float = -inf
    timed_out_at: float = -inf
    silent_at: float = -inf
    undecryptable_at: float = -inf
    acknowledged: dict[str | None, bool] = field(default_factory=dict)

    def note(self, event: HSCircuitEvent, now: float) -> None:
        """Remember how an introduction ended, whoever made it, and who waits for a rendezvous."""
        match event.step:
            case Step.NACKED:
                self.nacked_at = now
            case Step.TIMED_OUT:
                self.timed_out_at = now
            case Step.ACKNOWLEDGED:
                if len(self.acknowledged) >= MOST_ACKNOWLEDGED:
                    del self.acknowledged[next(iter(self.acknowledged))]
                self.acknowledged[event.token] = event.proof_of_work
            case Step.JOINED | Step.ABANDONED:
                self.acknowledged.pop(event.token, None)

    def is_sure(self, now: float) -> bool:
        """Whether tor either shuns all that failed, or has forgotten all of it."""
        return not any(INTRODUCTION_MEMORY < age <= INTRODUCTION_DOUBT for age in self._ages(now))

    def is_recent(self, now: float) -> bool:
        """Whether tor may still remember an introduction that failed."""
        return min(self._ages(now)) <= INTRODUCTION_DOUBT

    def _ages(self, now: float) -> tuple[float, float]:
        return now - self.nacked_at, now - self.timed_out_at

    def is_nacked(self, now: float) -> bool:
        """Whether tor still shuns an introduction point that refused."""
        return now - self.nacked_at <= INTRODUCTION_MEMORY

    def is_timed_out(self, now: float) -> bool:
        """Whether tor still shuns an introduction point that was silent."""
        return now - self.timed_out_at <= INTRODUCTION_MEMORY

    def is_silent(self, now: float) -> bool:
        """Whether tor still shuns all introduction points, each because it was silent."""
        return now - self.silent_at <= INTRODUCTION_MEMORY

    def is_undecryptable(self, now: float) -> bool:
        """Whether tor may have asked all directories already for what it cannot decrypt."""
        return now - self.undecryptable_at <= UNDECRYPTABLE_MEMORY


@dataclass(slots=True, eq=False)
class AttemptLog:
    """What was seen since one attempt began, or several that nothing has happened between.

    ``everybody``: all introductions to the service, shared with other attempts, for tor keeps that
    by service, too. ``complete``: False if events may have been lost; then nothing follows from
    what is missing. ``round``: the outcomes of the descriptor fetch that is under way or over,
    since the last descriptor was received. ``asked``: directories that have not answered yet.
    ``steps``: of the circuits that may carry it. ``attempts``: who shares this log. ``changed`` is
    called when an event changes how long to wait for the service.
    """

    address: str
    token: str | None = field(repr=False)
    everybody: Introductions = field(default_factory=Counter)
    complete: bool = True
    fetches: int = 0
    received: int = 0
    round: Counter[Fetch] = field(default_factory=Counter)
    asked: set[str] = field(default_factory=set)
    steps: Counter[Step] = field(default_factory=Counter)
    proof_of_work: bool = False
    attempts: dict[Any, None] = field(default_factory=dict, repr=False)
    changed: Callable[[AttemptLog], None] = field(default=lambda log: None, repr=False)
    _before: Introductions = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Count introductions from here on."""
        self._before = self.everybody.copy()

    @property
    def introductions(self) -> Introductions:
        """Introductions to the service that ended since this attempt began."""
        return self.everybody - self._before

    @property
    def joined(self) -> bool:
        """Whether the service came to the rendezvous point."""
        return self.steps[Step.JOINED] > 0

    @property
    def awaits_service(self) -> bool:
        """Whether an introduction point took the message on, and the service has not come yet."""
        return self.steps[Step.ACKNOWLEDGED] > 0 and not self.joined

    def note_fetch(self, event: HSDescEvent) -> None:
        """Count an event of the descriptor's fetch."""
        if event.fetch is Fetch.REQUESTED:
            self.fetches += 1
            self.asked.add(event.directory)
            return
        if event.fetch is Fetch.RECEIVED:
            self.received += 1
            self.round.clear()
        elif event.directory in self.asked:  # else it is an upload of a service of this tor
            self.round[event.fetch] += 1
        self.asked.discard(event.directory)

    def note_circuit(self, event: HSCircuitEvent) -> None:
        """Count a circuit event; only of circuits that may carry this attempt."""
        self.steps[event.step] += 1
        self.proof_of_work = self.proof_of_work or event.proof_of_work
        if event.proof_of_work or event.step in (Step.ACKNOWLEDGED, Step.JOINED):
            self.changed(self)


class _Service:
    """One service: what is remembered of it, and who tries to reach it now.

    ``fetch``: what was seen of the descriptor fetch under way, for attempts that begin during it.
    ``fresh``: by token, logs in which nothing was noted yet; attempts that begin now share them.
    """

    def __init__(self, address: str, history: ServiceHistory) -> None:
        self.history = history
        self.introductions: Introductions = Counter()
        self.fetch = AttemptLog(address, None)
        self.fresh: dict[str | None, AttemptLog] = {}
        self._logs: dict[str | None, dict[AttemptLog, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._logs)

    def __contains__(self, log: AttemptLog) -> bool:
        return log in self._logs.get(log.token, {})

    def __iter__(self) -> Iterator[AttemptLog]:
        return iter([log for logs in self._logs.values() for log in logs])

    def add(self, token: str | None) -> AttemptLog:
        """Return a new log; what its circuits and the fetch under way have reached, it has too."""
        fetch, acknowledged = self.fetch, self.history.acknowledged
        log = AttemptLog(fetch.address, token, self.introductions)
        log.fetches, log.round, log.asked = fetch.fetches, fetch.round.copy(), set(fetch.asked)
        keys = acknowledged if token is None else acknowledged.keys() & {token, None}
        if keys:
            log.steps[Step.ACKNOWLEDGED] = 1
            log.proof_of_work = any(acknowledged[key] for key in keys)
        self._logs.setdefault(token, {})[log] = None
        self.fresh[token] = log
        return log

    def remove(self, log: AttemptLog) -> None:
        logs = self._logs[log.token]
        del logs[log]
        if self.fresh.get(log.token) is log:
            del self.fresh[log.token]
        if not logs:
            del self._logs[log.token]

    def carried_by(self, event: HSCircuitEvent) -> Iterable[AttemptLog]:
        """Return the logs of the attempts that this circuit may carry."""
        if event.token is None:
            return self
        return [*self._logs.get(event.token, {}), *self._logs.get(None, {})]


class AttemptTracker:
    """Notes events in the logs of the attempts that they concern, and in the history of services.

    ``now`` returns seconds that only grow. Other users of the same tor count too: what they have
    found out, tor remembers for us.
    """

    def __init__(self, now: Callable[[], float], remembered: int = REMEMBERED_ADDRESSES) -> None:
        self._now = now
        self._remembered = remembered
        self._followed_since: float | None = None
        self._live: dict[str, _Service] = {}
        self._idle: OrderedDict[str, ServiceHistory] = OrderedDict()

    @property
    def followed(self) -> float:
        """For how many seconds every event of tor was seen; infinite after a NEWNYM."""
        return 0.0 if self._followed_since is None else self._now() - self._followed_since

    def follow(self) -> None:
        """Note that every event of tor is seen from now on."""
        self._followed_since = self._now()
        for service in self._live.values():
            service.fresh.clear()

    def begin(self, address: str, token: str | None) -> AttemptLog:
        """Begin an attempt; ``address`` is 56 characters in lower case.

        ``token``: the SOCKS password of its streams; None if tor does not isolate by it. Attempts
        of one token share a log if nothing happens between them.
        """
        service = self._live.get(address)
        if service is None:
            history = self._idle.pop(address, ServiceHistory())
            service = self._live[address] = _Service(address, history)
        return service.fresh.get(token) or service.add(token)

    def refused(self, log: AttemptLog) -> None:
        """Note that tor has answered an attempt: the fetch that it waited for is over."""
        service = self._live.get(log.address)
        if service is not None and log in service:
            service.fetch = AttemptLog(log.address, None)
            service.fresh.clear()

    def end(self, log: AttemptLog) -> None:
        """End all attempts of this log; harmless when done before."""
        service = self._live.get(log.address)
        if service is None or log not in service:
            return
        service.remove(log)
        if not service:
            del self._live[log.address]
            self._lay_aside(log.address, service.history)

    def history(self, address: str) -> ServiceHistory:
        """Return what is remembered of an address."""
        service = self._live.get(address)
        return self._idle.get(address, ServiceHistory()) if service is None else service.history

    def note_fetch(self, event: HSDescEvent | None) -> None:
        """Give an HS_DESC event to the attempts that it concerns."""
        service = None if event is None else self._live.get(event.address)
        if event is not None and service is not None:
            service.fresh.clear()
            for log in (service.fetch, *service):
                log.note_fetch(event)

    def note_circuit(self, event: HSCircuitEvent | None) -> None:
        """Give a CIRC or CIRC_MINOR event to the attempts that it concerns."""
        if event is None:
            return
        service = self._live.get(event.address)
        if service is None:
            self._remember(event)
            return
        service.fresh.clear()
        service.history.note(event, self._now())
        note_introduction(service.introductions, event)
        for log in service.carried_by(event):
            log.note_circuit(event)

    def _remember(self, event: HSCircuitEvent) -> None:
        """Remember an event of a service that no attempt is under way for: tor remembers it too."""
        history = self._idle.get(event.address)
        if history is None and event.step is not Step.SEEN:
            history = ServiceHistory()
            self._lay_aside(event.address, history)
        if history is not None:
            history.note(event, self._now())

    def forget(self) -> None:
        """Forget all that tor forgets at NEWNYM."""
        self._idle.clear()
        for service in self._live.values():
            service.history = ServiceHistory()
            service.fresh.clear()
        if self._followed_since is not None:
            self._followed_since = -inf

    def lose(self) -> None:
        """Note that events may be lost from now on: attempts under way stay unexplained."""
        self._followed_since = None
        self.forget()
        for service in self._live.values():
            for log in service:
                log.complete = False

    def _lay_aside(self, address: str, history: ServiceHistory) -> None:
        self._idle[address] = history
        if len(self._idle) <= self._remembered:
            return
        _, forgotten = self._idle.popitem(last=False)
        if self._followed_since is not None and forgotten.is_recent(self._now()):
            # What tor still remembers of that address is not known here any more.
            self._followed_since = self._now()
