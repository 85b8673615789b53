"""A backend without Tor: names are looked up here, and connections leave from this machine.

Never a fall-back for tor. Unless ``allow_internal`` says otherwise, an address is judged after its
look-up, and the very address that was judged is connected to: loopback, link-local, private, shared
(CGNAT) and every other address that is not of the public Internet is refused.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.codes import AddressType
from torsocks_tx.errors import HostUnreachable, NotAllowed
from torsocks_tx.interfaces import IBackend, IReceiver
from torsocks_tx.isolation import Isolation
from torsocks_tx.messages import Address, Request

ATTEMPT_TIMEOUT = 10.0
"""Seconds for one address of a name that has several."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")


def is_internal(host: str) -> bool:
    """Whether this IP address is not one of the public Internet.

    IPv4 addresses inside IPv6 ones (mapped, 6to4, Teredo, NAT64) are judged as what they stand for.
    """
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(v4 is not None and is_internal(str(v4)) for v4 in inner):
            return True
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return False
        # Python counts the rest of the space, which nobody has been given, as global.
        if ip not in _GLOBAL_UNICAST:
            return True
    return not ip.is_global or ip.is_multicast or ip.is_unspecified


@implementer(IResolutionReceiver)
class _Collector:
    """Gathers the answers of Twisted's name resolver."""

    def __init__(self) -> None:
        self.done: Deferred[list[str]] = Deferred()
        self._hosts: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Nothing to do yet."""

    def addressResolved(self, address: IAddress) -> None:
        """One answer."""
        self._hosts.append(getattr(address, "host"))  # noqa: B009

    def resolutionComplete(self) -> None:
        """All answers are there."""
        if not self.done.called:
            self.done.callback(self._hosts)


@implementer(IStreamClientEndpoint)
class _DirectEndpoint:
    """Looks up, judges, and tries the addresses in turn."""

    def __init__(self, backend: DirectBackend, address: Address, flags: frozenset[str]) -> None:
        self._backend = backend
        self._address = address
        self._flags = flags

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        hosts = await self._backend.look_up(self._address, self._flags)
        for host in hosts[:-1]:
            try:
                return await self._attempt(host, ATTEMPT_TIMEOUT, factory)
            except error.ConnectError:
                continue
        return await self._attempt(hosts[-1], None, factory)

    async def _attempt(self, host: str, timeout: float | None, factory: Any) -> IProtocol:
        kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        # The server's own connect deadline ends the last attempt.
        endpoint = kind(self._backend.reactor, host, self._address.port, timeout=timeout or 1e6)
        protocol: IProtocol = await endpoint.connect(factory)
        return protocol


def _chosen(hosts: Iterable[str], flags: frozenset[str]) -> list[str]:
    """The addresses that these flags allow, the preferred kind first."""
    allowed = [
        host for host in hosts if ("NoIPv6Traffic" if ":" in host else "NoIPv4Traffic") not in flags
    ]
    return sorted(allowed, key=lambda host: "PreferIPv6" in flags and ":" not in host)


@implementer(IBackend)
class DirectBackend:
    """Connects from this machine; ``allow_internal`` admits internal addresses."""

    def __init__(self, reactor: Any, *, allow_internal: bool = False) -> None:
        self.reactor = reactor
        self._allow_internal = allow_internal
        self._endpoints = EndpointBackend(reactor, self._endpoint)

    def _endpoint(self, request: Request, isolation: Isolation) -> _DirectEndpoint:
        return _DirectEndpoint(self, request.address.literal(), isolation.port_flags)

    def open(self, request: Request, isolation: Isolation, receiver: IReceiver) -> Any:
        """Begin a stream."""
        return self._endpoints.open(request, isolation, receiver)

    def resolve(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Look up an address of a name, IPv4 before IPv6."""
        return Deferred.fromCoroutine(self._resolve(request.address, isolation.port_flags))

    async def _resolve(self, address: Address, flags: frozenset[str]) -> Address:
        hosts = await self.look_up(address, flags)
        prefer_ipv6 = "PreferIPv6" in flags
        return Address.of(sorted(hosts, key=lambda host: (":" in host) != prefer_ipv6)[0])

    def resolve_ptr(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Look up the name of an IP address."""
        return Deferred.fromCoroutine(self._resolve_ptr(request.address.literal().host))

    async def _resolve_ptr(self, host: str) -> Address:
        self._judge([host])
        try:
            name, _ = await deferToThreadPool(
                self.reactor,
                self.reactor.getThreadPool(),
                socket.getnameinfo,
                (host, 0),
                socket.NI_NAMEREQD,
            )
        except OSError:
            raise HostUnreachable("no name") from None
        return Address(AddressType.HOSTNAME, name)

    async def look_up(self, address: Address, flags: frozenset[str] = frozenset()) -> list[str]:
        """The IP addresses of a destination, none of them forbidden. Raises ``Refused``.

        ``flags`` are those of a SocksPort of tor that concern names: ``NoIPv4Traffic``,
        ``NoIPv6Traffic``, ``PreferIPv6``.
        """
        if address.is_onion:
            raise HostUnreachable("onion services need Tor")
        if address.is_ip:
            return self._judge([address.host])
        try:
            address.host.encode("idna")
        except UnicodeError:
            # Twisted's resolver would never answer.
            raise HostUnreachable("not a name that can be looked up") from None
        collector = _Collector()
        self.reactor.nameResolver.resolveHostName(collector, address.host)
        hosts = await collector.done
        if not hosts:
            raise HostUnreachable("no address")
        return self._judge(_chosen(dict.fromkeys(hosts), flags))

    def _judge(self, hosts: Sequence[str]) -> list[str]:
        allowed = [host for host in hosts if self._allow_internal or not is_internal(host)]
        if not allowed:
            raise NotAllowed("an internal address")
        return allowed
