"""What is done at once to a plain socket of Twisted's, where its transport would wait for a turn.

A write, a half-close or a close of a transport costs a turn of the reactor and two system calls
more than needed where nothing is queued. Every function here does what the transport's own method
does, in its order, and calls that method wherever the short way is not safe.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from errno import ECONNRESET, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT
from typing import Any
from weakref import WeakSet

from twisted.internet import main, tcp
from twisted.python.failure import Failure

_NEEDED = (
    *("connected", "disconnecting", "producer", "producerPaused", "TLS"),
    *("dataBuffer", "_tempDataLen", "_writeDisconnecting", "_writeDisconnected"),
    *("_closeWriteConnection", "_shouldShutdown"),
)
_known = all(hasattr(tcp.Connection, name) for name in _NEEDED if name != "_tempDataLen")
_done = Failure(main.CONNECTION_DONE)
_TCP_CLOSE = 7
_FATAL = (ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH)
_reset: WeakSet[Any] = WeakSet()


def is_socket(transport: Any) -> bool:
    """Whether a transport is a plain socket of Twisted's, TCP or unix, of a make known here."""
    return _known and isinstance(transport, tcp.Connection) and not transport.TLS


def is_quiet(transport: Any) -> bool:
    """Whether everything written to a plain socket is in the kernel's hands, and it is open."""
    return bool(
        _known
        and isinstance(transport, tcp.Connection)
        and transport.connected
        and not transport.TLS
        and not transport._tempDataLen
        and not transport.dataBuffer
        and not transport.disconnecting
        and not transport._writeDisconnecting
        # Somebody else's while bytes for it are held in a pipe, or while it is aborted.
        and "doWrite" not in transport.__dict__
    )


def is_clear(transport: Any, producer: Any) -> bool:
    """Whether bytes may go past the protocol of a plain socket: nothing is queued before them.

    A transport that closes has no producer any more.
    """
    return bool(
        transport.connected
        and not transport.dataBuffer
        and not transport._tempDataLen
        and not transport.disconnecting
        and not transport._writeDisconnecting
        # As in ``is_quiet``.
        and "doWrite" not in transport.__dict__
        and transport.producer is producer
    )


def is_sending(sock: Any) -> bool:
    """Whether the kernel still has bytes for the peer of a socket, who has not taken them yet."""
    try:
        # Not every system has them.
        import fcntl
        import termios

        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (ImportError, OSError, ValueError):
        # Or it is closed.
        return False
    # A FIN on its way counts as one.
    return bool(count > 1)


def not_sent(transport: Any, errno: int | None) -> None:
    """Note why the peer took nothing. Full, or gone: the transport's own attempt tells.

    But of a reset, or a timeout of its own, the kernel tells once, and what is read behind that is
    like an orderly end. Of a reset that follows an orderly end it says EPIPE.
    """
    if errno in _FATAL:
        _reset.add(transport)


def not_all_spliced(transport: Any) -> None:
    """Note why the peer took less than it was given: a splice that took some keeps its error back.

    The connection is over, so its peer has not merely ended it.
    """
    # A unix socket has no such state, and one that is closed none at all.
    with contextlib.suppress(OSError):
        if transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            _reset.add(transport)


def was_reset(transport: Any) -> bool:
    """Whether the peer's orderly end is none: its reset was noted before."""
    return transport in _reset


def send(transport: Any, data: bytes) -> None:
    """``write``: what the kernel takes goes out before this returns."""
    if is_quiet(transport):
        try:
            sent = transport.socket.send(data)
        except OSError as error:
            not_sent(transport, error.errno)
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)


def shut(transport: Any) -> None:
    """``loseWriteConnection``: the FIN goes out before this returns, if nothing is queued."""
    if is_quiet(transport) and transport.producer is None:
        transport._writeDisconnecting = transport._writeDisconnected = True
        transport._closeWriteConnection()
    else:
        transport.loseWriteConnection()


def closes_at_once(transport: Any) -> bool:
    """Whether a plain socket has nothing to send before it closes: quiet, or its FIN is out."""
    if is_quiet(transport):
        return transport.producer is None
    done = is_socket(transport) and transport.connected and not transport.disconnecting
    return bool(done and transport._writeDisconnected)


def lose(transport: Any) -> None:
    """``loseConnection``: the end is told of before this returns, if nothing is queued."""
    if closes_at_once(transport):
        # The descriptor is nobody else's: closing it is enough, and one system call less.
        transport._shouldShutdown = False
        transport.connectionLost(_done)
    else:
        transport.loseConnection()
