"""Our listening ports: they accept few clients at a time, from sockets that were here before.

Twisted's own takes a socket file from a program that listens there if a lock file is missing,
changes the mode of an inherited socket's file, and removes it at the end. Its ports accept ever
more clients in one turn of the reactor, and log client addresses when descriptors run out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from typing import Any

from twisted.internet import abstract, base, tcp, unix
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.relay.poller import CLIENTS, poller_of
from torsocks_tx.server.connections import RareWarning

_AT_ONCE = 16
"""Clients that are accepted before other sockets are served: it takes about 2 ms."""


class _ListeningSocket(socket.socket):
    """A socket that listens; while no descriptor is free, it closes whoever is next."""

    _log = Logger()

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._spare = _open_spare()
        text = "no file descriptors are left: clients are turned away ({count})"
        self._warning = RareWarning(self._log, text)

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


def listen_at_address(
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


def listen_at_path(
    reactor: Any, path: str, mode: int, backlog: int, factory: Factory
) -> IListeningPort:
    """Listen at a socket file; one at which nobody listens any more is replaced."""
    sock = _ListeningSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    lock = None
    try:
        lock = _lock(os.path.dirname(path) or os.curdir)
        _remove_stale(path)
        sock.bind(path)
        try:
            os.chmod(path, mode)
            sock.listen(backlog)
        except (OSError, OverflowError):
            os.unlink(path)
            raise
    except (OSError, OverflowError):
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
