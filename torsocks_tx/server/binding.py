"""Listening ports: made here, or inherited from the process that made them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet import abstract, base, tcp, unix
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.relay.poller import CLIENTS, poller_of
from torsocks_tx.server.connections import RareWarning
from torsocks_tx.server.listen import (
    BACKLOG,
    DEFAULT,
    Listener,
    ListenError,
    bound_privately,
    describe,
    fields_of,
)

_AT_ONCE = 16
"""Clients that are accepted before other sockets are served: it takes about 2 ms."""

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
            " ask for passwords (--auth, or serve(authenticator=...)), or add the flag AllowPublic"
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
    """An endpoint for this string: one of ours for TCP, unix and inherited sockets.

    Twisted's own takes a socket file from a program that listens there if a lock file is missing,
    changes the mode of an inherited socket's file, and removes it at the end. Its ports accept ever
    more clients in one turn of the reactor, and log client addresses when descriptors run out.
    """
    endpoint = serverFromString(reactor, description)
    positional, named = fields_of(description)
    backlog = int(named.get("backlog", BACKLOG))
    if isinstance(endpoint, UNIXServerEndpoint):
        path, mode = positional[1], int(named.get("mode", "600"), 8)
        return _Endpoint(partial(_listen_at_path, reactor, path, mode, backlog))
    if isinstance(endpoint, (TCP4ServerEndpoint, TCP6ServerEndpoint)):
        anywhere = "::" if isinstance(endpoint, TCP6ServerEndpoint) else ""
        # Named, or by position: Twisted has seen that each is there once.
        port = named.get("port") or positional[1]
        host = named.get("interface") or (positional[2] if len(positional) > 2 else anywhere)
        place = host, int(port)
        return _Endpoint(partial(_listen_at_address, reactor, place, backlog))
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        return _Endpoint(partial(adopt, reactor, endpoint.fileno))
    return endpoint


def inherited_endpoints(reactor: Any) -> list[str]:
    """The endpoint strings of the listening sockets that systemd has passed to this process.

    Twisted has taken them out of the environment when it was imported.
    """
    texts: list[str] = []
    while True:
        place = f"index={len(texts)}"
        try:
            endpoint: Any = serverFromString(reactor, f"systemd:domain=UNIX:{place}")
        except IndexError:
            return texts
        with socket.socket(fileno=os.dup(endpoint.fileno)) as passed:
            texts.append(f"systemd:domain={passed.family.name.removeprefix('AF_')}:{place}")


@implementer(IStreamServerEndpoint)
class _Endpoint:
    """Listens by a function that takes the factory and returns the port."""

    def __init__(self, listen: Callable[[Any], Any]) -> None:
        self._listen = listen

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """Fire with the port, or fail with the reason."""
        return maybeDeferred(self._listen, protocolFactory)


class _ListeningSocket(socket.socket):
    """A socket that listens; while no descriptor is free, it closes whoever is next."""

    _log = Logger()

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._spare = _open_spare()
        text = "no file descriptors are left: clients are turned away ({count})"
        self._warning = RareWarning(self._log, text, time.monotonic)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a client."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno != errno.EMFILE or self._spare is None:
                raise
        # Twisted would do the same, but log the client's address.
        os.close(self._spare)
        try:
            super().accept()[0].close()
            self._warning.note()
        finally:
            self._spare = _open_spare()
        raise BlockingIOError(errno.EAGAIN, "nobody is accepted now")

    def close(self) -> None:
        """Close it."""
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)
        super().close()


def _open_spare() -> int | None:
    """Open a descriptor that can be given up when another is needed."""
    with contextlib.suppress(OSError):
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    return None


class _AdoptedPort(base.BasePort):
    """What both kinds of our ports do otherwise than Twisted's: their socket listens already.

    It is closed at the end, never shut down: other processes may accept from it, too.
    """

    socket: socket.socket
    factory: Any
    connected: Any
    numberAccepts: int
    at_once: int
    """Clients that are accepted before other sockets are served."""

    def startListening(self) -> None:
        """Accept clients from now on."""
        self.factory.doStart()
        self.connected = True
        self.startReading()

    def fileno(self) -> int:
        """The socket's descriptor, -1 once it is closed."""
        return self.socket.fileno()

    def doRead(self) -> None:
        """Accept; Twisted's own takes ever more clients in one turn."""
        self.numberAccepts = self.at_once
        super().doRead()

    def doWrite(self) -> None:
        """Ignore an event of whoever had the descriptor before: nothing is written here."""

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket."""
        abstract.FileDescriptor.connectionLost(self, reason)
        self.socket.close()
        self.factory.doStop()


class _TCPPort(_AdoptedPort, tcp.Port):
    """Accepts from a TCP socket that listens already."""


class _UNIXPort(_AdoptedPort, unix.Port):
    """Accepts from a unix socket that listens already; removes its file only if that is ours."""

    file: tuple[str, int] | None = None
    """The path and the inode of a socket file that goes when we no longer listen."""

    def stopListening(self) -> Any:  # type: ignore[override]
        """Remove the file at once, and close the socket in the next turn of the reactor."""
        file, self.file = self.file, None
        if file is not None:
            path, inode = file
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        return super().stopListening()


def adopt(reactor: Any, descriptor: int, factory: Factory, *, at_once: int = _AT_ONCE) -> Any:
    """Accept from an inherited listening socket; the descriptor is taken over.

    ``at_once``: clients that are accepted before other sockets are served.
    """
    sock = _ListeningSocket(fileno=descriptor)
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ValueError(f"the inherited socket {descriptor} does not listen")
    sock.set_inheritable(False)
    return _port(reactor, sock, factory, at_once)


def _port(reactor: Any, sock: socket.socket, factory: Factory, at_once: int) -> Any:
    # Else an accept() whose client another worker has taken would never return.
    sock.setblocking(False)
    name = sock.getsockname()
    port: Any
    if sock.family == socket.AF_UNIX:
        port = _UNIXPort(name, factory, reactor=poller_of(reactor, CLIENTS))
    else:
        port = _TCPPort(0, factory, interface=name[0], reactor=poller_of(reactor, CLIENTS))
    port.socket = sock
    port.at_once = at_once
    port.startListening()
    return port


def _listen_at_address(
    reactor: Any, place: tuple[str, int], backlog: int, factory: Factory
) -> IListeningPort:
    """Listen at an address and a TCP port."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    sock = _ListeningSocket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.listen(backlog)
    except (OSError, OverflowError):
        sock.close()
        raise
    return _port(reactor, sock, factory, _AT_ONCE)  # type: ignore[no-any-return]


def _listen_at_path(
    reactor: Any, path: str, mode: int, backlog: int, factory: Factory
) -> IListeningPort:
    """Listen at a socket file; one at which nobody listens any more is replaced."""
    sock = _ListeningSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    lock = None
    try:
        lock = _lock(os.path.dirname(path) or os.curdir)
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, mode)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    finally:
        if lock is not None:
            os.close(lock)
    port = _port(reactor, sock, factory, _AT_ONCE)
    port.file = (path, os.stat(path).st_ino)
    return port  # type: ignore[no-any-return]


def _remove_stale(path: str) -> None:
    """Remove a socket file at which nobody listens; leave everything else as it is."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file or directory that is no socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            return


def _lock(directory: str) -> int | None:
    """Lock a directory until what is returned is closed, None where that cannot be done.

    Of two servers that start at once with one socket file, one then sees that the other listens.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return None
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE)
        except OSError:
            break
        else:
            return descriptor
    os.close(descriptor)
    return None


_LOCK_TRIES, _LOCK_PAUSE = 50, 0.02
"""A server holds the lock for less than a millisecond: whoever holds it for a second is none."""
