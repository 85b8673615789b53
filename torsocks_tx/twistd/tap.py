"""``twistd torsocks``: from options to a service."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.protocol import Factory
from twisted.internet.selectreactor import SelectReactor
from twisted.python.usage import UsageError

from torsocks_tx.backends.tor.daemon import TorNotFound, find_tor
from torsocks_tx.backends.tor.directories import DirectoryError, default_data_directory
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolator
from torsocks_tx.server.auth import CredAuthenticator
from torsocks_tx.server.connections import RESERVED, ConnectionLimiter, raise_descriptor_limit
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.twistd.binding import StartError, bind
from torsocks_tx.twistd.listen import Listener
from torsocks_tx.twistd.options import Options
from torsocks_tx.twistd.service import TorsocksService, log_failure
from torsocks_tx.twistd.supervisor import Supervisor

__all__ = ["Options", "makeService"]

SELECT_DESCRIPTORS = 1024
"""FD_SETSIZE: select(2) takes no descriptor from here on, whatever the limit of open files."""


def make_limits(options: Options, allowed: int, share: int = 1) -> Limits:
    """The limits that the options ask for; descriptors suffice for ``allowed`` connections.

    ``share``: so many processes divide the clients among them.
    """
    most, per_client = (
        -(-options[name] // share) if options[name] else None
        for name in ("max-connections", "max-per-client")
    )
    return Limits(
        handshake_timeout=options["handshake-timeout"],
        connect_timeout=options["connect-timeout"],
        onion_timeout=options["onion-timeout"],
        idle_timeout=options["idle-timeout"] or None,
        linger_timeout=options["linger-timeout"],
        linger_limit=options["linger-limit"],
        early_data=options["early-data"],
        extended_bytes=options["extended-bytes"],
        extended_pairs=options["extended-pairs"],
        max_connections=min(most or allowed, allowed),
        max_per_client=per_client,
    )


def make_upstream(reactor: Any, options: Options, keys: str | None = None) -> Any:
    """What the options put behind the listeners; ``keys`` is the directory of keys for tor."""
    # txtorcon takes a second to load: a usage error need not wait for it.
    from torsocks_tx.twistd import upstream

    if options["backend"] == "direct":
        return upstream.DirectUpstream(reactor, allow_internal=bool(options["allow-internal"]))
    policies = list({listener.policy.port_flags for listener in options.listeners})
    tor = options["tor"] or "launch"
    if options["tor-socks"]:
        supply = upstream.fixed_supply(reactor, options["tor-socks"])
    elif tor == "launch":
        # While there is somebody to hear it: a daemon could only write it into its log.
        find_tor(options["tor-binary"])
        supply = upstream.launched_supply(
            reactor,
            data_directory=Path(options["tor-data-directory"] or _default_directory(options)),
            options=options.tor_options,
            binary=options["tor-binary"],
            policies=policies,
        )
    elif tor == "private":
        supply = upstream.private_supply(reactor)
    else:
        supply = upstream.running_supply(reactor, tor, options.get("tor-password"))
    optimistic = True if options["optimistic-data"] else None
    return upstream.TorUpstream(
        reactor,
        supply,
        optimistic,
        policies,
        rendezvous_timeout=options["rendezvous-timeout"],
        keyring=upstream.keyring(keys),
    )


def _default_directory(options: Options) -> Path:
    """Return the default data directory of tor, for the user that ``twistd --uid`` names."""
    return default_data_directory(options.parent["uid"] if options.parent else None)


def makeService(options: Options) -> Service:
    """The service that ``twistd torsocks`` runs."""
    from twisted.internet import reactor

    authenticated = bool(options.get("credCheckers"))

    def listen_here(listener: Listener, factory: Any) -> Any:
        return bind(reactor, listener, factory, authenticated=authenticated)

    if options["workers"] > 1:
        return make_supervisor(reactor, options, listen_here)
    return make_server(reactor, options, listen_here)


def check_files(options: Options) -> None:
    """Raise ``StartError`` if the user that serves cannot read what the options name."""
    try:
        options.check_files()
    except UsageError as error:
        raise StartError(str(error)) from None


def allowed_connections(reactor: Any) -> int:
    """How many connections the descriptors of this process allow, and this reactor."""
    allowed = raise_descriptor_limit()
    if isinstance(reactor, SelectReactor):
        allowed = min(allowed, (SELECT_DESCRIPTORS - RESERVED) // 2)
    return allowed


def make_server(
    reactor: Any,
    options: Options,
    bind: Callable[[Listener, SOCKSFactory], Any],
    *,
    isolator: Isolator | None = None,
    share: int = 1,
    fail: Callable[[str], None] = log_failure,
) -> TorsocksService:
    """A server in this process; it is one of ``share`` that divide the clients among them."""
    allowed = allowed_connections(reactor)
    limits = make_limits(options, allowed, share)
    upstream = _upstream(reactor, options, options["onion-auth-dir"])
    return TorsocksService(
        reactor,
        _with_factories(options, upstream.backend, limits, isolator),
        upstream,
        bind=bind,
        grace=options["shutdown-grace"],
        most=limits.max_connections or allowed,
        check=partial(check_files, options),
        fail=fail,
    )


def _with_factories(
    options: Options, backend: Any, limits: Limits, isolator: Isolator | None
) -> list[tuple[Listener, SOCKSFactory]]:
    """Each listener with the factory that serves its clients."""
    limiter = ConnectionLimiter(limits.max_connections, limits.max_per_client)
    checkers = options.get("credCheckers")
    authenticator = CredAuthenticator(checkers) if checkers else None
    return [
        (
            listener,
            SOCKSFactory(
                backend,
                policy=listener.policy,
                limits=limits,
                authenticator=authenticator,
                listener=f"listen-{number}",
                isolator=isolator,
                limiter=limiter,
                tells_clients_apart=listener.kind != "haproxy",
                debugging=bool(options["debug"]),
            ),
        )
        for number, listener in enumerate(options.listeners)
    ]


def _upstream(reactor: Any, options: Options, keys: str | None = None) -> Any:
    try:
        return make_upstream(reactor, options, keys)
    except (ValueError, DirectoryError, TorNotFound) as error:
        raise SystemExit(f"torsocks: {error}") from None


def make_supervisor(
    reactor: Any, options: Options, listen: Callable[[Listener, Factory], Any]
) -> Supervisor:
    """A process that holds the listeners, and tor if it is ours, for its workers."""
    launched = options["backend"] == "tor" and not options["tor-socks"]
    launched = launched and (options["tor"] or "launch") in ("launch", "private")
    orders = {
        "arguments": options.arguments,
        "directory": options.directory,
        "password": options.get("tor-password"),
    }
    return Supervisor(
        reactor,
        options.listeners,
        orders,
        # The workers give tor its keys, and follow its events.
        _upstream(reactor, options) if launched else None,
        listen=listen,
        check=partial(check_files, options),
        workers=options["workers"],
        grace=options["shutdown-grace"],
    )
