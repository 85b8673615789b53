"""``TOR_PT_PROXY``: the proxy through which a pluggable transport must connect. No I/O.

    socks5://[user[:password]@]IP:PORT      socks4a://[user@]IP:PORT      http://[..]IP:PORT

User name and password may be percent-encoded; tor writes them as they are. The proxy is known by
its IP address: a name would have to be looked up here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

from torsocks_tx.pt import lines
from torsocks_tx.pt.environment import Unusable
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address, Credentials
from torsocks_tx.socks.pt_args import MAX_FIELD

_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+):([0-9]{1,5})/?")


class ProxyKind(Enum):
    """How the proxy is spoken to; the value is the scheme of its URI."""

    SOCKS5 = "socks5"
    SOCKS4A = "socks4a"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class UpstreamProxy:
    """A proxy: how it is spoken to, where it is, and who we are to it."""

    kind: ProxyKind
    address: Address
    credentials: Credentials | None = None


def parse(uri: str) -> UpstreamProxy:
    """Read a URI. Raises ``Unusable`` (PROXY-ERROR), which never quotes it: it has a password."""
    scheme, separator, rest = uri.partition("://")
    user, at, place = rest.rpartition("@")
    try:
        kind = ProxyKind(scheme.lower())
    except ValueError:
        raise _unusable("the kind of proxy is not supported") from None
    match = _PLACE.fullmatch(place)
    address = None if match is None else Address.of(match[1], int(match[2]))
    if not separator or address is None or address.type is AddressType.HOSTNAME:
        raise _unusable("the proxy is not given by IP address and port")
    if not 0 < address.port < 65536:
        raise _unusable("the port of the proxy is out of range")
    return UpstreamProxy(kind, address, _credentials(kind, user) if at else None)


def _credentials(kind: ProxyKind, user_info: str) -> Credentials:
    name, _, secret = user_info.partition(":")
    # As bytes, which is what the environment holds: they need not be text.
    username, password = (unquote_to_bytes(os.fsencode(text)) for text in (name, secret))
    if kind is ProxyKind.SOCKS5 and max(len(username), len(password)) > MAX_FIELD:
        raise _unusable("SOCKS5 has room for 255 bytes of user name and of password")
    if kind is ProxyKind.SOCKS4A and (password or b"\0" in username):
        raise _unusable("SOCKS4 has user names only, without a NUL")
    if kind is ProxyKind.HTTP and b":" in username:
        raise _unusable("HTTP has no user names with a colon")
    return Credentials(username, password)


def _unusable(message: str) -> Unusable:
    return Unusable(lines.proxy_error(message))
