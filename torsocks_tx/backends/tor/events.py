r"""The texts of tor's control port: events, quoted strings and paths (control-spec 2.1.1, 4.1).

Quoted fields hold what clients sent (user names, passwords); no client can forge a keyword by them.
Unknown keywords and additional fields are kept, never an error. What tor calls a QuotedString is a
CString: ``\n``, ``\t``, ``\r``, three octal digits, else the character itself. One character of a
value is one byte (latin-1). A path is bytes; in Python it is text as ``os.fsdecode`` makes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_KEYWORD = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)=")
_BARE = re.compile(r"[^ ]*")
_ESCAPE = re.compile(r"\\([0-7]{1,3}|.)", re.DOTALL)
# A "#" would begin a comment where a torrc has the string behind something else.
_TO_ESCAPE = re.compile(r'[^\x20-\x7e]|["\\#]')
_ENDPOINT_SYNTAX = re.compile(r"[\\:=]")
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}


class EventError(ValueError):
    """A text from the control port that does not follow its grammar."""


@dataclass(frozen=True, slots=True)
class Event:
    """The fields of one event line, unquoted: ``positional`` in order, ``keywords`` by name.

    Where a keyword comes twice, the first one counts.
    """

    positional: tuple[str, ...]
    keywords: Mapping[str, str]


def quote(value: str) -> str:
    """Return the CString that tor reads as ``value``; each character of it must be one byte."""
    if any(ord(character) > 0xFF for character in value):
        raise EventError("only single bytes can be quoted")
    return '"' + _TO_ESCAPE.sub(_escaped, value) + '"'


def unquote(text: str) -> str:
    """Return the value of one CString; a text that is not one is an ``EventError``."""
    match = _QUOTED.fullmatch(text)
    if match is None:
        raise EventError("not a quoted string")
    return _ESCAPE.sub(_unescaped, match[1])


def parse_event(text: str) -> Event:
    """Parse the first line of ``text``, an event without its name."""
    positional: list[str] = []
    keywords: dict[str, str] = {}
    for name, value in _fields(text.partition("\n")[0].rstrip("\r")):
        if name is None:
            positional.append(value)
        else:
            keywords.setdefault(name, value)
    return Event(tuple(positional), MappingProxyType(keywords))


def parse_strings(text: str) -> tuple[str, ...]:
    """Return the values of a list like ``"127.0.0.1:9050" "unix:/run/tor/socks"``."""
    return tuple(value for _, value in _fields(text, with_keywords=False))


def quote_path(path: str | Path) -> str:
    """Return the path as a CString (control-spec 2.1.1), which a torrc understands too."""
    return quote(os.fsencode(path).decode("latin-1"))


def path_of(value: str) -> str:
    """Return the path in a value from tor, each character of which is one byte."""
    return os.fsdecode(value.encode("latin-1"))


def unix_endpoint(path: str | Path) -> str:
    """Return the endpoint string of a unix socket, for Twisted's clients and servers."""
    # quoteStringArgument of Twisted leaves "=" alone, and a path with it would be an option.
    return "unix:" + _ENDPOINT_SYNTAX.sub(r"\\\g<0>", os.fspath(path))


def printable(text: str | Path) -> str:
    """Return a path, or what tor said, for a message: whatever cannot be printed is escaped."""
    decoded = os.fspath(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in decoded
    )


def _fields(line: str, with_keywords: bool = True) -> Iterator[tuple[str | None, str]]:
    """Yield each field as (keyword or None, value)."""
    position = 0
    while position < len(line):
        if line[position] == " ":
            position += 1
            continue
        match = _KEYWORD.match(line, position) if with_keywords else None
        value, position = _value(line, match.end() if match else position)
        yield (match[1] if match else None), value


def _value(line: str, start: int) -> tuple[str, int]:
    """Return the quoted or bare value that begins at ``start``, and where it ends."""
    if not line.startswith('"', start):
        bare = _BARE.match(line, start)
        assert bare is not None  # the pattern matches an empty text too
        return bare[0], bare.end()
    quoted = _QUOTED.match(line, start)
    if quoted is None:
        raise EventError("a quoted string without its end")
    end = quoted.end()
    if line[end : end + 1] not in ("", " "):
        raise EventError("a quoted string with something behind its end")
    return _ESCAPE.sub(_unescaped, quoted[1]), end


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return "\\" + character if character in '"\\' else f"\\{ord(character):03o}"


def _unescaped(match: re.Match[str]) -> str:
    body = match[1]
    if body[0] not in "01234567":
        return _LETTERS.get(body, body)
    number = int(body, 8)
    if number > 0xFF:
        raise EventError("an octal escape that is more than a byte")
    return chr(number)
