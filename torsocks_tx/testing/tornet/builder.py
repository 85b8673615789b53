"""Making the daemons of the private network: directories, ports, keys and configuration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from torsocks_tx.backends.tor.daemon import find_tor, write_torrc
from torsocks_tx.backends.tor.events import quote_path
from torsocks_tx.backends.tor.process import Ending, LineProtocol, Watchdog, spawn_guarded
from torsocks_tx.testing.tornet import servers, torrc
from torsocks_tx.testing.tornet.client import SOCKS_SOCKET, Client
from torsocks_tx.testing.tornet.node import CONTROL_SOCKET, NetworkError, Node, Progress, all_of

TOOL_DEADLINE = 60.0
"""Seconds for one of tor's own tools; it needs about one."""

MAX_PATH = 88
"""Of the directory, in bytes: the path of a unix socket in it has at most 107."""

_MONTHS_VALID = "12"
_MAPPED = {servers.DOCUMENTATION_ADDRESS: servers.LOOPBACK}
# A client sends an address with brackets, and a name without.
_MAPPED6 = {
    f"[{servers.DOCUMENTATION_ADDRESS6}]": f"[{servers.LOOPBACK6}]",
    servers.DOCUMENTATION_ADDRESS6: f"[{servers.LOOPBACK6}]",
}


