"""Listening ports: made here, or inherited from the process that made them."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.server.listen import (
    BACKLOG,
    DEFAULT,
    PASSWORDS,
    Listener,
    ListenError,
    bound_privately,
    describe,
    fields_of,
)
from torsocks_tx.server.ports import adopt, listen_at_address, listen_at_path

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
    outcome: list[Any] = []
    try:
        endpoint = server_endpoint(reactor, listener.endpoint)
    except Exception as error:
        fix = f"write it as {DEFAULT} or unix:/run/socks"
        raise ListenError(f"{listener.text}: {why_wrong(error)}; {fix}") from None
    maybeDeferred(endpoint.listen, factory).addBoth(outcome.append)
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


def server_endpoint(reactor: Any, description: str) -> Any:
    """An endpoint for this string: with ports of ours for TCP, TLS, unix and inherited sockets."""
    is_tls = description.startswith("ssl:")
    endpoint = serverFromString(
        _TLSListening(reactor, description) if is_tls else reactor, description
    )
    positional, named = fields_of(description)
    backlog = int(named.get("backlog", BACKLOG))
    if isinstance(endpoint, UNIXServerEndpoint):
        path, mode = positional[1], int(named.get("mode", "600"), 8)
        return _Endpoint(partial(listen_at_path, reactor, path, mode, backlog))
    if isinstance(endpoint, (TCP4ServerEndpoint, TCP6ServerEndpoint)):
        anywhere = "::" if isinstance(endpoint, TCP6ServerEndpoint) else ""
        # Named, or by position: Twisted has seen that each is there once.
        port = named.get("port") or positional[1]
        host = named.get("interface") or (positional[2] if len(positional) > 2 else anywhere)
        place = host, int(port)
        return _Endpoint(partial(listen_at_address, reactor, place, backlog))
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        return _Endpoint(partial(adopt, reactor, endpoint.fileno))
    return endpoint


@implementer(IProtocolNegotiationFactory)
class _SpeaksHTTP(Factory):
    """A factory whose clients may ask for HTTP by ALPN, as browsers do: else TLS would refuse them.

    What they speak then is seen from what they send.
    """

    def __init__(self, factory: Factory) -> None:
        self._factory = factory

    def doStart(self) -> None:
        """Tell the factory that it is listened to."""
        self._factory.doStart()

    def doStop(self) -> None:
        """Tell it that it is no more."""
        self._factory.doStop()

    def acceptableProtocols(self) -> list[bytes]:
        """Return the protocols by their names in ALPN."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: Any) -> Any:
        """Return what the factory does."""
        return self._factory.buildProtocol(addr)


class _TLSListening:
    """What an ``ssl:`` endpoint of Twisted's asks to listen; its clients are served like others."""

    def __init__(self, reactor: Any, description: str) -> None:
        self._reactor = reactor
        self._description = description

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

        if "backlog" not in fields_of(self._description)[1]:
            backlog = BACKLOG
        tls: Any = TLSFactory(contextFactory, False, _SpeaksHTTP(factory))
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
            with socket.socket(fileno=os.dup(endpoint.fileno)) as passed:
                texts.append(f"systemd:domain={passed.family.name.removeprefix('AF_')}:{place}")
    return texts


@implementer(IStreamServerEndpoint)
class _Endpoint:
    """Listens by a function that takes the factory and returns the port."""

    def __init__(self, listen: Callable[[Any], Any]) -> None:
        self._listen = listen

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """Fire with the port, or fail with the reason."""
        return maybeDeferred(self._listen, protocolFactory)
