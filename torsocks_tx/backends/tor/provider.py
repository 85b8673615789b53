"""What provides the SocksPorts of a tor: whether they can be used now, and how far tor's start is.

The kinds of :class:`TorProvider` are in :mod:`.providers` and :mod:`.launched`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    fail,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.control import Control, TorLog, call_all
from torsocks_tx.backends.tor.events import EventError, parse_event, printable
from torsocks_tx.backends.tor.ports import SocksPort, complaints, parse_flags
from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.errors import NoSuchPort, TorDown, without_text
from torsocks_tx.limits import check_arguments

NEVER_STARTED = "clients are refused: the provider of tor was never started (call its start())"


class ProviderState(Enum):
    """Whether connections can be made through tor now; STOPPED: no tor is looked for."""

    STARTING = auto()
    READY = auto()
    DOWN = auto()
    STOPPED = auto()


def state_of(providers: Collection[TorProvider]) -> ProviderState:
    """Return the state of several tors together: READY, or STARTING, as soon as one is."""
    states = {provider.state for provider in providers}
    best_first = (ProviderState.READY, ProviderState.STARTING, ProviderState.DOWN)
    return next((state for state in best_first if state in states), ProviderState.STOPPED)


class NotStarted(TorDown):
    """The program has not started its provider of tor."""

    sentence = "There is no tor to carry the connection: the program has not started its provider."


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of the bootstrap, in tor's own words; ``warning``: why it is stuck, if it is."""

    percent: int
    tag: str
    summary: str
    warning: str = ""

    def __str__(self) -> str:
        stuck = f": {self.warning}" if self.warning else ""
        return printable(f"bootstrapped {self.percent}% ({self.summary or self.tag}){stuck}")


ProgressCallback = Callable[[Progress], None]


def parse_progress(text: str) -> Progress | None:
    """Read a bootstrap phase, with or without an event around it; None if it is something else."""
    try:
        event = parse_event(text)
        percent = int(event.keywords.get("PROGRESS", ""))
    except (EventError, ValueError):
        return None
    if "BOOTSTRAP" not in event.positional[1:2]:
        return None
    words = event.keywords
    stuck = words.get("WARNING", "") if words.get("RECOMMENDATION") == "warn" else ""
    return Progress(percent, words.get("TAG", ""), words.get("SUMMARY", ""), stuck)


