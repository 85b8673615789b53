"""The values that SOCKS messages carry: addresses, credentials, requests, replies.

They know nothing of bytes on a wire (``wire`` does) and nothing of sockets.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from torsocks_tx.codes import AddressType, Command, Version


@dataclass(frozen=True, slots=True)
class Address:
    """A destination, or an answer: a host and a TCP port (0 to 65535).

    ``host`` is text: ``"192.0.2.1"``, ``"2001:db8::1"`` (no brackets) or a host name as the peer
    wrote it. ``type`` says how it stood on the wire: a name may hold the text of an IP address, and then
    ``literal()`` is that IP address.
    """

    type: AddressType
    host: str
    port: int = 0

    @classmethod
    def of(cls, host: str, port: int = 0) -> Address:
        """An address whose type is the one that fits the text: IPv4, IPv6 or a name."""
        text = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            parsed = ipaddress.ip_address(text) if "%" not in text else None
        except ValueError:
            parsed = None
        if parsed is None:
            return cls(AddressType.HOSTNAME, host, port)
        kind = AddressType.IPV4 if parsed.version == 4 else AddressType.IPV6
        return cls(kind, str(parsed), port)

    def literal(self) -> Address:
        """This address with the text of an IP address, brackets or not, turned into that IP."""
        return self if self.type is not AddressType.HOSTNAME else Address.of(self.host, self.port)

    @property
    def is_ip(self) -> bool:
        """Whether this is an IP address, on the wire or as text."""
        return self.literal().type is not AddressType.HOSTNAME

    @property
    def is_onion(self) -> bool:
        """Whether the last label is ``onion`` (in any case, with or without one trailing dot)."""
        return self.type is AddressType.HOSTNAME and onion_name(self.host) is not None


def onion_name(host: str) -> str | None:
    """The name without its trailing dot if its last label is ``onion``, else None.

    A trailing dot would make tor treat the name as an ordinary one and ask an exit for it.
    """
    bare = host[:-1] if host.endswith(".") else host
    last = bare.rpartition(".")[2]
    return bare if last.lower() == "onion" else None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client sent to name itself: a SOCKS4 user id, or the two fields of RFC 1929. Never logged."""

    username: bytes = field(repr=False)
    password: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client, whichever version it spoke.

    ``command`` is one of those that this server carries out: CONNECT, RESOLVE or RESOLVE_PTR.
    ``credentials`` is None where the client sent none, which is not the same as sending empty ones.
    ``avatar`` is the authenticated user where the listener asks for real authentication.
    """

    version: Version
    command: Command
    address: Address
    credentials: Credentials | None = None
    avatar: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: a code of the version's table, and the bound address."""

    code: int
    address: Address = Address(AddressType.IPV4, "0.0.0.0", 0)
