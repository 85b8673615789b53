"""What the author of a transport writes, and what carries a parent's streams over it.

::

    def veil(target: Target) -> IStreamClientEndpoint:
        return CodecEndpoint(target.endpoint, lambda: VeilCodec(target.require("secret")))

A transport is a function: given arguments and an address, it gives an endpoint. What that raises,
or what its ``connect`` fails with, decides what the parent hears: ``Temporary``, ``InvalidBridge``,
``Internal``, any other ``Refused``, or an error of the operating system. Anything else is a fault:
it is logged with its traceback, and is ``Internal`` to the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.client.failures import refused_by
from torsocks_tx.errors import GeneralFailure, Internal, InvalidBridge, Refused
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.pt.dialing import Dialer
from torsocks_tx.socks import pt_args
from torsocks_tx.socks.messages import Address, KeyValues, Request

PREFIX = "PT."
"""What the keys of arguments begin with in method X'97'."""

_log = Logger()


def _say_status(values: Mapping[str, str]) -> None:
    """Write news to the debug log, where no parent reads STATUS lines."""
    _log.debug("STATUS {values}", values=dict(values))


@dataclass(frozen=True, slots=True)
class Setting:
    """What all streams of one transport have in common.

    ``state_location`` is the directory where it may keep files, None where there is none;
    ``report`` takes what a STATUS line says to the parent.
    """

    dialer: Dialer
    state_location: PurePath | None = None
    report: Callable[[Mapping[str, str]], None] = _say_status


@dataclass(frozen=True, slots=True)
class Target:
    """Where one stream of the parent is to go: an IP address and port, and the arguments.

    The keys of ``arguments`` are those of the bridge line; ``arguments.get("k")`` is a value.
    """

    address: Address
    arguments: KeyValues
    setting: Setting = field(repr=False)

    @property
    def endpoint(self) -> IStreamClientEndpoint:
        """Leads to the address, in the way that the parent asks for: a proxy, a source address."""
        return self.setting.dialer.endpoint(self.address)

    def endpoint_to(self, host: str, port: int) -> IStreamClientEndpoint:
        """Leads to another host in that same way; a name is looked up here if there is no proxy.

        Raises ``InvalidBridge`` for what is no host name.
        """
        return self.setting.dialer.endpoint(Address.of(host, port))

    def require(self, key: str) -> bytes:
        """The first value of an argument; raises ``InvalidBridge`` if there is none."""
        value = self.arguments.get(key)
        if value is None:
            raise InvalidBridge(f"the bridge line has no argument {key}")
        return value


Transport = Callable[[Target], IStreamClientEndpoint]


def arguments_of(request: Request) -> KeyValues:
    """The arguments that a parent sent, by whatever method. Raises ProtocolError."""
    if request.pairs is not None:
        named = request.pairs.of_kind(PREFIX)
        return KeyValues.of((key.removeprefix(PREFIX), value) for key, value in named)
    if request.credentials is None:
        return KeyValues()
    return pt_args.parse_credentials(request.credentials)


def _meaning(failure: Failure) -> Refused:
    """What a failed attempt is to the parent."""
    reason = refused_by(failure)
    network = failure.check(Refused, ConnectError, ConnectionClosed, CancelledError)
    if network is None and type(reason) is GeneralFailure:
        _log.failure("a fault of a transport; the parent is refused", failure)
        return Internal("fault")
    return reason


class TransportBackend(EndpointBackend):
    """Carries streams over a transport. A stream is open once the transport's handshake is done."""

    def __init__(self, reactor: Any, transport: Transport, setting: Setting) -> None:
        self._transport = transport
        self._setting = setting
        super().__init__(reactor, self._choose_endpoint, meaning=_meaning)

    def _choose_endpoint(self, request: Request, isolation: Isolation) -> IStreamClientEndpoint:
        address = request.address.literal()
        try:
            return self._transport(Target(address, arguments_of(request), self._setting))
        except Exception:
            raise _meaning(Failure()) from None
