"""Held ports: nobody else gets them, a daemon that reuses addresses does."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from torsocks_tx.testing.tornet import servers
from torsocks_tx.testing.tornet.servers import LOOPBACK, PortReservations, has_ipv6_loopback


def listen(port: int, *, reuse: bool) -> socket.socket:
    listener = socket.socket()
    try:
        if reuse:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def test_reserved_port_is_free_for_a_daemon_that_reuses_addresses() -> None:
    reservations = PortReservations()
    port = reservations.take()
    with pytest.raises(OSError, match="in use"):
        listen(port, reuse=False)
    for _ in range(2):  # the second time is a daemon that was started again
        with (
            closing(listen(port, reuse=True)) as listener,
            closing(socket.create_connection((LOOPBACK, port))) as client,
        ):
            accepted, _ = listener.accept()
            accepted.close()
            assert client.recv(1) == b""
    reservations.release()
    reservations.release()
    with closing(listen(port, reuse=True)):
        pass


def test_reserved_port_without_a_listener_refuses() -> None:
    reservations = PortReservations()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, reservations.take()))
    reservations.release()


def test_reserved_ports_are_all_different() -> None:
    reservations = PortReservations()
    taken = [reservations.take() for _ in range(100)]
    assert len(set(taken)) == 100
    reservations.release()


def test_machine_without_ipv6_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LOOPBACK6", "2001:db8::1")
    assert not has_ipv6_loopback()
