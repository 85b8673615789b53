"""Which streams may share a circuit; nothing else decides it.

Tor sees a single client: this server. So that it keeps the server's clients apart, each stream has
a key of all that counts (``isolation_key``), and ``Isolator`` makes of it the credentials for tor:
``<torS0X>0`` and an HMAC, which shows nothing of the client in tor's events. As socks-extensions
say, two streams share a circuit only if all parts of their keys are equal.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torsocks_tx.http.answers import ISOLATION_HEADERS
from torsocks_tx.limits import check_arguments, check_flags
from torsocks_tx.policy.circuits import ExitChoice
from torsocks_tx.policy.fresh import FREE, Tries
from torsocks_tx.socks.constants import Version
from torsocks_tx.socks.extended import ISOLATION, PASSWD, USERNAME
from torsocks_tx.socks.messages import Credentials, KeyValues, Request
from torsocks_tx.socks.userpass import ISOLATION_USERNAME
from torsocks_tx.socks.wire import packed_ip

SECRET_BYTES = 32
_PACK_LENGTH = struct.Struct("!I").pack


@dataclass(frozen=True, slots=True)
class IsolationFlags:
    """The isolation flags of one listener, with tor(1)'s names and defaults."""

    client_addr: bool = True
    socks_auth: bool = True
    client_protocol: bool = False
    dest_port: bool = False
    dest_addr: bool = False
    session_group: int | None = None

    def __post_init__(self) -> None:
        check_flags(self)
        check_arguments(int, None, session_group=self.session_group)


class Isolation:
    """What a backend needs to isolate a stream.

    ``credentials``: equal for streams that may share a circuit; given as a function, they are
    computed at their first use. ``port_flags``: the flags that the SocksPort of the stream must
    have (``NoIPv6Traffic`` and the like). ``exits``: the exit relays that it may use; None: any.
    ``tries``: what it costs to try them.
    """

    __slots__ = ("_credentials", "exits", "port_flags", "tries")

    def __init__(
        self,
        credentials: Credentials | Callable[[], Credentials],
        port_flags: frozenset[str] = frozenset(),
        exits: ExitChoice | None = None,
        tries: Tries = FREE,
    ) -> None:
        self._credentials = credentials
        self.port_flags = port_flags
        self.exits = exits
        self.tries = tries

    @property
    def credentials(self) -> Credentials:
        """Return the credentials for a SOCKS server upstream."""
        if not isinstance(self._credentials, Credentials):
            self._credentials = self._credentials()
        return self._credentials


def isolation_key(
    flags: IsolationFlags, listener: str, client: str | None, request: Request
) -> tuple[bytes, ...]:
    """Return the parts that must all be equal for two streams to share a circuit.

    ``listener`` names the listener; ``client`` is the client's IP address, None on a unix socket.
    Raises ValueError for a ``client`` that is not an IP address.
    """
    parts = [b"listener", listener.encode()]
    if flags.session_group is not None:
        parts = [b"group", str(flags.session_group).encode()]
    # The authenticated user always counts: no user may join the circuits of another.
    parts += [b"avatar", request.avatar] if request.avatar is not None else [b"anyone"]
    if flags.client_addr and client is not None:
        parts += [b"client", packed_ip(client)]
    if flags.socks_auth:
        parts += _auth_parts(request)
    if flags.client_protocol:
        parts += [b"protocol", bytes([request.version])]
    if flags.dest_port:
        parts += [b"port", struct.pack("!H", request.address.port)]
    if flags.dest_addr:
        parts += [b"address", request.address.literal().host.lower().encode("latin-1")]
    return tuple(parts)


def _auth_parts(request: Request) -> list[bytes]:
    credentials = request.credentials
    if request.version is Version.HTTP:
        return [b"http", *_values(request.pairs, ISOLATION_HEADERS)]
    if request.extended:
        return [b"extended", *_values(request.pairs, (USERNAME, PASSWD, ISOLATION))]
    if request.version is Version.SOCKS4:
        return [b"socks4", credentials.username if credentials else b""]
    if credentials is None:
        return [b"no-auth"]
    if credentials.username == ISOLATION_USERNAME:
        return [b"torS0X0", credentials.password]
    return [b"userpass", credentials.username, credentials.password]


def _values(pairs: KeyValues, keys: Iterable[str]) -> list[bytes]:
    """Return parts for these keys: one that is missing is not the same as an empty one."""
    values = map(pairs.get, keys)
    return [b"absent" if value is None else b"present:" + value for value in values]


class Isolator:
    """Makes credentials for tor from isolation keys, by a keyed hash.

    ``secret``: 32 random bytes, by default new ones. Processes that serve one listener share it.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        check_arguments(bytes, None, secret=secret)
        self._secret = os.urandom(SECRET_BYTES) if secret is None else secret
        if len(self._secret) < SECRET_BYTES:
            raise ValueError(f"wanted a secret of {SECRET_BYTES} random bytes")

    def credentials(self, key: tuple[bytes, ...]) -> Credentials:
        """Return ``<torS0X>0`` and 64 hexadecimal digits: a keyed hash of the parts."""
        message = b""
        for part in key:
            message += _PACK_LENGTH(len(part)) + part
        digest = hmac.digest(self._secret, message, "sha256").hex()
        return Credentials(ISOLATION_USERNAME, digest.encode("ascii"))


def is_for_exit(request: Request) -> bool:
    """Whether an exit relay will look up the name, and so choose between IPv4 and IPv6."""
    return not request.address.is_ip and not request.address.is_onion
