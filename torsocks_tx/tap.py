"""``twistd torsocks``: from options to a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torsocks_tx.authentication import CredAuthenticator
from torsocks_tx.crowd import Crowd
from torsocks_tx.descriptors import raise_descriptor_limit
from torsocks_tx.limits import Limits
from torsocks_tx.options import Options
from torsocks_tx.server import SOCKSFactory
from torsocks_tx.service import TorsocksService

__all__ = ["Options", "makeService"]


def make_limits(options: Options, allowed: int) -> Limits:
    """The limits that the options ask for; descriptors suffice for ``allowed`` connections."""
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
        max_connections=min(options["max-connections"] or allowed, allowed),
    )


def make_upstream(reactor: Any, options: Options) -> Any:
    """What the options put behind the listeners."""
    # txtorcon takes a second to load: a usage error need not wait for it.
    from torsocks_tx import upstream

    if options["backend"] == "direct":
        return upstream.DirectUpstream(reactor, allow_internal=bool(options["allow-internal"]))
    policies = list({listener.policy.port_flags for listener in options.listeners})
    tor = options["tor"] or "launch"
    if options["tor-socks"]:
        supply = upstream.fixed_supply(reactor, options["tor-socks"])
    elif tor == "launch":
        supply = upstream.launched_supply(
            reactor,
            data_directory=Path(options["tor-data-directory"] or upstream.default_data_directory()),
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
        keyring=upstream.keyring(options["onion-auth-dir"]),
    )


def makeService(options: Options) -> TorsocksService:
    """The service that ``twistd torsocks`` runs."""
    from twisted.internet import reactor

    allowed = raise_descriptor_limit()
    limits = make_limits(options, allowed)
    try:
        upstream = make_upstream(reactor, options)
    except ValueError as error:
        raise SystemExit(f"twistd torsocks: {error}") from None
    checkers = options.get("credCheckers")
    crowd = Crowd(limits.max_connections)
    authenticator = CredAuthenticator(checkers) if checkers else None
    listeners = [
        (
            listener,
            SOCKSFactory(
                upstream.backend,
                policy=listener.policy,
                limits=limits,
                authenticator=authenticator,
                listener=f"listen-{number}",
                crowd=crowd,
                debugging=bool(options["debug"]),
            ),
        )
        for number, listener in enumerate(options.listeners)
    ]
    return TorsocksService(
        reactor,
        listeners,
        upstream,
        authenticated=bool(checkers),
        grace=options["shutdown-grace"],
        most=limits.max_connections or allowed,
    )
