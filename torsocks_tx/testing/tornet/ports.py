"""TCP ports of loopback for daemons that must know their ports before they start.

A port is held by a socket that is bound and never listens. A daemon that sets SO_REUSEADDR, as tor
does, can listen on it all the same; nobody who asks the kernel for a free port ever gets it. So a
daemon can be stopped and started again without losing its port.
"""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"
LOOPBACK6 = "::1"


class PortReservations:
    """Free ports of 127.0.0.1, ours until :meth:`release`."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def take(self) -> int:
        """Return a port that is free and stays so."""
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sockets.append(holder)
        holder.bind((LOOPBACK, 0))
        # Set after bind(): the port was chosen among those that nobody uses in any way.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port: int = holder.getsockname()[1]
        return port

    def release(self) -> None:
        """Give all the ports back."""
        while self._sockets:
            self._sockets.pop().close()


def has_ipv6_loopback() -> bool:
    """Tell whether this machine has ::1; some containers do not."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((LOOPBACK6, 0))
    except OSError:
        return False
    return True
