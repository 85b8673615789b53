r"""The managed-transport protocol as text (pt-spec, section 3): what is asked, what is answered.

A parent, such as tor, asks by environment variables: ``check_version``, ``read_environment`` and
``parse_proxy`` read them, and raise ``Unusable``. It is answered by lines on standard output::

    KEYWORD [ARGUMENTS] LF                 ASCII, no NUL

``LOG`` and ``STATUS`` carry text between quotes, where ``\n``, ``\"``, ``\\`` and three octal
digits stand for what ASCII lines cannot hold. No I/O. The client's side only.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from urllib.parse import unquote_to_bytes

from torsocks_tx.limits import check_arguments
from torsocks_tx.socks.constants import AddressType
from torsocks_tx.socks.messages import Address, Credentials
from torsocks_tx.socks.userpass import MAX_FIELD

MAX_TEXT = 4000
"""Bytes of a message before it is cut short: tor reads its lines into one buffer."""

_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SPECIAL = {"\n": r"\n", '"': r"\"", "\\": r"\\"}
_VERSIONS = "TOR_PT_MANAGED_TRANSPORT_VER"
_TRANSPORTS = "TOR_PT_CLIENT_TRANSPORTS"
_TRANSPORT_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PROXY_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+):([0-9]{1,5})/?")


# The lines.


def line(text: str) -> bytes:
    """Return one line, whatever the text: what a line cannot hold becomes a question mark."""
    printable = (character if " " <= character <= "~" else "?" for character in text)
    return "".join(printable).encode("ascii") + b"\n"


def log(severity: str, message: str) -> str:
    """Return the text of a line for the parent's log; ``severity``: error, warning or info."""
    return f"LOG SEVERITY={severity} MESSAGE={_quoted(message)}"


def status(transport: str, values: Mapping[str, str]) -> str:
    """Return that of a line with a transport's state; ValueError for an unusable key."""
    parts = [f"STATUS TRANSPORT={transport}"]
    for key, value in values.items():
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"not a key of a STATUS line: {key!r}")
        parts.append(f"{key}={_quoted(value)}")
    return " ".join(parts)


def _quoted(text: str) -> str:
    data = text.encode("utf-8", "backslashreplace")[:MAX_TEXT]
    return f'"{"".join(map(_escaped, data))}"'


def _escaped(byte: int) -> str:
    plain = chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
    return _SPECIAL.get(chr(byte), plain)


# The environment.


class Unusable(ValueError):
    """The program cannot serve its parent; the text is the last line to print, and says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a parent asks for.

    Attributes:
        transports: the names of the transports that it may need.
        state_location: the absolute path of a directory for files, None if there is none.
        exit_on_stdin_close: whether the program is to end when its standard input does.
        proxy: a URI for ``parse_proxy``; None where connections go out directly.
        bind_v4: the IPv4 address that connections must come from, None where it does not matter.
        bind_v6: the same for IPv6.
    """

    transports: tuple[str, ...]
    state_location: PurePath | None = None
    exit_on_stdin_close: bool = False
    proxy: str | None = field(default=None, repr=False)
    bind_v4: str | None = None
    bind_v6: str | None = None


def is_transport_name(name: str) -> bool:
    """Whether a transport may have this name: a C identifier."""
    return _TRANSPORT_NAME.fullmatch(name) is not None


