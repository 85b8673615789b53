"""Runs other programs beside the reactor: unmodified clients, and ``twistd torsocks`` itself."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol

DEADLINE = 60.0
"""Seconds that one client may take."""


@dataclass(frozen=True)
class Ended:
    """How a program ended and what it printed; ``status`` is minus the number of a signal."""

    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Standard output, as text without the last line's end."""
        return self.out.decode("utf-8", "replace").rstrip("\n")

    @property
    def complaint(self) -> str:
        """Standard error, as text."""
        return self.err.decode("utf-8", "replace")


class _Program(ProcessProtocol):
    def __init__(self, stdin: bytes) -> None:
        self.stdin = stdin
        self.out, self.err = b"", b""
        self.ended: Deferred[Ended] = Deferred(self._cancelled)

    def connectionMade(self) -> None:
        self.transport.write(self.stdin)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.out += data

    def errReceived(self, data: bytes) -> None:
        self.err += data

    def processEnded(self, reason: Any) -> None:
        if not self.ended.called:
            status = reason.value.exitCode
            signalled = reason.value.signal
            self.ended.callback(
                Ended(-signalled if signalled else (status or 0), self.out, self.err)
            )

    def _cancelled(self, _: Deferred[Ended]) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")


async def run(
    *argv: str,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deadline: float = DEADLINE,
) -> Ended:
    """Run a program to its end; it is killed, and the test fails, at the deadline."""
    program = _Program(stdin)
    variables = {**os.environ, **(environment or {})}
    reactor.spawnProcess(program, argv[0], argv, variables, None if cwd is None else str(cwd))
    return await program.ended.addTimeout(deadline, reactor)


class Twistd(ProcessProtocol):
    """One ``twistd -n torsocks``, started as a user starts it, by this interpreter."""

    def __init__(
        self,
        *arguments: str,
        directory: Path,
        listeners: int = 1,
        of_twistd: Sequence[str] = (),
        inherited: int | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.output = ""
        self.ended: Deferred[int] = Deferred()
        self._up: Deferred[None] = Deferred()
        self._listening: list[tuple[str, Deferred[None]]] = []
        self._listeners = listeners
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = command or [
            *(sys.executable, "-X", "dev", twistd, "-n", "--pidfile=", *of_twistd),
            *("torsocks", *arguments),
        ]
        descriptors: dict[int, Any] = {0: "w", 1: "r", 2: "r"}
        if inherited is not None:
            # As systemd passes a socket; the number of the process is known only there.
            export = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=socks"
            command = ["/bin/sh", "-c", f'{export}; exec "$@"', "sh", *command]
            descriptors[3] = inherited
        reactor.spawnProcess(
            self, command[0], command, os.environ, str(directory), childFDs=descriptors
        )

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode("utf-8", "replace")
        if len(self.addresses) >= self._listeners and not self._up.called:
            self._up.callback(None)
        for words, waiting in self._listening:
            if words in self.output and not waiting.called:
                waiting.callback(None)

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        if not self._up.called:
            self._up.errback(AssertionError(f"twistd ended early:\n{self.output}"))
        for _, waiting in self._listening:
            if not waiting.called:
                waiting.callback(None)
        code = reason.value.exitCode
        self.ended.callback(-reason.value.signal if reason.value.signal else code or 0)

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.transport.pid)

    @property
    def addresses(self) -> Sequence[str]:
        """Where it listens, as ``host:port`` or ``unix:/path``, in the order of its listeners."""
        return re.findall(r"SOCKS4, SOCKS4a and SOCKS5 at (\S+)", self.output)

    async def up(self) -> None:
        """Wait until all its listeners listen, and it can be told to stop."""
        await self._up
        await self.said("clients at one time")

    async def said(self, words: str, deadline: float = DEADLINE) -> None:
        """Wait until these words are in its log; fail if it ends without them."""
        if words not in self.output and not self.ended.called:
            waiting: Deferred[None] = Deferred()
            self._listening.append((words, waiting))
            await waiting.addTimeout(deadline, reactor)
        assert words in self.output, self.output

    async def stop(self) -> int:
        """End it by SIGTERM, and wait; its exit status (minus a signal's number)."""
        if not self.ended.called:
            self.transport.signalProcess("TERM")
        return await self.ended
