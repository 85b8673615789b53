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

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.client.stream import Stream
from torsocks_tx.errors import HostUnreachable, NotAllowed, Refused
from torsocks_tx.interfaces import IBackend, IReceiver
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.relay.connector import Connect, Target
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address, Request

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


def _chosen(hosts: Iterable[str], flags: frozenset[str]) -> list[str]:
    """The addresses that these flags allow, the preferred kind first."""
    allowed = [
        host for host in hosts if ("NoIPv6Traffic" if ":" in host else "NoIPv4Traffic") not in flags
    ]
    return sorted(allowed, key=lambda host: "PreferIPv6" in flags and ":" not in host)


@implementer(IBackend)
class DirectBackend:
    """Connects from this machine; ``allow_internal`` admits internal addresses.

    ``connect`` is the system call, for tests.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        allow_internal: bool = False,
        connect: Connect = socket.socket.connect_ex,
    ) -> None:
        self.reactor = reactor
        self._allow_internal = allow_internal
        self.connect = connect

    def open(self, request: Request, isolation: Isolation, receiver: IReceiver) -> Stream:
        """Begin a stream. To an IP address it may be open, or refused, before this returns."""
        stream = Stream(self.reactor, receiver, half_close=True)
        address = request.address.literal()
        if address.is_ip:
            try:
                self._dial(self._judge([address.host]), stream, address.port)
            except Refused as reason:
                stream.wait_for(fail(reason))
            return stream
        looking = Deferred.fromCoroutine(self.look_up(address, isolation.port_flags))
        looking.addErrback(self._fault)
        stream.wait_for(looking)
        looking.addCallback(self._dial, stream, address.port)
        return stream

    def target(self, request: Request) -> Target | None:
        """Where to connect for this request, if that is known without a look-up, else None.

        Raises ``Refused`` for an address that is not allowed.
        """
        address = request.address.literal()
        if not address.is_ip:
            return None
        try:
            return Target.of(self._judge([address.host])[0], address.port)
        except OSError:
            return None

    def _dial(self, hosts: Sequence[str] | None, stream: Stream, port: int) -> None:
        if hosts:
            targets = [Target.of(host, port) for host in hosts]
            stream.dial(self.reactor, targets, connect=self.connect)

    def _fault(self, failure: Failure) -> Failure:
        if failure.check(Refused, CancelledError) is None:
            self._log.failure("a fault while looking up; the client is refused", failure)
        return failure

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
