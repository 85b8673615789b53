"""Who provides the SocksPort of tor through which connections go, and whether it can be used now.

The kinds of :class:`Supply`: a running tor, one that an application owns, one that we launch, and a
bare endpoint; each in a module of its own. :class:`Readiness` is what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from torsocks_tx.backends.tor.bootstrap import ProgressCallback
from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.waiters import Waiters
from torsocks_tx.errors import GeneralFailure, TorDown


class SupplyState(Enum):
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


class Supply(Protocol):
    """Provides SocksPorts of one tor, from ``start`` to ``stop``, and says when there are none."""

    @property
    def state(self) -> SupplyState:
        """Whether connections can be made now."""

    @property
    def port(self) -> SocksPort | None:
        """The port last known, also while tor is down."""

    @property
    def control(self) -> Control | None:
        """The control connection, while there is one."""

    def start(self) -> Deferred[None]:
        """Begin; fires after the first try, fails if somebody must mend something first."""

    def stop(self) -> Deferred[None]:
        """End; fires when all that belongs to this supply is gone."""

    def when_ready(self) -> Deferred[SocksPort]:
        """Fire with the port: at once when READY, later when STARTING; else fail with TorDown."""

    def port_for(self, flags: Iterable[str]) -> SocksPort:
        """Return the port last known for these flags of tor's SocksPort.

        Raises ``TorDown`` where no port is known yet, ``NoSuchPort`` where none has them, and
        ``ValueError`` for a flag that tor does not have.
        """

    def on_progress(self, callback: ProgressCallback) -> None:
        """Have ``callback`` called with each step of tor's bootstrap."""


class Readiness:
    """The state of a supply and who waits for it; one log line when tor goes, one when it is back."""

    _log = Logger()

    def __init__(self) -> None:
        self.state = SupplyState.STARTING
        self.port: SocksPort | None = None
        self._reason = ""
        self._told_down = False
        self._waiters: Waiters[SocksPort] = Waiters()

    def when_ready(self) -> Deferred[SocksPort]:
        """Do what ``Supply.when_ready`` says."""
        if self.state is SupplyState.STARTING:
            return self._waiters.wait()
        if self.state is SupplyState.READY and self.port is not None:
            return succeed(self.port)
        return fail(TorDown(self._reason))

    def starting(self) -> None:
        """Tor is there, but not yet of use: whoever asks waits."""
        self.state = SupplyState.STARTING

    def ready(self, port: SocksPort) -> None:
        """Connections can be made through ``port``."""
        before, self.state, self.port = self.state, SupplyState.READY, port
        if before is not SupplyState.READY:
            self._log.info("tor is back" if self._told_down else "tor is ready")
        self._told_down = False
        self._waiters.fire(port)

    def down(self, reason: str) -> None:
        """No connections can be made, for a reason that is said in the log."""
        self.state, self._reason = SupplyState.DOWN, reason
        if not self._told_down:
            self._log.warn("{reason}; clients are refused until tor is back", reason=reason)
        self._told_down = True
        self._refuse()

    def stopped(self) -> None:
        """No connections will be made any more."""
        self.state, self._reason, self._told_down = SupplyState.STOPPED, "stopped", False
        self._refuse()

    def _refuse(self) -> None:
        reason = self._reason
        self._waiters.fail(lambda: TorDown(reason))
