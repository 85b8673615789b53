"""Making the daemons of the private network: directories, ports, keys and configuration."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults

from torsocks_tx.backends.tor.watchdog import Watchdog
from torsocks_tx.testing import torrc
from torsocks_tx.testing.client import Client, ClientPorts
from torsocks_tx.testing.keys import Tools
from torsocks_tx.testing.names import DOCUMENTATION_ADDRESS, DOCUMENTATION_ADDRESS6
from torsocks_tx.testing.node import Node, control_socket
from torsocks_tx.testing.ports import LOOPBACK, LOOPBACK6, PortReservations, has_ipv6_loopback

_MAPPED = {DOCUMENTATION_ADDRESS: LOOPBACK}
# In brackets: what a client sends as an address; without: what it sends as a name.
_MAPPED6 = {
    f"[{DOCUMENTATION_ADDRESS6}]": f"[{LOOPBACK6}]",
    DOCUMENTATION_ADDRESS6: f"[{LOOPBACK6}]",
}


async def all_of(work: Iterable[Coroutine[Deferred[Any], Any, Any]]) -> list[Any]:
    """Do it all at once and return the results; the first failure ends the rest."""
    tasks = [Deferred.fromCoroutine(task) for task in work]
    try:
        results: list[Any] = await gatherResults(tasks, consumeErrors=True)
    except FirstError as error:
        for task in tasks:
            task.cancel()
        error.subFailure.raiseException()
    return results


class Builder:
    """Makes nodes that trust the same authorities, in one directory."""

    def __init__(self, reactor: Any, watchdog: Watchdog, directory: Path) -> None:
        self._reactor = reactor
        self._watchdog = watchdog
        self._directory = directory
        self._tools = Tools(reactor, watchdog)
        self._ports = PortReservations()
        self._ipv6 = has_ipv6_loopback()
        self._voting_offset = 0
        self._network = torrc.Network((), directory / "resolv.conf", self._ipv6)

    def release_ports(self) -> None:
        """Give the ports of all the nodes back."""
        self._ports.release()

    def use_name_server(self, port: int) -> None:
        """Have the exits ask the name server on this UDP port of 127.0.0.1."""
        self._network.resolver_file.write_text(f"nameserver {LOOPBACK}:{port}\n", "ascii")

    async def authorities(self, count: int) -> list[Node]:
        """Make the authorities, which every other node needs to know."""
        blanks = [
            torrc.Authority(f"auth{index}", self._ports.take(), self._ports.take())
            for index in range(count)
        ]
        self._network = replace(self._network, authorities=blanks)
        known: Sequence[torrc.Authority] = await all_of(map(self._with_keys, blanks))
        self._network = replace(self._network, authorities=known)
        self._voting_offset = torrc.voting_offset(self._reactor.seconds())
        return [self._node(each.name, self._authority_lines(each)) for each in known]

    def exit(self, index: int) -> Node:
        """Make a relay that connects to the servers."""
        lines = (*torrc.relay(self._network, self._ports.take()), *torrc.exit_relay())
        return self._node(f"exit{index}", lines)

    def onion_host(self, name: str) -> Node:
        """Make the daemon that hosts the onion services."""
        return self._node(name, torrc.onion_host())

    def client(self, index: int, extra: Iterable[str] = ()) -> Client:
        """Make a client."""
        name = f"client{index}"
        directory = self._make_directory(name)
        ports = ClientPorts(directory, self._ports.take(), self._ports.take())
        mapped = {**_MAPPED, **(_MAPPED6 if self._ipv6 else {})}
        lines = torrc.client(ports.torrc_values(), mapped, extra)
        return Client(self._reactor, self._node(name, lines), ports)

    async def _with_keys(self, blank: torrc.Authority) -> torrc.Authority:
        directory = self._make_directory(blank.name)
        identity = await self._tools.make_v3_identity(directory, blank.dir_port)
        lines = self._lines(blank.name, directory, self._authority_lines(blank))
        fingerprint = await self._tools.relay_fingerprint(directory, lines)
        return replace(blank, v3_identity=identity, fingerprint=fingerprint)

    def _authority_lines(self, authority: torrc.Authority) -> torrc.Lines:
        relay = torrc.relay(self._network, authority.or_port)
        return (*relay, *torrc.authority(authority.dir_port, self._voting_offset))

    def _node(self, name: str, lines: torrc.Lines) -> Node:
        directory = self._make_directory(name)
        torrc_lines = self._lines(name, directory, lines)
        return Node(self._reactor, self._watchdog, directory, torrc_lines, self._tools.tor)

    def _lines(self, name: str, directory: Path, lines: torrc.Lines) -> torrc.Lines:
        return (*torrc.common(self._network, name, control_socket(directory)), *lines)

    def _make_directory(self, name: str) -> Path:
        directory = self._directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory
