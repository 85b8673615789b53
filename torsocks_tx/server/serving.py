"""``serve``: listening ports with the factories behind them, from opening to an orderly end.

::

    server = serve(reactor, "tcp:1080:interface=127.0.0.1 IsolateDestAddr", backend)
    ...
    await server.shutdown()
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime
from twisted.logger import Logger

from torsocks_tx.interfaces import IBackend
from torsocks_tx.limits import Limits, check_arguments, check_grace
from torsocks_tx.policy.fresh import FreshCircuits
from torsocks_tx.policy.isolation import Isolator
from torsocks_tx.server.auth import Authenticator
from torsocks_tx.server.connections import ConnectionLimiter, allowed_connections
from torsocks_tx.server.factory import SHUTDOWN_GRACE, SOCKSFactory
from torsocks_tx.server.listen import (
    DEFAULT,
    Listener,
    bind,
    check_listeners,
    describe,
    parse_listener,
)
from torsocks_tx.socks.extended import KeyHandler
from torsocks_tx.status.registry import Registry

Bind = Callable[[Listener, Any], IListeningPort]
"""Listens for a listener with a factory, or raises ``ListenError``."""


class Server:
    """Listening ports that open together, or not at all, and the clients that come there."""

    _log = Logger()

    def __init__(self, listeners: Sequence[tuple[Listener, Any]], bind: Bind) -> None:
        self._listeners = listeners
        self._bind = bind
        self.ports: list[Any] = []

    @property
    def addresses(self) -> list[IAddress]:
        """Where clients connect, in the order of the listeners."""
        return [port.getHost() for port in self.ports]

    def __str__(self) -> str:
        return ", ".join(map(describe, self.addresses))

    def open(self) -> None:
        """Open all ports that are not open yet; if one cannot be, none is, and it raises."""
        try:
            for listener, factory in self._listeners[len(self.ports) :]:
                self.ports.append(self._bind(listener, factory))
        except BaseException:
            self.close()
            raise

    def close(self) -> Deferred[Any]:
        """Take no new clients; fires when all ports are closed."""
        ports, self.ports = self.ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports])

    def shutdown(self, grace: float = SHUTDOWN_GRACE) -> Deferred[None]:
        """Take no new clients, and end as ``SOCKSFactory.shutdown`` does; fires when none is left.

        The backend goes on: whoever started it stops it. A shutdown that is cancelled leaves the
        clients that are still there.
        """
        check_grace(grace)
        return Deferred.fromCoroutine(self._shutdown(grace))

    async def _shutdown(self, grace: float) -> None:
        await self.close()
        if busy := self.count():
            text = "stopping: open connections have {grace:g} s to end ({busy} now)"
            self._log.info(text, busy=busy, grace=grace)
        ending = [factory.shutdown(grace) for _, factory in self._listeners]
        for is_over, reason in await DeferredList(ending, consumeErrors=True):
            if not is_over:
                reason.raiseException()

    def count(self) -> int:
        """Return how many clients are connected."""
        return sum(len(factory.connections) for _, factory in self._listeners)

    def when_empty(self) -> Deferred[Any]:
        """Fire when no client is connected."""
        return DeferredList([factory.when_empty() for _, factory in self._listeners])

    def abort_all(self) -> None:
        """Reset every client."""
        for _, factory in self._listeners:
            factory.abort_all()


def with_factories(
    listeners: Iterable[Listener],
    backend: IBackend,
    limits: Limits,
    clock: IReactorTime,
    fresh: Iterable[FreshCircuits | None] = itertools.repeat(None),
    registry: Registry | None = None,
    **options: Any,
) -> list[tuple[Listener, SOCKSFactory]]:
    """Return each listener with the factory that serves its clients; all are counted together.

    ``fresh``: what counts the fresh circuits of each. ``registry``: where they are all counted.
    ``options``: further arguments of ``SOCKSFactory``.
    """
    registry = registry or Registry()
    limiter = ConnectionLimiter(limits.max_connections, limits.max_per_client, clock)
    return [
        (
            listener,
            SOCKSFactory(
                backend,
                policy=listener.policy,
                limits=limits,
                limiter=limiter,
                clock=clock,
                fresh=counted,
                counts=registry.add(
                    listener.policy.name or listener.text, listener.text, listener.flags
                ),
                **options,
            ),
        )
        for listener, counted in zip(listeners, fresh, strict=False)
    ]


def serve(
    reactor: Any,
    listen: str | Sequence[str],
    backend: IBackend,
    *,
    authenticator: Authenticator | None = None,
    keys: Mapping[str, KeyHandler] | None = None,
    limits: Limits | None = None,
    isolator: Isolator | None = None,
    registry: Registry | None = None,
) -> Server:
    """Listen, and serve SOCKS clients by a backend.

    ``listen``: an endpoint and the flags of a listener, as in ``--listen``, or several of these.
    Where other machines could reach it, ``ListenError`` is raised unless an ``authenticator`` asks
    for passwords or the flag ``AllowPublic`` is there. Unix sockets are for this user alone, if the
    endpoint gives no mode. Without ``limits.max_connections`` as many clients are served as
    descriptors allow; their soft limit is raised to the hard one. ``registry``: where it is counted
    what happens, for those who want to read that.
    """
    texts = [listen] if isinstance(listen, str) else listen
    if not texts or not isinstance(texts, list | tuple) or {*map(type, texts)} != {str}:
        wanted = f'a text such as "{DEFAULT}", or a list of these'
        raise TypeError(f"listen must be {wanted}, not {listen!r}")
    check_arguments(IReactorTime, reactor=reactor)
    check_arguments(Limits, None, limits=limits)
    check_arguments(Registry, None, registry=registry)
    listeners = [parse_listener(text, os.getcwd()) for text in texts]
    check_listeners(listeners, authenticated=authenticator is not None)
    limits = limits or Limits()
    if limits.max_connections is None:
        limits = replace(limits, max_connections=allowed_connections(reactor))
    ready = with_factories(
        listeners,
        backend,
        limits,
        reactor,
        registry=registry,
        authenticator=authenticator,
        keys=keys,
        isolator=isolator,
    )
    server = Server(ready, partial(bind, reactor, authenticated=authenticator is not None))
    server.open()
    return server
