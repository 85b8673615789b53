"""Where a server listens: ``--listen "ENDPOINT [FLAG ...]"``, and who could reach it there."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress

from torsocks_tx.policy.flags import FlagError, parse_flags
from torsocks_tx.policy.listener import ListenerPolicy

DEFAULT = "tcp:1080:interface=127.0.0.1"
BACKLOG = 1024
"""Connections that may wait to be accepted; Twisted's default of 50 is soon full in a burst."""


class ListenError(ValueError):
    """A ``--listen`` value cannot be used; the text says how to mend it."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener: its endpoint for Twisted, what it allows, and how it was written."""

    endpoint: str
    policy: ListenerPolicy
    text: str
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The endpoint's kind: ``tcp``, ``unix`` and so on."""
        return self.endpoint.partition(":")[0]


def parse_listener(text: str) -> Listener:
    """Read an endpoint and its flags. Raises ``ListenError``."""
    try:
        words = _words(text)
    except ValueError as error:
        raise ListenError(f"--listen {text!r}: {error}") from None
    if not words or ":" not in words[0]:
        raise ListenError(
            f"--listen {text!r}: begin with an endpoint, such as {DEFAULT} or unix:/run/socks"
        )
    try:
        policy, notes = parse_flags(words[1:])
    except FlagError as error:
        raise ListenError(f"--listen {text!r}: {error}") from None
    return Listener(_with_defaults(words[0]), policy, words[0], tuple(notes))


def _words(text: str) -> list[str]:
    """The words, with quotes understood; backslashes are left to the endpoint's own syntax."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""
    return list(lexer)


def _fields(endpoint: str) -> list[str]:
    r"""The parts between colons; ``\:`` is a colon within a part."""
    parts = [""]
    escaped = False
    for character in endpoint:
        if escaped:
            parts[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ":":
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _with_defaults(endpoint: str) -> str:
    fields = _fields(endpoint)
    named = {field.partition("=")[0] for field in fields[1:] if "=" in field}
    if fields[0] in ("tcp", "tcp6", "unix") and "backlog" not in named:
        endpoint += f":backlog={BACKLOG}"
    # Twisted would let every user of the machine connect.
    if fields[0] == "unix" and "mode" not in named:
        endpoint += ":mode=600"
    return endpoint


def check_reach(listener: Listener, *, authenticated: bool) -> None:
    """Raise ``ListenError`` if others could reach this listener and nobody said that they may."""
    if listener.policy.allow_public or (authenticated and listener.kind in _KNOWN):
        return
    if listener.kind not in _KNOWN:
        raise ListenError(
            f"--listen {listener.text}: who can reach an endpoint of the kind {listener.kind!r} is"
            " not known here; add the flag AllowPublic if that is meant"
        )
    if listener.kind in ("tcp", "tcp6") and not is_private(_interface(listener)):
        port = _fields(listener.endpoint)[1].removeprefix("port=")
        private = f"{listener.kind}:{port}:interface={_LOOPBACK[listener.kind]}"
        raise ListenError(
            f"--listen {listener.text}: others could reach this proxy. Write {private} to serve"
            " this machine only, or ask for passwords with --auth, or add the flag AllowPublic"
        )


_KNOWN = frozenset({"tcp", "tcp6", "unix", "systemd"})
INHERITABLE = _KNOWN
"""Kinds of endpoints that are nothing but a socket, which worker processes can inherit."""

_LOOPBACK = {"tcp": "127.0.0.1", "tcp6": r"\:\:1"}


def _interface(listener: Listener) -> str:
    for field in _fields(listener.endpoint)[1:]:
        name, equals, value = field.partition("=")
        if equals and name == "interface":
            return value
    return ""


def is_private(interface: str) -> bool:
    """Whether only this machine can reach a socket bound to this address ("" is all of them)."""
    if interface == "localhost":
        return True
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def bound_privately(address: IAddress) -> bool:
    """Whether only this machine can reach a socket that is bound here."""
    return isinstance(address, UNIXAddress) or is_private(getattr(address, "host", ""))


def describe(address: IAddress) -> str:
    """The bound address for a person: ``127.0.0.1:1080``, ``[::1]:1080`` or ``unix:/path``."""
    if isinstance(address, UNIXAddress):
        name = address.name
        return "unix:" + (name.decode(errors="replace") if isinstance(name, bytes) else str(name))
    host, port = getattr(address, "host", "?"), getattr(address, "port", "?")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
