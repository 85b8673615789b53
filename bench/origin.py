"""The origin, where every stream ends: ``python -m bench.origin``; it prints its port.

A stream begins with an order of 13 bytes: a letter, then two numbers.

      1      4       8
    +---+---------+-------+
    | L |  chunk  | count |    S: send count bytes in writes of chunk bytes, then close
    +---+---------+-------+    R: read count bytes, answer one, and close
                               E: echo count bytes, chunk by chunk

A stream that ends without an order is closed.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import threading

from bench.socks import take

ORDER = struct.Struct("!cIQ")
BLOCK = memoryview(bytes(range(256)) * 4096)


def order(letter: bytes, chunk: int, count: int) -> bytes:
    """The bytes that begin a stream."""
    return ORDER.pack(letter, chunk, count)


ONE_BYTE = order(b"E", 1, 1) + b"?"


def send(stream: socket.socket, chunk: int, count: int) -> None:
    """Send ``count`` bytes."""
    piece = BLOCK[:chunk]
    for _ in range(count // chunk):
        stream.sendall(piece)
    stream.sendall(piece[: count % chunk])


def receive(stream: socket.socket, count: int) -> None:
    """Read ``count`` bytes, and answer one."""
    buffer = bytearray(len(BLOCK))
    while count > 0:
        got = stream.recv_into(buffer)
        if not got:
            return
        count -= got
    stream.sendall(b"!")


def echo(stream: socket.socket, chunk: int, count: int) -> None:
    """Send back ``count`` bytes."""
    for _ in range(count // chunk):
        stream.sendall(take(stream, chunk))


def serve(stream: socket.socket) -> None:
    """Follow the order of one stream."""
    with stream, contextlib.suppress(OSError, EOFError):
        letter, chunk, count = ORDER.unpack(take(stream, ORDER.size))
        if letter == b"S":
            send(stream, chunk, count)
        elif letter == b"R":
            receive(stream, count)
        else:
            echo(stream, chunk, count)


class Origin:
    """Accepts; a stream costs a thread only once it has an order."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._waiting: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for number, _ in self._poll.poll():
                if number == self._listener.fileno():
                    self._accept()
                else:
                    self._begin(self._waiting[number])

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                stream, _ = self._listener.accept()
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._waiting[stream.fileno()] = stream
                self._poll.register(stream, select.EPOLLIN)

    def _begin(self, stream: socket.socket) -> None:
        try:
            begun = stream.recv(ORDER.size + 1, socket.MSG_PEEK)
        except OSError:
            begun = b""
        if begun == ONE_BYTE:
            # The most frequent order gets no thread.
            stream.send(stream.recv(ORDER.size + 1)[-1:])
            return
        del self._waiting[stream.fileno()]
        self._poll.unregister(stream)
        if begun:
            stream.setblocking(True)
            threading.Thread(target=serve, args=(stream,), daemon=True).start()
        else:
            stream.close()


if __name__ == "__main__":
    origin = Origin()
    print(origin.port, flush=True)
    # It ends when standard input does.
    threading.Thread(target=origin.run, daemon=True).start()
    sys.stdin.read()
