"""The SOCKS server of a pluggable transport: role ``pt``.

    endpoint.listen(TransportFactory(reactor, veil))

CONNECT to IP addresses only. Credentials are the transport's arguments: they isolate nothing, and
``<torS0X>`` means nothing. Not here: telling a parent where it listens, which ``managed`` does.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress

from torsocks_tx.errors import (
    AddressTypeNotSupported,
    InvalidArguments,
    InvalidBridge,
    ProtocolError,
)
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.pt.dialing import Dialer
from torsocks_tx.pt.transport import PREFIX, Setting, Transport, TransportBackend, arguments_of
from torsocks_tx.server.connections import ConnectionLimiter
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks.constants import Role
from torsocks_tx.socks.extended import UNSUPPORTED, key_list
from torsocks_tx.socks.messages import Credentials, KeyValues, Request

HANDSHAKE_TIMEOUT = 5.0
"""Seconds for the SOCKS handshake: the parent is on the same machine, and says all at once."""

_ALIKE = Isolation(Credentials(b""))


class KnownArguments:
    """The keys of method X'97' that are arguments: those named, None for all there may be."""

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
            raise InvalidArguments("the transport does not know an argument", names)
        return KeyValues()


class TransportFactory(SOCKSFactory):
    """Makes SOCKS servers whose streams go over one transport.

    ``setting`` says how to connect outwards: directly if it is not given. ``arguments`` names the
    arguments that the transport knows: others are then refused in method X'97', where alone a
    parent can be told so. ``limits`` has a short handshake by default. ``limiter`` counts the
    streams of several factories together.
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
        """Judge a request. Nothing of it isolates anything. Raises ``Refused``."""
        if not request.address.is_ip:
            raise AddressTypeNotSupported("a bridge is known by its IP address")
        try:
            arguments_of(request)
        except ProtocolError as error:
            raise InvalidBridge(str(error)) from None
        return _ALIKE
