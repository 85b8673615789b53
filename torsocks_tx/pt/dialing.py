"""How a transport connects outwards: directly, from a given address, or through a proxy.

What the parent asks for is kept: where there is a proxy, nothing goes around it.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from torsocks_tx.client.endpoint import HTTPClientEndpoint, SOCKSClientEndpoint
from torsocks_tx.errors import InvalidBridge, ProtocolError
from torsocks_tx.pt.proxy_uri import ProxyKind, UpstreamProxy
from torsocks_tx.socks.address import check_destination
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address

_VERSIONS = {ProxyKind.SOCKS5: 5, ProxyKind.SOCKS4A: 4}


class Dialer:
    """Makes endpoints. ``bind_v4`` and ``bind_v6`` are the addresses to connect from, if any."""

    def __init__(
        self,
        reactor: Any,
        *,
        proxy: UpstreamProxy | None = None,
        bind_v4: str | None = None,
        bind_v6: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self._bind_v4 = bind_v4
        self._bind_v6 = bind_v6

    def endpoint(self, address: Address) -> IStreamClientEndpoint:
        """Leads to the address. A name goes to the proxy as it is, else it is looked up here.

        Raises ``InvalidBridge`` for what is no host name: it may have come from a bridge line.
        """
        try:
            check_destination(address)
        except ProtocolError as error:
            raise InvalidBridge(str(error)) from None
        if self._proxy is None:
            return self._direct(address)
        proxy, who = self._direct(self._proxy.address), self._proxy.credentials
        if self._proxy.kind is ProxyKind.HTTP:
            return HTTPClientEndpoint(self._reactor, proxy, address, who)
        # Nothing that needs method 0x97 is said, and common proxies do not know it.
        options = ClientOptions(_VERSIONS[self._proxy.kind], credentials=who, extended=False)
        return SOCKSClientEndpoint(self._reactor, proxy, address.host, address.port, options)

    def _direct(self, address: Address) -> IStreamClientEndpoint:
        host, port = address.host, address.port
        if address.type is AddressType.HOSTNAME:
            # One source for both kinds of address: attempts by the other kind fail.
            source = _source(self._bind_v4 or self._bind_v6)
            return HostnameEndpoint(self._reactor, host, port, bindAddress=source)
        is_ipv6 = address.type is AddressType.IPV6
        bind = self._bind_v6 if is_ipv6 else self._bind_v4
        # A loopback address cannot be reached from any but its own.
        source = None if ipaddress.ip_address(host).is_loopback else _source(bind)
        kind = TCP6ClientEndpoint if is_ipv6 else TCP4ClientEndpoint
        return kind(self._reactor, host, port, bindAddress=source)


def _source(host: str | None) -> tuple[str, int] | None:
    return None if host is None else (host, 0)
