"""When a socket's receive buffer is bounded, and when that would do harm."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from torsocks_tx.rcvbuf import GRANTED, RECEIVE_BUFFER, bound, is_local


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (("127.0.0.1", 80), True),
        (("127.255.0.9", 80), True),
        (("::1", 80, 0, 0), True),
        (("::ffff:127.0.0.1", 80, 0, 0), True),
        (("::ffff:192.0.2.1", 80, 0, 0), False),
        (("fe80::1%eth0", 80, 0, 2), False),
        (("192.0.2.1", 80), False),
        ("/run/tor/socks", False),
        ("", False),
    ],
)
def test_who_is_on_this_machine(peer: object, local: bool) -> None:
    assert is_local(peer) == local


class Socket:
    """A connection over loopback whose receive buffer is as large as it says."""

    def __init__(self, size: int, peer: Any = ("127.0.0.1", 80)) -> None:
        self.size = size
        self.peer = peer

    def getpeername(self) -> Any:
        if self.peer is None:
            raise OSError
        return self.peer

    def getsockopt(self, *which: int) -> int:
        assert which == (socket.SOL_SOCKET, socket.SO_RCVBUF)
        return self.size

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.size = 2 * value


def bounded(source: Any) -> int:
    bound(source)
    size: int = source.size
    return size


def test_it_grows_no_further() -> None:
    assert GRANTED == 2 * RECEIVE_BUFFER
    assert bounded(Socket(131072)) == GRANTED


def test_one_that_has_grown_stays() -> None:
    # What is on its way already would be dropped.
    assert bounded(Socket(GRANTED + 1)) == GRANTED + 1


def test_so_does_that_of_a_peer_elsewhere() -> None:
    assert bounded(Socket(131072, ("192.0.2.1", 80))) == 131072


def test_and_that_of_a_socket_that_is_gone() -> None:
    assert bounded(Socket(131072, None)) == 131072