class Builder:
    """Makes nodes that trust the same authorities, in one directory."""

    def __init__(
        self, reactor: Any, watchdog: Watchdog, directory: Path, progress: Progress
    ) -> None:
        self._reactor = reactor
        self._watchdog = watchdog
        self._directory = directory
        self._progress = progress
        self._tor = ""
        self._gencert = ""
        self._ports = servers.PortReservations()
        self._ipv6 = servers.has_ipv6_loopback()
        self._start = 0.0
        self._network = torrc.Network((), directory / "geoip", self._ipv6)
        self._has_begun = False

    def begin(self, exits: Iterable[torrc.Exit]) -> None:
        """Find tor, make the directory, and write the country of each exit.

        Raises:
            TorNotFound: tor or tor-gencert is not installed.
            NetworkError: the directory cannot be made.
        """
        self._tor, self._gencert = find_tor(), find_tor(name="tor-gencert")
        path = self._directory
        if len(os.fsencode(path)) > MAX_PATH:
            raise NetworkError(f"the path {path} is too long for sockets in it: give a shorter one")
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            text = f"cannot make the directory {path} ({error.strerror}): give a new path"
            raise NetworkError(text) from None
        self._has_begun = True
        self._watchdog.guard_directory(path)  # only now: it is ours to remove
        _write(self._network.geoip_file, torrc.geoip_lines(exits))

    def end(self) -> None:
        """Give the ports of all the nodes back, and remove the directory."""
        self._ports.release()
        if self._has_begun:
            shutil.rmtree(self._directory, ignore_errors=True)

    async def authorities(self, count: int) -> list[Node]:
        """Make the authorities, which every other node needs to know."""
        blanks = [
            torrc.Authority(f"auth{index}", self._ports.take(), self._ports.take())
            for index in range(count)
        ]
        self._network = replace(self._network, authorities=blanks)
        known: Sequence[torrc.Authority] = await all_of(map(self._with_keys, blanks))
        self._network = replace(self._network, authorities=known)
        self._start = self._reactor.seconds()
        return [self._node(each.name, self._authority_lines(each)) for each in known]

    def exit(self, exit: torrc.Exit, policy: Sequence[str], name_server: int) -> Node:
        """Make a relay that connects to the servers, and asks the name server on this UDP port."""
        resolver_file = self._make_directory(exit.name) / "resolv.conf"
        _write(resolver_file, [f"nameserver {servers.LOOPBACK}:{name_server}"])
        port = self._ports.take(exit.address)
        relay = torrc.relay(self._network, port, exit.address, resolver_file)
        lines = (*relay, *torrc.EXIT_RELAY, *torrc.exit_policy(policy))
        return self._node(exit.name, lines, exit.address)

    def onion_host(self, name: str) -> Node:
        """Make the daemon that hosts the onion services."""
        return self._node(name, torrc.ONION_HOST)

    def client(self, index: int, extra: Iterable[str] = ()) -> Client:
        """Make a client."""
        name = f"client{index}"
        tcp, extended = self._ports.take(), self._ports.take()
        socks_ports = (
            f"unix:{quote_path(self._make_directory(name) / SOCKS_SOCKET)}",
            f"{servers.LOOPBACK}:{tcp}",
            f"{servers.LOOPBACK}:{extended} ExtendedErrors",
        )
        mapped = {**_MAPPED, **(_MAPPED6 if self._ipv6 else {})}
        extra = tuple(extra)
        node = self._node(name, torrc.client(socks_ports, mapped, extra))
        return Client(self._reactor, node, tcp, extended, has_own_lines=bool(extra))

    async def _with_keys(self, blank: torrc.Authority) -> torrc.Authority:
        directory = self._make_directory(blank.name)
        identity = await self._make_v3_identity(directory, blank.dir_port)
        lines = self._lines(blank.name, directory, self._authority_lines(blank))
        fingerprint = await self._relay_fingerprint(directory, lines)
        return replace(blank, v3_identity=identity, fingerprint=fingerprint)

    def _authority_lines(self, authority: torrc.Authority) -> torrc.Lines:
        relay = torrc.relay(self._network, authority.or_port)
        return (*relay, *torrc.authority(authority.dir_port, self._start))

    def _node(self, name: str, lines: torrc.Lines, address: str = servers.LOOPBACK) -> Node:
        directory = self._make_directory(name)
        torrc_lines = self._lines(name, directory, lines, address)
        watchdog, progress = self._watchdog, self._progress
        return Node(self._reactor, watchdog, directory, torrc_lines, self._tor, progress)

    def _lines(
        self, name: str, directory: Path, lines: torrc.Lines, address: str = servers.LOOPBACK
    ) -> torrc.Lines:
        return (*torrc.common(self._network, name, directory / CONTROL_SOCKET, address), *lines)

    def _make_directory(self, name: str) -> Path:
        directory = self._directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory

    async def _make_v3_identity(self, directory: Path, dir_port: int) -> str:
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

    async def _relay_fingerprint(self, directory: Path, torrc_lines: Sequence[str]) -> str:
        """Make a relay's identity key in ``directory``; return its fingerprint."""
        torrc = directory / "torrc.fingerprint"
        write_torrc(torrc, (*torrc_lines, f"DataDirectory {quote_path(directory)}"))
        command = [self._tor, "--list-fingerprint", "--quiet", "-f", str(torrc)]
        printed = await self._run([*command, "--defaults-torrc", "/dev/null"])
        nickname = _field(torrc_lines, "Nickname ")
        return _field(printed, f"{nickname} ").replace(" ", "")

    async def _run(self, command: Sequence[str]) -> list[str]:
        lines: list[str] = []
        ended: Deferred[Ending] = Deferred()
        protocol = LineProtocol(self._reactor, lines.append, ended.callback)
        pid = spawn_guarded(self._reactor, self._watchdog, protocol, command)
        # After a timeout the process stays guarded: the caller stops the watchdog.
        end = await ended.addTimeout(TOOL_DEADLINE, self._reactor)
        self._watchdog.release_process(pid)
        if end != 0:
            raise NetworkError(f"{command[0]} ended with {end}: {' / '.join(lines)}")
        return lines


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), "ascii")


def _field(lines: Sequence[str], start: str) -> str:
    """Return the rest of the first line that begins with ``start``."""
    for line in lines:
        if line.startswith(start):
            return line.removeprefix(start)
    raise NetworkError(f"no line {start!r} in {len(lines)} lines of output")
