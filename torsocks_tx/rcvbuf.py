"""The receive buffer of a socket whose peer is on this machine.

The kernel lets it grow to megabytes, for paths that are long. On loopback there is no path: what is
queued only falls out of the processor's cache before it is read.
"""

from __future__ import annotations

import ipaddress
import socket

RECEIVE_BUFFER = 256 * 1024
"""What is asked for."""

GRANTED = 2 * RECEIVE_BUFFER
"""What Linux makes of it: the other half is for its own bookkeeping."""


def is_local(peer: object) -> bool:
    """Whether a socket's peer address, as ``getpeername`` gives it, is one of loopback."""
    if not isinstance(peer, tuple):
        # A unix socket's. Its buffers do not grow.
        return False
    address = ipaddress.ip_address(peer[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def bound(source: socket.socket) -> None:
    """Let the receive buffer grow no further than ``GRANTED``, if a TCP peer is on this machine.

    For any other peer that would bound the product of bandwidth and delay. A buffer that is larger
    already stays: the window was advertised, and what then finds no room is dropped, and sent again
    only after a timeout.
    """
    try:
        if (
            is_local(source.getpeername())
            and source.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= GRANTED
        ):
            source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    except OSError:
        # It is gone already: its own event tells.
        return
