"""What goes out at once, and what is left to the transport's own methods."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.support.transports import BareTransport, FakeTransport, WholeTransport
from torsocks_tx.relay.sockets import (
    abort,
    can_half_close,
    is_sending,
    is_socket,
    note_partly_spliced,
    note_unsent,
    prepare,
    send,
    shut,
    was_reset,
)


@implementer(IHalfCloseableProtocol)
class Ear(Protocol):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data.decode())

    def readConnectionLost(self) -> None:
        self.heard.append("eof")

    def writeConnectionLost(self) -> None:
        self.heard.append("shut")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.heard.append("lost" if reason.check(ConnectionDone) else "reset")


class End:
    """A Twisted transport on one end of a socket pair, without a running reactor."""

    def __init__(self, pair: tuple[socket.socket, socket.socket] | None = None) -> None:
        self.reactor = MemoryReactorClock()
        self.reactor.running = True
        ours, self.far = pair or socket.socketpair()
        self.far.setblocking(False)
        self.ear = Ear()
        self.transport: Any = tcp.Connection(ours, self.ear, self.reactor)
        self.transport.connected = 1
        self.transport.startReading()
        self.ear.makeConnection(self.transport)

    def fill(self) -> int:
        """Fill the kernel's buffer; how many bytes that took."""
        count = 0
        try:
            while True:
                count += self.transport.socket.send(bytes(65536))
        except BlockingIOError:
            return count

    def take(self) -> bytes:
        """All that has come to the far end; None is its end."""
        data = b""
        try:
            while more := self.far.recv(1 << 20):
                data += more
        except BlockingIOError:
            pass
        return data

    def close(self) -> None:
        if self.transport.connected:
            self.transport.connectionLost(Failure(ConnectionDone()))
        self.far.close()


@pytest.fixture
def end() -> Iterator[End]:
    end = End()
    yield end
    end.close()


def test_what_is_a_socket(end: End) -> None:
    assert is_socket(end.transport)
    assert not is_socket(FakeTransport())
    end.transport.TLS = True
    assert not is_socket(end.transport)


class TestSend:
    def test_it_leaves_at_once(self, end: End) -> None:
        send(end.transport, b"hello")
        assert end.take() == b"hello"
        assert end.reactor.getWriters() == []

    def test_what_the_kernel_does_not_take_waits_in_order(self, end: End) -> None:
        filled = end.fill()
        for data in (b"first ", b"x" * 100_000):
            send(end.transport, data)
            assert end.transport.dataBuffer
        received = end.take()
        while end.transport in end.reactor.getWriters():
            end.transport.doWrite()
            received += end.take()
        assert received[filled:] == b"first " + b"x" * 100_000
        assert not end.transport.dataBuffer

    def test_a_reset_is_told_by_the_transports_own_event(self, end: End) -> None:
        end.far.close()
        send(end.transport, b"hello")
        assert end.ear.heard == []
        assert end.transport in end.reactor.getWriters()

    def test_a_close_that_is_under_way_is_not_forgotten(self, end: End) -> None:
        end.transport.loseConnection()
        for say in (lambda transport: send(transport, b"hello"), shut):
            say(end.transport)
            assert end.transport in end.reactor.getWriters()

    def test_others_write(self) -> None:
        transport = FakeTransport()
        send(transport, b"hello")
        assert transport.written == b"hello"


class TestShut:
    def test_the_fin_leaves_at_once_and_then_a_close_is_told_at_once(self, end: End) -> None:
        shut(end.transport)
        assert end.far.recv(1) == b""
        assert end.ear.heard == ["shut"]
        assert end.reactor.getWriters() == []
        assert end.transport.connected
        end.transport.loseConnection()
        assert end.ear.heard == ["shut", "lost"]

    def test_what_is_queued_goes_first(self, end: End) -> None:
        end.fill()
        send(end.transport, b"hello")
        shut(end.transport)
        assert end.ear.heard == []
        received = end.take()
        end.transport.doWrite()
        assert (received + end.take()).endswith(b"hello")
        assert end.ear.heard == ["shut"]

    def test_others_do_it_their_way(self) -> None:
        transport = FakeTransport()
        shut(transport)
        assert transport.asked == ["loseWriteConnection"]


