"""Where a server listens, as ``"ENDPOINT [FLAG ...]"``, and who could reach it there."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress

from torsocks_tx.backends.tor.events import printable, unix_endpoint
from torsocks_tx.policy.listener import FlagError, ListenerPolicy, parse_flags

DEFAULT = "tcp:1080:interface=127.0.0.1"
BACKLOG = 1024
"""Connections that may wait to be accepted; Twisted's default of 50 is soon full in a burst."""


class ListenError(ValueError):
    """A server cannot listen there, or should not; the text says how to fix it."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener: its endpoint for Twisted, what it allows, and how it was written.

    ``flags``: those that were written, as they were.
    """

    endpoint: str
    policy: ListenerPolicy
    text: str
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The endpoint's kind: ``tcp``, ``unix`` and so on."""
        return self.endpoint.partition(":")[0]


def parse_listener(text: str, directory: str = "") -> Listener:
    """Read an endpoint and its flags; a socket file's path is relative to ``directory``.

    Raises ``ListenError``.
    """
    try:
        words = _words(text)
    except ValueError as error:
        raise ListenError(f"{text!r}: {error}") from None
    if not words or not _KIND.match(words[0]):
        raise ListenError(f"{text!r}: begin with an endpoint, such as {DEFAULT} or unix:/run/socks")
    if words[0].startswith("haproxy:"):
        raise ListenError(f"{text!r}: in place of haproxy: write the flag ProxyProtocol, behind it")
    try:
        policy, notes = parse_flags(words[1:])
    except FlagError as error:
        raise ListenError(f"{text!r}: {error}") from None
    endpoint = _with_defaults(absolute_endpoint(words[0], directory))
    listener = Listener(endpoint, policy, words[0], tuple(notes), tuple(words[1:]))
    if policy.proxy_protocol is not None:
        _check_proxied(listener)
    return listener


def _check_proxied(listener: Listener) -> None:
    """Raise ``ListenError`` where PROXY headers cannot be read, or nobody would be trusted."""
    if listener.kind not in INHERITABLE:
        raise ListenError(
            f"{listener.text}: the flag ProxyProtocol is for tcp, tcp6, unix and systemd, where the"
            " header is the first that comes"
        )
    named = fields_of(listener.endpoint)[1]
    is_unix = listener.kind == "unix" or named.get("domain") == "UNIX"
    if not (listener.policy.proxy_protocol or is_unix):
        raise ListenError(
            f"{listener.text}: say which balancers are trusted, as in ProxyProtocol=192.0.2.1/32;"
            " anybody else could claim any address"
        )


def check_listeners(listeners: Iterable[Listener], *, authenticated: bool) -> None:
    """Raise ``ListenError`` as ``check_reach`` does for each, and if two have one name."""
    for listener in listeners:
        check_reach(listener, authenticated=authenticated)
    names = [listener.policy.name for listener in listeners if listener.policy.name]
    for name in names:
        if names.count(name) > 1:
            fix = "give each its own, or SessionGroup=N if they are to share circuits"
            raise ListenError(f"Name={name} is the name of several listeners: {fix}")


def _words(text: str) -> list[str]:
    """The words, with quotes understood; backslashes are left to the endpoint's own syntax."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""
    return list(lexer)


_KIND = re.compile(r"[A-Za-z][\w+-]*:")
_FIELD = re.compile(r"(?:\A|:)((?:[^\\:]|\\.)*)", re.DOTALL)
_NAMED = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def fields_of(endpoint: str) -> tuple[list[str], dict[str, str]]:
    r"""The fields of an endpoint string, by position and by name; ``\:`` is a colon within one."""
    positional, named = [], {}
    for field in _FIELD.findall(endpoint):
        if match := _NAMED.fullmatch(field):
            named[match[1]] = _ESCAPED.sub(r"\1", match[2])
        else:
            positional.append(_ESCAPED.sub(r"\1", field))
    return positional, named


def absolute_endpoint(endpoint: str, directory: str) -> str:
    """The endpoint string with the path of a unix socket made absolute; others as they are."""
    if not endpoint.startswith("unix:"):
        return endpoint
    _, first, *rest = _FIELD.findall(endpoint)
    named = _NAMED.fullmatch(first)
    path = os.path.join(directory, _ESCAPED.sub(r"\1", named[2] if named else first))
    return ":".join([unix_endpoint(path), *rest])


def _with_defaults(endpoint: str) -> str:
    """The endpoint string with our backlog and our mode where it says nothing of them."""
    (kind, *_), named = fields_of(endpoint)
    if kind in ("tcp", "tcp6", "unix") and "backlog" not in named:
        endpoint += f":backlog={BACKLOG}"
    # Twisted would let every user of the machine connect.
    if kind == "unix" and "mode" not in named:
        endpoint += ":mode=600"
    return endpoint


PASSWORDS = "ask for passwords (--auth, or serve(authenticator=...)), or "


def check_reach(listener: Listener, *, authenticated: bool, status: bool = False) -> None:
    """Raise ``ListenError`` if others could reach this listener and nobody said that they may.

    ``status``: it is that of the status page, which asks for no passwords.
    """
    if listener.policy.allow_public or (authenticated and listener.kind in INHERITABLE):
        return
    if listener.kind not in INHERITABLE:
        raise ListenError(
            f"{listener.text}: who can reach an endpoint of the kind {listener.kind!r} is not"
            " known here, as it is of tcp and unix; add the flag AllowPublic if that is meant"
        )
    positional, named = fields_of(listener.endpoint)
    if listener.kind in _LOOPBACK and not is_private(named.get("interface", "")):
        # What stands in the port's place may be the address that was meant.
        port = named.get("port") or next(filter(str.isdigit, positional[1:]), "1080")
        private = f"{listener.kind}:{port}:interface={_LOOPBACK[listener.kind]}"
        raise ListenError(
            f"{listener.text}: others could reach this {'page' if status else 'proxy'}. Write"
            f" {private} to serve this machine only, or {'' if status else PASSWORDS}add the flag"
            " AllowPublic"
        )


INHERITABLE = frozenset({"tcp", "tcp6", "unix", "systemd"})
"""Kinds of endpoints that are nothing but a socket, which worker processes can inherit."""

_LOOPBACK = {"tcp": "127.0.0.1", "tcp6": r"\:\:1"}


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
        return "unix:" + printable(os.fsdecode(address.name or b""))
    host, port = getattr(address, "host", "?"), getattr(address, "port", "?")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
