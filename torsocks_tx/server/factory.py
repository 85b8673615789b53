"""The factories, for embedding: what all connections of one listener share.

    endpoint.listen(SOCKSFactory(backend))

Each listener gets a factory of its own. A factory may serve several ports, which then count as one
listener. Streams of different factories never share a circuit, unless their policies name the same
session group.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.errors import without_text
from torsocks_tx.http.answers import FAMILY_PREFERENCE, PROXY_AUTHORIZATION, Answers
from torsocks_tx.http.server import FIRST_LETTERS, ISOLATION_USERS, HTTPOptions, HTTPServerHandshake
from torsocks_tx.interfaces import IBackend, IExitBackend
from torsocks_tx.limits import Limits, check_arguments, check_grace
from torsocks_tx.policy.fresh import FreshCircuits
from torsocks_tx.policy.isolation import Isolation, Isolator, is_for_exit, isolation_key
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.server.auth import Authenticator, LoginGuard
from torsocks_tx.server.connections import Connection, ConnectionLimiter, client_network
from torsocks_tx.server.protocol import SOCKS4Protocol, SOCKS5Protocol, SOCKSProtocol
from torsocks_tx.server.proxy_header import ProxyHeaders
from torsocks_tx.server.request import Client, RequestHandler
from torsocks_tx.socks.constants import Command, Role, Version
from torsocks_tx.socks.extended import ExtendedRules, KeyHandler, standard_keys
from torsocks_tx.socks.messages import Credentials, Request
from torsocks_tx.socks.replies import ReplyContext
from torsocks_tx.socks.server import BOTH_VERSIONS, HandshakeOptions, ServerHandshake
from torsocks_tx.status.registry import ListenerCounts, Registry

SHUTDOWN_GRACE = 5.0
"""Seconds that clients have to end when a server stops."""

REQUEST_GRACE = 1.0
"""Seconds for a client's request when the server stops: one that came last is still speaking."""

SILENCE = 1.0
"""When the server stops: seconds after which a client with its sending side closed has left."""

LOGIN_ISOLATES = (
    "a client sent Proxy-Authorization with another user than tor-iso: nothing checks it here, and"
    " it isolates streams at most (said once for each listener)"
)

_listener_numbers = itertools.count(1)
_isolator = Isolator()
_default_policy = ListenerPolicy()


_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "backend": (IBackend,),
    "policy": (ListenerPolicy, None),
    "limits": (Limits, None),
    "authenticator": (Callable, None),
    "listener": (str, None),
    "isolator": (Isolator, None),
    "keys": (Mapping, None),
    "limiter": (ConnectionLimiter, None),
    "clock": (IReactorTime, None),
    "fresh": (FreshCircuits, None),
    "debugging": (bool,),
    "counts": (ListenerCounts, None),
}
"""What the arguments of a factory must be."""


