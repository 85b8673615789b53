"""Listening sockets: made here, or inherited from the process that made them."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.haproxy import proxyEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.twistd.listen import Listener, bound_privately, describe

_log = Logger()


class StartError(Exception):
    """The server cannot start; the text is the one line that a person reads."""


def bind(reactor: Any, listener: Listener, factory: Factory, *, authenticated: bool) -> Any:
    """Listen, and say where. Raises ``StartError`` if that cannot be, or would not be safe."""
    port = _listen(reactor, listener, factory)
    address = port.getHost()
    public = not bound_privately(address)
    if public and not (listener.policy.allow_public or authenticated):
        raise StartError(
            f"{listener.text} is a socket at {describe(address)}, where others could reach it;"
            " add the flag AllowPublic, or --auth, if that is meant"
        )
    if public:
        _log.warn(
            "OTHERS CAN REACH this proxy at {place}, and SOCKS is not encrypted",
            place=describe(address),
        )
    _log.info("SOCKS4, SOCKS4a and SOCKS5 at {place}", place=describe(address))
    for note in listener.notes:
        _log.info("{place}: {note}", place=describe(address), note=note)
    return port


class _ProxyHeaderGuard(ProtocolWrapper):
    """Resets a connection whose PROXY header makes Twisted's parser raise.

    The reactor would log a traceback, and that quotes the header.
    """

    _log = Logger()

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes on."""
        try:
            super().dataReceived(data)
        except Exception as error:
            kind = type(error).__name__
            self._log.debug("a connection is reset: {kind} in its PROXY header", kind=kind)
            self.abortConnection()


class _GuardingFactory(WrappingFactory):
    protocol = _ProxyHeaderGuard
    noisy = False


@implementer(IStreamServerEndpoint)
class _GuardedEndpoint:
    """An endpoint for ``proxyEndpoint``, with a guard around what that puts around a factory."""

    def __init__(self, endpoint: IStreamServerEndpoint) -> None:
        self._endpoint = endpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen."""
        return self._endpoint.listen(_GuardingFactory(protocolFactory))


def _endpoint(reactor: Any, text: str) -> Any:
    kind, _, rest = text.partition(":")
    if kind == "haproxy":
        return proxyEndpoint(_GuardedEndpoint(serverFromString(reactor, rest)))
    return serverFromString(reactor, text)


def _listen(reactor: Any, listener: Listener, factory: Factory) -> Any:
    outcome: list[Any] = []
    try:
        _endpoint(reactor, listener.endpoint).listen(factory).addBoth(outcome.append)
    except Exception as error:
        raise StartError(f"cannot listen at {listener.text}: {error}") from None
    if not outcome:
        raise StartError(f"cannot listen at {listener.text}: not ready at once")
    port = outcome[0]
    if isinstance(port, Failure):
        reason = port.getErrorMessage().rstrip(".")
        mend = "end the program that has it, or choose another place"
        raise StartError(f"--listen {listener.text}: {reason}; {mend}")
    return port


class _InheritedUNIXPort(unix.Port):
    """A unix listener of another process: neither its file nor its mode are touched."""

    _shouldShutdown = False

    def startListening(self) -> None:
        """Accept; Twisted's own would let every user connect, and shorten the queue."""
        tcp._reservedFD.reserve()
        factory: Any = self.factory
        factory.doStart()
        self.connected = True
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """Close; Twisted's own would remove the file."""
        tcp.Port.connectionLost(self, reason)


def adopt(reactor: Any, descriptor: int, factory: Factory) -> IListeningPort:
    """Accept from an inherited listening socket; the descriptor is taken over."""
    sock = socket.socket(fileno=descriptor)
    # Else an accept() whose client another worker has taken would never return.
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        port: Any = _InheritedUNIXPort(sock.getsockname(), factory, reactor=reactor)
        port.socket = sock
        port.startListening()
    else:
        port = reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
        sock.close()
    # Whoever is awake first would take the whole queue, and the others nothing.
    port.numberAccepts = 1
    return port  # type: ignore[no-any-return]
