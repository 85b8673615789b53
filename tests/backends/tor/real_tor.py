"""A real tor that stays on this machine, for tests of the control connection and of discovery."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint

from torsocks_tx.backends.tor.daemon import TorDaemon
from torsocks_tx.backends.tor.process import Watchdog

DEADLINE = 90.0
NO_NETWORK = ("DisableNetwork 1",)
NOBODY = "0" * 40
UNREACHABLE = (
    "TestingTorNetwork 1",
    f"DirAuthority nobody orport=1 no-v2 v3ident={NOBODY} 127.0.0.1:1 {NOBODY}",
)
"""Opens its SocksPorts, and finds no directory: its only authority would be at a closed port."""


class RealTor:
    """One tor with its control socket; ``lines`` are what it has printed."""

    def __init__(self, directory: Path, watchdog: Watchdog) -> None:
        self.directory = directory
        self.socket = str(directory / "control")
        self.endpoint = UNIXClientEndpoint(reactor, self.socket)
        self.cookie = directory / "data" / "control_auth_cookie"
        self.lines: list[str] = []
        self.daemon: TorDaemon | None = None
        self._watchdog = watchdog
        self._ready: Deferred[None] = Deferred()

    async def start(self, options: Sequence[str] = (*NO_NETWORK, "CookieAuthentication 1")) -> None:
        """Start it and wait until its control socket is open."""
        self._ready = Deferred()
        self.daemon = TorDaemon(
            reactor,
            self.directory / "data",
            ["Log notice stdout", f"ControlSocket {self.socket}", *options],
            watchdog=self._watchdog,
            on_line=self._line,
        )
        self.daemon.start()
        await self._ready.addTimeout(DEADLINE, reactor)

    async def kill(self) -> None:
        """Kill it (SIGKILL) and wait for its end."""
        assert self.daemon is not None
        exited = self.daemon.when_exited()
        self.daemon.kill()
        await exited

    async def stop(self) -> None:
        if self.daemon is not None:
            await self.daemon.stop()

    def _line(self, line: str) -> None:
        self.lines.append(line)
        if "Opened Control listener" in line and not self._ready.called:
            self._ready.callback(None)
