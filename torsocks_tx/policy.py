"""What one listener allows: its flags, named as tor(1) names those of its SocksPort.

``ListenerPolicy.check`` judges a request before a backend sees it; ``parse_flags`` reads the words of a command
line. What a flag means for circuits is in ``isolation``, what it means for replies in ``replies``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torsocks_tx.codes import AddressType, Command, Version
from torsocks_tx.errors import AddressTypeNotSupported, HostUnreachable, NotAllowed
from torsocks_tx.isolation import IsolationFlags, is_hostname
from torsocks_tx.messages import Request


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """The flags of a listener. Every field is a flag of the command line, in lower case with underscores.

    ``ipv6_connect`` off gives the letter of the older socks-extensions: IPv6 addresses in CONNECT are
    answered 08. ``allow_public`` lets the listener stand on an address that others can reach.
    """

    isolation: IsolationFlags = IsolationFlags()
    extended_errors: bool = False
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

    @property
    def port_flags(self) -> frozenset[str]:
        """The flags that tor's own SocksPort must have, because only tor can keep them for names."""
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
        if request.command is Command.RESOLVE and not self.dns_request and is_hostname(request):
            raise HostUnreachable("NoDNSRequest")
        if request.command is Command.CONNECT:
            self._check_connect(request)

    def _leaks(self, request: Request) -> bool:
        """Whether the client may have looked the name up by itself, outside Tor."""
        by_ip = request.address.type is not AddressType.HOSTNAME
        return by_ip and request.command is not Command.RESOLVE_PTR

    def _check_connect(self, request: Request) -> None:
        address = request.address.literal()
        if address.type is AddressType.HOSTNAME:
            allowed = self.onion_traffic if address.is_onion else self.dns_request
        elif address.type is AddressType.IPV4:
            allowed = self.ipv4_traffic
        else:
            if not self.ipv6_connect and request.version is Version.SOCKS5:
                raise AddressTypeNotSupported("IPv6Connect is off")
            allowed = self.ipv6_traffic
        if not allowed:
            raise NotAllowed("a traffic flag of this listener")
