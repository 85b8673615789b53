"""When a socket's buffers are bounded, and when that would do harm."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from torsocks_tx.relay import rcvbuf
from torsocks_tx.relay.rcvbuf import LONE, SHARED, allowed, bound_receiving, bound_sending, is_local


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
    """A connection over loopback whose buffers are as large as it says."""

    def __init__(self, size: int, peer: Any = ("127.0.0.1", 80)) -> None:
        self.sizes = dict.fromkeys((socket.SO_RCVBUF, socket.SO_SNDBUF), size)
        self.peer = peer

    def getpeername(self) -> Any:
        if self.peer is None:
            raise OSError
        return self.peer

    def getsockopt(self, level: int, option: int) -> int:
        assert level == socket.SOL_SOCKET
        return self.sizes[option]

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert level == socket.SOL_SOCKET
        self.sizes[option] = 2 * value


def bounded(size: int, **options: Any) -> tuple[int, int]:
    source: Any = Socket(size, **options)
    bound_receiving(source, LONE)
    bound_sending(source, SHARED)
    return source.sizes[socket.SO_RCVBUF], source.sizes[socket.SO_SNDBUF]


def test_they_grow_no_further() -> None:
    assert bounded(131072) == (2 * LONE, 2 * SHARED)


def test_a_receive_buffer_that_has_grown_stays() -> None:
    # What is on its way already would be dropped.
    assert bounded(4 * SHARED) == (4 * SHARED, 2 * SHARED)


def test_nor_is_one_cut_that_is_larger_than_may_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 212992
    monkeypatch.setattr(rcvbuf, "allowed", lambda: most)
    assert bounded(2 * most)[0] == 2 * LONE
    assert bounded(2 * most + 1)[0] == 2 * most + 1


def test_what_may_be_asked_for_is_the_kernels_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Path("/proc/sys/net/core/rmem_max")
    if known.exists():
        assert allowed() == int(known.read_text())
    allowed.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda _: "")
    assert allowed() == SHARED
    allowed.cache_clear()


@pytest.mark.parametrize("peer", [("192.0.2.1", 80), "/run/tor/socks", None])
def test_so_do_those_of_a_peer_elsewhere_and_of_one_that_is_gone(peer: Any) -> None:
    assert bounded(131072, peer=peer) == (131072, 131072)


@pytest.mark.parametrize(
    ("is_lone", "received", "sent"), [(True, 2 * LONE, 131072), (False, 2 * SHARED, 2 * SHARED)]
)
def test_one_receives_and_several_send_too(is_lone: bool, received: int, sent: int) -> None:
    source: Any = Socket(131072)
    sink: Any = Socket(131072)
    rcvbuf.bound(source, sink, is_lone=is_lone)
    assert source.sizes == {socket.SO_RCVBUF: received, socket.SO_SNDBUF: 131072}
    assert sink.sizes == {socket.SO_RCVBUF: 131072, socket.SO_SNDBUF: sent}
