"""The keys of directory authorities, made by tor's own tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from torsocks_tx.backends.tor.daemon import find_tor, write_torrc
from torsocks_tx.backends.tor.paths import quote_path
from torsocks_tx.backends.tor.process import Ending, LineProtocol
from torsocks_tx.backends.tor.watchdog import Watchdog, spawn_guarded
from torsocks_tx.testing.errors import NetworkError

TOOL_DEADLINE = 60.0
"""Seconds for one tool; it needs about one."""

_MONTHS_VALID = "12"


class Tools:
    """tor and tor-gencert, run under guard.

    Raises:
        TorNotFound: one of them is not installed.
    """

    def __init__(self, reactor: Any, watchdog: Watchdog) -> None:
        self.tor = find_tor()
        self._gencert = find_tor(name="tor-gencert")
        self._reactor = reactor
        self._watchdog = watchdog

    async def make_v3_identity(self, directory: Path, dir_port: int) -> str:
        """Make an authority's identity and signing keys; return the identity's fingerprint."""
        keys = directory / "keys"
        keys.mkdir(mode=0o700)
        certificate = keys / "authority_certificate"
        files = ["-i", str(keys / "authority_identity_key"), "-c", str(certificate)]
        files += ["-s", str(keys / "authority_signing_key")]
        where = f"127.0.0.1:{dir_port}"
        # Standard input is empty, and so is the passphrase.
        options = ["--create-identity-key", "--passphrase-fd", "0", "-m", _MONTHS_VALID, "-a"]
        await self._run([self._gencert, *options, where, *files])
        return _field(certificate.read_text("ascii").splitlines(), "fingerprint ")

    async def relay_fingerprint(self, directory: Path, torrc_lines: Sequence[str]) -> str:
        """Make a relay's identity key in ``directory``; return its fingerprint."""
        torrc = directory / "torrc.fingerprint"
        write_torrc(torrc, (*torrc_lines, f"DataDirectory {quote_path(directory)}"))
        command = [self.tor, "--list-fingerprint", "--quiet", "-f", str(torrc)]
        printed = await self._run([*command, "--defaults-torrc", "/dev/null"])
        nickname = _field(torrc_lines, "Nickname ")
        return _field(printed, f"{nickname} ").replace(" ", "")

    async def _run(self, command: Sequence[str]) -> list[str]:
        lines: list[str] = []
        ended: Deferred[Ending] = Deferred()
        protocol = LineProtocol(self._reactor, lines.append, ended.callback)
        pid = spawn_guarded(self._reactor, self._watchdog, protocol, command)
        # Given up, it stays guarded: whoever gives up stops the watchdog.
        end = await ended.addTimeout(TOOL_DEADLINE, self._reactor)
        self._watchdog.release_process(pid)
        if end != 0:
            raise NetworkError(f"{command[0]} ended with {end}: {' / '.join(lines)}")
        return lines


def _field(lines: Sequence[str], start: str) -> str:
    """Return the rest of the line that begins so."""
    for line in lines:
        if line.startswith(start):
            return line.removeprefix(start)
    raise NetworkError(f"no line {start!r} in {len(lines)} lines of output")
