"""Which attempts an event concerns, and what is remembered of each onion service. Pure.

What is remembered of services that nobody tries to reach is bounded in number and, by the rules
that use it, in age.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from math import inf

from torsocks_tx.backends.tor.onion.events import HSCircuitEvent, HSDescEvent, Step
from torsocks_tx.backends.tor.onion.history import AttemptLog, Introductions, ServiceHistory

REMEMBERED_ADDRESSES = 1024
"""Addresses without a live attempt whose history is kept; the one idle for longest goes first."""


class _Service:
    """One service: what is remembered of it, and who tries to reach it now.

    ``fetch``: what was seen of the descriptor fetch under way, for attempts that begin during it.
    ``fresh``: by token, logs in which nothing was noted yet; attempts that begin now share them.
    """

    def __init__(self, address: str, history: ServiceHistory) -> None:
        self.history = history
        self.introductions = Introductions()
        self.fetch = AttemptLog(address, None)
        self.fresh: dict[str | None, AttemptLog] = {}
        self._attempts: dict[str | None, dict[AttemptLog, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._attempts)

    def __contains__(self, log: AttemptLog) -> bool:
        return log in self._attempts.get(log.token, {})

    def __iter__(self) -> Iterator[AttemptLog]:
        return iter([each for attempts in self._attempts.values() for each in attempts])

    def add(self, log: AttemptLog) -> None:
        self._attempts.setdefault(log.token, {})[log] = None

    def remove(self, log: AttemptLog) -> None:
        attempts = self._attempts[log.token]
        del attempts[log]
        if self.fresh.get(log.token) is log:
            del self.fresh[log.token]
        if not attempts:
            del self._attempts[log.token]

    def carried_by(self, event: HSCircuitEvent) -> Iterable[AttemptLog]:
        """Return the attempts that this circuit may carry."""
        if event.token is None:
            return self
        mine = self._attempts.get(event.token, {})
        return [*mine, *self._attempts.get(None, {})]


class AttemptTracker:
    """The attempts under way to reach onion services, and what was seen of each service.

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
            service = self._live[address] = _Service(
                address, self._idle.pop(address, ServiceHistory())
            )
        log = service.fresh.get(token)
        if log is None:
            log = service.fresh[token] = self._new_log(service, address, token)
            service.add(log)
        return log

    @staticmethod
    def _new_log(service: _Service, address: str, token: str | None) -> AttemptLog:
        log = AttemptLog(address, token, everybody=service.introductions)
        # Streams with one token share circuits: what those have reached holds for this one too.
        acknowledged = service.history.acknowledged
        shared = [
            acknowledged[key] for key in acknowledged if token is None or key in (None, token)
        ]
        if shared:
            log.steps[Step.ACKNOWLEDGED] = 1
            log.proof_of_work = any(shared)
        log.join(service.fetch)
        return log

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
            service.fetch.note_fetch(event)
            for log in service:
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
        service.introductions.note(event)
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
