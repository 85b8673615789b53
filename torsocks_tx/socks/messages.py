"""The values that SOCKS messages carry: addresses, credentials, requests, replies.

They know nothing of bytes on a wire (``wire`` does) and nothing of sockets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torsocks_tx.socks.constants import AddressType, Command, Version


def ip_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """The one text of an IP address, as RFC 5952 has it.

    Python writes an IPv4 address inside IPv6 in one way up to 3.12, and in another from 3.13 on.
    """
    if address.version == 6 and int(address) >> 32 == 0xFFFF:
        return f"::ffff:{ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)}"
    return str(address)


@dataclass(frozen=True, slots=True)
class Address:
    """A destination, or an answer: a host and a TCP port (0 to 65535).

    ``host`` is text: ``"192.0.2.1"``, ``"2001:db8::1"`` (no brackets) or a host name as the peer
    wrote it. ``type`` says how it stood on the wire: a name may hold the text of an IP address, and
    then ``literal()`` is that IP address.

    ``is_ip``: this is an IP address, on the wire or as text. ``is_onion``: the name ends in
    ``.onion``, in any case, with or without one trailing dot.
    """

    type: AddressType
    host: str
    port: int = 0
    is_ip: bool = field(init=False, repr=False, compare=False)
    is_onion: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Every request is asked several times for both.
        is_name, host = self.type is AddressType.HOSTNAME, self.host
        # The text of an IP address has a colon, or ends in a digit.
        may_be_ip = ":" in host or host[-1:].isdigit()
        is_ip = not is_name or (may_be_ip and _parse_ip(host) is not None)
        is_onion = is_name and host.removesuffix(".").lower().endswith(".onion")
        object.__setattr__(self, "is_ip", is_ip)
        object.__setattr__(self, "is_onion", is_onion)

    @classmethod
    def of(cls, host: str, port: int = 0) -> Address:
        """An address whose type is the one that fits the text: IPv4, IPv6 or a name.

        Brackets belong to IPv6 only, and a scope (``%eth0``) means nothing to Tor.
        """
        parsed = _parse_ip(host)
        if parsed is None:
            return cls(AddressType.HOSTNAME, host, port)
        kind = AddressType.IPV4 if parsed.version == 4 else AddressType.IPV6
        return cls(kind, ip_text(parsed), port)

    def literal(self) -> Address:
        """The same with the text of an IP address turned into that IP address."""
        is_text = self.is_ip and self.type is AddressType.HOSTNAME
        return Address.of(self.host, self.port) if is_text else self


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        parsed = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return None if bracketed else parsed
    return parsed if parsed.scope_id is None else None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client sent to name itself: a SOCKS4 user id, or the two fields of RFC 1929.

    Never logged: its own representation shows neither.
    """

    username: bytes = field(repr=False)
    password: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class KeyValues:
    """The pairs of a message of method X'97', in order; a key may stand there more than once.

    Keys are text of ASCII, values any bytes. Never logged: the representation shows neither.
    """

    pairs: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, pairs: Mapping[str, bytes] | Iterable[tuple[str, bytes]] = ()) -> KeyValues:
        """The pairs of a mapping, or of pairs that are in order already."""
        return cls(tuple(pairs.items() if isinstance(pairs, Mapping) else pairs))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> tuple[str, ...]:
        """The keys in order, each once."""
        # Not called ``keys``: ``dict`` would take the pairs for a mapping, and fail.
        return tuple(dict.fromkeys(key for key, _ in self.pairs))

    def get(self, key: str) -> bytes | None:
        """The first value with this key, or None."""
        return next((value for known, value in self.pairs if known == key), None)

    def of_kind(self, name: str) -> KeyValues:
        """The pairs with this key; for a ``name`` that ends in a dot, those that begin with it."""
        return KeyValues(tuple(pair for pair in self.pairs if is_of_kind(pair[0], name)))


NO_PAIRS = KeyValues()


def is_of_kind(key: str, name: str) -> bool:
    """Whether ``name`` is this key, or ends in a dot and the key goes on behind that."""
    if name.endswith("."):
        return key.startswith(name) and key != name
    return key == name


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client, whichever version it spoke.

    ``command`` is one of those that this server carries out: CONNECT, RESOLVE or RESOLVE_PTR.
    ``credentials`` is None where the client sent none, which is not the same as sending empty ones.
    ``avatar`` is the authenticated user where the listener asks for real authentication.
    ``pairs`` is what the client said by method X'97', None where that was not selected; its
    USERNAME and PASSWD are the ``credentials`` then. ``offered_extended``: the client listed that
    method, and the listener has it: the client understands the codes of proposal 229.
    """

    version: Version
    command: Command
    address: Address
    credentials: Credentials | None = None
    avatar: bytes | None = None
    pairs: KeyValues | None = None
    offered_extended: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: a code of the version's table, and the bound address."""

    code: int
    address: Address = Address(AddressType.IPV4, "0.0.0.0", 0)
