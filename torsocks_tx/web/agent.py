"""An agent of ``twisted.web.client`` whose requests go through a SOCKS server.

    agent = socks_agent(reactor, proxy, isolation=b"alice")
    response = await agent.request(b"GET", b"https://example.com/")

Names go to the SOCKS server as they are and are never looked up here.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    IAgent,
    IAgentEndpointFactory,
    IBodyProducer,
    IPolicyForHTTPS,
    IResponse,
)
from zope.interface import implementer

from torsocks_tx.client.endpoint import SOCKSClientEndpoint
from torsocks_tx.errors import SOCKSError
from torsocks_tx.limits import check_arguments
from torsocks_tx.socks.client_options import ClientOptions


@implementer(IAgentEndpointFactory)
class SOCKSEndpointFactory:
    """Makes the endpoints of an ``Agent``: through the SOCKS server, with TLS for https."""

    def __init__(
        self,
        reactor: IReactorTime,
        proxy: IStreamClientEndpoint,
        options: ClientOptions,
        policy: IPolicyForHTTPS,
    ) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self._options = options
        self._policy = policy

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """The endpoint that leads to the host and port of a URI.

        Raises ``SchemeNotSupported`` for schemes other than http and https.
        """
        host, options = uri.host.strip(b"[]"), self._options
        if uri.scheme not in (b"http", b"https"):
            raise SchemeNotSupported(f"an agent requests http and https, not {uri.scheme!r}")
        if uri.scheme == b"http":
            return SOCKSClientEndpoint(self._reactor, self._proxy, host, uri.port, options)
        # TLS would keep a refusal to itself that comes after its first bytes.
        options = replace(options, optimistic=False)
        endpoint = SOCKSClientEndpoint(self._reactor, self._proxy, host, uri.port, options)
        return wrapClientTLS(self._policy.creatorForNetloc(host, uri.port), endpoint)


class IsolatedPool:
    """A pool of connections in which those of one ``identity`` are kept apart from all others.

    ``Agent`` asks a pool for a connection by scheme, host and port; the identity is added.
    """

    def __init__(self, pool: HTTPConnectionPool, identity: Hashable) -> None:
        self._pool = pool
        self._identity = identity

    @property
    def persistent(self) -> bool:
        """Whether connections are kept for further requests."""
        return bool(self._pool.persistent)

    def getConnection(self, key: object, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """A connection that is kept for this identity, or a new one."""
        connection: Deferred[Any] = self._pool.getConnection((key, self._identity), endpoint)
        return connection


@implementer(IAgent)
class SOCKSAgent:
    """Makes requests; fails with the ``SOCKSError`` itself where the SOCKS server refuses."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Request a URI; fires with the response once its headers are there.

        Errback ``SOCKSError``, the error of the SOCKS server's endpoint, or those of ``Agent``.
        """
        response: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return response.addErrback(_unwrap)


def _unwrap(failure: Failure) -> Failure:
    """The ``SOCKSError`` among the reasons of a failed request, or the failure as it is.

    With ``optimistic`` a refusal comes when the request is under way, as the reason of its end.
    """
    error = failure.value
    reasons = error.reasons if isinstance(error, RequestTransmissionFailed | ResponseFailed) else ()
    return next((reason for reason in reasons if reason.check(SOCKSError)), failure)


def socks_agent(
    reactor: IReactorTime,
    proxy: IStreamClientEndpoint,
    *,
    isolation: bytes | None = None,
    options: ClientOptions | None = None,
    pool: HTTPConnectionPool | None = None,
    policy: IPolicyForHTTPS | None = None,
) -> IAgent:
    """An agent, for ``twisted.web`` and treq, whose requests go through a SOCKS server.

    ``proxy``: the endpoint of that server. ``isolation``: any bytes; agents with different ones
    share neither a circuit nor a connection, also where they share a ``pool``. It replaces that of
    ``options``, whose ``optimistic`` is for http alone. ``pool``: connections that are kept for
    further requests; without it none is. ``policy``: how servers of https are verified; by default
    as browsers do.
    """
    check_arguments(IReactorTime, reactor=reactor)
    check_arguments(IStreamClientEndpoint, proxy=proxy)
    check_arguments(ClientOptions, None, options=options)
    check_arguments(HTTPConnectionPool, None, pool=pool)
    check_arguments(IPolicyForHTTPS, None, policy=policy)
    options = options or ClientOptions()
    if isolation is not None:
        options = replace(options, isolation=isolation)
    policy = policy or BrowserLikePolicyForHTTPS()
    kept = HTTPConnectionPool(reactor, persistent=False) if pool is None else pool
    factory = SOCKSEndpointFactory(reactor, proxy, options, policy)
    identity: Any = IsolatedPool(kept, (proxy, options))
    return SOCKSAgent(Agent.usingEndpointFactory(reactor, factory, identity))
