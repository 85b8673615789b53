"""The private Tor network as a whole, and as the tor of ``twistd torsocks --tor private``."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from torsocks_tx.backends.tor.daemon import DaemonState
from torsocks_tx.backends.tor.events import unix_endpoint
from torsocks_tx.backends.tor.process import Watchdog
from torsocks_tx.backends.tor.providers import RunningTorProvider
from torsocks_tx.limits import check_arguments
from torsocks_tx.testing.tornet import servers
from torsocks_tx.testing.tornet.builder import MAX_PATH, Builder
from torsocks_tx.testing.tornet.client import Client
from torsocks_tx.testing.tornet.node import CONTROL_SOCKET, Node, Progress, all_of
from torsocks_tx.testing.tornet.onion import ClientKey, OnionService, add_onion_service
from torsocks_tx.testing.tornet.torrc import Exit, make_exits

AUTHORITIES = 4
SERVICE = "service0"


class PrivateNetwork:
    """Authorities, exits, clients, a name server, and servers to connect to.

    ``DEFAULT_NAMES`` lists the names that clients can use.

    Args:
        reactor: the running reactor.
        directory: where all files go: a path that does not exist yet, removed at the end. By
            default a new one among the temporary files. Keep it short: it holds unix sockets.
        clients: how many clients to start with.
        names, pointers: what the name server knows: addresses by name, names by address.
        countries: how many exits there are in each country, by its code of two small letters; each
            then has an IPv4 address of its own, 127.0.0.10 and on. By default there are a few
            exits without a country.
        exit_policies: for some exits, by name, rules of tor's ExitPolicy before the one that
            accepts everything. ``{web}``, ``{echo}`` and ``{banner}`` in them stand for the ports
            of the servers: ``{"exit0": ["reject *:{echo}"]}``.

    Attributes:
        daemons: every tor by its name: ``auth0``..., ``exit0``..., ``client0``..., ``service0``.
        exits: the exits by name; with countries, those of the first country come first.
        clients: the clients, in order; :attr:`client` is the first.
        names: the name server; ``names.asked`` is what the exits asked it.
        web: an HTTP server: ``/``, ``/bytes/N``, ``POST /echo``.
        echo, banner: servers that echo; the second one speaks first.
        ipv6: whether the machine has ::1, and so the servers.
    """

    def __init__(
        self,
        reactor: Any,
        directory: str | Path | None = None,
        *,
        clients: int = 1,
        names: Mapping[str, Sequence[str]] = servers.DEFAULT_NAMES,
        pointers: Mapping[str, str] = servers.DEFAULT_POINTERS,
        countries: Mapping[str, int] = {},
        exit_policies: Mapping[str, Sequence[str]] = {},
    ) -> None:
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(str, PathLike, None, directory=directory)
        check_arguments(int, clients=clients)
        check_arguments(Mapping, names=names, pointers=pointers)
        check_arguments(Mapping, countries=countries, exit_policies=exit_policies)
        self.directory = _fresh_path() if directory is None else Path(directory).absolute()
        self.daemons: dict[str, Node] = {}
        self.clients: list[Client] = []
        self.names = servers.NameServer(names, pointers)
        self.exits = make_exits(countries, exit_policies)
        self.web = servers.web_origin(self.exits.values())
        self.echo = servers.echo_origin(self.exits.values())
        self.banner = servers.banner_origin(self.exits.values())
        self.ipv6 = servers.has_ipv6_loopback()
        self._check = servers.banner_origin()
        self._origins = [self.web, self.echo, self.banner, self._check]
        self._reactor = reactor
        self._client_count = clients
        self._watchdog = Watchdog(reactor)
        self._progress: Progress | None = None
        self._builder = Builder(reactor, self._watchdog, self.directory, self._tell)

    @property
    def client(self) -> Client:
        """The first client."""
        return self.clients[0]

    async def start(self, progress: Progress | None = None) -> None:
        """Return when each client has opened a stream through each exit.

        A failure or a cancellation takes it all down again.

        Raises:
            TorNotFound, NetworkError: tor is not installed, or a daemon does not come up.
        """
        self._progress = progress
        try:
            await self._watchdog.start()
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every daemon, close every server, remove every file; harmless when done before."""
        await all_of(node.stop() for node in self.daemons.values())
        await self.names.stop()
        for origin in self._origins:
            await origin.stop()
        await self._watchdog.stop()
        self._builder.end()

    def add_origin(self, factory: Any) -> servers.Origin:
        """Listen with a factory of yours on one port at 127.0.0.1, ::1 and each exit's own address.

        Clients reach it by ``web.test``, and by ``exit.test`` at the address of their exit;
        ``exits`` of what is returned then has the exit's name. The network's end stops it.
        """
        origin = servers.Origin(factory, self.exits.values())
        self._origins.append(origin)
        origin.start(self._reactor)
        return origin

    async def add_client(self, torrc_lines: Iterable[str] = ()) -> Client:
        """Start one more client, with these lines in its configuration besides the usual ones."""
        client = self._new_client(torrc_lines)
        try:
            await self._bring_in_client(client)
        except BaseException:
            await client.node.stop()
            self.clients.remove(client)
            del self.daemons[client.name]
            raise
        return client

    async def add_onion_host(self) -> str:
        """Start one more daemon for onion services; its name, for ``daemons``."""
        name = f"service{sum(name.startswith('service') for name in self.daemons)}"
        self.daemons[name] = self._builder.onion_host(name)
        await self._bring_in(self.daemons[name])
        return name

    async def restart(self, name: str) -> None:
        """Stop a daemon if it runs, start it again, and wait until it is ready.

        Clients reach an exit then, also those that still held circuits to its former process.
        """
        node = self.daemons[name]
        await node.stop()
        clients = [client for client in self.clients if client.node is node]
        running = [each for each in self.clients if each.node.state is DaemonState.RUNNING]
        await all_of(client.close_circuits(name) for client in running)
        await all_of(map(self._bring_in_client, clients) if clients else [node.start()])
        if name in self.exits:
            await all_of(self._reach_exits(client, [name]) for client in running)

    async def add_onion_service(
        self,
        target_port: int,
        virtual_port: int = 80,
        client_auth_key: ClientKey | None = None,
        host: str = SERVICE,
    ) -> OnionService:
        """Offer a port of 127.0.0.1 as an onion service; returns when clients can reach it.

        Args:
            target_port: such as ``net.web.port``.
            virtual_port: the port that clients ask for.
            client_auth_key: if given, only clients that have it get in (``Client.authorize``).
            host: the daemon that runs it, such as one from :meth:`add_onion_host`.
        """
        control = await self.daemons[host].control()
        key = client_auth_key
        return await add_onion_service(self._reactor, control, target_port, virtual_port, key)

    def facts(self) -> dict[str, Any]:
        """Return ports, names and process ids, ready for JSON."""
        return {
            "directory": str(self.directory),
            "pids": {name: node.pid for name, node in self.daemons.items()},
            "exits": [asdict(exit) for exit in self.exits.values()],
            "clients": [client.facts() for client in self.clients],
            "origins": {"web": self.web.port, "echo": self.echo.port, "banner": self.banner.port},
            "names": self.names.table,
            "pointers": self.names.pointers,
            "ipv6": self.ipv6,
        }

    async def _start(self) -> None:
        builder = self._builder
        builder.begin(self.exits.values())
        for origin in self._origins:
            origin.start(self._reactor)
        authorities = await builder.authorities(AUTHORITIES)
        self._tell("keys of the authorities made")
        exits = [self._new_exit(exit) for exit in self.exits.values()]
        self.daemons.update((node.name, node) for node in (*authorities, *exits))
        await all_of(node.launch() for node in self.daemons.values())
        self._tell("authorities and exits up")
        await all_of(node.ready() for node in self.daemons.values())
        relays = await authorities[0].wait_for_relays(len(self.daemons))
        for name, exit in self.exits.items():
            self.exits[name] = replace(exit, fingerprint=relays[name])
        self._tell("consensus")
        host = self.daemons[SERVICE] = builder.onion_host(SERVICE)
        clients = [self._new_client() for _ in range(self._client_count)]
        await all_of([self._bring_in(host), *map(self._bring_in_client, clients)])
        self._tell("all daemons ready")

    def _tell(self, text: str) -> None:
        if self._progress is not None:
            self._progress(text)

    async def _bring_in(self, node: Node) -> None:
        await node.start()
        await node.wait_for_relays(AUTHORITIES + len(self.exits))

    async def _bring_in_client(self, client: Client) -> None:
        await self._bring_in(client.node)
        await self._reach_exits(client, self.exits)

    async def _reach_exits(self, client: Client, names: Iterable[str]) -> None:
        exits = {
            name: self.exits[name].fingerprint
            for name in names
            if self.daemons[name].state is DaemonState.RUNNING
        }
        if client.has_own_lines:
            exits = {}  # such as a bridge, which cannot be the exit as well
        await client.reach_exits(exits, servers.CHECK_NAME, self._check.port)

    def _new_exit(self, exit: Exit) -> Node:
        ports = {"web": self.web.port, "echo": self.echo.port, "banner": self.banner.port}
        rules = [rule.format_map(ports) for rule in exit.policy]
        # Whatever it refuses, the network sees when it works.
        policy = [f"accept *:{self._check.port}", *rules] if rules else []
        return self._builder.exit(exit, policy, self.names.start(self._reactor, exit))

    def _new_client(self, torrc_lines: Iterable[str] = ()) -> Client:
        client = self._builder.client(len(self.clients), torrc_lines)
        self.clients.append(client)
        self.daemons[client.name] = client.node
        return client


