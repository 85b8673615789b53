r"""What a pluggable transport says to its parent on standard output (pt-spec, 3.3). No I/O.

    KEYWORD [ARGUMENTS] LF                 ASCII, no NUL

``LOG`` and ``STATUS`` carry text between quotes, where ``\n``, ``\"``, ``\\`` and three octal
digits stand for what ASCII lines cannot hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_TEXT = 4000
"""Bytes of a message before it is cut short: tor reads its lines into one buffer."""

VERSION = b"VERSION 1\n"
VERSION_ERROR = b"VERSION-ERROR no-version\n"
PROXY_DONE = b"PROXY DONE\n"
CMETHODS_DONE = b"CMETHODS DONE\n"

SEVERITIES = frozenset({"error", "warning", "notice", "info", "debug"})
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SPECIAL = {ord("\n"): b"\\n", ord('"'): b'\\"', ord("\\"): b"\\\\"}


def env_error(message: str) -> bytes:
    """The environment cannot be used."""
    return _line(f"ENV-ERROR {message}")


def proxy_error(message: str) -> bytes:
    """The proxy that must be used cannot be."""
    return _line(f"PROXY-ERROR {message}")


def cmethod(name: str, host: str, port: int) -> bytes:
    """A transport is ready behind a SOCKS5 server at this IP address."""
    place = f"[{host}]" if ":" in host else host
    return _line(f"CMETHOD {name} socks5 {place}:{port}")


def cmethod_error(name: str, message: str) -> bytes:
    """A transport is not ready, and will not be."""
    return _line(f"CMETHOD-ERROR {name} {message}")


def log(severity: str, message: str) -> bytes:
    """A message for the parent's log. ValueError for a severity that is not of ``SEVERITIES``."""
    if severity not in SEVERITIES:
        raise ValueError(f"no such severity: {severity!r}")
    return b"LOG SEVERITY=" + severity.encode("ascii") + b" MESSAGE=" + _quoted(message) + b"\n"


def status(transport: str, values: Mapping[str, str]) -> bytes:
    """A transport's news for programs. ValueError for a key that is no word."""
    parts = [b"STATUS TRANSPORT=" + transport.encode("ascii")]
    for key, value in values.items():
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"not a key of a STATUS line: {key!r}")
        parts.append(key.encode("ascii") + b"=" + _quoted(value))
    return b" ".join(parts) + b"\n"


def _line(text: str) -> bytes:
    """One line, whatever the text: what a line cannot hold becomes a question mark."""
    printable = (character if " " <= character <= "~" else "?" for character in text)
    return "".join(printable).encode("ascii") + b"\n"


def _quoted(text: str) -> bytes:
    data = text.encode("utf-8", "backslashreplace")[:MAX_TEXT]
    return b'"' + b"".join(map(_escaped, data)) + b'"'


def _escaped(byte: int) -> bytes:
    if byte in _SPECIAL:
        return _SPECIAL[byte]
    return bytes([byte]) if 32 <= byte < 127 else b"\\%03o" % byte
