"""What a parent tells a pluggable transport in the environment (pt-spec, 3.2). No I/O.

First ``check_version``, whose success is announced; then ``read``; then, where there is a proxy,
``proxy_uri.parse``. Each raises ``Unusable``, which holds the last line that the program may print.
Only the client's side is read here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from torsocks_tx.pt import lines

VERSION = "1"
_VERSIONS = "TOR_PT_MANAGED_TRANSPORT_VER"
_TRANSPORTS = "TOR_PT_CLIENT_TRANSPORTS"
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Unusable(Exception):
    """The program cannot serve its parent; ``line`` says so, and is its last."""

    def __init__(self, line: bytes) -> None:
        super().__init__(line.decode("ascii").rstrip("\n"))
        self.line = line


@dataclass(frozen=True, slots=True)
class Environment:
    """What the parent asks for.

    ``proxy`` is a URI that is not judged yet; None where connections go out directly. The bind
    addresses are those that connections must come from, None where that does not matter.
    """

    transports: tuple[str, ...]
    state_location: PurePath | None = None
    exit_on_stdin_close: bool = False
    proxy: str | None = field(default=None, repr=False)
    bind_v4: str | None = None
    bind_v6: str | None = None


def is_transport_name(name: str) -> bool:
    """Whether a transport may be called so: a C identifier."""
    return _NAME.fullmatch(name) is not None


def check_version(environ: Mapping[str, str]) -> None:
    """Raise ``Unusable`` unless the parent speaks version 1."""
    versions = environ.get(_VERSIONS, "")
    if not versions:
        raise Unusable(lines.env_error(f"no {_VERSIONS} environment variable"))
    if VERSION not in versions.split(","):
        raise Unusable(lines.VERSION_ERROR)


def read(environ: Mapping[str, str]) -> Environment:
    """Read all but the version. Raises ``Unusable``."""
    if _TRANSPORTS not in environ:
        raise Unusable(lines.env_error(f"no {_TRANSPORTS}: this is the client's side only"))
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
        raise Unusable(lines.env_error("TOR_PT_STATE_LOCATION is not an absolute path"))
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
        raise Unusable(lines.env_error(f"{name} is not an IPv{version} address"))
    return str(address)
