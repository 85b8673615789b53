"""The kernel's buffers of a socket whose peer is on this machine.

It lets them grow to megabytes, for paths that are long. On loopback there is no path: what is
queued only falls out of the processor's cache before it is read.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
from pathlib import Path

LONE = 256 * 1024
"""Asked for in bytes, for the receive buffer of a stream that is the only one. Linux doubles it."""

SHARED = 512 * 1024
"""Asked for in bytes, for both buffers of each of several streams."""


def is_local(peer: object) -> bool:
    """Whether a socket's peer address, as ``getpeername`` gives it, is one of loopback."""
    if not isinstance(peer, tuple):
        # A unix socket's. Its buffers do not grow.
        return False
    address = ipaddress.ip_address(peer[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@functools.cache
def allowed() -> int:
    """The most bytes that a receive buffer may be asked to have; the kernel cuts what is more."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    return SHARED


def bound(source: socket.socket, sink: socket.socket, *, is_lone: bool) -> None:
    """Bound what waits in the kernel between two sockets, as far as it is local.

    Several streams do not all stay in the cache, and want larger reads.
    """
    bound_receiving(source, LONE if is_lone else SHARED)
    if not is_lone:
        bound_sending(sink, SHARED)


def bound_receiving(source: socket.socket, size: int) -> None:
    """Let the receive buffer grow no further than this, if a TCP peer is on this machine.

    For any other peer that would bound the product of bandwidth and delay. A buffer that is larger
    already stays: the window was advertised, and what then finds no room is dropped, and sent again
    only after a timeout.
    """
    # One that is gone already is told of by its own event.
    with contextlib.suppress(OSError):
        if is_local(source.getpeername()) and source.getsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF
        ) <= 2 * min(size, allowed()):
            source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def bound_sending(sink: socket.socket, size: int) -> None:
    """The same for the send buffer, which may also shrink: nothing was promised to anybody."""
    with contextlib.suppress(OSError):
        if is_local(sink.getpeername()):
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
