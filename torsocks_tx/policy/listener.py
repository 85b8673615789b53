"""What one listener allows: its flags, named as tor(1) names those of its SocksPort.

``ListenerPolicy.check`` judges a request before a backend sees it. How the words of a command line
become a policy is in ``flags``, what a flag means for circuits in ``isolation``, and what it means
for replies in ``replies``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torsocks_tx.errors import AddressTypeNotSupported, HostUnreachable, NotAllowed
from torsocks_tx.policy.isolation import IsolationFlags
from torsocks_tx.socks.constants import AddressType, Command, Role, Version
from torsocks_tx.socks.messages import Address, Request


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """The flags of a listener, each named as on the command line but with underscores.

    ``ipv6_connect`` off gives the letter of the older socks-extensions: IPv6 addresses in CONNECT
    are answered 08. ``allow_public`` lets the listener stand on an address that others can reach.
    ``extended_auth`` off: method X'97' does not exist. ``role`` is no flag: it says whether
    applications connect here, or a tor that uses a pluggable transport.
    """

    isolation: IsolationFlags = field(default_factory=IsolationFlags)
    extended_errors: bool = False
    extended_auth: bool = True
    swap_e0_e1: bool = False
    prefer_socks_no_auth: bool = False
    onion_traffic: bool = True
    ipv4_traffic: bool = True
    ipv6_traffic: bool = True
    prefer_ipv6: bool = False
    dns_request: bool = True
    ipv6_connect: bool = True
    safe_socks: bool = False
    test_socks: bool = False
    allow_public: bool = False
    role: Role = Role.TOR

    @property
    def port_flags(self) -> frozenset[str]:
        """The flags that tor's own SocksPort must have: only tor can keep them for names.

        They concern requests for which ``isolation.is_for_exit`` holds.
        """
        if not self.dns_request:
            return frozenset()
        wanted = {
            "NoIPv4Traffic": not self.ipv4_traffic,
            "NoIPv6Traffic": not self.ipv6_traffic,
            "PreferIPv6": self.prefer_ipv6,
        }
        return frozenset(name for name, on in wanted.items() if on)

    def check(self, request: Request) -> None:
        """Raise the ``Refused`` that this listener gives to a request that it does not allow."""
        if self.safe_socks and self._leaks(request):
            raise NotAllowed("SafeSocks: the request has an IP address in place of a name")
        if not self.ipv6_connect and self._is_ipv6_connect(request):
            raise AddressTypeNotSupported("NoIPv6Connect")
        if not self._carries(request.address.literal()):
            kind = NotAllowed if request.command is Command.CONNECT else HostUnreachable
            raise kind("a traffic flag of this listener")

    def _leaks(self, request: Request) -> bool:
        """Whether the client may have looked the name up by itself, outside Tor."""
        by_ip = request.address.type is not AddressType.HOSTNAME
        return by_ip and request.command is not Command.RESOLVE_PTR

    def _is_ipv6_connect(self, request: Request) -> bool:
        by_socks5 = request.version is Version.SOCKS5 and request.command is Command.CONNECT
        return by_socks5 and request.address.literal().type is AddressType.IPV6

    def _carries(self, address: Address) -> bool:
        """Whether the traffic flags let this destination pass, whatever is asked about it."""
        if address.type is AddressType.IPV4:
            return self.ipv4_traffic
        if address.type is AddressType.IPV6:
            return self.ipv6_traffic
        return self.onion_traffic if address.is_onion else self.dns_request
