"""Runs other programs beside the reactor: unmodified clients, and ``twistd torsocks`` itself."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint

from tests.support.processes import DEADLINE, Program


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

    def shows(self, words: str) -> None:
        """Fail unless it went well and printed these words."""
        assert self.status == 0, self.complaint
        assert words in self.text, self.text

    @property
    def complaint(self) -> str:
        """Standard error, as text."""
        return self.err.decode("utf-8", "replace")


class _Client(Program):
    """A program whose output is kept as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.output = b""

    def outReceived(self, data: bytes) -> None:
        self.output += data


async def run(
    *argv: str,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deadline: float = DEADLINE,
) -> Ended:
    """Run a program to its end; it is killed, and the test fails, at the deadline."""
    program = _Client()
    program.start(argv, {**os.environ, **(environment or {})}, cwd)
    program.transport.write(stdin)
    program.transport.closeStdin()
    try:
        status = await program.end(deadline)
    finally:
        if program.status is None:
            program.transport.signalProcess("KILL")
    return Ended(status, program.output, program.errors)


class Twistd(Program):
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
        super().__init__()
        self.output = ""
        self._listeners = listeners
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = command or [
            *(sys.executable, "-X", "dev", twistd, "-n", "--pidfile=", *of_twistd),
            *("torsocks", *arguments),
        ]
        descriptors: dict[int, str | int] = {0: "w", 1: "r", 2: "r"}
        if inherited is not None:
            # As systemd passes a socket; the number of the process is known only there.
            export = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=socks"
            command = ["/bin/sh", "-c", f'{export}; exec "$@"', "sh", *command]
            descriptors[3] = inherited
        self.start(command, dict(os.environ), directory, descriptors)

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode("utf-8", "replace")
        self.wake()

    errReceived = outReceived

    def __str__(self) -> str:
        return self.output

    @property
    def addresses(self) -> Sequence[str]:
        """Where it listens, as ``host:port`` or ``unix:/path``, in the order of its listeners."""
        return re.findall(r"SOCKS4, SOCKS4a and SOCKS5 at (\S+)", self.output)

    @property
    def status_page(self) -> str:
        """Where its status page is, as ``host:port``."""
        found = re.search(r"status page at (\S+)", self.output)
        assert found is not None, self.output
        return found[1]

    @property
    def endpoint(self) -> TCP4ClientEndpoint:
        """Where clients connect, by the first of its listeners."""
        host, _, port = self.addresses[0].rpartition(":")
        return TCP4ClientEndpoint(reactor, host, int(port))

    async def up(self) -> None:
        """Wait until all its listeners listen, and it can be told to stop."""
        await self.until(lambda: len(self.addresses) >= self._listeners)
        await self.said("clients at one time")

    async def said(self, words: str, times: int = 1) -> None:
        """Wait until these words are so often in its log; fail if it ends without them."""
        await self.until(lambda: self.output.count(words) >= times)

    async def stop(self) -> int:
        """End it by SIGTERM, and wait; its exit status (minus a signal's number)."""
        if not self.ended.called:
            self.transport.signalProcess("TERM")
        return await self.end()