class TorProvider(ABC):
    """Provides SocksPorts of one tor, from ``start`` to ``stop``, and says when there are none.

    ``state``: whether connections can be made now. ``control``: the control connection while there
    is one. ``usable_port``: the SocksPort without special flags, while it can be used.
    ``progress``: the last step of the bootstrap that is known. ``sessions``: how many control
    connections there have been. ``clock``: the reactor, where clients may have to wait.

    A subclass follows its tor in ``_run``, and says what it finds by ``use_ports``, ``mark_...``,
    and ``_begun``.
    """

    _log = Logger()
    _no_such_port = (
        "tor has no SocksPort with {flags}: add such a line to its torrc,"
        " for example 'SocksPort 9052 {flags}'"
    )

    def __init__(self, clock: IReactorTime | None = None) -> None:
        check_arguments(IReactorTime, None, clock=clock)
        self.state = ProviderState.STOPPED
        self.control: Control | None = None
        self.usable_port: SocksPort | None = None
        self._clock = clock
        self._ports: Sequence[SocksPort] = ()
        self._refusal: Callable[[], TorDown] = partial(NotStarted, NEVER_STARTED)
        self._logged_reason = ""
        self.log = TorLog()
        self._waiters: Waiters[SocksPort] = Waiters(clock)
        self._at_stop: list[Callable[[], Any]] = []
        self._leaving: Deferred[Any] = succeed(None)
        self._progress_callbacks: list[ProgressCallback] = []
        self._change_callbacks: list[Callable[[str], object]] = []
        self.progress: Progress | None = None
        self.sessions = 0
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._running: Deferred[None] = succeed(None)
        self._started: Deferred[None] = succeed(None)

    @abstractmethod
    async def _run(self) -> None:
        """Follow tor until this is cancelled, and then leave nothing."""

    def start(self) -> Deferred[None]:
        """Begin; fires after the first try, and fails if somebody must fix something first."""
        if not self._running.called:
            raise RuntimeError("this was started before and has not been stopped")
        self.mark_started()
        started = self._started = Deferred()
        self._coroutine = self._run()
        self._running = Deferred.fromCoroutine(self._coroutine)
        self._running.addCallbacks(lambda _: self._begun(), self._failed)
        return started

    def _begun(self) -> None:
        """Fire what ``start`` has returned, if that is not done yet."""
        if not self._started.called:
            self._started.callback(None)

    def _failed(self, failure: Failure) -> None:
        started = self._started
        if failure.check(CancelledError):
            self._begun()
        elif not started.called:
            self._stopped(failure.getErrorMessage())
            started.errback(failure)
        else:
            self._log.failure("what follows tor has failed", without_text(failure))
            self.mark_down("tor is not followed any more", until="this program is started again")

    def stop(self) -> Deferred[None]:
        """End; fires when all that belongs to this provider is gone."""
        if self.state is not ProviderState.STOPPED:  # what cleans up is not cancelled again
            self._stopped("stopped")
            self._cancel()
        ended: Deferred[None] = Deferred()
        self._running.addBoth(lambda _: ended.callback(None))
        return ended

    def _cancel(self) -> None:
        if self._coroutine is not None and getcoroutinestate(self._coroutine) == CORO_RUNNING:
            # A callback has stopped us; a coroutine that runs cannot be cancelled.
            assert self._clock is not None
            self._clock.callLater(0, self._cancel)
        else:
            self._running.cancel()

    def _stopped(self, reason: str) -> None:
        self._set(ProviderState.STOPPED)
        self._logged_reason = ""
        self._leaving = DeferredList([maybeDeferred(callback) for callback in self._at_stop])
        self._refuse(reason)

    def when_ready(self) -> Deferred[SocksPort]:
        """Fire with the port: at once when READY, later when STARTING; else fail with TorDown.

        Whoever waits is refused as soon as tor turns out to be down. Can be cancelled.
        """
        if self.state is ProviderState.STARTING:
            return self._waiters.wait()
        if self.usable_port is not None:
            return succeed(self.usable_port)
        return fail(self._refusal())

    def port_for(self, flags: Iterable[str]) -> SocksPort:
        """Return the port last known for these flags of tor's SocksPort, also while tor is down.

        Raises ``TorDown`` if no port is known yet, ``NoSuchPort`` if none has these flags, and
        ``ValueError`` if tor has no such flag.
        """
        wanted = parse_flags(flags, strict=True)
        if not self._ports:
            raise TorDown("no SocksPort of tor is known yet")
        for port in self._ports:
            if wanted <= port.flags:
                return port
        raise NoSuchPort(self._no_such_port.format(flags=" ".join(sorted(wanted))))

    def on_progress(self, callback: ProgressCallback) -> None:
        """Have ``callback`` called with each step of tor's bootstrap from now on."""
        check_arguments(Callable, callback=callback)
        self._progress_callbacks.append(callback)

    def on_change(self, callback: Callable[[str], object]) -> None:
        """Have ``callback`` called, with a sentence on it, when the state has changed."""
        check_arguments(Callable, callback=callback)
        self._change_callbacks.append(callback)

    def at_stop(self, callback: Callable[[], Any]) -> None:
        """Have this called at the stop; a control of ours is closed once its Deferred has fired."""
        self._at_stop.append(callback)

    def use_ports(self, ports: Sequence[SocksPort]) -> None:
        """Use these from now on, the first ones rather than others, once they can be used."""
        self._ports = ports
        for text in complaints(ports[0].flags):
            self.log.once(text)

    def note_progress(self, progress: Progress) -> None:
        """Log a step of the bootstrap and pass it on, unless it is the same as the last."""
        if progress != self.progress:
            self.progress = progress
            self.log.say(f"tor: {progress}", LogLevel.warn if progress.warning else LogLevel.info)
            call_all(self._progress_callbacks, progress, "progress")

    def _tell(self, text: str) -> None:
        call_all(self._change_callbacks, self.log.label + text, "state")

    def mark_started(self) -> None:
        """Have clients wait; only this leads out of STOPPED."""
        self._set(ProviderState.STARTING)

    def _set(self, state: ProviderState) -> None:
        self.state = state
        self.usable_port = self._ports[0] if state is ProviderState.READY else None

    def mark_starting(self) -> None:
        """Have clients wait: tor is there, but cannot be used yet."""
        if self._enter(ProviderState.STARTING):
            self._tell("tor is starting")

    def mark_ready(self, text: str = "tor is ready") -> None:
        """Let connections be made; ``text`` is what the log says of it the first time."""
        is_new = self._enter(ProviderState.READY)
        port = self.usable_port
        if port is None:
            return
        if self._logged_reason:
            text, self._logged_reason = "tor is back", ""
        if is_new:
            self.log.say(text, LogLevel.info)
        self._waiters.fire(port)
        if is_new:
            self._tell(text)

    def mark_down(self, reason: str, until: str = "tor is back") -> None:
        """Refuse clients; the log says why and until when, each reason once."""
        if self.state is ProviderState.STOPPED:
            return
        outcome = "the pool does without it" if self.log.label else "clients are refused"
        text = f"{reason}; {outcome} until {until}"
        is_other, self._logged_reason = reason != self._logged_reason, reason
        is_new = self._enter(ProviderState.DOWN) or is_other
        if is_other:
            self.log.say(text)
        self._refuse(reason)
        if is_new:
            self._tell(text)

    def _enter(self, state: ProviderState) -> bool:
        """Enter a state, but for one that was stopped; return whether it is another."""
        before = self.state
        if before is not ProviderState.STOPPED:
            self._set(state)
        return self.state is not before

    def _refuse(self, reason: str) -> None:
        self._refusal = partial(TorDown, reason)
        self._waiters.fail(self._refusal)
