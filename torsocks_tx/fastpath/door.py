"""Accepts in place of one of Twisted's ports."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.fastpath.hall import Hall
from torsocks_tx.fastpath.visitor import Visitor
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.protocol import SOCKS4Protocol, SOCKS5Protocol, SOCKSProtocol

PROTOCOLS = {SOCKSProtocol, SOCKS4Protocol, SOCKS5Protocol}
"""What is known here to be nothing but what this package makes of it."""


KEPT = ("buildProtocol", "errand")
"""What of a factory is not asked on the short way."""


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
    kept = all(getattr(type(factory), name, None) is getattr(SOCKSFactory, name) for name in KEPT)
    return kept and factory.protocol in PROTOCOLS


def attach(port: Any) -> None:
    """Let clients of a port that listens take the short way, if there is one here."""
    if opens(port):
        Door(port, port.factory).open()


class Door:
    """Accepts for one port, until it is closed."""

    _log = Logger()

    def __init__(self, port: Any, factory: SOCKSFactory) -> None:
        self._port = port
        self._hall = Hall(port, factory)
        self._is_turning_away = False
        if port.addressFamily != socket.AF_UNIX:
            # Every socket that is accepted begins with these options of its listener.
            port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def open(self) -> None:
        """Take the port's clients from now on."""
        self._port.doRead = self.accept
        self._port.connectionLost = self._closed

    def accept(self) -> Any:
        """The port can be read: stands in for its ``doRead``."""
        port = self._port
        for _ in range(port.numberAccepts):
            try:
                sock, address = port.socket.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                return self._accept_otherwise(error)
            self._is_turning_away = False
            shown = self._shown(address)
            if self._hall.factory.has_room(port._buildAddr(shown)):
                self._let_in(sock, shown)
            else:
                sock.close()
        return None

    def _accept_otherwise(self, error: OSError) -> Any:
        port = self._port
        if error.errno == errno.EMFILE and tcp._reservedFD.available():
            self._turn_away()
            return None
        most = port.numberAccepts
        try:
            return type(port).doRead(port)
        finally:
            # It would take fewer next time, and only its own way would ever take more again.
            port.numberAccepts = most

    def _turn_away(self) -> None:
        """Let clients hear that there are no descriptors, in place of waiting for ever.

        Twisted does the same, but logs the address of each.
        """
        if not self._is_turning_away:
            self._is_turning_away = True
            self._log.warn("no file descriptors are left: clients are turned away")
        with tcp._reservedFD, contextlib.suppress(OSError):
            for _ in range(self._port.numberAccepts):
                self._port.socket.accept()[0].close()

    def _closed(self, reason: Failure) -> None:
        """The port is closed: stands in for its ``connectionLost``."""
        port = self._port
        del port.doRead, port.connectionLost
        port.connectionLost(reason)

    def _let_in(self, sock: socket.socket, address: Any) -> None:
        if socket.getdefaulttimeout() is not None:
            # Python would wait for so long in each call, whatever the call says.
            sock.setblocking(False)
        visitor = Visitor(self._hall, sock, address)
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
