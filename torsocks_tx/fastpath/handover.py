"""From the short way to the protocols, transports and relay, in the state that was reached."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from torsocks_tx.client.connection import Stream
from torsocks_tx.fastpath.hall import Hall
from torsocks_tx.interfaces import IReceiver
from torsocks_tx.relay.connector import UNDER_WAY, Target
from torsocks_tx.relay.sockets import not_sent
from torsocks_tx.server.protocol import SOCKSProtocol
from torsocks_tx.socks.messages import Request
from torsocks_tx.socks.server import ServerHandshake, Step


class Stage(Enum):
    """How far a connection is."""

    HANDSHAKE = auto()
    CONNECTING = auto()
    OPEN = auto()
    OVER = auto()


class Reached(NamedTuple):
    """What there is of a connection: ``left`` are the seconds of the deadline of its stage.

    ``lingered``: for how many seconds the client has been done.
    ``status`` is what ``connect(2)`` said of the far side; ``moved`` counts the payload that went
    out and in, in bytes.
    """

    stage: Stage
    left: float
    lingered: float
    near: socket.socket
    address: Any
    handshake: ServerHandshake | None
    request: Request | None
    target: Target | None
    far: socket.socket | None
    status: int
    moved: tuple[int, int]


class Rest(NamedTuple):
    """What has come from the client (``is_near``) or from the far side, and is to be passed on.

    ``errno``: why the other side did not take it, None if it was not asked.
    """

    data: bytes
    is_near: bool
    errno: int | None


def hand_over(hall: Hall, reached: Reached, steps: Sequence[Step], rest: Rest | None) -> None:
    """Give a client, and its far side if there is one, to a protocol.

    An end that was seen already is seen again: the sockets tell of it as long as they are there.
    """
    port = hall.port
    protocol: SOCKSProtocol = hall.factory.protocol()
    protocol.factory = hall.factory
    number = port.sessionno
    port.sessionno = number + 1
    near, address = reached.near, reached.address
    protocol.client = port._buildAddr(address)
    transport = port.transport(near, protocol, address, port, number, port.reactor)
    try:
        if reached.request is not None and reached.target is not None:
            _go_on_with(hall, reached, protocol, transport, rest)
        elif reached.handshake is not None:
            protocol.go_on(transport, reached.handshake, reached.left, steps)
    except Exception:
        # So does the reactor to a protocol that raises.
        transport.abortConnection()
        raise


def _go_on_with(
    hall: Hall,
    reached: Reached,
    protocol: SOCKSProtocol,
    transport: Any,
    rest: Rest | None,
) -> None:
    request, target = reached.request, reached.target
    assert request is not None
    assert target is not None
    streams: list[Stream] = []

    def connect(far: socket.socket, address: Any) -> int:
        # Asked again, a socket that was under way says how far it is. But one that had failed would
        # try again, and an open unix one might say that nobody listens there any more.
        return far.connect_ex(address) if reached.status in UNDER_WAY else reached.status

    def reach(receiver: IReceiver) -> Stream:
        stream = Stream(hall.reactor, receiver, half_close=True)
        streams.append(stream)
        stream.dial(hall.reactor, [target], connect=connect, sock=reached.far)
        return stream

    lingered = reached.lingered if reached.stage is Stage.OPEN else None
    protocol.go_on_with(transport, request, reach, reached.left, reached.moved, lingered)
    if rest is None:
        return
    source, sink = (protocol, streams[0]) if rest.is_near else (streams[0], protocol)
    not_sent(sink.transport, rest.errno)
    source.dataReceived(rest.data)
