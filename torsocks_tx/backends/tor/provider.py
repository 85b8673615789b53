"""What provides the SocksPorts of a tor: whether they can be used now, and how far tor's start is.

The kinds of :class:`TorProvider` are in :mod:`.providers` and :mod:`.launched`. The progress of the
start is read from ``GETINFO status/bootstrap-phase`` and STATUS_CLIENT events (control-spec
4.1.10).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.events import EventError, parse_event, printable
from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.errors import GeneralFailure, TorDown, without_text


class ProviderState(Enum):
    """Whether connections can be made through tor now."""

    STARTING = auto()
    READY = auto()
    DOWN = auto()
    STOPPED = auto()


class NoSuchPort(GeneralFailure):
    """Tor has no SocksPort with the flags that this listener asks for."""


@dataclass(frozen=True, slots=True)
class SocksPort:
    """A SocksPort of tor and how to speak to it.

    ``pipelined``: it is C Tor's, so greeting, request and early data may go in one write.
    ``flags``: those that differ from tor's defaults, spelled as in tor(1).
    """

    endpoint: IStreamClientEndpoint
    pipelined: bool
    flags: frozenset[str] = frozenset()


PortFor = Callable[[Iterable[str]], SocksPort]
"""Returns the SocksPort for some flags, or raises, as ``TorProvider.port_for`` does."""

BOOTSTRAP_EVENT = "STATUS_CLIENT"
DONE = 100


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


class BootstrapWatch:
    """Follows the bootstrap of one tor over its control connection.

    ``on_progress`` is called with each step; by then ``is_done`` says whether tor can make
    circuits.
    """

    _log = Logger()

    def __init__(self, control: Control, on_progress: ProgressCallback) -> None:
        self._control = control
        self._on_progress = on_progress
        self.is_done = False

    async def begin(self) -> None:
        """Ask for the events and for the phase now. Raises ``ControlLost`` only.

        A control port behind a filter that forbids the question counts as bootstrapped.
        """
        try:
            await self._control.listen(BOOTSTRAP_EVENT, self._progressed)
            phase = await self._control.get_info("status/bootstrap-phase")
        except ControlLost:
            raise
        except ControlError as error:
            self._log.debug("the progress of tor's bootstrap is not known: {error}", error=error)
            self.is_done = True
        else:
            self._progressed(phase)

    async def end(self) -> None:
        """Listen no more."""
        await self._control.unlisten(BOOTSTRAP_EVENT, self._progressed)

    def _progressed(self, text: str) -> None:
        progress = parse_progress(text)
        if progress is not None:
            self.is_done = progress.percent >= DONE
            self._on_progress(progress)


class TorProvider(ABC):
    """Provides SocksPorts of one tor, from ``start`` to ``stop``, and says when there are none.

    ``state``: whether connections can be made now. ``control``: the control connection while there
    is one; it changes when tor is restarted. ``usable_port``: the SocksPort without special flags,
    while connections can be made through it.

    The ``mark_*`` methods are for those who follow tor: they change the state, tell those who wait,
    and log one line when tor goes and one when it is back. ``use_ports`` comes before the first
    ``mark_ready``.

    Args:
        clock: the reactor, where clients may have to wait for tor.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime | None = None) -> None:
        self.state = ProviderState.STARTING
        self.control: Control | None = None
        self.usable_port: SocksPort | None = None
        self._port_for: PortFor | None = None
        self._reason = ""
        self._logged_reason = ""
        self._waiters: Waiters[SocksPort] = Waiters(clock)
        self._at_stop: list[Callable[[], None]] = []
        self._progress_callbacks: list[ProgressCallback] = []
        self._last_progress: Progress | None = None

    @abstractmethod
    def start(self) -> Deferred[None]:
        """Begin; fires after the first try, fails if somebody must fix something first."""

    @abstractmethod
    def stop(self) -> Deferred[None]:
        """End; fires when all that belongs to this provider is gone."""

    def when_ready(self) -> Deferred[SocksPort]:
        """Fire with the port: at once when READY, later when STARTING; else fail with TorDown.

        Whoever waits is refused as soon as tor turns out to be down. Can be cancelled.
        """
        if self.state is ProviderState.STARTING:
            return self._waiters.wait()
        if self.state is ProviderState.READY and self._port_for is not None:
            return succeed(self._port_for(()))
        return fail(TorDown(self._reason))

    def port_for(self, flags: Iterable[str]) -> SocksPort:
        """Return the port last known for these flags of tor's SocksPort, also while tor is down.

        Raises:
            TorDown: no port is known yet.
            NoSuchPort: none has these flags.
            ValueError: tor has no such flag.
        """
        if self._port_for is None:
            raise TorDown("no SocksPort of tor is known yet")
        return self._port_for(flags)

    def on_progress(self, callback: ProgressCallback) -> None:
        """Have ``callback`` called with each step of tor's bootstrap from now on."""
        self._progress_callbacks.append(callback)

    def at_stop(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the provider is stopped, while there is a control."""
        self._at_stop.append(callback)

    def use_ports(self, port_for: PortFor) -> None:
        """Find ports by this function from now on, whether they can be used now or not."""
        self._port_for = port_for

    def note_progress(self, progress: Progress) -> None:
        """Log a step of the bootstrap and pass it on, unless it is the same as the last."""
        if progress == self._last_progress:
            return
        self._last_progress = progress
        log = self._log.warn if progress.warning else self._log.info
        log("tor: {progress}", progress=progress)
        for callback in tuple(self._progress_callbacks):
            try:
                callback(progress)
            except Exception:
                self._log.failure("a callback for tor's bootstrap failed", without_text(Failure()))

    def mark_started(self) -> None:
        """Have clients wait; only this leads out of STOPPED."""
        self.state, self.usable_port = ProviderState.STARTING, None

    def mark_starting(self) -> None:
        """Have clients wait: tor is there, but cannot be used yet."""
        if self.state is not ProviderState.STOPPED:
            self.mark_started()

    def mark_ready(self, text: str = "tor is ready") -> None:
        """Let connections be made; ``text`` is what the log says of it the first time."""
        if self.state is ProviderState.STOPPED or self._port_for is None:
            return
        before, self.state = self.state, ProviderState.READY
        if before is not ProviderState.READY:
            self._log.info("tor is back" if self._logged_reason else text)
        self._logged_reason = ""
        self.usable_port = port = self._port_for(())
        self._waiters.fire(port)

    def mark_down(self, reason: str) -> None:
        """Refuse clients; the log says why, each reason once."""
        if self.state is ProviderState.STOPPED:
            return
        self.state, self.usable_port = ProviderState.DOWN, None
        if reason != self._logged_reason:
            self._log.warn("{reason}; clients are refused until tor is back", reason=reason)
        self._logged_reason = reason
        self._refuse(reason)

    def mark_stopped(self) -> None:
        """Refuse clients from now on, and call what waits for the stop."""
        self.state, self.usable_port = ProviderState.STOPPED, None
        self._logged_reason = ""
        self._reason = "stopped"
        for callback in self._at_stop:
            callback()
        self._refuse("stopped")

    def _refuse(self, reason: str) -> None:
        self._reason = reason
        self._waiters.fail(lambda: TorDown(reason))
