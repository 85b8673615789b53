"""Transports: what their author writes and is given, and the SOCKS server in front of them.

::

    def veil(target: Target) -> IStreamClientEndpoint:
        return CodecEndpoint(target.endpoint, lambda: VeilCodec(target.require("secret")))

A transport is a function: given arguments and an address, it gives an endpoint. What that raises,
or what its ``connect`` fails with, decides the reply to the parent: ``Temporary``,
``InvalidBridge``, ``Internal``, any other ``SOCKSError``, or an error of the operating system. Any
other exception is a fault: it is logged with its traceback, and the reply is that of ``Internal``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from twisted.internet import endpoints
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx import errors
from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.client.endpoint import SOCKSClientEndpoint
from torsocks_tx.client.failures import destination_failed
from torsocks_tx.limits import Limits, check_arguments
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.pt.channel import kind_and_place, log_fault
from torsocks_tx.pt.spec import ProxyKind, UpstreamProxy
from torsocks_tx.server.connections import ConnectionLimiter, RareWarning
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks import userpass
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.constants import AddressType, Role
from torsocks_tx.socks.extended import UNSUPPORTED, key_list
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request
from torsocks_tx.socks.wire import check_destination

HANDSHAKE_TIMEOUT = 5.0
"""Seconds for the SOCKS handshake: the parent is on the same machine, and sends it at once."""

PREFIX = "PT."
"""What the keys of arguments begin with in method X'97'."""

_NO_ISOLATION = Isolation(Credentials(b""))
_OPTIONS = {
    ProxyKind.SOCKS5: ClientOptions(extended=False),
    ProxyKind.SOCKS4A: ClientOptions(4, extended=False),
    ProxyKind.HTTP: ClientOptions(protocol="http"),
}
_log = Logger()


@lru_cache(maxsize=64)
def _refusals(why: str) -> RareWarning:
    """Return the counter of the attempts that are refused for one reason."""
    text = "the transport refuses the bridge ({why}); attempts refused: {count}"
    return RareWarning(_log, text)


@dataclass(frozen=True, slots=True)
class Dialer:
    """Makes endpoints that connect as the parent asks: directly, or through a proxy only.

    ``bind_v4`` and ``bind_v6`` are the addresses to connect from, if any.
    """

    reactor: Any
    _: KW_ONLY
    proxy: UpstreamProxy | None = None
    bind_v4: str | None = None
    bind_v6: str | None = None

    def __post_init__(self) -> None:
        check_arguments(IReactorTime, reactor=self.reactor)
        check_arguments(UpstreamProxy, None, proxy=self.proxy)
        check_arguments(str, None, bind_v4=self.bind_v4, bind_v6=self.bind_v6)

    def endpoint(self, address: Address) -> IStreamClientEndpoint:
        """Return an endpoint for an address. A proxy looks names up; without one, this machine.

        Raises ``InvalidBridge`` for an invalid host name: it may have come from a bridge line.
        """
        try:
            check_destination(address)
        except errors.ProtocolError as error:
            raise errors.InvalidBridge(str(error)) from None
        if self.proxy is None:
            return self._direct(address)
        proxy, credentials = self._direct(self.proxy.address), self.proxy.credentials
        # Nothing that needs method 0x97 is said, and common proxies do not know it.
        options = replace(_OPTIONS[self.proxy.kind], credentials=credentials)
        return SOCKSClientEndpoint(self.reactor, proxy, address.host, address.port, options)

    def _direct(self, address: Address) -> IStreamClientEndpoint:
        host, port = address.host, address.port
        if address.type is AddressType.HOSTNAME:
            # One source for both kinds of address: attempts by the other kind fail.
            source = _source(self.bind_v4 or self.bind_v6)
            return endpoints.HostnameEndpoint(self.reactor, host, port, bindAddress=source)
        is_ipv6 = address.type is AddressType.IPV6
        bind = self.bind_v6 if is_ipv6 else self.bind_v4
        # A loopback address cannot be reached from any but its own.
        source = None if ipaddress.ip_address(host).is_loopback else _source(bind)
        kind = endpoints.TCP6ClientEndpoint if is_ipv6 else endpoints.TCP4ClientEndpoint
        return kind(self.reactor, host, port, bindAddress=source)


def _source(host: str | None) -> tuple[str, int] | None:
    return None if host is None else (host, 0)


def _log_status(values: Mapping[str, str]) -> None:
    """Write a status to the debug log, where no parent reads STATUS lines."""
    _log.debug("STATUS {values}", values=dict(values))


@dataclass(frozen=True, slots=True)
class Setting:
    """What all streams of one transport have in common.

    ``state_location`` is the directory where it may keep files, None where there is none;
    ``report`` sends the parent a STATUS line with these values.
    """

    dialer: Dialer
    state_location: PurePath | None = None
    report: Callable[[Mapping[str, str]], None] = _log_status

    def __post_init__(self) -> None:
        check_arguments(Dialer, dialer=self.dialer)
        check_arguments(PurePath, None, state_location=self.state_location)
        check_arguments(Callable, report=self.report)


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of one stream of the parent: an IP address and port, and the arguments.

    The keys of ``arguments`` are those of the bridge line; ``arguments.get("k")`` is a value.
    """

    address: Address
    arguments: KeyValues
    setting: Setting = field(repr=False)

    @property
    def endpoint(self) -> IStreamClientEndpoint:
        """The endpoint for the address; it uses the proxy or source address that is asked for."""
        return self.setting.dialer.endpoint(self.address)

    def endpoint_to(self, host: str, port: int) -> IStreamClientEndpoint:
        """Return the endpoint for another host; a name is looked up here if there is no proxy.

        Raises ``InvalidBridge`` for an invalid host name or port.
        """
        try:
            address = Address.of(host, port)
        except ValueError as error:
            raise errors.InvalidBridge(str(error)) from None
        return self.setting.dialer.endpoint(address)

    def require(self, key: str) -> bytes:
        """Return the first value of an argument; raises ``InvalidBridge`` if there is none."""
        value = self.arguments.get(key)
        if value is None:
            raise errors.InvalidBridge(f"the bridge line has no argument {key}")
        return value


