"""One daemon of the private network: started until it is ready, stopped, suspended, killed."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.endpoints import clientFromString

from torsocks_tx.backends.tor.authentication import connect
from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.daemon import DaemonState, TorDaemon
from torsocks_tx.backends.tor.events import unix_endpoint
from torsocks_tx.backends.tor.process import Watchdog
from torsocks_tx.backends.tor.waiting import Waiters

START_DEADLINE = 120.0
"""Seconds for one daemon to be ready; the whole network needs 10 to 20."""

RELAYS_DEADLINE = 90.0
"""Seconds; a relay that missed the first consensus is in the next one or the one after."""

CONTROL_SOCKET = "control"
"""The file name of a control port, in the directory of its daemon."""

_BOOTSTRAPPED = re.compile(r"Bootstrapped (\d+)%")
_UP = 0
_READY = 100
_LAST_LINES = 5

Progress = Callable[[str], None]
"""Called with one short line for a person, whenever something has been reached."""


class NetworkError(Exception):
    """The private network, or one of its daemons, does not come up; the text says why."""


class Node:
    """One tor daemon of the network, of any role.

    Attributes:
        name: such as ``auth0``, ``exit3``, ``client0`` or ``service0``.
        directory: its data directory, mode 0700.
        control_endpoint: a Twisted endpoint string of its control port (cookie authentication).
        bootstrapped: per cent of its bootstrap; -1 before it has opened its ports.
    """

    def __init__(
        self,
        reactor: Any,
        watchdog: Watchdog,
        directory: Path,
        torrc_lines: Sequence[str],
        tor: str,
        progress: Progress,
    ) -> None:
        self.name = directory.name
        self.directory = directory
        self.control_endpoint = unix_endpoint(directory / CONTROL_SOCKET)
        self.bootstrapped = -1
        self._reactor = reactor
        self._daemon = TorDaemon(
            reactor, directory, torrc_lines, tor_binary=tor, watchdog=watchdog, on_line=self._line
        )
        self._control: Control | None = None
        self._watchers: Waiters[None] = Waiters()
        self._progress = progress

    @property
    def pid(self) -> int:
        """The process id; the last one, if it has ended."""
        assert self._daemon.pid is not None, "it was never started"
        return self._daemon.pid

    @property
    def state(self) -> DaemonState:
        """The state of the process."""
        return self._daemon.state

    async def start(self) -> None:
        """Start the daemon and wait until it is ready.

        Raises:
            NetworkError: it ended instead, or took too long.
        """
        await self.launch()
        await self.ready()

    async def launch(self) -> None:
        """Start it and wait until it has opened its ports; raises as :meth:`start` does."""
        self.bootstrapped = -1
        self._daemon.start()
        self._daemon.when_exited().addCallback(self._note_end)
        await self._reach(_UP)

    async def ready(self) -> None:
        """Wait until it has circuits; raises as :meth:`start` does."""
        await self._reach(_READY)

    async def wait_for_relays(self, count: int) -> dict[str, str]:
        """Return the fingerprints of all relays by name, once the daemon knows so many.

        A tor that says "bootstrapped 100%" may lack a relay. Raises ``TimeoutError`` of Twisted.
        """
        waiting = Deferred.fromCoroutine(_wait_for_relays(await self.control(), count))
        return await waiting.addTimeout(RELAYS_DEADLINE, self._reactor)

    async def stop(self) -> None:
        """Kill the process and wait until it has ended."""
        self._drop_control()
        self._daemon.kill()
        if self._daemon.state is not DaemonState.NEW:
            await self._daemon.when_exited()

    def suspend(self) -> None:
        """Suspend the process (SIGSTOP): its connections stay open and silent."""
        self._daemon.suspend()

    def resume(self) -> None:
        """Continue the process (SIGCONT)."""
        self._daemon.resume()

    def kill(self) -> None:
        """Kill the process (SIGKILL); ``PrivateNetwork.restart`` starts it again."""
        self._daemon.kill()

    def when_exited(self) -> Deferred[int | str]:
        """Fire with the exit status or the name of a signal when it has ended."""
        return self._daemon.when_exited()

    async def control(self) -> Control:
        """Return a control connection to it, the same one until it is lost."""
        if self._control is not None:
            return self._control
        endpoint = clientFromString(self._reactor, self.control_endpoint)
        control = await connect(self._reactor, endpoint, name=f"{self.name}'s control port")
        if self._control is not None:  # another call was faster
            control.close()
            return self._control
        self._control = control
        control.when_lost().addCallback(self._lost, control)
        return control

    def _lost(self, _: None, control: Control) -> None:
        if self._control is control:
            self._control = None

    def _drop_control(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()

    async def _reach(self, percentage: int) -> None:
        reaching = Deferred.fromCoroutine(self._watch_until(percentage))
        await reaching.addTimeout(START_DEADLINE, self._reactor, self._too_slow)

    async def _watch_until(self, percentage: int) -> None:
        while self.bootstrapped < percentage:
            if self.state is DaemonState.EXITED:
                raise NetworkError(f"{self.name} ended while it started: {self._last_words()}")
            await self._watchers.wait()

    def _line(self, line: str) -> None:
        match = _BOOTSTRAPPED.search(line)
        if match is not None:
            self.bootstrapped = int(match[1])
            if self.bootstrapped == _READY:
                self._progress(f"{self.name} bootstrapped 100%")
            self._watchers.fire(None)

    def _note_end(self, _: object) -> None:
        self._drop_control()
        self._watchers.fire(None)

    def _too_slow(self, _: object, seconds: float) -> None:
        raise NetworkError(f"{self.name} was not ready within {seconds:g} s: {self._last_words()}")

    def _last_words(self) -> str:
        return " / ".join(list(self._daemon.last_lines)[-_LAST_LINES:])


async def _wait_for_relays(control: Control, count: int) -> dict[str, str]:
    news: Waiters[str] = Waiters()
    await control.listen("NEWCONSENSUS", news.fire)
    try:
        while True:
            changed = news.wait()  # before the question: news may come while it is answered
            relays = _fingerprints(await control.get_info("ns/all"))
            if len(relays) >= count:
                changed.addErrback(lambda _: None).cancel()
                return relays
            await changed
    finally:
        await control.unlisten("NEWCONSENSUS", news.fire)


def _fingerprints(statuses: str) -> dict[str, str]:
    lines = [line.split() for line in statuses.splitlines() if line.startswith("r ")]
    return {name: base64.b64decode(f"{key}=").hex().upper() for _, name, key, *_ in lines}


async def all_of(work: Iterable[Coroutine[Deferred[Any], Any, Any]]) -> list[Any]:
    """Run coroutines at the same time; return their results. The first failure cancels the rest."""
    tasks = [Deferred.fromCoroutine(task) for task in work]
    try:
        results: list[Any] = await gatherResults(tasks, consumeErrors=True)
    except FirstError as error:
        for task in tasks:
            task.cancel()
        error.subFailure.raiseException()
    return results