def _fresh_path() -> Path:
    name = f"torsocks_tx-{secrets.token_hex(6)}"
    path = Path(tempfile.gettempdir(), name)
    return path if len(os.fsencode(path)) <= MAX_PATH else Path("/tmp", name)


class PrivateTorProvider(RunningTorProvider):
    """Starts a private Tor network, logs the addresses of its servers, and ends it.

    Args:
        reactor: the running reactor.
        network: a network that was not started; by default a new one.

    Attributes:
        control_address: the endpoint string of the control port of its first client.
    """

    _log = Logger()

    def __init__(self, reactor: Any, network: PrivateNetwork | None = None) -> None:
        self.network = network or PrivateNetwork(reactor)
        self.control_address = unix_endpoint(self.network.directory / "client0" / CONTROL_SOCKET)
        endpoint = clientFromString(reactor, self.control_address)
        super().__init__(reactor, endpoint, name="the private tor")
        self._beginning: Deferred[None] | None = None

    def start(self) -> Deferred[None]:
        """Start the network, which takes about 15 s; clients of the server wait until then."""
        self.mark_started()
        self._beginning = Deferred.fromCoroutine(self._begin())
        return self._beginning

    async def _begin(self) -> None:
        try:
            await self.network.start(lambda text: self._log.info("private network: {t}", t=text))
        except CancelledError:
            return
        except Exception as error:
            self.mark_down(f"the private network does not start: {error}")
            raise
        await super().start()
        service = await self.network.add_onion_service(self.network.web.port)
        port = self.network.web.port
        for url in (f"http://web.test:{port}/", f"http://{service.address}/"):
            self._log.info("private network: visit {url}", url=url)

    def stop(self) -> Deferred[None]:
        """End the network; no process and no file is left."""
        return Deferred.fromCoroutine(self._end())

    async def _end(self) -> None:
        await super().stop()
        if self._beginning is not None:
            self._beginning.cancel()
        await self.network.stop()