Transport = Callable[[Target], IStreamClientEndpoint]


def arguments_of(request: Request) -> KeyValues:
    """Return the arguments that a parent sent, by whatever method. Raises ProtocolError."""
    if request.extended:
        named = request.pairs.of_kind(PREFIX)
        return KeyValues.of((key.removeprefix(PREFIX), value) for key, value in named)
    if request.credentials is None:
        return KeyValues()
    return userpass.parse_arguments(request.credentials)


def _refusal(failure: Failure) -> errors.SOCKSError:
    """Return the refusal that a failed attempt is to the parent.

    A fault is logged, and so is an invalid bridge: the user can correct the bridge line.
    """
    reason = destination_failed(failure)
    if isinstance(reason, errors.InvalidBridge):
        # A text of the transport's own may hold an address.
        is_ours = bool(failure.frames) and failure.frames[-1][1] == __file__
        why = reason.detail if is_ours else kind_and_place(failure)
        _refusals(why).note(why=why)
    network = failure.check(errors.SOCKSError, ConnectError, ConnectionClosed, CancelledError)
    if network is None and type(reason) is errors.GeneralFailure:
        log_fault(_log, "a fault of a transport; the parent is refused", failure)
        return errors.Internal("fault")
    return reason


class TransportBackend(EndpointBackend):
    """Carries streams over a transport. A stream is open once the transport's handshake is done."""

    def __init__(self, reactor: Any, transport: Transport, setting: Setting) -> None:
        self._transport = transport
        self._setting = setting
        super().__init__(reactor, self._choose_endpoint, refusal_for=_refusal)

    def _choose_endpoint(self, request: Request, isolation: Isolation) -> IStreamClientEndpoint:
        address = request.address.literal()
        try:
            return self._transport(Target(address, arguments_of(request), self._setting))
        except errors.SOCKSError:
            raise  # ``_refusal`` is asked about it later
        except Exception:
            raise _refusal(Failure()) from None


class KnownArguments:
    """Judges the arguments among the key-value pairs: only ``names`` are known, or all if None."""

    def __init__(self, names: frozenset[str] | None) -> None:
        self._names = names

    def knows(self, key: str) -> bool:
        """Whether the transport knows the argument of this key."""
        return self._names is None or key.removeprefix(PREFIX) in self._names

    def __call__(self, pairs: KeyValues) -> KeyValues:
        """Refuse arguments that the transport does not know, by name."""
        unknown = [key for key in pairs.names if not self.knows(key)]
        if unknown:
            names = KeyValues.of({UNSUPPORTED: key_list(unknown)})
            raise errors.InvalidArguments("the transport does not know an argument", names)
        return KeyValues()


class TransportFactory(SOCKSFactory):
    """Makes the SOCKS servers of one transport: role ``pt``.

    ::

        endpoint.listen(TransportFactory(reactor, veil))

    They serve CONNECT to IP addresses only. Credentials are the transport's arguments: they isolate
    nothing, and ``<torS0X>`` has no meaning. ``managed`` says to a parent where they listen.

    ``setting`` says how to connect outwards: directly if it is not given. ``arguments`` names the
    arguments that the transport knows; method X'97' refuses others (no other method can name them
    in its answer). ``limits`` has a short handshake by default. ``limiter`` counts the streams of
    several factories together.
    """

    def __init__(
        self,
        reactor: Any,
        transport: Transport,
        *,
        setting: Setting | None = None,
        arguments: frozenset[str] | None = None,
        limits: Limits | None = None,
        limiter: ConnectionLimiter | None = None,
        debugging: bool = True,
    ) -> None:
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(Callable, transport=transport)
        check_arguments(Setting, None, setting=setting)
        check_arguments(frozenset, None, arguments=arguments)
        check_arguments(Limits, None, limits=limits)
        check_arguments(bool, debugging=debugging)
        super().__init__(
            TransportBackend(reactor, transport, setting or Setting(Dialer(reactor))),
            policy=ListenerPolicy(role=Role.PT),
            limits=limits or Limits(handshake_timeout=HANDSHAKE_TIMEOUT),
            keys={PREFIX: KnownArguments(arguments)},
            limiter=limiter,
            clock=reactor,
            debugging=debugging,
        )

    def admit(self, request: Request, peer: IAddress) -> Isolation:
        """Check a request; return an isolation that is the same for all. Raises ``SOCKSError``."""
        if not request.address.is_ip:
            raise errors.AddressTypeNotSupported("a bridge is known by its IP address")
        try:
            arguments_of(request)
        except errors.ProtocolError as error:
            raise errors.InvalidBridge(str(error)) from None
        return _NO_ISOLATION