def _check(given: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for the arguments of a factory that cannot be."""
    for name, kinds in _ARGUMENTS.items():
        check_arguments(*kinds, **{name: given[name]})
    policy = given["policy"] or _default_policy
    if policy.chooses_exits and not IExitBackend.providedBy(given["backend"]):
        raise ValueError("only a TorBackend can choose exits, as the policy says")


def _installed_reactor() -> Any:
    from twisted.internet import reactor

    return reactor


def _say_test(log: Logger, request: Request) -> None:
    by_ip = request.address.is_ip and request.command is not Command.RESOLVE_PTR
    verdict = (
        "by IP address: this client may have looked the name up itself, outside Tor"
        if by_ip
        else "by host name: safe"
    )
    name = request.version.name
    log.info("TestSocks: {name} request {verdict}", name=name, verdict=verdict)


@implementer(IProtocolNegotiationFactory)
class SOCKSFactory(Factory):
    """Makes protocols that speak SOCKS4, SOCKS4a and SOCKS5.

    ``backend`` opens the streams; ``policy`` and ``limits`` have defaults that suit Tor. With an
    ``authenticator`` only clients with credentials that it accepts are served. ``listener`` is the
    name of the listener in isolation keys, ``isolator`` has the secret that hides those keys from
    tor: processes that serve one listener together need the same two. ``keys``: further keys of
    extended authentication with their handlers (``extended.KeyHandler``). Factories with the same
    ``limiter`` count their clients together. ``fresh`` counts fresh circuits, for several processes
    if need be. ``counts``: where to count what happens, from ``Registry.add``.
    """

    protocol: Any = SOCKSProtocol
    handler: type[RequestHandler] = RequestHandler
    noisy = False
    _log = Logger()

    def __init__(
        self,
        backend: IBackend,
        *,
        policy: ListenerPolicy | None = None,
        limits: Limits | None = None,
        authenticator: Authenticator | None = None,
        listener: str | None = None,
        isolator: Isolator | None = None,
        keys: Mapping[str, KeyHandler] | None = None,
        limiter: ConnectionLimiter | None = None,
        clock: IReactorTime | None = None,
        fresh: FreshCircuits | None = None,
        debugging: bool = True,
        counts: ListenerCounts | None = None,
    ) -> None:
        _check(locals())
        clock = clock or _installed_reactor()
        self.backend = backend
        self.policy = policy or _default_policy
        self.limits = limits = limits or Limits()
        self.clock = clock
        self.debugging = debugging
        self.connections: set[SOCKSProtocol] = set()
        self._guard = LoginGuard(authenticator, clock) if authenticator is not None else None
        self._listener = listener or self.policy.name or f"listener-{next(_listener_numbers)}"
        self._isolator = isolator or _isolator
        self._port_flags = self.policy.port_flags
        self._is_restrictive = self.policy.is_restrictive
        self._circuits = self.policy.circuit_rules(fresh)
        self._has_warned = self._guard is not None or self.policy.client_parameters
        if limiter is None:
            limiter = ConnectionLimiter(limits.max_connections, limits.max_per_client, clock)
        self.limiter = limiter
        self.counts = counts or Registry().add(self._listener)
        self._extended = self._extended_rules(keys or {})
        self.http_options = self._http_options()
        self._empty: list[Deferred[None]] = []
        networks = self.policy.proxy_protocol
        self.proxy_headers = None if networks is None else ProxyHeaders(networks, clock.seconds)

    def buildProtocol(  # type: ignore[override]
        self, addr: IAddress | None
    ) -> SOCKSProtocol | None:
        """Return a protocol for a new client; None, so that it is closed, if there are too many."""
        headers = self.proxy_headers
        if headers is not None and not headers.trusts(addr):
            return None
        network = client_network(addr) if headers is None else None
        if not self.limiter.has_room(network):
            return None
        protocol: SOCKSProtocol = self.protocol()
        protocol.factory = self
        protocol.network = network
        return protocol

    def acceptableProtocols(self) -> list[bytes]:
        """Return what clients by TLS may ask for by ALPN, as browsers do: else TLS refuses them."""
        return [b"http/1.1"]

    def handshake(self, first: bytes) -> ServerHandshake | HTTPServerHandshake:
        """Return what takes the bytes of a client that begins with these."""
        if self.http_options is not None and first.startswith(FIRST_LETTERS):
            return HTTPServerHandshake(self.http_options)
        return ServerHandshake(self.handshake_options)

    @cached_property
    def handshake_options(self) -> HandshakeOptions:
        """What a SOCKS handshake accepts."""
        policy = self.policy
        # Credentials for a transport are its arguments, so it prefers them always.
        indifferent = policy.prefer_socks_no_auth or not policy.isolation.socks_auth
        return HandshakeOptions(
            self.protocol.versions,
            prefer_no_auth=policy.role is Role.TOR and indifferent,
            require_auth=self._guard is not None,
            extended=self._extended,
            role=policy.role,
            split_name=policy.split_name,
        )

    def _http_options(self) -> HTTPOptions | None:
        policy = self.policy
        serves_all = self.protocol.versions == BOTH_VERSIONS and policy.role is Role.TOR
        if not (serves_all and policy.http_connect):
            return None
        answers = Answers(tor=self.backend.uses_tor, isolates=policy.isolation.socks_auth)
        return HTTPOptions(
            answers,
            self.limiter.pairs_budget,
            self._guard is not None,
            policy.http_ask_for_credentials,
            policy.split_name,
        )

    def _extended_rules(self, keys: Mapping[str, KeyHandler]) -> ExtendedRules | None:
        policy = self.policy
        if not policy.extended_auth:
            return None
        isolates = policy.role is Role.TOR and policy.isolation.socks_auth
        standard = standard_keys(isolates=isolates, authenticates=self._guard is not None)
        return ExtendedRules(
            {**standard, **policy.parameter_keys, **keys},
            policy.extended_errors,
            self.limits.extended_pairs,
            self.limits.extended_bytes,
            self.limiter.pairs_budget,
        )

    def authenticate(self, credentials: Credentials, client: IAddress) -> Deferred[bytes | None]:
        """Ask the authenticator whether the client may log in."""
        assert self._guard is not None, "the handshake of a listener that asks for passwords"
        return self._guard.check(credentials, client_network(client))

    def admit(self, request: Request, peer: IAddress) -> Isolation:
        """Check a request; return its isolation. Raises ``SOCKSError``."""
        if self.policy.test_socks:
            _say_test(self._log, request)
        policy, flags = self.policy, self._port_flags
        is_http = request.version is Version.HTTP
        if is_http and not self._has_warned:
            self._look_at_login(request)
        if is_http and not request.address.is_onion:
            policy = policy.for_family(request.pairs.get(FAMILY_PREFERENCE))
            flags = policy.port_flags
        if policy is not self.policy or self._is_restrictive:
            policy.check(request)
        if flags and not is_for_exit(request):
            flags = frozenset()
        client = peer.host if isinstance(peer, IPv4Address | IPv6Address) else None
        key = partial(isolation_key, self.policy.isolation, self._listener, client, request)
        if self._circuits is None:
            return Isolation(lambda: self._isolator.credentials(key()), flags)
        parts, exits, tries = self._circuits.apply(request, key(), self.clock.seconds())
        return Isolation(self._isolator.credentials(parts), flags, exits, tries)

    def request_handler(self, client: Client, request: Request) -> RequestHandler:
        """Return the handler of a request."""
        http = self.http_options if request.version is Version.HTTP else None
        return self.handler(
            client,
            request,
            clock=self.clock,
            limits=self.limits,
            reply_context=partial(
                ReplyContext.of,
                role=self.policy.role,
                extended_errors=self.policy.extended_errors,
                swap_e0_e1=self.policy.swap_e0_e1,
            ),
            answers=http.answers if http is not None else None,
            counts=self.counts,
        )

    def _look_at_login(self, request: Request) -> None:
        known = request.credentials
        meant_to_isolate = known is not None and known.username in ISOLATION_USERS
        if request.pairs.get(PROXY_AUTHORIZATION) is not None and not meant_to_isolate:
            self._has_warned = True
            self._log.warn(LOGIN_ISOLATES)

    def connected(self, protocol: SOCKSProtocol) -> None:
        """Count a connection."""
        self.connections.add(protocol)
        self.counts.connected()
        self.limiter.join(protocol)

    def disconnected(self, protocol: SOCKSProtocol, *, asked: bool) -> None:
        """Count it no more; ``asked``: its request was begun."""
        if protocol in self.connections:
            self.connections.remove(protocol)
            self.counts.disconnected(asked=asked)
        self.limiter.leave(protocol)
        if not self.connections:
            waiting, self._empty = self._empty, []
            for deferred in waiting:
                deferred.callback(None)

    def when_empty(self) -> Deferred[None]:
        """Fire when no client is connected."""
        if not self.connections:
            return succeed(None)
        deferred: Deferred[None] = Deferred()
        self._empty.append(deferred)
        return deferred

    def shutdown(self, grace: float = SHUTDOWN_GRACE) -> Deferred[None]:
        """Let clients end for so many seconds, then reset the rest; fires when none is left.

        Close the listening port first. A client has a second for its request. One that has closed
        its sending side, and has received nothing for a second, is counted as gone: it looks the
        same as one that has closed altogether.
        """
        check_grace(grace)
        return Deferred.fromCoroutine(self._shutdown(grace))

    async def _shutdown(self, grace: float) -> None:
        ending = self.clock.callLater(grace, self.abort_all)
        aborting = LoopingCall(self._abort_gone, self.clock.seconds() + REQUEST_GRACE)
        aborting.clock = self.clock
        aborting.start(SILENCE)
        try:
            await self.when_empty()
        finally:
            if ending.active():
                ending.cancel()
            aborting.stop()
        # The far sides of clients that were reset are reset in the reactor's next turn. One that is
        # still open when it stops is closed with a FIN, and what was cut there looks complete.
        await deferLater(self.clock, 0, lambda: None)

    def _abort_gone(self, end_of_requests: float) -> None:
        gone: set[Any] = self.connections.intersection(self.limiter.find_silent(SILENCE))
        if self.clock.seconds() >= end_of_requests:
            gone.update(it for it in self.connections if not it.is_served)
        self._abort(gone)

    def abort_all(self) -> None:
        """Reset every connection."""
        self._abort(self.connections)

    def _abort(self, protocols: Iterable[Connection]) -> None:
        for protocol in list(protocols):
            try:
                protocol.reset()
            except Exception:
                # The others are reset all the same.
                text = "a fault of this server while resetting a client"
                self._log.failure(text, without_text(Failure()))


class SOCKS4Factory(SOCKSFactory):
    """Makes protocols that speak SOCKS4 and SOCKS4a only."""

    protocol = SOCKS4Protocol


class SOCKS5Factory(SOCKSFactory):
    """Makes protocols that speak SOCKS5 only."""

    protocol = SOCKS5Protocol
