"""Paths as torrc files, tor's control port and Twisted's endpoint strings write them.

A path is bytes; in Python it is text as ``os.fsdecode`` makes it, whatever the bytes are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from torsocks_tx.backends.tor.events import quote

_UNPRINTABLE = re.compile(r"[^ -~]")
_ENDPOINT_SYNTAX = re.compile(r"[\\:=]")


def quote_path(path: str | Path) -> str:
    """Return the path as a CString (control-spec 2.1.1), which a torrc understands too."""
    return quote(os.fsencode(path).decode("latin-1"))


def path_of(value: str) -> str:
    """Return the path that tor told: each character of ``value`` is one byte."""
    return os.fsdecode(value.encode("latin-1"))


def unix_endpoint(path: str | Path) -> str:
    """Return the endpoint string of a unix socket, for Twisted's clients and servers."""
    # quoteStringArgument of Twisted leaves "=" alone, and a path with it would be an option.
    return "unix:" + _ENDPOINT_SYNTAX.sub(r"\\\g<0>", os.fspath(path))


def printable(text: str | Path) -> str:
    """Return a path, or what tor said, for a message: whatever cannot be printed is escaped."""
    decoded = os.fsencode(text).decode("utf-8", "backslashreplace")
    return _UNPRINTABLE.sub(_escaped, decoded) if not decoded.isprintable() else decoded


def _escaped(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else match[0].encode("unicode_escape").decode()
