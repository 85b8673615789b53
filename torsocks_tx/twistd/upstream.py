"""What stands behind the listeners of ``twistd torsocks``: which backend, from which options."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, clientFromString
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.daemon import find_tor
from torsocks_tx.backends.tor.events import quote_path
from torsocks_tx.backends.tor.exits.directory import NO_GEOIP, has_countries
from torsocks_tx.backends.tor.files import default_data_directory, numbered
from torsocks_tx.backends.tor.launched import LaunchedTorProvider
from torsocks_tx.backends.tor.onion.client_auth import Keyring
from torsocks_tx.backends.tor.onion.observer import OnionObserver
from torsocks_tx.backends.tor.pool import TorPool
from torsocks_tx.backends.tor.provider import TorProvider
from torsocks_tx.backends.tor.providers import FixedTorProvider, RunningTorProvider
from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.errors import TorDown
from torsocks_tx.policy.fresh import Epoch
from torsocks_tx.relay.connector import ATTEMPT_TIMEOUT, SocketEndpoint, endpoint_from_string
from torsocks_tx.twistd.options import Options

POOL_DELAY = 1.0
"""Seconds until a tor of a pool that is gone is tried again."""


class UpstreamError(Exception):
    """A tor cannot be used, or not for what the listeners choose; the text says why."""


class Upstream:
    """A backend, and the tors that it connects by: ``tors`` by their names, none for no Tor at all.

    ``policies``: what the listeners ask of tor's SocksPorts. ``keyring``: keys of onion services,
    as an observer has them. ``needs_countries``: clients are to leave in chosen countries.
    """

    _log = Logger()

    def __init__(
        self,
        backend: Any,
        tors: Mapping[str, TorBackend] = MappingProxyType({}),
        policies: Sequence[frozenset[str]] = (),
        keyring: Keyring | None = None,
        *,
        needs_countries: bool = False,
    ) -> None:
        self._needs_countries = needs_countries
        self.backend = backend
        self.tors = tors
        self._policies = policies
        self._keyring = keyring

    @property
    def providers(self) -> list[TorProvider]:
        """What provides the SocksPorts of each tor."""
        return [backend.provider for backend in self.tors.values()]

    async def start(self) -> None:
        """Start or find each tor, and see that it can keep what the listeners' flags promise."""
        if not self.tors:
            text = "NO TOR: connections leave from this machine, and names are looked up here"
            self._log.warn(text)
            if self.backend.allow_internal:
                text = "--allow-internal: clients can reach this machine and its local networks"
                self._log.warn(text)
            return
        try:
            await self._start_tors()
            for backend in self.tors.values():
                await self._check(backend)
        except Exception:
            await self.stop()
            raise
        if self._keyring is not None:
            # Now: what is wrong with them is better seen at the start.
            self._log.info("{keys}", keys=_count(self._keyring))
            for backend in self.tors.values():
                backend.when_ready().addCallbacks(_use_keys, _ignore)

    async def _start_tors(self) -> None:
        starting = [backend.provider.start() for backend in self.tors.values()]
        try:
            await DeferredList(starting, fireOnOneErrback=True, consumeErrors=True)
        except FirstError as first:
            if len(starting) == 1:
                first.subFailure.raiseException()
            name, why = list(self.tors)[first.index], first.subFailure.getErrorMessage()
            raise UpstreamError(f"{name}: {why}") from None

    async def _check(self, backend: TorBackend) -> None:
        """Raise an exception if this tor lacks what the listeners need, as far as is known now."""
        for flags in self._policies:
            try:
                backend.provider.port_for(flags)
            except TorDown:
                # It is looked at again, and said in the log, when there is a tor.
                break
        control = backend.provider.control if self._needs_countries else None
        if control is not None and not await has_countries(control):
            raise UpstreamError(NO_GEOIP)

    async def reload(self) -> str:
        """Read the client authorization keys again; return what to say about it."""
        if self._keyring is None:
            return "there is no --onion-auth-dir to read again"
        self._keyring.reload()
        for backend in self.tors.values():
            await backend.observer.install_keys()
        return _count(self._keyring)

    def new_identity(self) -> str:
        """Give fresh circuits to all from now on; return what to say about it."""
        if not self.tors:
            return "there is no Tor, and so no circuit"
        self.backend.new_identity()
        return "every new stream gets a fresh circuit"

    async def stop(self) -> None:
        """End what was started."""
        await DeferredList([backend.stop() for backend in self.tors.values()])


def _use_keys(backend: TorBackend) -> None:
    backend.observer.follow(backend.provider.control)


def _count(keyring: Keyring | None) -> str:
    keys = len(keyring or ())
    return f"{keys} client authorization key{'' if keys == 1 else 's'} for onion services"


def _ignore(failure: Failure) -> None:
    failure.trap(TorDown)


