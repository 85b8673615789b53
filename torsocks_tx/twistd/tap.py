"""``twistd torsocks``: from options to a service."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.protocol import Factory
from twisted.internet.selectreactor import SelectReactor
from twisted.python.usage import UsageError

from torsocks_tx.backends.tor.daemon import TorNotFound
from torsocks_tx.backends.tor.files import DirectoryError
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolator
from torsocks_tx.server.auth import CredAuthenticator
from torsocks_tx.server.binding import bind
from torsocks_tx.server.connections import RESERVED, ConnectionLimiter, raise_descriptor_limit
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.listen import Listener
from torsocks_tx.twistd.options import Options
from torsocks_tx.twistd.service import StartError, TorsocksService, log_failure
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
    # txtorcon takes a second to load: a usage error need not wait for it.
    from torsocks_tx.twistd.upstream import make_upstream

    try:
        return make_upstream(reactor, options, keys)
    except (ValueError, DirectoryError, TorNotFound) as error:
        raise SystemExit(f"torsocks_tx: {error}") from None


def make_supervisor(
    reactor: Any, options: Options, listen: Callable[[Listener, Factory], Any]
) -> Supervisor:
    """A process that holds the listeners, and tor if it is ours, for its workers."""
    launched = options["backend"] == "tor" and not options["tor-socks"]
    launched = launched and (options["tor"] or "launch") in ("launch", "private")
    orders = {
        "arguments": options.arguments,
        "directory": options.directory,
        "keys": options["onion-auth-dir"] is not None,
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
