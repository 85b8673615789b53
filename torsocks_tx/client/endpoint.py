"""A client: connections and look-ups by way of any SOCKS4, SOCKS4a or SOCKS5 server.

    endpoint = SOCKSClientEndpoint(reactor, proxy, "example.com", 443)

Names go to the server as they are and are never looked up here.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from torsocks_tx.client.failures import SOCKSError
from torsocks_tx.client.tunnel import Tunnel, TunnelFactory
from torsocks_tx.errors import ProtocolError
from torsocks_tx.proxyerrors import ProxyBroken
from torsocks_tx.relay.transports import OneProtocol
from torsocks_tx.socks.address import MAX_NAME, check_destination
from torsocks_tx.socks.client import Initiator
from torsocks_tx.socks.constants import AddressType, Command, Role
from torsocks_tx.socks.messages import Address, KeyValues
from torsocks_tx.socks.offers import ClientOptions
from torsocks_tx.socks.outcomes import Opened

_DEFAULTS = ClientOptions()
_UNSAYABLE = re.compile(r"[\x00-\x20\x7f]")


@implementer(IStreamClientEndpoint)
class SOCKSClientEndpoint:
    """An endpoint that leads to ``host:port`` by way of the SOCKS server at ``proxy``.

    ``host`` is an IP address or an ASCII name, as text or bytes. Raises ValueError for what cannot
    be said: a name of more than 255 bytes or with blanks, a port out of range, or wishes that
    ``options`` cannot combine.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        proxy: IStreamClientEndpoint,
        host: str | bytes,
        port: int,
        options: ClientOptions = _DEFAULTS,
    ) -> None:
        if not 0 < port < 65536:
            raise ValueError("a port is 1 to 65535")
        self._reactor = reactor
        self._proxy = proxy
        self._options = options
        self._address = _address(host, port)
        self._request = options.request(Command.CONNECT, self._address)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol once it is connected.

        Errback ``SOCKSError`` if the SOCKS server refuses, or the error of ``proxy``. Cancelling
        closes the connection. With ``optimistic`` the protocol is connected before the server has
        answered, and a refusal is the reason of its ``connectionLost``.
        """
        return self.connect_with_answer(protocolFactory).addCallback(_protocol)

    def connect_with_answer(
        self, protocolFactory: IProtocolFactory
    ) -> Deferred[tuple[IProtocol, KeyValues]]:
        """The same, but fires with the protocol and the pairs that the server said.

        There are none unless method X'97' was selected.
        """
        offer = self._options.offer
        # Of other hosts, and on other ports, tor does not say F0 at all.
        doubtful = self._address.is_onion and offer.role is not Role.PT
        initiator = Initiator(self._request, offer=offer, doubtful=doubtful)
        tunnel = Tunnel(self._reactor, initiator, self._options)
        factory = TunnelFactory(tunnel, protocolFactory, _twisted_address(self._address))
        done: Deferred[Any] = tunnel.begin(self._proxy, factory)
        return done.addCallback(lambda opened: (tunnel.inner, opened.pairs))


def resolve(
    reactor: IReactorTime,
    proxy: IStreamClientEndpoint,
    name: str | bytes,
    options: ClientOptions = _DEFAULTS,
) -> Deferred[str]:
    """Look up a name by way of a tor's SOCKS server: fires with the text of an IP address.

    Errback ``SOCKSError``, or the error of ``proxy``. Tor's command RESOLVE: other servers refuse
    it. Cancelling gives it up.
    """
    return _look_up(reactor, proxy, Command.RESOLVE, name, options)


def resolve_ptr(
    reactor: IReactorTime,
    proxy: IStreamClientEndpoint,
    ip: str | bytes,
    options: ClientOptions = _DEFAULTS,
) -> Deferred[str]:
    """Look up the name of an IP address: fires with the name. Else as ``resolve``.

    ValueError for what is no IP address.
    """
    return _look_up(reactor, proxy, Command.RESOLVE_PTR, ip, options)


def _look_up(
    reactor: IReactorTime,
    proxy: IStreamClientEndpoint,
    command: Command,
    host: str | bytes,
    options: ClientOptions,
) -> Deferred[str]:
    try:
        address = _address(host, 0)
        if command is Command.RESOLVE_PTR and not address.is_ip:
            raise ValueError("a name is looked up of an IP address")
        request = options.request(command, address)
    except ValueError:
        return fail()
    tunnel = Tunnel(reactor, Initiator(request, offer=options.offer), options)
    done: Deferred[Any] = tunnel.begin(proxy, OneProtocol(tunnel))
    return done.addCallback(_answer, command)


def _protocol(connected: tuple[IProtocol, KeyValues]) -> IProtocol:
    return connected[0]


def _answer(opened: Opened, command: Command) -> str:
    """The host of the answer, once it is seen to be one: a server may say anything."""
    address = opened.reply.address
    try:
        check_destination(address)
    except ProtocolError as error:
        raise SOCKSError(ProxyBroken(str(error)), pairs=opened.pairs) from None
    if address.is_ip is (command is Command.RESOLVE_PTR):
        wrong = ProxyBroken("the SOCKS server answered with another kind of address")
        raise SOCKSError(wrong, pairs=opened.pairs)
    return address.literal().host


def _address(host: str | bytes, port: int) -> Address:
    if isinstance(host, bytes):
        host = host.decode("latin-1")  # what is not ASCII is refused as text is
    if not host or not host.isascii():
        raise ValueError(
            "a host is an IP address or an ASCII name; write others in their IDNA form"
        )
    if len(host) > MAX_NAME or _UNSAYABLE.search(host):
        raise ValueError("a host has at most 255 bytes, and no blanks, line ends or NULs")
    return Address.of(host, port)


def _twisted_address(address: Address) -> IAddress:
    if address.type is AddressType.HOSTNAME:
        return HostnameAddress(address.host.encode("ascii"), address.port)
    kind = IPv4Address if address.type is AddressType.IPV4 else IPv6Address
    return kind("TCP", address.host, address.port)
