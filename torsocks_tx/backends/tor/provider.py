"""What provides the SocksPort of a tor, and whether that can be used now.

The kinds of :class:`TorProvider` are in :mod:`.providers` and :mod:`.launched`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from torsocks_tx.backends.tor.bootstrap import ProgressBoard, ProgressCallback
from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.waiters import Waiters
from torsocks_tx.errors import GeneralFailure, TorDown


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
    extended_errors: bool = False
    flags: frozenset[str] = frozenset()


class PortSource(Protocol):
    """Has SocksPorts, by their flags."""

    def port_for(self, flags: Iterable[str]) -> SocksPort:
        """Do what ``TorProvider.port_for`` says, once ports are known."""


class Readiness:
    """A state and who waits for it; one log line when tor goes, and one when it is back.

    ``ports`` are those last known, whether they can be used now or not. ``usable_port`` is the one
    without special flags, while it can be used.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime | None = None) -> None:
        self.state = ProviderState.STARTING
        self.ports: PortSource | None = None
        self.usable_port: SocksPort | None = None
        self._reason = ""
        self._told = ""
        self._waiters: Waiters[SocksPort] = Waiters(clock)
        self.at_stop: list[Callable[[], None]] = []

    def when_ready(self) -> Deferred[SocksPort]:
        """Do what ``TorProvider.when_ready`` says."""
        if self.state is ProviderState.STARTING:
            return self._waiters.wait()
        if self.state is ProviderState.READY and self.ports is not None:
            return succeed(self.ports.port_for(()))
        return fail(TorDown(self._reason))

    def started(self) -> None:
        """Whoever asks waits; only this leads out of STOPPED."""
        self._leave_ready(ProviderState.STARTING)

    def starting(self) -> None:
        """Tor is there, but not yet of use: whoever asks waits."""
        if self.state is not ProviderState.STOPPED:
            self._leave_ready(ProviderState.STARTING)

    def ready(self) -> None:
        """Connections can be made through ``ports``."""
        if self.state is ProviderState.STOPPED or self.ports is None:
            return
        before, self.state = self.state, ProviderState.READY
        if before is not ProviderState.READY:
            self._log.info("tor is back" if self._told else "tor is ready")
        self._told = ""
        self.usable_port = port = self.ports.port_for(())
        self._waiters.fire(port)

    def down(self, reason: str) -> None:
        """No connections can be made; the log says why, each reason once."""
        if self.state is ProviderState.STOPPED:
            return
        self._leave_ready(ProviderState.DOWN)
        self._reason = reason
        if reason != self._told:
            self._log.warn("{reason}; clients are refused until tor is back", reason=reason)
        self._told = reason
        self._refuse()

    def stopped(self) -> None:
        """No connections will be made any more."""
        self._leave_ready(ProviderState.STOPPED)
        self._reason, self._told = "stopped", ""
        for callback in self.at_stop:
            callback()
        self._refuse()

    def _leave_ready(self, state: ProviderState) -> None:
        self.state, self.usable_port = state, None

    def _refuse(self) -> None:
        reason = self._reason
        self._waiters.fail(lambda: TorDown(reason))


class TorProvider(ABC):
    """Provides SocksPorts of one tor, from ``start`` to ``stop``, and says when there are none.

    ``control`` is the control connection while there is one: it changes when tor is restarted.
    ``clock``: the reactor, for those where clients may have to wait for tor.
    """

    def __init__(self, clock: IReactorTime | None = None) -> None:
        self.control: Control | None = None
        self._readiness = Readiness(clock)
        self._board = ProgressBoard()

    @property
    def state(self) -> ProviderState:
        """Whether connections can be made now."""
        return self._readiness.state

    @property
    def port(self) -> SocksPort | None:
        """The SocksPort without special flags that was last known, also while tor is down."""
        ports = self._readiness.ports
        return None if ports is None else ports.port_for(())

    @property
    def usable_port(self) -> SocksPort | None:
        """The SocksPort without special flags, while connections can be made through it."""
        return self._readiness.usable_port

    def when_ready(self) -> Deferred[SocksPort]:
        """Fire with the port: at once when READY, later when STARTING; else fail with TorDown.

        Whoever waits is refused as soon as tor turns out to be down. Can be cancelled.
        """
        return self._readiness.when_ready()

    def port_for(self, flags: Iterable[str]) -> SocksPort:
        """Return the port last known for these flags of tor's SocksPort.

        Raises:
            TorDown: no port is known yet.
            NoSuchPort: none has these flags.
            ValueError: tor has no such flag.
        """
        ports = self._readiness.ports
        if ports is None:
            raise TorDown("no SocksPort of tor is known yet")
        return ports.port_for(flags)

    def on_progress(self, callback: ProgressCallback) -> None:
        """Have ``callback`` called with each step of tor's bootstrap from now on."""
        self._board.add(callback)

    def at_stop(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the provider is stopped, while there is a control."""
        self._readiness.at_stop.append(callback)

    @abstractmethod
    def start(self) -> Deferred[None]:
        """Begin; fires after the first try, fails if somebody must fix something first."""

    @abstractmethod
    def stop(self) -> Deferred[None]:
        """End; fires when all that belongs to this provider is gone."""