@implementer(IStreamClientEndpoint)
class HostEndpoint:
    """Connects to a host name, by one look-up at a time for all who wait for it.

    Twisted's own endpoint looks the name up for each, in a thread: clients by the hundred would
    wait for the few threads that there are.
    """

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._waiters: Waiters[list[IStreamClientEndpoint]] | None = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Connect to the first address that answers."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        *others, last = await self._look_up()
        for endpoint in others:
            with suppress(ConnectError):
                return await endpoint.connect(factory)
        return await last.connect(factory)

    def _look_up(self) -> Deferred[list[IStreamClientEndpoint]]:
        """Fire with an endpoint for each address; fail with ``DNSLookupError``."""
        if self._waiters is None:
            self._waiters = Waiters(self._reactor)
            kind = socket.SOCK_STREAM
            look_up = partial(socket.getaddrinfo, self._host, self._port, type=kind)
            pool = self._reactor.getThreadPool()
            deferToThreadPool(self._reactor, pool, look_up).addBoth(self._found)
        return self._waiters.wait()

    def _found(self, found: Any) -> None:
        waiters, self._waiters = self._waiters, None
        assert waiters is not None
        if isinstance(found, Failure):
            waiters.fail(lambda: DNSLookupError("no address was found"))
        else:
            waiters.fire([self._endpoint(str(place[0])) for *_, place in found])

    def _endpoint(self, address: str) -> IStreamClientEndpoint:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        return kind(self._reactor, address, self._port, ATTEMPT_TIMEOUT)


def _socks_endpoint(reactor: Any, text: str) -> IStreamClientEndpoint:
    endpoint = endpoint_from_string(reactor, text)
    kind, *place = text.split(":")
    if kind == "tcp" and len(place) == 2 and not isinstance(endpoint, SocketEndpoint):
        return HostEndpoint(reactor, place[0], int(place[1]))
    return endpoint


def make_upstream(
    reactor: Any, options: Options, keys: str | None = None, epoch: Epoch | None = None
) -> Upstream:
    """What the options put behind the listeners.

    ``keys``: the directory of keys for tor. ``epoch``: that of all workers.
    """
    if options.upstream == "direct":
        return Upstream(DirectBackend(reactor, allow_internal=bool(options["allow-internal"])))
    policies = list({listener.policy.port_flags for listener in options.listeners})
    every = set().union(*(listener.policy.all_port_flags for listener in options.listeners))
    providers = _make_providers(reactor, options, sorted(every, key=sorted))
    keyring = None if keys is None else Keyring(keys)
    epoch = epoch or Epoch()
    tors = {
        name: TorBackend(
            reactor,
            provider,
            optimistic_data=True if options["optimistic-data"] else None,
            onion_observer=OnionObserver(
                reactor, rendezvous_timeout=options["rendezvous-timeout"], keyring=keyring
            ),
            epoch=epoch,
        )
        for name, provider in providers.items()
    }
    first, *others = tors
    needs_countries = any(
        listener.policy.client_parameters or listener.policy.exits.countries
        for listener in options.listeners
    )
    return Upstream(
        TorPool(reactor, tors) if others else tors[first],
        tors,
        policies,
        keyring,
        needs_countries=needs_countries,
    )


def _make_providers(
    reactor: Any, options: Options, policies: Sequence[frozenset[str]]
) -> dict[str, TorProvider]:
    """What provides the SocksPorts of each tor, by the name of that tor."""
    if options.upstream == "socks":
        [text] = options["tor-socks"]
        return {text: FixedTorProvider(_socks_endpoint(reactor, text))}
    if options.upstream == "private":
        from torsocks_tx.testing.tornet.network import PrivateTorProvider

        return {"private": PrivateTorProvider(reactor)}
    if options.upstream == "running":
        names = options.tor_names or options["tor"]
        # Processes that serve one pool are to see at the same time that a tor is back.
        delays = (lambda _: POOL_DELAY) if len(names) > 1 else None
        password = options.get("tor-password")
        return {
            name: RunningTorProvider(
                reactor, clientFromString(reactor, text), password=password, delays=delays
            )
            for name, text in zip(names, options["tor"], strict=True)
        }
    # With ``twistd --uid`` the directories are for the user that will serve.
    server = options.parent["uid"] if options.parent else None
    given = options["tor-data-directory"]
    directories = [
        numbered(Path(given), number) if given else default_data_directory(server, number)
        for number in range(1, options["tors"] + 1)
    ]
    _check_torrc(find_tor(options["tor-binary"]), options["tor-option"], directories[0], server)
    return {
        directory.name: LaunchedTorProvider(
            reactor,
            directory,
            torrc_options=options["tor-option"],
            tor_binary=options["tor-binary"],
            policies=[tuple(sorted(policy)) for policy in policies],
        )
        for directory in directories
    }


def _check_torrc(
    tor: str, options: Sequence[tuple[str, str]], directory: str | Path, server: int | None
) -> None:
    """Raise ``ValueError`` if tor refuses the options.

    Tor would say so itself, but once twistd's parent has told that the daemon runs. It is asked as
    the user that will serve: it refuses a directory of another user, and changes modes of files.
    """
    if not options:
        return
    lines = [
        *(f"{name} {value}" for name, value in options),
        f"DataDirectory {quote_path(directory)}",
    ]
    become = server if os.geteuid() == 0 else None
    command = [tor, "--verify-config", "--hush", "--defaults-torrc", os.devnull, "-f", "-"]
    text = os.fsencode("\n".join([*lines, ""]))
    try:
        ended = subprocess.run(
            command,
            input=text,
            capture_output=True,
            timeout=30,
            check=False,
            user=become,
            group=None if become is None else pwd.getpwuid(become).pw_gid,
            extra_groups=None if become is None else (),
        )
    except (KeyError, OSError, subprocess.TimeoutExpired):
        # Whatever that is, the start of tor meets it too, and tells of it.
        return
    if ended.returncode:
        said = ended.stdout.decode("utf-8", "replace").splitlines()
        warnings = [line.partition("[warn] ")[2] for line in said if "[warn] " in line]
        raise ValueError(f"tor refuses its options: {' '.join(warnings[-1:])}")
