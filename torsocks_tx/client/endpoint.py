"""A client: connections and look-ups by way of any SOCKS4, SOCKS4a or SOCKS5 server.

    endpoint = SOCKSClientEndpoint(reactor, proxy, "example.com", 443)

Names go to the server as they are and are never looked up here.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.client.connection import LookUp, Stream
from torsocks_tx.client.failures import proxy_failed
from torsocks_tx.errors import ProtocolError, ProxyBroken, SOCKSError
from torsocks_tx.http.client import HTTPClientHandshake
from torsocks_tx.interfaces import IReceiver
from torsocks_tx.limits import check_arguments
from torsocks_tx.relay.connector import OneProtocol
from torsocks_tx.relay.sockets import abort, is_closing
from torsocks_tx.socks.client import ClientHandshake
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.constants import AddressType, Command, Role
from torsocks_tx.socks.messages import Address, KeyValues
from torsocks_tx.socks.wire import MAX_NAME, check_destination

_DEFAULTS = ClientOptions()
_UNSAYABLE = re.compile(r"[\x00-\x20\x7f]")


@implementer(IStreamClientEndpoint)
class SOCKSClientEndpoint:
    """An endpoint that leads to ``host:port`` by way of the SOCKS server at ``proxy``.

    ``host`` is an IP address or an ASCII name, as text or bytes. Raises TypeError for arguments of
    a wrong kind, and ValueError for what cannot be said: a name of more than 255 bytes or with
    blanks, a port out of range, or wishes that ``options`` cannot combine.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        proxy: IStreamClientEndpoint,
        host: str | bytes,
        port: int,
        options: ClientOptions = _DEFAULTS,
    ) -> None:
        _check(reactor, proxy, options)
        if not isinstance(port, int) or not 0 < port < 65536:
            raise ValueError(f"a port must be a whole number from 1 to 65535, not {port!r}")
        self._reactor = reactor
        self._proxy = proxy
        self._options = options
        self._address = _address(host, port)
        self._request = options.request(Command.CONNECT, self._address)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol once it is connected.

        Errback ``SOCKSError``: ``Refused`` or ``ProxyFault``. Cancelling closes the connection.
        With ``optimistic`` the protocol is connected before the server has answered, and a failure
        is the reason of its ``connectionLost``.
        """
        return self.connect_with_answer(protocolFactory).addCallback(lambda answer: answer[0])

    def connect_with_answer(
        self, protocolFactory: IProtocolFactory
    ) -> Deferred[tuple[IProtocol, KeyValues]]:
        """The same, but fires with the protocol and the pairs that the server said.

        There are none unless method X'97' was selected.
        """
        options, handshake = self._options, self._handshake()
        tunnel = _Tunnel(self._reactor, protocolFactory, self._address)
        opening = tunnel.connect(self._proxy, handshake, options.timeout, options.optimistic)
        return opening.addCallback(lambda protocol: (protocol, handshake.pairs))

    def _handshake(self) -> ClientHandshake | HTTPClientHandshake:
        options, offer = self._options, self._options.offer
        if options.protocol == "http":
            known, token, early = options.credentials, options.isolation_token, options.optimistic
            return HTTPClientHandshake(self._address, known, token, optimistic=early)
        # Of other hosts, and on other ports, tor does not say F0 at all.
        verify_f0 = self._address.is_onion and offer.role is not Role.PT
        return ClientHandshake(self._request, offer=offer, verify_f0=verify_f0)


@implementer(IReceiver)
class _Tunnel(Factory):
    """Leads one connection to the protocol of an application's factory.

    It makes that connection, as a factory, and hears what becomes of it, as a receiver. The
    protocol gets the real transport; what comes in passes through the stream, so that it works over
    any endpoint, wrapped ones too.
    """

    noisy = False

    def __init__(self, clock: IReactorTime, factory: Any, address: Address) -> None:
        self._clock = clock
        self._factory = factory
        self._address = address
        self._given: Any = None  # the transport, once the application has it
        self._left = False
        self._done: Deferred[IProtocol] = Deferred(self._cancel)

    def connect(
        self,
        proxy: IStreamClientEndpoint,
        handshake: ClientHandshake | HTTPClientHandshake,
        timeout: float | None,
        optimistic: bool,
    ) -> Deferred[IProtocol]:
        """Connect and ask. ``optimistic``: the application need not wait for the answer."""
        self._optimistic = optimistic
        self._stream = Stream(self._clock, self, half_close=True, refusal_for=proxy_failed)
        self._stream.ask(handshake, timeout=timeout, application=self)
        self._stream.prepare_by(proxy.connect(self))
        return self._done

    def _cancel(self, _: object) -> None:
        self._left = True
        if self._given is None:
            self._stream.abort()
        else:
            abort(self._given)

    # The factory of the connection.

    def doStart(self) -> None:
        """Start the application's factory."""
        self._factory.doStart()

    def doStop(self) -> None:
        """Stop the application's factory."""
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """The stream, unless the application wants no connection; half-closeable if that is."""
        self._protocol = self._factory.buildProtocol(_twisted_address(self._address))
        if self._protocol is None:
            return None
        if IHalfCloseableProtocol.providedBy(self._protocol):
            return self._stream
        return _Protocol(self._stream)

    # The receiver of the stream.

    def requested(self) -> None:
        """The request is sent."""
        if self._optimistic and self._given is None:
            self._hand_over()

    def opened(self) -> None:
        """The stream is open."""
        if self._given is None:
            self._hand_over()
            self._left = self._left or is_closing(self._given)

    def _hand_over(self) -> None:
        self._given = self._stream.transport
        self._before = _installed(self._given)
        self._protocol.makeConnection(self._given)
        if not self._done.called:
            self._done.callback(self._protocol)

    def refused(self, reason: SOCKSError) -> None:
        """There is no stream; a protocol that has the connection already hears why."""
        error, end = Failure(reason), self._stream.end
        if self._given is None:
            # The application's factory may have refused the connection to the proxy.
            self._done.errback(end if end is not None and end.check(NoProtocol) else error)
        elif end is not None and is_closing(self._given):
            self._protocol.connectionLost(end)  # the application left first
        else:
            self._protocol.connectionLost(error)

    def data(self, data: bytes) -> None:
        """Bytes from the remote."""
        # An application may have put another protocol in place of its first, or have left at once.
        now = _installed(self._given)
        receiver = self._protocol if now is self._before else now
        if receiver is not None and not self._left:
            receiver.dataReceived(data)

    def eof(self) -> None:
        """The remote will send no more."""
        self._protocol.readConnectionLost()

    def write_lost(self) -> None:
        """The sending side is shut down, as the application asked."""
        self._protocol.writeConnectionLost()

    def lost(self, clean: bool) -> None:
        """The connection is gone."""
        self._protocol.connectionLost(self._stream.end)


