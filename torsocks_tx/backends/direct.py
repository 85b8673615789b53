"""A backend without Tor: names are looked up here, and connections leave from this machine.

It never replaces tor where tor fails. Unless ``allow_internal`` is set, an address is checked after
its look-up, and the address that was checked is the one connected to. Loopback, link-local, private
and shared (CGNAT) addresses, any other outside the public Internet, and this machine's own are
refused.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from torsocks_tx import errors
from torsocks_tx.backends.names import NameResolver
from torsocks_tx.client.connection import Stream
from torsocks_tx.client.failures import log_fault
from torsocks_tx.interfaces import IBackend, IReceiver
from torsocks_tx.limits import check_arguments
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.relay.connector import Connect, Target
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address, Request

# IANA's IPv4 Special-Purpose Address Registry, whole, and multicast. Its few anycast blocks that
# are "globally reachable" lead to whoever is nearest, which may be the local network.
_SPECIAL_IPV4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
# What IPv6 addresses may be public at all, and what IANA's IPv6 Special-Purpose Address Registry
# has inside: all but 6to4 and Teredo, which are judged by the IPv4 addresses in them.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_SPECIAL_IPV6 = tuple(
    ipaddress.IPv6Network(block)
    for block in ("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)


def is_internal(host: str) -> bool:
    """Whether this IP address is outside the public Internet.

    An IPv6 address with an IPv4 one inside (mapped, 6to4, Teredo, NAT64, ISATAP) is internal if the
    inner one is.
    """
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return any(ip in block for block in _SPECIAL_IPV4)
    inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.ipv4_mapped is not None or ip in _NAT64:
        return is_internal(str(inner))
    embedded = [ip.sixtofour, *(ip.teredo or ())]
    if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP:
        embedded.append(inner)
    if any(v4 is not None and is_internal(str(v4)) for v4 in embedded):
        return True
    special = ip.teredo is None and any(ip in block for block in _SPECIAL_IPV6)
    return special or ip not in _GLOBAL_UNICAST


def is_own(host: str) -> bool:
    """Whether this IP address belongs to this machine.

    Only such an address can be bound to, unless the system allows any (``ip_nonlocal_bind``); then
    it is one if packets to it would leave from it. Nothing is sent.
    """
    if not _can_bind(host):
        return False
    foreign = "2001:db8::1" if ":" in host else "192.0.2.1"
    return not _can_bind(foreign) or _reaches_itself(host)


def _can_bind(host: str) -> bool:
    try:
        family, address = Target.of(host, 0)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)
    except OSError as error:
        # Without a free descriptor the answer is unknown: refuse to be safe.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


def _reaches_itself(host: str) -> bool:
    try:
        family, address = Target.of(host, 9)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return bool(probe.getsockname()[0] == probe.getpeername()[0])
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)


def _chosen(hosts: Iterable[str], flags: frozenset[str]) -> list[str]:
    """Return the addresses that these flags allow: IPv4 first, unless IPv6 is preferred."""
    allowed = [
        host
        for host in dict.fromkeys(hosts)
        if ("NoIPv6Traffic" if ":" in host else "NoIPv4Traffic") not in flags
    ]
    return sorted(allowed, key=lambda host: (":" in host) is not ("PreferIPv6" in flags))


@implementer(IBackend)
class DirectBackend:
    """Connects from this machine; ``allow_internal`` also allows internal addresses.

    ``resolver`` looks names up: as this machine does, unless another is given. ``connect`` is the
    system call, for tests.
    """

    uses_tor = False

    def __init__(
        self,
        reactor: Any,
        *,
        allow_internal: bool = False,
        resolver: NameResolver | None = None,
        connect: Connect = socket.socket.connect_ex,
    ) -> None:
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(bool, allow_internal=allow_internal)
        check_arguments(NameResolver, None, resolver=resolver)
        check_arguments(Callable, connect=connect)
        self.reactor = reactor
        self.allow_internal = allow_internal
        self._resolver = resolver or NameResolver(reactor)
        self.connect = connect

    def open(self, request: Request, isolation: Isolation, receiver: IReceiver) -> Stream:
        """Begin a stream."""
        stream = Stream(self.reactor, receiver, half_close=True)
        with suppress(errors.SOCKSError):
            target = self.target(request)
            if target is not None:
                stream.dial(self.reactor, [target], connect=self.connect)
                return stream
        looking = self._dial_name(request.address, isolation.port_flags, stream)
        stream.prepare_by(Deferred.fromCoroutine(looking).addErrback(log_fault))
        return stream

    def target(self, request: Request) -> Target | None:
        """Return where to connect for this request, if it needs no look-up, else None.

        Raises ``SOCKSError`` for an address that is not allowed.
        """
        address = request.address.literal()
        if not address.is_ip:
            return None
        try:
            return Target.of(self._judge([address.host])[0], address.port)
        except OSError:
            return None

    async def _dial_name(self, address: Address, flags: frozenset[str], stream: Stream) -> None:
        hosts = await self._look_up(address, flags)
        try:
            targets = [Target.of(host, address.port) for host in hosts]
        except OSError:
            raise errors.NetworkUnreachable("no such interface") from None
        stream.dial(self.reactor, targets, connect=self.connect)

    def resolve(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Look up an address of a name; an IPv4 address if there is one."""
        looking = Deferred.fromCoroutine(self._look_up(request.address, isolation.port_flags))
        return looking.addCallback(lambda hosts: Address.of(hosts[0]))

    def resolve_ptr(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Look up the name of an IP address."""
        return Deferred.fromCoroutine(self._resolve_ptr(request.address.literal().host))

    async def _resolve_ptr(self, host: str) -> Address:
        self._judge([host])
        return Address(AddressType.HOSTNAME, await self._resolver.name_of(host))

    async def _look_up(self, address: Address, flags: frozenset[str]) -> list[str]:
        """Return the allowed IP addresses of a destination. Raises ``SOCKSError``.

        A name with internal addresses only is not found, so that its existence stays hidden.
        ``flags`` are those of a SocksPort of tor that concern names: ``NoIPv4Traffic``,
        ``NoIPv6Traffic``, ``PreferIPv6``.
        """
        # The receiver must not be called from inside ``open``, and some answers are immediate.
        await deferLater(self.reactor, 0.0, lambda: None)
        if address.is_onion:
            raise errors.HostUnreachable("onion services need Tor")
        if address.is_ip:
            return self._judge([address.literal().host])
        hosts = await self._resolver.addresses(address.host)
        try:
            return self._judge(_chosen(hosts, flags))
        except errors.NotAllowed:
            raise errors.HostUnreachable("no address that is allowed") from None

    def _judge(self, hosts: Sequence[str]) -> list[str]:
        allowed = [
            host for host in hosts if self.allow_internal or not (is_internal(host) or is_own(host))
        ]
        if not allowed:
            raise errors.NotAllowed("an internal address")
        return allowed
