"""The values that SOCKS messages carry: addresses, credentials, requests, replies.

How they are written as bytes is in ``socks4``, ``socks5``, ``userpass`` and ``extended``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torsocks_tx.socks.constants import AddressType, Command, Version


def ip_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Write an IP address as RFC 5952 does.

    Python up to 3.12 writes an IPv4 address inside IPv6 otherwise than Python 3.13.
    """
    if address.version == 6 and int(address) >> 32 == 0xFFFF:
        return f"::ffff:{ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)}"
    return str(address)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port (0 to 65535): a destination, or the answer to a look-up.

    ``host`` is text: ``"192.0.2.1"``, ``"2001:db8::1"`` (no brackets) or a host name as the peer
    wrote it. ``type`` is how it was written in the message. A name may hold the text of an IP
    address; then ``literal()`` is that IP address.

    ``is_ip``: this is an IP address, in binary form or as text. ``is_onion``: the name ends in
    ``.onion``, in any case, with or without one trailing dot.
    """

    type: AddressType
    host: str
    port: int = 0
    is_ip: bool = field(init=False, repr=False, compare=False)
    is_onion: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Computed once: every request needs both several times.
        is_name, host = self.type is AddressType.HOSTNAME, self.host
        # The text of an IP address has a colon, or ends in a digit.
        may_be_ip = ":" in host or host[-1:].isdigit()
        is_ip = not is_name or (may_be_ip and _parse_ip(host) is not None)
        is_onion = is_name and host.removesuffix(".").lower().endswith(".onion")
        object.__setattr__(self, "is_ip", is_ip)
        object.__setattr__(self, "is_onion", is_onion)

    @classmethod
    def of(cls, host: str, port: int = 0) -> Address:
        """Make an address from text: of IPv4, IPv6 (with or without brackets) or a name.

        The text of an IPv6 address with a scope (``%eth0``) is a name: scopes mean nothing to Tor.
        """
        if not isinstance(host, str):
            raise TypeError(f"a host must be text, not {type(host).__name__}")
        if not host:
            raise ValueError("a host must not be empty")
        if not isinstance(port, int) or not 0 <= port < 65536:
            raise ValueError(f"a port must be a whole number from 0 to 65535, not {port!r}")
        parsed = _parse_ip(host)
        if parsed is None:
            return cls(AddressType.HOSTNAME, host, port)
        kind = AddressType.IPV4 if parsed.version == 4 else AddressType.IPV6
        return cls(kind, ip_text(parsed), port)

    def literal(self) -> Address:
        """Turn a name that is the text of an IP address into that IP address."""
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
    """What a client sent to log in: a SOCKS4 user id, or the two fields of RFC 1929.

    ``repr`` shows neither, so that no log does.
    """

    username: bytes = field(repr=False)
    password: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class KeyValues:
    """The key-value pairs of extended authentication, in order; a key may occur more than once.

    Keys are ASCII text, values any bytes. ``repr`` shows neither, so that no log does.
    """

    pairs: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, pairs: Mapping[str, bytes] | Iterable[tuple[str, bytes]] = ()) -> KeyValues:
        """Make them from a mapping, or from pairs that are in order already."""
        try:
            given = tuple(pairs.items() if isinstance(pairs, Mapping) else pairs)
            are_right = all(isinstance(k, str) and isinstance(v, bytes) for k, v in given)
        except (TypeError, ValueError):
            are_right = False
        if not are_right or isinstance(pairs, str | bytes):
            raise TypeError('pairs must be text keys and bytes values, as in {"X-key": b"value"}')
        return cls(given)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the keys in order, each once."""
        # Not called ``keys``: ``dict`` would take the pairs for a mapping, and fail.
        return tuple(dict.fromkeys(key for key, _ in self.pairs))

    def get(self, key: str) -> bytes | None:
        """Return the first value with this key, or None."""
        return next((value for known, value in self.pairs if known == key), None)

    def of_kind(self, name: str) -> KeyValues:
        """Return the pairs with this key, or with this prefix if ``name`` ends in a dot."""
        found = tuple(pair for pair in self.pairs if is_of_kind(pair[0], name))
        return KeyValues(found) if found else NO_PAIRS


NO_PAIRS = KeyValues()


def is_of_kind(key: str, name: str) -> bool:
    """Whether ``name`` is this key, or ends in a dot and is a prefix of it."""
    if name.endswith("."):
        return key.startswith(name) and key != name
    return key == name


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client, of any version.

    ``command`` is CONNECT, RESOLVE or RESOLVE_PTR.
    ``credentials`` is None where the client sent none, which is not the same as sending empty ones.
    ``avatar`` is the authenticated user where the listener asks for real authentication.
    ``extended``: extended authentication was selected; ``pairs`` is what the client sent by it, and
    the ``credentials`` are its USERNAME and PASSWD. Of HTTP, ``pairs`` are the headers that count.
    Parameters in a user name are ``pairs``, too, and the name is without them.
    ``offered_extended``: the client offered that method, and the listener has it: the client
    understands the codes of proposal 229.
    """

    version: Version
    command: Command
    address: Address
    credentials: Credentials | None = None
    avatar: bytes | None = None
    pairs: KeyValues = NO_PAIRS
    offered_extended: bool = False
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: a code of the version's table, and the bound address."""

    code: int
    address: Address = Address(AddressType.IPV4, "0.0.0.0", 0)
