"""``twistd torsocks`` and ``torsocks-tx``: from options to a service."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any

from twisted.logger import ILogObserver, globalLogBeginner

from torsocks_tx.backends.tor.daemon import TorNotFound
from torsocks_tx.backends.tor.files import DirectoryError
from torsocks_tx.limits import Limits
from torsocks_tx.policy.fresh import CircuitCounts
from torsocks_tx.policy.isolation import Isolator
from torsocks_tx.server.auth import CredAuthenticator
from torsocks_tx.server.connections import allowed_connections
from torsocks_tx.server.listen import Listener, bind
from torsocks_tx.server.serving import Bind, Server, with_factories
from torsocks_tx.status.pages import StatusServer
from torsocks_tx.status.registry import Registry
from torsocks_tx.twistd.check import Options
from torsocks_tx.twistd.service import OwnProcess, TorsocksService
from torsocks_tx.twistd.standing import (
    Report,
    Terminal,
    is_terminal,
    log_observer,
    notifier_from,
    summary,
)
from torsocks_tx.twistd.supervisor import Supervisor, Unused
from torsocks_tx.twistd.upstream import make_upstream

TOR_PAGE = "https://check.torproject.org/api/ip"
ONION_PAGE = "http://duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion/"

__all__ = ["Options", "makeService"]


def make_limits(options: Options, allowed: int, share: int = 1) -> Limits:
    """The limits that the options ask for; descriptors suffice for ``allowed`` connections.

    ``share``: so many processes divide the clients among them.
    """
    most, per_client = (
        -(-options[name] // share) if options[name] else None
        for name in ("max-connections", "max-per-client")
    )
    as_given = ("handshake_timeout", "connect_timeout", "onion_timeout", "linger_timeout",
                "linger_limit", "early_data", "extended_bytes", "extended_pairs")  # fmt: skip
    return Limits(
        **{name: options[name.replace("_", "-")] for name in as_given},
        idle_timeout=options["idle-timeout"] or None,
        max_connections=min(most or allowed, allowed),
        max_per_client=per_client,
    )


def makeService(options: Options, *more: Report) -> TorsocksService:
    """The service that the options ask for; ``more`` are told how it stands, as systemd is."""
    from twisted.internet import reactor

    authenticated = bool(options.get("credCheckers"))
    notifier = notifier_from(reactor, os.environ)
    reports: list[Report] = [*more] if notifier is None else [*more, notifier]
    binding = partial(bind, reactor, authenticated=authenticated)
    serving: OwnProcess | Supervisor
    if options["workers"] > 1:
        watches = bool(reports or options.status)
        serving = make_supervisor(reactor, options, binding, watches=watches)
    else:
        serving = make_own_process(reactor, options, binding)
    status = None
    if options.status is not None:
        show = partial(bind, reactor, authenticated=False, status=True)
        monitor = serving.monitor()
        status = StatusServer(reactor, options.status, monitor, show, serving.new_identity)
    return TorsocksService(
        reactor,
        serving,
        check=options.check_files,
        reports=reports,
        status=status,
        drain_delay=options["drain-delay"],
    )


def main() -> None:
    """``torsocks-tx``: serve in the foreground, log to the terminal, and write no file.

    SIGINT and SIGTERM end it with status 0.
    """
    options = Options()
    options.parseOptions()
    from twisted.internet import reactor as installed

    reactor: Any = installed
    stream = sys.stdout
    if is_terminal(stream, os.environ):

        def how_to_use() -> str:
            users = bool(options.get("credCheckers"))
            page = _page(options, service.providers)
            return summary(
                options.listeners, service.ports, page, has_users=users, status=service.status_port
            )

        terminal = Terminal(stream, how_to_use, everything=bool(options["debug"]))
        service = makeService(options, terminal.report)
        observer: ILogObserver = terminal
    else:
        service = makeService(options)
        observer = log_observer(stream, os.environ)
    globalLogBeginner.beginLoggingTo([observer])
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


def _page(options: Options, providers: Sequence[Any]) -> str:
    """A page that the first listener lets its clients see."""
    if options.upstream == "private":
        return f"http://web.test:{providers[0].network.web.port}/"
    policy = options.listeners[0].policy
    if not (policy.ipv4_traffic or policy.ipv6_traffic) or not policy.dns_request:
        return ONION_PAGE
    return "https://example.com/" if options.upstream == "direct" else TOR_PAGE


def make_own_process(
    reactor: Any,
    options: Options,
    bind: Bind,
    isolator: Isolator | None = None,
    counts: CircuitCounts | None = None,
    share: int = 1,
    registry: Registry | None = None,
) -> OwnProcess:
    """What serves in this process, one of ``share`` that divide the clients among them.

    ``isolator``, ``counts``: the secret and the counts of circuits that all of them have.
    ``registry``: where this one counts what it does.
    """
    registry = registry or Registry()
    allowed = allowed_connections(reactor)
    limits = make_limits(options, allowed, share)
    epoch = counts.epoch if counts is not None else None
    upstream = _upstream(reactor, options, options["onion-auth-dir"], epoch)
    checkers = options.get("credCheckers")
    listeners = with_factories(
        options.listeners,
        upstream.backend,
        limits,
        reactor,
        counts.listeners if counts is not None else repeat(None),
        registry,
        authenticator=CredAuthenticator(checkers) if checkers else None,
        isolator=isolator or Isolator(options["isolation-secret"]),
        debugging=bool(options["debug"]),
    )
    return OwnProcess(
        reactor,
        Server(listeners, bind),
        upstream,
        registry,
        grace=options["shutdown-grace"],
        most=limits.max_connections or allowed,
    )


def _upstream(reactor: Any, options: Options, *arguments: Any) -> Any:
    try:
        return make_upstream(reactor, options, *arguments)
    except (ValueError, DirectoryError, TorNotFound) as error:
        raise SystemExit(f"{options.command}: {error}") from None


def make_supervisor(
    reactor: Any, options: Options, bind: Bind, *, watches: bool = False
) -> Supervisor:
    """What keeps workers, and holds the listeners, and tor if it is ours, for them.

    ``watches``: somebody is told how tor is, so a tor that is not ours is looked at, too.
    """
    orders = {
        "arguments": options.arguments,
        "directory": options.directory,
        "keys": options["onion-auth-dir"] is not None,
        "password": options.get("tor-password"),
        "secret": (options["isolation-secret"] or b"").hex(),
    }

    def bind_without_accepting(listener: Listener, factory: Any) -> Any:
        port: Any = bind(listener, factory)
        port.stopReading()
        return port

    registry = Registry()
    for listener in options.listeners:
        name = listener.policy.name or listener.text
        registry.add(name, listener.text, listener.flags)
    is_ours = options.upstream in ("launch", "private")
    upstream = _upstream(reactor, options) if is_ours or watches else None
    return Supervisor(
        reactor,
        Server([(listener, Unused()) for listener in options.listeners], bind_without_accepting),
        orders,
        CircuitCounts([listener.policy.fresh_rate for listener in options.listeners]),
        registry,
        upstream,  # the workers give tor its keys, and follow its events
        is_ours=is_ours,
        workers=options["workers"],
        grace=options["shutdown-grace"],
        drain_limit=options["drain-limit"],
    )
