"""Where a server listens, as ``"ENDPOINT [FLAG ...]"``, who could reach it there, and its ports."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import re
import shlex
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.events import printable, unix_endpoint
from torsocks_tx.policy.listener import FlagError, ListenerPolicy, parse_flags
from torsocks_tx.server.ports import adopt, listen_at_address, listen_at_path

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
        """The endpoint's kind: ``tcp``, ``unix`` and so on; Twisted knows some in capitals, too."""
        return self.endpoint.partition(":")[0].lower()


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
    endpoint = absolute_endpoint(words[0], directory)
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


_FIXES = {
    errno.EADDRINUSE: "end the program that has it, or choose another place",
    errno.EADDRNOTAVAIL: "choose an address of this machine",
    errno.ENOENT: "its directory is missing: make it, or choose another place",
    errno.EACCES: "choose a port above 1023 or a directory that this user can write, or start as"
    " root with twistd --uid",
}
"""What to do when the system does not let us listen."""

_log = Logger()


def bind(
    reactor: Any, listener: Listener, factory: Factory, *, authenticated: bool, status: bool = False
) -> IListeningPort:
    """Listen, and say where. Raises ``ListenError`` if that cannot be, or would not be safe.

    ``status``: the status page is there, and no SOCKS.
    """
    port = _listening_port(reactor, listener, factory)
    address = port.getHost()
    public = not bound_privately(address)
    if public and not (listener.policy.allow_public or authenticated):
        port.stopListening()  # an application may go on without it
        raise ListenError(
            f"{listener.text} is a socket at {describe(address)}, where others could reach it;"
            f" {'' if status else PASSWORDS}add the flag AllowPublic"
        )
    if public:
        text = "OTHERS CAN REACH this proxy at {place}, and SOCKS is not encrypted"
        if status:
            text = "OTHERS CAN REACH the status page at {place}, and HTTP is not encrypted"
        _log.warn(text, place=describe(address))
    if status:
        _log.info("status page at {place}", place=describe(address))
        return port
    http = "HTTP CONNECT, " if listener.policy.http_connect else ""
    _log.info("{http}SOCKS4, SOCKS4a and SOCKS5 at {place}", http=http, place=describe(address))
    for note in listener.notes:
        _log.info("{place}: {note}", place=describe(address), note=note)
    return port


def _listening_port(reactor: Any, listener: Listener, factory: Factory) -> IListeningPort:
    listen = listen_function(reactor, listener)
    outcome: list[Any] = []
    maybeDeferred(listen, factory).addBoth(outcome.append)
    if not outcome:
        raise ListenError(f"{listener.text}: not ready at once")
    port: IListeningPort | Failure = outcome[0]
    if isinstance(port, Failure):
        cause: Any = port.value
        if isinstance(cause, CannotListenError):
            cause = cause.socketError
        number, reason = None, str(cause).rstrip(".")
        if isinstance(cause, OSError):
            number, reason = cause.errno, cause.strerror or reason
        fix = _FIXES.get(number or 0, "choose another place")
        raise ListenError(f"{listener.text}: {reason}; {fix}")
    return port


def why_wrong(error: Exception) -> str:
    """Say what is wrong with the text of an endpoint; most parsers of Twisted quote their code."""
    if isinstance(error, IndexError):
        return "there is no such inherited socket"
    if isinstance(error, OSError) and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if type(error).__module__.startswith("OpenSSL"):
        return "the certificate or the key is not PEM, or one is not for the other"
    text = str(error)
    known = text.startswith("Unknown endpoint type")
    return text if known else "a part is missing, unknown or wrong"


_ADDRESS = {"port": "", "interface": "", "backlog": str(BACKLOG)}
_OWN_PORTS = {
    "tcp": _ADDRESS,
    "tcp6": _ADDRESS,
    # By Twisted's default mode every user of the machine could connect.
    "unix": {"address": "", "mode": "600", "backlog": str(BACKLOG)},
}
"""The fields of these kinds of endpoints in the order of their positions, with our defaults."""


def listen_function(reactor: Any, listener: Listener) -> Callable[[Factory], Any]:
    """Return what listens with a factory: by ports of ours for TCP, TLS, unix and inherited ones.

    Raises ``ListenError`` if the endpoint cannot be understood.
    """
    (_, *positional), named = fields_of(listener.endpoint)
    kind, text = listener.kind, listener.endpoint
    if kind == "ssl":
        text += "" if "backlog" in named else f":backlog={BACKLOG}"
        reactor = _TLSListening(reactor)
    try:
        endpoint: Any = serverFromString(reactor, text)
    except Exception as error:
        fix = f"write it as {DEFAULT} or unix:/run/socks"
        raise ListenError(f"{listener.text!r}: {why_wrong(error)}; {fix}") from None
    if kind == "systemd":
        return partial(adopt, reactor, endpoint.fileno)
    if kind not in _OWN_PORTS:
        return endpoint.listen  # type: ignore[no-any-return]
    # Twisted has seen that each is there once.
    fields = {**_OWN_PORTS[kind], **dict(zip(_OWN_PORTS[kind], positional, strict=False)), **named}
    backlog = int(fields["backlog"])
    if kind == "unix":
        return partial(listen_at_path, reactor, fields["address"], int(fields["mode"], 8), backlog)
    host = fields["interface"] or ("::" if kind == "tcp6" else "")
    return partial(listen_at_address, reactor, (host, int(fields["port"])), backlog)


class _TLSListening:
    """What an ``ssl:`` endpoint of Twisted's asks to listen; its clients are served like others."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int, interface: str
    ) -> IListeningPort:
        """Listen, and speak TLS with whoever comes."""
        from twisted.protocols.tls import TLSMemoryBIOFactory  # wants pyOpenSSL

        class TLSFactory(TLSMemoryBIOFactory):
            def buildProtocol(self, addr: Any) -> Any:
                """Return None for a client that is turned away; Twisted's own would fail."""
                protocol = self.wrappedFactory.buildProtocol(addr)
                return None if protocol is None else self.protocol(self, protocol)

        tls: Any = TLSFactory(contextFactory, False, factory)
        return listen_at_address(self._reactor, (interface, port), backlog, tls)


def inherited_endpoints(reactor: Any, but: Listener | None = None) -> list[str]:
    """The endpoint strings of the listening sockets that systemd has passed to this process.

    ``but``: a listener whose socket is left out. Twisted has taken them out of the environment when
    it was imported.
    """
    taken: Any = None
    if but is not None and but.kind == "systemd":
        with suppress(Exception):  # what is wrong with it is judged elsewhere
            taken = serverFromString(reactor, but.endpoint)
    texts: list[str] = []
    for number in itertools.count():
        place = f"index={number}"
        try:
            endpoint: Any = serverFromString(reactor, f"systemd:domain=UNIX:{place}")
        except IndexError:
            break
        if taken is None or endpoint.fileno != taken.fileno:
            domain = "UNIX"  # what is no socket at all is refused when it is bound
            with suppress(OSError):
                passed = socket.socket(fileno=endpoint.fileno)
                domain = passed.family.name.removeprefix("AF_")
                passed.detach()
            texts.append(f"systemd:domain={domain}:{place}")
    return texts