_Protocol: Any = proxyForInterface(IProtocol)
"""A stream as a protocol that is not half-closeable."""


def _installed(transport: Any) -> Any:
    """The protocol that a socket gives its data to.

    None for wrappers: they have no such attribute of their own, and show that of what they wrap.
    """
    return getattr(transport, "__dict__", {}).get("protocol")


def resolve(
    reactor: IReactorTime,
    proxy: IStreamClientEndpoint,
    name: str | bytes,
    options: ClientOptions = _DEFAULTS,
) -> Deferred[str]:
    """Look up a name by way of a tor's SOCKS server: fires with the text of an IP address.

    Errback ``SOCKSError``. Tor's command RESOLVE: other servers refuse
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
    _check(reactor, proxy, options)
    try:
        address = _address(host, 0)
        if command is Command.RESOLVE_PTR and not address.is_ip:
            raise ValueError("a name is looked up of an IP address")
        request = options.request(command, address)
    except ValueError:
        return fail()
    handshake = ClientHandshake(request, offer=options.offer)
    look_up = LookUp()
    stream = look_up.stream = Stream(reactor, look_up, half_close=False, refusal_for=proxy_failed)
    stream.ask(handshake, timeout=options.timeout)
    stream.prepare_by(proxy.connect(OneProtocol(stream)))

    def check(answer: Address) -> str:
        """The host of the answer, once it is seen to be one: a server may say anything."""
        try:
            check_destination(answer)
            if answer.is_ip is (command is Command.RESOLVE_PTR):
                raise ProtocolError("the SOCKS server answered with another kind of address")
        except ProtocolError as error:
            raise ProxyBroken(str(error)) from None
        return answer.literal().host

    return look_up.answer.addCallback(check)


def _check(reactor: object, proxy: object, options: object) -> None:
    check_arguments(IReactorTime, reactor=reactor)
    check_arguments(IStreamClientEndpoint, proxy=proxy)
    check_arguments(ClientOptions, options=options)


def _address(host: str | bytes, port: int) -> Address:
    if isinstance(host, bytes):
        host = host.decode("latin-1")  # what is not ASCII is refused as text is
    if not isinstance(host, str):
        raise TypeError(f"a host must be text or bytes, not {type(host).__name__}")
    if not host or not host.isascii():
        raise ValueError(
            "a host must be an IP address or an ASCII name; write others in their IDNA form"
        )
    if len(host) > MAX_NAME or _UNSAYABLE.search(host):
        raise ValueError("a host must have at most 255 bytes, and no blanks, line ends or NULs")
    return Address.of(host, port)


def _twisted_address(address: Address) -> IAddress:
    if address.type is AddressType.HOSTNAME:
        return HostnameAddress(address.host.encode("ascii"), address.port)
    kind = IPv4Address if address.type is AddressType.IPV4 else IPv6Address
    return kind("TCP", address.host, address.port)
