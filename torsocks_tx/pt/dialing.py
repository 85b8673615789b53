"""How a transport connects outwards: directly, from a given address, or through a proxy.

What the parent asks for is kept: where there is a proxy, nothing goes around it.
"""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from torsocks_tx.codes import AddressType, Command, Version
from torsocks_tx.errors import AddressTypeNotSupported, GeneralFailure, Refused
from torsocks_tx.handshake import Send
from torsocks_tx.http_initiator import HTTPInitiator
from torsocks_tx.initiator import Failed, Initiator, Opened
from torsocks_tx.messages import Address, Request
from torsocks_tx.pt.channel import CodecEndpoint
from torsocks_tx.pt.codec import Codec
from torsocks_tx.pt.proxy_uri import ProxyKind, UpstreamProxy


class ProxyCodec(Codec):
    """Asks a proxy for a stream, and then changes nothing."""

    ready = False

    def __init__(self, proxy: UpstreamProxy, address: Address) -> None:
        self._initiator: Initiator | HTTPInitiator
        if proxy.kind is ProxyKind.HTTP:
            self._initiator = HTTPInitiator(address, proxy.credentials)
        else:
            version = Version.SOCKS5 if proxy.kind is ProxyKind.SOCKS5 else Version.SOCKS4
            request = Request(version, Command.CONNECT, address, proxy.credentials)
            self._initiator = Initiator(request)

    def start(self) -> bytes:
        """The first words to the proxy; raises ``AddressTypeNotSupported``."""
        try:
            return self._initiator.start()
        except ValueError:
            raise AddressTypeNotSupported("SOCKS4 has no IPv6 addresses") from None

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        """Go on with the conversation; afterwards, pass on."""
        if self.ready:
            return data, b""
        payload = answer = b""
        for step in self._initiator.receive(data):
            match step:
                case Send(more):
                    answer += more
                case Opened(_, rest):
                    self.ready, payload = True, rest
                case Failed(reason):
                    raise reason
        return payload, answer

    def ended(self) -> Refused:
        """The proxy closed without an answer."""
        return GeneralFailure("the proxy closed without an answer")


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
        """Leads to the address. A name goes to the proxy as it is, else it is looked up here."""
        if self._proxy is None:
            return self._direct(address)
        make_codec = partial(ProxyCodec, self._proxy, address)
        return CodecEndpoint(self._direct(self._proxy.address), make_codec)

    def _direct(self, address: Address) -> IStreamClientEndpoint:
        host, port = address.host, address.port
        if address.type is AddressType.HOSTNAME:
            bind = self._bind_v4 or self._bind_v6
            return HostnameEndpoint(self._reactor, host, port, bindAddress=bind)
        is_ipv6 = address.type is AddressType.IPV6
        bind = self._bind_v6 if is_ipv6 else self._bind_v4
        # A loopback address cannot be reached from any but its own.
        bound = None if ipaddress.ip_address(host).is_loopback else bind
        kind = TCP6ClientEndpoint if is_ipv6 else TCP4ClientEndpoint
        return kind(self._reactor, host, port, bindAddress=(bound, 0) if bound else None)
