"""What is done to the transports of a stream: options, writes that leave at once, half-close, ends.

Everything that is written to such a transport goes through ``send``, which leaves nothing where
``dataBuffer`` does not show it. So an empty ``dataBuffer`` means that all is in the kernel's hands.
"""

from __future__ import annotations

import socket
import struct
from errno import ECONNRESET, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT
from typing import Any
from weakref import WeakSet

from twisted.internet import tcp
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import ITCPTransport

_FATAL = (ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH)
_TCP_CLOSE = 7
_reset: WeakSet[Any] = WeakSet()


def is_socket(transport: Any) -> bool:
    """Whether a transport is a plain socket of Twisted's, TCP or unix, without TLS."""
    return isinstance(transport, tcp.Connection) and not transport.TLS


def prepare(transport: Any) -> bool:
    """Switch Nagle off and keepalive on, where the transport is TCP; return ``is_socket`` of it."""
    plain = is_socket(transport)
    if plain:
        setsockopt = transport.getHandle().setsockopt
        try:
            setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:
            # A unix socket has no Nagle; a client that has gone already has nothing.
            pass
    # Twisted 22.4 has these methods on unix transports too, where they raise.
    elif ITCPTransport.providedBy(transport) and not isinstance(transport.getHost(), UNIXAddress):
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
    return plain


def send(transport: Any, data: bytes) -> None:
    """Write; what the kernel takes has left before this returns.

    Twisted's own ``write`` waits for a turn of the reactor, which costs more than the rest.
    """
    # As ``is_socket``, without a call: this is the most frequent one of all.
    if not isinstance(transport, tcp.Connection) or transport.TLS or not transport.connected:
        transport.write(data)
        return
    if not transport.dataBuffer and not transport.disconnecting:
        try:
            sent = transport.getHandle().send(data)
        except OSError as error:
            note_unsent(transport, error.errno)
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)
    # Moves the rest to ``dataBuffer``. That the connection is lost, the reactor finds out itself.
    transport.doWrite()
    if transport.connected and transport.disconnecting:
        # That was the last of one that is to be closed: nobody would watch it any more.
        transport.startWriting()


def shut(transport: Any) -> None:
    """Shut the sending side down; the FIN leaves before this returns, if nothing is queued."""
    transport.loseWriteConnection()
    if is_socket(transport) and transport.connected and not transport.disconnecting:
        transport.doWrite()


def abort(transport: Any) -> None:
    """Close at once, and drop what is not sent yet, where the transport can; else close.

    An ``ITransport`` need not have ``abortConnection``: the pipes to a process have none.
    """
    if hasattr(transport, "abortConnection"):
        transport.abortConnection()
    else:
        transport.loseConnection()


def can_half_close(transport: Any) -> bool:
    """Whether the sending side can be shut down alone.

    Wrappers such as TLS pass unknown attributes on to the transport below them, where shutting down
    would cut the wrapper's own protocol short: only a method of the transport's own class counts.
    """
    own = hasattr(type(transport), "loseWriteConnection")
    return own and not getattr(transport, "TLS", False)


def note_unsent(transport: Any, errno: int | None) -> None:
    """Note why the peer took nothing: of a reset, or a timeout, the kernel tells only once.

    What is read behind it looks like an orderly end. Of a reset that follows an orderly end the
    kernel says EPIPE.
    """
    if errno in _FATAL:
        _reset.add(transport)


def note_partly_spliced(transport: Any) -> None:
    """Note whether the peer is gone that took a part of a splice: the kernel keeps the error back.

    The connection is over, so its peer has not merely ended it.
    """
    try:
        state = transport.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except (AttributeError, OSError):
        # A unix socket has no such state, nor has any socket on some systems.
        return
    if state == _TCP_CLOSE:
        _reset.add(transport)


def was_reset(transport: Any) -> bool:
    """Whether the peer's orderly end is none: its reset was noted before."""
    return transport in _reset


def is_closing(transport: Any) -> bool:
    """Whether its protocol has closed or aborted it."""
    # Twisted shows an abort by nothing public before ``connectionLost``.
    return any(getattr(transport, mark, False) for mark in ("disconnecting", "_aborting"))


def is_sending(transport: Any) -> bool:
    """Whether the kernel still has bytes for the peer of a socket, who has not taken them yet."""
    try:
        # Not every system has them.
        import fcntl
        import termios

        handle = transport.getHandle()
        (count,) = struct.unpack("i", fcntl.ioctl(handle.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (AttributeError, ImportError, OSError, ValueError):
        # Or it is closed, or no socket.
        return False
    # A FIN on its way counts as one.
    return bool(count > 1)
