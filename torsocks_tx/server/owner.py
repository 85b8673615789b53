"""What the connection of a client needs of whoever made it, and what that needs of it."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime

from torsocks_tx.interfaces import IBackend
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.server.connections import Connection
from torsocks_tx.server.request import Client, Errand
from torsocks_tx.socks.constants import Version
from torsocks_tx.socks.messages import Credentials, Request
from torsocks_tx.socks.server import HandshakeOptions


class Served(Connection, Protocol):
    """A client's connection."""

    @property
    def client(self) -> IAddress | None:
        """Who is connected, as the listening port says."""

    @property
    def is_served(self) -> bool:
        """Whether a request of this client is being carried out, or was."""


class Owner(Protocol):
    """What connections need of the factory that makes them."""

    backend: IBackend
    limits: Limits
    clock: IReactorTime
    debugging: bool

    def handshake_options(self, versions: frozenset[Version]) -> HandshakeOptions:
        """What a handshake of these versions accepts."""

    def authenticate(self, credentials: Credentials, client: IAddress) -> Deferred[bytes | None]:
        """Fire with the user's name, or None for a refusal."""

    def admit(self, request: Request, peer: IAddress) -> Isolation:
        """Judge a request; raises ``Refused``."""

    def errand(self, client: Client, request: Request) -> Errand:
        """What carries a request out."""

    def connected(self, protocol: Served) -> None:
        """Count a connection."""

    def serves(self, protocol: Served) -> None:
        """Note that the client has made its request."""

    def lingers(self, protocol: Served) -> None:
        """Note that the client has closed its sending side."""

    def disconnected(self, protocol: Served) -> None:
        """Count it no more."""
