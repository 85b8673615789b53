"""A tor of our own: started, watched, started again if it dies, and ended with us.

Its DataDirectory persists, because entry guards must; its sockets are in a private directory that
goes with it. It serves no one else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger

from torsocks_tx.backends.tor.authentication import ControlUnavailable, connect
from torsocks_tx.backends.tor.backoff import RetryDelay, retry_delay
from torsocks_tx.backends.tor.bootstrap import BootstrapWatch
from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.daemon import DaemonState, TorDaemon, TorNotFound
from torsocks_tx.backends.tor.household import Household
from torsocks_tx.backends.tor.launching import (
    CONTROL_SOCKET,
    LaunchError,
    complaint,
    policy_sets,
    socket_of,
    torrc_lines,
)
from torsocks_tx.backends.tor.life import Life
from torsocks_tx.backends.tor.paths import unix_endpoint
from torsocks_tx.backends.tor.process import SpawnError
from torsocks_tx.backends.tor.socks_ports import parse_flags
from torsocks_tx.backends.tor.supply import NoSuchPort, SocksPort, Supply

START_TIMEOUT = 60.0
"""Seconds until the control socket must answer: tor opens it within one, a busy machine in ten."""

STOP_GRACE = 4.0
"""Seconds that tor gets to end by itself; a client does so at once."""

QUICK = 60.0
"""Seconds: a tor that ends sooner after its start has failed."""

QUICK_FAILURES = 5
"""So many quick failures in a row, and clients are refused instead of made to wait."""

_POLL = 0.1


class LaunchedSupply(Supply):
    """Provides SocksPorts of a tor that it starts; a ``Supply``.

    Args:
        reactor: starts processes, makes connections and tells the time.
        data_directory: made if missing; kept.
        torrc_options: names and values of further options.
        tor_binary: the program, where it is not to be searched for.
        policies: sets of SocksPort flags; there will be a port for each.
        delays: how long to wait before each restart.

    A ``ValueError`` says what is wrong with the options or the policies.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        data_directory: str | Path,
        torrc_options: Sequence[tuple[str, str]] = (),
        *,
        tor_binary: str | None = None,
        policies: Sequence[Sequence[str]] = (),
        delays: RetryDelay | None = None,
    ) -> None:
        super().__init__(reactor)
        self._reactor = reactor
        self._data_directory = data_directory
        self._options = tuple(torrc_options)
        self._tor_binary = tor_binary
        self._policies = policy_sets(policies)
        torrc_lines(Path(), self._policies, self._options)
        self._delays = delays or retry_delay()
        self._failures = 0
        self._life = Life(reactor)
        self._household: Household | None = None
        self._daemon: TorDaemon | None = None

    def start(self) -> Deferred[None]:
        """Start tor; fires when it runs and can be controlled, before it is bootstrapped.

        Fails with ``LaunchError``, ``DirectoryError``, ``TorNotFound``, ``SpawnError`` or
        ``WatchdogError``, and then nothing is left.
        """
        return Deferred.fromCoroutine(self._start())

    @property
    def control_address(self) -> str:
        """Where tor is controlled, once started, as Twisted writes a client endpoint."""
        assert self._household is not None
        return unix_endpoint(self._household.sockets / CONTROL_SOCKET)

    def stop(self) -> Deferred[None]:
        """End tor and remove what belongs to it, all but its data directory."""
        self._readiness.stopped()
        self._life.stop()
        return Deferred.fromCoroutine(self._close())

    async def _start(self) -> None:
        self._readiness.started()
        try:
            await self._life.start(self._live(), self._readiness.down)
        except Exception:
            self._readiness.stopped()
            await self._close()
            raise

    async def _close(self) -> None:
        daemon, self._daemon = self._daemon, None
        household, self._household = self._household, None
        if daemon is not None:
            await daemon.stop(STOP_GRACE)
        if household is not None:
            await household.close()

    async def _live(self) -> None:
        household = self._household = Household.make(self._reactor, self._data_directory)
        await household.open()
        self._readiness.ports = _OwnPorts(self._reactor, household.sockets, self._policies)
        daemon = self._daemon = TorDaemon(
            self._reactor,
            household.data,
            torrc_lines(household.sockets, self._policies, self._options),
            tor_binary=self._tor_binary,
            watchdog=household.watchdog,
        )
        while True:
            began = self._reactor.seconds()
            reason = await self._run(daemon, household.sockets / CONTROL_SOCKET)
            delay = self._note_end(reason, self._reactor.seconds() - began)
            await deferLater(self._reactor, delay)

    async def _run(self, daemon: TorDaemon, socket: Path) -> str:
        """Run tor from its start to its end, and return how it ended.

        The first time, an end before it could be controlled is a ``LaunchError``.
        """
        try:
            await daemon.start()
        except (TorNotFound, SpawnError, OSError) as error:
            if not self._life.has_begun:
                raise
            return f"tor cannot be started ({error})"
        trouble = await self._serve(daemon, socket)
        is_alive = daemon.state is DaemonState.RUNNING
        await daemon.stop(STOP_GRACE)
        ending = await daemon.when_exited()
        if trouble is None:
            return complaint(ending)
        text = trouble if is_alive else complaint(ending, daemon.last_lines)
        if not self._life.has_begun:
            raise LaunchError(text)
        return text

    async def _serve(self, daemon: TorDaemon, socket: Path) -> str | None:
        """Serve until the control connection is lost; return what was wrong if there was none."""
        try:
            control = self.control = await _reach(self._reactor, daemon, socket)
        except ControlError as error:
            return f"tor runs, but cannot be controlled: {error}"
        watch = BootstrapWatch(control, self._board, lambda: self._settle(watch))
        lost = control.when_lost()
        try:
            await control.command("TAKEOWNERSHIP")
            await watch.begin()
            self._life.begun()
            self._settle(watch)
            await lost
        except ControlError as error:
            self._log.debug("tor's control connection: {error}", error=error)
        finally:
            control.close()
            self.control = None
        return None

    def _settle(self, watch: BootstrapWatch) -> None:
        if watch.is_done:
            self._readiness.ready()
        elif self._failures < QUICK_FAILURES:
            self._readiness.starting()

    def _note_end(self, reason: str, lived: float) -> float:
        """Tell that tor has ended, and return the seconds until it is started again."""
        if lived >= QUICK:
            self._failures = 0
        delay = self._delays(self._failures)
        self._failures += 1
        self._log.warn("{reason}; it is started again in {s:.1f} s", reason=reason, s=delay)
        if self._failures < QUICK_FAILURES:
            self._readiness.starting()
        else:
            self._readiness.down(f"tor has ended {QUICK_FAILURES} times soon after its start")
        return delay


class _OwnPorts:
    """One SocksPort for each policy set."""

    def __init__(self, reactor: Any, sockets: Path, policies: Sequence[frozenset[str]]) -> None:
        self._ports = {
            flags: SocksPort(
                UNIXClientEndpoint(reactor, str(socket_of(sockets, number))),
                pipelined=True,
                flags=flags,
            )
            for number, flags in enumerate(policies)
        }

    def port_for(self, flags: Iterable[str]) -> SocksPort:
        wanted = parse_flags(flags, strict=True)
        if wanted not in self._ports:
            raise NoSuchPort(f"this tor was started without a SocksPort for {sorted(wanted)}")
        return self._ports[wanted]


async def _reach(reactor: Any, daemon: TorDaemon, socket: Path) -> Control:
    """Try until the control socket is open, tor has ended, or the time is over."""
    endpoint = UNIXClientEndpoint(reactor, str(socket))
    deadline = reactor.seconds() + START_TIMEOUT
    while True:
        try:
            return await connect(reactor, endpoint)
        except ControlUnavailable:
            if reactor.seconds() > deadline or daemon.state is not DaemonState.RUNNING:
                raise
        await deferLater(reactor, _POLL)