def tcp_end() -> End:
    """One end of a connection over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        far = socket.create_connection(port.getsockname())
        ours, _ = port.accept()
    ours.setblocking(False)
    return End((ours, far))


def test_a_system_that_lacks_what_linux_has_can_import_it() -> None:
    without = (
        "import socket, sys; sys.modules['fcntl'] = sys.modules['termios'] = None;"
        " del socket.TCP_INFO; from torsocks_tx.relay.sockets import is_sending;"
        " from types import SimpleNamespace as S;"
        " print(is_sending(S(getHandle=lambda: socket.socketpair()[0])))"
    )
    command = [sys.executable, "-c", without]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "False\n"


class TestReset:
    """The kernel tells of a reset once: what is read behind that looks like an orderly end."""

    @pytest.fixture
    def end(self) -> Iterator[End]:
        end = tcp_end()
        yield end
        end.close()

    def reset(self, end: End) -> None:
        end.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.far.close()

    def test_a_write_that_meets_it_is_remembered(self, end: End) -> None:
        self.reset(end)
        send(end.transport, b"lost")
        assert was_reset(end.transport)
        assert end.transport.socket.recv(1) == b""

    @pytest.mark.parametrize(
        ("number", "noted"),
        [(number, True) for number in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)]
        + [(number, False) for number in (errno.EAGAIN, errno.EPIPE, None)],
    )
    def test_so_is_one_that_the_kernel_gives_up_and_nothing_else(
        self, end: End, number: int | None, noted: bool
    ) -> None:
        note_unsent(end.transport, number)
        assert was_reset(end.transport) is noted

    def test_one_behind_an_orderly_end_is_another_matter(self, end: End) -> None:
        end.far.close()
        for _ in range(2):
            send(end.transport, b"lost")
        assert not was_reset(end.transport)

    def test_a_splice_that_took_some_keeps_it_back(self, end: End) -> None:
        end.far.shutdown(socket.SHUT_WR)
        note_partly_spliced(end.transport)
        assert not was_reset(end.transport)
        self.reset(end)
        note_partly_spliced(end.transport)
        assert was_reset(end.transport)

    def test_what_the_peer_has_not_taken_is_on_its_way(self, end: End) -> None:
        assert not is_sending(end.transport)
        left = end.fill()
        assert is_sending(end.transport)
        end.far.setblocking(True)
        while left:
            left -= len(end.far.recv(left))
        end.far.send(b"acknowledged")
        end.transport.socket.setblocking(True)
        assert end.transport.socket.recv(12) == b"acknowledged"
        end.transport.socket.shutdown(socket.SHUT_WR)
        assert not is_sending(end.transport)

    def test_from_a_closed_socket_nothing_is(self, end: End) -> None:
        ours = end.transport.socket
        copy = ours.dup()
        copy.close()
        assert not is_sending(SimpleNamespace(getHandle=lambda: copy))

    def test_a_unix_socket_has_no_such_state(self) -> None:
        end = End()
        end.far.close()
        note_partly_spliced(end.transport)
        assert not was_reset(end.transport)
        end.close()


class OverUnix(FakeTransport):
    def getHost(self) -> Any:
        return UNIXAddress("/socket")


@pytest.mark.parametrize(
    ("transport", "asked"), [(FakeTransport(), ["noDelay", "keepAlive"]), (OverUnix(), [])]
)
def test_tcp_gets_no_delay_and_keepalive_and_nothing_else_does(
    transport: FakeTransport, asked: list[str]
) -> None:
    assert not prepare(transport)
    assert transport.asked == asked
    assert not prepare(object())


def test_whether_a_transport_can_half_close_is_told_by_its_own_class() -> None:
    tls = FakeTransport()
    tls.TLS = True  # type: ignore[attr-defined]
    wrapper = ProtocolWrapper(WrappingFactory(None), Protocol())
    FakeTransport().connect(wrapper)
    assert wrapper.loseWriteConnection  # it passes the method on, all the same
    transports = [FakeTransport(), WholeTransport(), wrapper, tls]
    assert [can_half_close(each) for each in transports] == [True, False, False, False]


def test_aborting_what_cannot_be_aborted_closes() -> None:
    transport = FakeTransport()
    abort(BareTransport(transport))
    abort(transport)
    assert transport.asked == ["loseConnection", "abortConnection"]