def check_version(environ: Mapping[str, str]) -> None:
    """Raise ``Unusable`` unless the parent speaks version 1."""
    versions = environ.get(_VERSIONS, "")
    if not versions:
        raise Unusable(f"ENV-ERROR no {_VERSIONS} environment variable")
    if "1" not in versions.split(","):
        raise Unusable("VERSION-ERROR no-version")


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read all variables but the version. Raises ``Unusable``."""
    if _TRANSPORTS not in environ:
        raise Unusable(f"ENV-ERROR no {_TRANSPORTS}: this is the client's side only")
    return Environment(
        transports=tuple(filter(is_transport_name, environ[_TRANSPORTS].split(","))),
        state_location=_state_location(environ.get("TOR_PT_STATE_LOCATION", "")),
        exit_on_stdin_close=environ.get("TOR_PT_EXIT_ON_STDIN_CLOSE") == "1",
        proxy=environ.get("TOR_PT_PROXY") or None,
        bind_v4=_bind_address(environ, 4),
        bind_v6=_bind_address(environ, 6),
    )


def _state_location(text: str) -> PurePath | None:
    path = PurePath(text)
    if text and not path.is_absolute():
        raise Unusable("ENV-ERROR TOR_PT_STATE_LOCATION is not an absolute path")
    return path if text else None


def _bind_address(environ: Mapping[str, str], version: int) -> str | None:
    name = f"TOR_PT_OUTBOUND_BIND_ADDRESS_V{version}"
    text = environ.get(name, "")
    if not text:
        return None
    bare = text[1:-1] if version == 6 and text[0] + text[-1] == "[]" else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        address = None
    if address is None or address.version != version:
        raise Unusable(f"ENV-ERROR {name} is not an IPv{version} address")
    return str(address)


# The proxy.


class ProxyKind(Enum):
    """The protocol of a proxy; the value is the scheme of its URI."""

    SOCKS5 = "socks5"
    SOCKS4A = "socks4a"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class UpstreamProxy:
    """The proxy that connections must go through: its protocol, its IP address, our credentials."""

    kind: ProxyKind
    address: Address
    credentials: Credentials | None = None

    def __post_init__(self) -> None:
        check_arguments(ProxyKind, kind=self.kind)
        check_arguments(Address, address=self.address)
        check_arguments(Credentials, None, credentials=self.credentials)


def parse_proxy(uri: str) -> UpstreamProxy:
    """Read the URI of a proxy, from ``TOR_PT_PROXY``.

    ::

        socks5://[user[:password]@]IP:PORT      socks4a://[user@]IP:PORT      http://[..]IP:PORT

    User name and password may be percent-encoded; tor writes them as they are. The proxy has an IP
    address: a name would have to be looked up here. Raises ``Unusable`` (PROXY-ERROR), which never
    quotes the URI: it may hold a password.
    """
    if not isinstance(uri, str):
        raise TypeError(f"uri must be text, not {type(uri).__name__}")
    scheme, separator, rest = uri.partition("://")
    user, at, place = rest.rpartition("@")
    try:
        kind = ProxyKind(scheme.lower())
    except ValueError:
        raise Unusable("PROXY-ERROR the kind of proxy is not supported") from None
    match = _PROXY_PLACE.fullmatch(place) if separator else None
    if match is not None and not 0 < int(match[2]) < 65536:
        raise Unusable("PROXY-ERROR the port of the proxy is out of range")
    address = None if match is None else Address.of(match[1], int(match[2]))
    if address is None or address.type is AddressType.HOSTNAME:
        raise Unusable("PROXY-ERROR the proxy is not given by IP address and port")
    return UpstreamProxy(kind, address, _proxy_credentials(kind, user) if at else None)


def _proxy_credentials(kind: ProxyKind, user_info: str) -> Credentials:
    name, _, secret = user_info.partition(":")
    # As bytes, which is what the environment holds: they need not be text.
    username, password = (unquote_to_bytes(os.fsencode(text)) for text in (name, secret))
    if kind is ProxyKind.SOCKS5 and max(len(username), len(password)) > MAX_FIELD:
        raise Unusable("PROXY-ERROR SOCKS5 has room for 255 bytes of user name and of password")
    if kind is ProxyKind.SOCKS4A and (password or b"\0" in username):
        raise Unusable("PROXY-ERROR SOCKS4 has user names only, without a NUL")
    if kind is ProxyKind.HTTP and b":" in username:
        raise Unusable("PROXY-ERROR HTTP has no user names with a colon")
    return Credentials(username, password)
