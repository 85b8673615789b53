"""A tor that this program starts, starts again if it dies, and ends with itself.

Its DataDirectory persists, because entry guards must; its sockets are in a private directory that
goes with it. It serves no one else.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import LogLevel

from torsocks_tx.backends.tor import files
from torsocks_tx.backends.tor.authentication import ControlUnavailable, connect
from torsocks_tx.backends.tor.commands import TAKEOWNERSHIP
from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.daemon import DaemonState, TorDaemon, TorNotFound
from torsocks_tx.backends.tor.events import quote_path, unix_endpoint
from torsocks_tx.backends.tor.ports import TRAFFIC_FLAGS, SocksPort, endpoint_at, parse_flags
from torsocks_tx.backends.tor.process import SpawnError, Watchdog
from torsocks_tx.backends.tor.provider import TorProvider
from torsocks_tx.backends.tor.providers import Session
from torsocks_tx.backends.tor.waiting import RetryDelay, retry_delay
from torsocks_tx.backends.tor.watchdog_process import CANNOT_EXECUTE
from torsocks_tx.limits import check_arguments

START_TIMEOUT = 60.0
"""Seconds until the control socket must answer: tor opens it within one, a busy machine in ten."""

STOP_GRACE = 4.0
"""Seconds that tor gets to end by itself; a client does so at once."""

QUICK = 60.0
"""Seconds: a tor that ends sooner after its start has failed."""

QUICK_FAILURES = 5
"""After so many quick failures in a row, clients are refused instead of made to wait."""

_POLL = 0.1


class LaunchedTorProvider(TorProvider):
    """Provides SocksPorts of a tor that it starts.

    ``start`` fires when tor runs and can be controlled, before it is bootstrapped. It fails with
    ``LaunchError``, ``DirectoryError``, ``TorNotFound``, ``SpawnError`` or ``WatchdogError``, and
    then nothing is left. ``stop`` ends tor; its data directory stays.

    Args:
        reactor: starts processes, makes connections and tells the time.
        data_directory: made if missing; kept.
        torrc_options: names and values of further options.
        tor_binary: the program, where it is not to be searched for.
        policies: sets of SocksPort flags; there will be a port for each.
        delays: how long to wait before each restart.

    A ``ValueError`` says what is wrong with the options or the policies.
    """

    _no_such_port = "this tor was started without a SocksPort for {flags}: add that to policies"

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
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(str, PathLike, data_directory=data_directory)
        check_arguments(Iterable, torrc_options=torrc_options, policies=policies)
        check_arguments(str, None, tor_binary=tor_binary)
        check_arguments(Callable, None, delays=delays)
        super().__init__(reactor)
        self._reactor = reactor
        self._data_directory = Path(data_directory)
        self._options = tuple(torrc_options)
        self._tor_binary = tor_binary
        self._policies = policy_sets(policies)
        torrc_lines(Path(), self._policies, self._options)
        self._delays = delays or retry_delay
        self._failures = 0
        self._sockets: Path | None = None
        self._daemon: TorDaemon | None = None

    @property
    def control_address(self) -> str:
        """Where tor is controlled, once started, as Twisted writes a client endpoint."""
        assert self._sockets is not None
        return unix_endpoint(self._sockets / CONTROL_SOCKET)

    async def _run(self) -> None:
        data = files.prepare_data_directory(self._data_directory)
        sockets = self._sockets = files.make_socket_directory()
        watchdog = Watchdog(self._reactor)
        try:
            await watchdog.start()
            watchdog.guard_directory(sockets)
            ports = []
            for number, flags in enumerate(self._policies):
                endpoint = endpoint_at(self._reactor, str(socket_of(sockets, number)))
                ports.append(SocksPort(endpoint, True, flags))
            self.use_ports(ports)
            await self._keep_running(data, sockets, watchdog)
        finally:
            daemon, self._daemon = self._daemon, None
            if daemon is not None:
                await daemon.stop(STOP_GRACE)
            shutil.rmtree(sockets, ignore_errors=True)
            await watchdog.stop()

    async def _keep_running(self, data: Path, sockets: Path, watchdog: Watchdog) -> None:
        daemon = self._daemon = TorDaemon(
            self._reactor,
            data,
            torrc_lines(sockets, self._policies, self._options),
            tor_binary=self._tor_binary,
            watchdog=watchdog,
        )
        while True:
            began = self._reactor.seconds()
            reason = await self._run_once(daemon, sockets / CONTROL_SOCKET)
            delay = self._note_end(reason, self._reactor.seconds() - began)
            await deferLater(self._reactor, delay)

    async def _run_once(self, daemon: TorDaemon, socket: Path) -> str:
        """Run tor from its start to its end, and return how it ended.

        The first time, an end before it could be controlled is a ``LaunchError``.
        """
        try:
            daemon.start()
        except (TorNotFound, SpawnError, OSError) as error:
            if not self._started.called:
                raise
            return f"tor cannot be started ({error})"
        trouble = await self._serve(daemon, socket)
        is_alive = daemon.state is DaemonState.RUNNING
        await daemon.stop(STOP_GRACE)
        ending = await daemon.when_exited()
        if trouble is None:
            return complaint(ending)
        text = trouble if is_alive else complaint(ending, daemon.last_lines)
        if not self._started.called:
            raise LaunchError(text)
        return text

    async def _serve(self, daemon: TorDaemon, socket: Path) -> str | None:
        """Serve until the control connection is lost; return why if there was none."""
        try:
            control = await self._reach(daemon, socket)
        except ControlError as error:
            return f"tor runs, but cannot be controlled: {error}"
        try:
            await control.command(TAKEOWNERSHIP.line())
            await Session(control, self, finds_ports=False).follow(self._begun)
        except ControlError as error:
            self.log.say(f"tor's control connection: {error}", LogLevel.info)
        finally:
            control.close()
        return None

    async def _reach(self, daemon: TorDaemon, socket: Path) -> Control:
        """Try until the control socket is open, tor has ended, or the time is over."""
        deadline = self._reactor.seconds() + START_TIMEOUT
        while True:
            try:
                endpoint = endpoint_at(self._reactor, str(socket))
                return await connect(self._reactor, endpoint, log=self.log)
            except ControlUnavailable:
                is_late = self._reactor.seconds() > deadline
                if is_late or daemon.state is not DaemonState.RUNNING:
                    raise
            await deferLater(self._reactor, _POLL)

    def mark_starting(self) -> None:
        """Have clients wait, unless tor has ended too often for that."""
        if self._failures < QUICK_FAILURES:
            super().mark_starting()

    def _note_end(self, reason: str, lived: float) -> float:
        """Log that tor has ended, and return the seconds until it is started again."""
        if lived >= QUICK:
            self._failures = 0
        delay = self._delays(self._failures)
        self._failures += 1
        self.log.say(f"{reason}; it is started again in {delay:.1f} s")
        self.mark_starting()
        if self._failures >= QUICK_FAILURES:
            self.mark_down(f"tor has ended {QUICK_FAILURES} times soon after its start")
        return delay


CONTROL_SOCKET = "control"

_OURS = {
    "datadirectory": "give the data directory instead",
    "controlsocket": "use ControlPort for one of your own",
    "cookieauthentication": "the control connection needs it",
    "cookieauthfile": "the control connection needs it where it is",
    "runasdaemon": "it runs under this program",
    "__owningcontrollerprocess": "it runs under this program",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OUTPUT = re.compile(r"\w+ +\d+ [\d:.]+ \[(?P<level>\w+)\] (?P<text>.*)")
_SAYS_NOTHING = re.compile(r"Reading config failed--see warnings above|.*: Bug: ")
_MOST_MESSAGES = 2


class LaunchError(Exception):
    """Tor did not start; the text holds what it said."""


def policy_sets(policies: Iterable[Iterable[str]]) -> list[frozenset[str]]:
    """Return the distinct sets of flags, those with the fewest first.

    A ``ValueError`` says which flags cannot be those of a SocksPort of ours.
    """
    sets = [frozenset[str](), *(parse_flags(policy, strict=True) for policy in policies)]
    for flags in sets:
        if strange := flags - TRAFFIC_FLAGS:
            raise ValueError(f"{' '.join(sorted(strange))} is not a flag for tor's own SocksPort")
        if flags >= {"NoIPv4Traffic", "NoIPv6Traffic", "NoOnionTraffic"}:
            raise ValueError(f"{' '.join(sorted(flags))} together leave nothing to connect to")
    return sorted(dict.fromkeys(sets), key=len)


def socket_of(directory: Path, number: int) -> Path:
    """Return where the SocksPort for the policy set of this number is."""
    return directory / f"socks{number}"


def torrc_lines(
    directory: Path, policies: Sequence[frozenset[str]], options: Iterable[tuple[str, str]]
) -> list[str]:
    """Return the torrc, but for what ``TorDaemon`` adds; ``directory`` is for the sockets.

    A ``ValueError`` says which of the user's options cannot be.
    """
    # Not ControlSocket: it ends its path at the first blank, however it is quoted.
    control = f"ControlPort unix:{quote_path(directory / CONTROL_SOCKET)}"
    lines = ["Log notice stdout", control, "CookieAuthentication 1"]
    for number, flags in enumerate(policies):
        words = [f"SocksPort unix:{quote_path(socket_of(directory, number))}", *sorted(flags)]
        if flags >= {"NoIPv4Traffic", "NoIPv6Traffic"}:
            words.append("NoDNSRequest")  # tor refuses the two without it
        lines.append(" ".join(words))
    return [*lines, *map(_option, options)]


def complaint(ending: int | str, output: Collection[str] = ()) -> str:
    """Return one line that says how tor ended and, by its output, why."""
    matches = [match for line in output if (match := _OUTPUT.match(line))]
    said = [
        match["text"].strip()
        for match in matches
        if match["level"] in ("warn", "err") and not _SAYS_NOTHING.match(match["text"])
    ]
    if ending == CANNOT_EXECUTE:
        said = list(output)
    how = f"status {ending}" if isinstance(ending, int) else ending
    words = "; ".join(dict.fromkeys(said[-_MOST_MESSAGES:]))
    return f"tor has ended ({how})" + (f": {words}" if words else "")


def _option(option: Sequence[str]) -> str:
    if isinstance(option, str) or len(option) != 2:
        pair = ("ExitNodes", "{de}")
        raise ValueError(f"an option of tor is a pair such as {pair}, not {option!r}")
    name, value = option
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of an option of tor")
    reason = _OURS.get(name.lower())
    if reason is not None:
        raise ValueError(f"tor's option {name} cannot be given: {reason}")
    if any(character in value for character in "\r\n\0") or value.endswith("\\"):
        raise ValueError(f"the value of tor's option {name} must be one whole line")
    return f"{name} {value}"
