"""Many small connections at one time, from one epoll loop."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Iterator

from bench.origin import ONE_BYTE
from bench.socks import GREETING, HTTP, Way, is_granted, request

SOURCES = 64
"""Addresses of 127/8 to connect from: one has 28,000 ports, each unusable for a while after use."""


class Swarm:
    """Opens streams through ``way``, up to ``width`` attempts at one time.

    ``opened`` is called with each socket once the reply is there, and owns it.
    """

    def __init__(self, way: Way, host: str, port: int, *, echo: bool = False) -> None:
        self._way = way
        self._echo = echo
        self._target = way.proxy if way.version else (host, port)
        self._request = request(way.version, host, port) if way.version else b""
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._steps: dict[int, Iterator[int]] = {}
        self.failed = 0
        self._started = 0

    def run(self, count: int, width: int) -> Iterator[socket.socket]:
        """Open ``count`` streams; yield each when it is open."""
        left = count
        while left or self._steps:
            while left and len(self._steps) < width:
                self._start()
                left -= 1
            for number, _ in self._poll.poll():
                sock = self._go_on(number)
                if sock is not None:
                    yield sock
        self._poll.close()

    def _start(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._started += 1
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((f"127.0.1.{1 + self._started % SOURCES}", 0))
        number = sock.fileno()
        self._sockets[number] = sock
        status = sock.connect_ex(self._target)
        if status not in (0, errno.EINPROGRESS):
            raise OSError(status, "connect")
        self._steps[number] = self._conversation(sock)
        self._poll.register(number, next(self._steps[number]))

    def _go_on(self, number: int) -> socket.socket | None:
        try:
            self._poll.modify(number, next(self._steps[number]))
            return None
        except StopIteration:
            self._forget(number)
            return self._sockets.pop(number)
        except OSError:
            self.failed += 1
            self._forget(number)
            self._sockets.pop(number).close()
            return None

    def _forget(self, number: int) -> None:
        del self._steps[number]
        self._poll.unregister(number)

    def _conversation(self, sock: socket.socket) -> Iterator[int]:
        """Yield the epoll events to wait for."""
        yield select.EPOLLOUT
        if self._way.version == 5:
            sock.send(GREETING)
            yield select.EPOLLIN
            if sock.recv(2) != b"\5\0":
                raise ConnectionError
        if self._way.version:
            sock.send(self._request)
            yield select.EPOLLIN
            reply = sock.recv(10 if self._way.version != HTTP else 4096)
            if len(reply) < 8 or not is_granted(reply):
                raise ConnectionError
        if self._echo:
            sock.send(ONE_BYTE)
            yield select.EPOLLIN
            if sock.recv(1) != b"?":
                raise ConnectionError


def rate(
    way: Way, host: str, port: int, count: int, width: int = 50, echo: bool = True
) -> dict[str, float]:
    """Open and close ``count`` streams, ``width`` at a time; ``echo``: a byte goes both ways."""
    swarm = Swarm(way, host, port, echo=echo)
    began = time.perf_counter()
    done = 0
    for sock in swarm.run(count, width):
        sock.close()
        done += 1
    return {"seconds": time.perf_counter() - began, "done": done, "failed": swarm.failed}


class Held:
    """Streams that are open and idle."""

    def __init__(self, way: Way, host: str, port: int, count: int) -> None:
        swarm = Swarm(way, host, port)
        self._sockets = list(swarm.run(count, 50))
        self.open, self.refused = len(self._sockets), swarm.failed

    def use(self) -> int:
        """Send an order over each stream, read the answers, close; return how many answered."""
        answered = 0
        for start in range(0, len(self._sockets), 100):
            some = self._sockets[start : start + 100]
            for sock in some:
                sock.setblocking(True)
                sock.settimeout(30)
                with contextlib.suppress(OSError):
                    sock.sendall(ONE_BYTE)
            for sock in some:
                with contextlib.suppress(OSError):
                    answered += sock.recv(1) == b"?"
                sock.close()
        return answered
