"""Accepts in place of one of Twisted's ports."""

from __future__ import annotations

import select
import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IReactorFDSet

from torsocks_tx.fastpath.hall import Hall
from torsocks_tx.fastpath.visitor import Visitor
from torsocks_tx.protocol import SOCKS4Protocol, SOCKS5Protocol, SOCKSProtocol
from torsocks_tx.server import SOCKSFactory

PROTOCOLS = {SOCKSProtocol, SOCKS4Protocol, SOCKS5Protocol}
"""What is known here to be nothing but what this package makes of it."""


def opens(port: Any) -> bool:
    """Whether a door can stand in for this port: it needs epoll, and a factory of our own make."""
    return bool(
        hasattr(select, "epoll")
        and isinstance(port, tcp.Port)
        and IReactorFDSet.providedBy(port.reactor)
        and type(port).doRead is tcp.Port.doRead
        and _is_plain(port.factory)
    )


def _is_plain(factory: Any) -> bool:
    return (
        type(factory).buildProtocol is SOCKSFactory.buildProtocol and factory.protocol in PROTOCOLS
    )


def attach(port: Any) -> None:
    """Let clients of a port that listens take the short way, if there is one here."""
    if opens(port):
        port.doRead = Door(port, port.factory).accept


class Door:
    """Accepts for one port."""

    def __init__(self, port: Any, factory: SOCKSFactory) -> None:
        self._port = port
        self._hall = Hall(port, factory)
        if port.addressFamily != socket.AF_UNIX:
            # Every socket that is accepted begins with these options of its listener.
            port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def accept(self) -> Any:
        """The port can be read: stands in for its ``doRead``."""
        port = self._port
        has_room = self._hall.factory.has_room
        for _ in range(port.numberAccepts):
            if not has_room():
                break
            try:
                sock, address = port.socket.accept()
            except BlockingIOError:
                return None
            except OSError:
                # No descriptors, most often: Twisted knows what to do, and says so.
                break
            if socket.getdefaulttimeout() is not None:
                # Python would wait for so long in each call, whatever the call says.
                sock.setblocking(False)
            self._let_in(sock, address)
        else:
            return None
        most = port.numberAccepts
        try:
            return type(port).doRead(port)
        finally:
            # It would take fewer next time, and only its own way would ever take more again.
            port.numberAccepts = most

    def _let_in(self, sock: socket.socket, address: Any) -> None:
        visitor = Visitor(self._hall, sock, self._shown(address))
        try:
            visitor.begin()
        except Exception:
            # The reactor would close the port.
            self._hall.poller.fault(visitor)

    def _shown(self, address: Any) -> Any:
        """An address as Twisted's ports pass it on: with the scope of an IPv6 address."""
        if self._port.addressFamily != socket.AF_INET6:
            return address
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        return socket.getnameinfo(address, flags)[:1] + address[1:]
