"""What stands behind the listeners of ``twistd torsocks``: which backend, from which options.

Each has ``backend``, ``start`` and ``stop``. ``start`` fails with a sentence that says what to
fix.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import clientFromString
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.daemon import find_tor
from torsocks_tx.backends.tor.events import quote_path
from torsocks_tx.backends.tor.files import default_data_directory
from torsocks_tx.backends.tor.launched import LaunchedTorProvider
from torsocks_tx.backends.tor.onion.client_auth import Keyring
from torsocks_tx.backends.tor.onion.observer import OnionObserver
from torsocks_tx.backends.tor.provider import TorProvider
from torsocks_tx.backends.tor.providers import FixedTorProvider, RunningTorProvider
from torsocks_tx.errors import NoSuchPort, TorDown
from torsocks_tx.limits import RENDEZVOUS_TIMEOUT
from torsocks_tx.relay.connector import endpoint_from_string
from torsocks_tx.twistd.options import Options


class DirectUpstream:
    """No Tor at all."""

    _log = Logger()

    def __init__(self, reactor: Any, *, allow_internal: bool) -> None:
        self.backend = DirectBackend(reactor, allow_internal=allow_internal)
        self._allow_internal = allow_internal

    def start(self) -> Deferred[None]:
        """Say so."""
        self._log.warn("NO TOR: connections leave from this machine, and names are looked up here")
        if self._allow_internal:
            self._log.warn(
                "--allow-internal: clients can reach this machine and its local networks"
            )
        return succeed(None)

    def reload(self) -> Deferred[str]:
        """Fire with what to say about it."""
        return succeed("there is nothing to read again")

    def stop(self) -> Deferred[None]:
        """Nothing is held."""
        return succeed(None)


class TorUpstream:
    """A tor, however it is come by.

    ``policies``: what the listeners ask of tor's SocksPorts. ``keyring``: keys of onion services.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        provider: TorProvider,
        optimistic_data: bool | None,
        policies: Sequence[frozenset[str]] = (),
        *,
        rendezvous_timeout: float = RENDEZVOUS_TIMEOUT,
        keyring: Keyring | None = None,
    ) -> None:
        self.provider = provider
        self._policies = policies
        self._keyring = keyring
        observer = OnionObserver(reactor, rendezvous_timeout=rendezvous_timeout, keyring=keyring)
        self.backend = TorBackend(
            reactor, provider, optimistic_data=optimistic_data, onion_observer=observer
        )

    def start(self) -> Deferred[None]:
        """Start or find tor, and see that it can keep what the listeners' flags promise."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self.provider.start()
        for flags in self._policies:
            try:
                self.provider.port_for(flags)
            except NoSuchPort:
                await self.provider.stop()
                raise
            except TorDown:
                # It is looked at again, and said in the log, when there is a tor.
                break
        if self._keyring is not None:
            self.provider.when_ready().addCallbacks(self._use_keys, self._ignore)

    def _use_keys(self, _: object) -> None:
        """Give tor the keys now: what is wrong with them is better seen at the start."""
        self._log.info("{keys}", keys=self._count_keys())
        self.backend.observer.follow(self.provider.control)

    def _count_keys(self) -> str:
        count = 0 if self._keyring is None else len(self._keyring)
        plural = "key" if count == 1 else "keys"
        return f"{count} client authorization {plural} for onion services"

    def reload(self) -> Deferred[str]:
        """Read the client authorization keys again; fire with what to say about it."""
        if self._keyring is None:
            return succeed("there is nothing to read again")
        return self.backend.observer.reload_keys().addCallback(lambda _: self._count_keys())

    def _ignore(self, failure: Failure) -> None:
        failure.trap(TorDown)

    def control_address(self) -> str:
        """The control port of the tor that was started, for ``--tor`` of our workers."""
        provider: Any = self.provider
        return str(provider.control_address)

    def stop(self) -> Deferred[None]:
        """End what was started."""
        return self.provider.stop()


def make_upstream(reactor: Any, options: Options, keys: str | None = None) -> Any:
    """What the options put behind the listeners; ``keys`` is the directory of keys for tor."""
    if options["backend"] == "direct":
        return DirectUpstream(reactor, allow_internal=bool(options["allow-internal"]))
    policies = list({listener.policy.port_flags for listener in options.listeners})
    return TorUpstream(
        reactor,
        _make_provider(reactor, options, policies),
        True if options["optimistic-data"] else None,
        policies,
        rendezvous_timeout=options["rendezvous-timeout"],
        keyring=None if keys is None else Keyring(keys),
    )


def _make_provider(
    reactor: Any, options: Options, policies: Sequence[frozenset[str]]
) -> TorProvider:
    """What provides the SocksPorts of tor."""
    tor = options["tor"] or "launch"
    if options["tor-socks"]:
        return FixedTorProvider(endpoint_from_string(reactor, options["tor-socks"]))
    if tor == "private":
        from torsocks_tx.testing.tornet.network import PrivateTorProvider

        return PrivateTorProvider(reactor)
    if tor != "launch":
        control = clientFromString(reactor, tor)
        return RunningTorProvider(reactor, control, password=options.get("tor-password"))
    # With ``twistd --uid`` the directory is for the user that will serve.
    server = options.parent["uid"] if options.parent else None
    directory = options["tor-data-directory"] or default_data_directory(server)
    _check_torrc(find_tor(options["tor-binary"]), options["tor-option"], directory, server)
    return LaunchedTorProvider(
        reactor,
        directory,
        torrc_options=options["tor-option"],
        tor_binary=options["tor-binary"],
        policies=[tuple(sorted(policy)) for policy in policies],
    )


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
            timeout=10,
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
