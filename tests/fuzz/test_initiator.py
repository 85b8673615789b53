"""The initiator, for all that a server may say in all portions."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import (
    Chunks,
    any_address,
    chopped,
    fuzz,
    requests_4,
    requests_5,
    thorough,
)
from tests.rows import rows
from tests.test_conversation import EARLY, Server, assert_agreed, connect, opened
from torsocks_tx.errors import Refused
from torsocks_tx.handshake import Send
from torsocks_tx.initiator import Failed, Initiator, Opened
from torsocks_tx.messages import Reply, Request
from torsocks_tx.wire import socks4, socks5, userpass

requests = requests_4() | requests_5()

_replies = st.builds(Reply, st.integers(0, 255) | st.just(0), any_address)
_server_pieces = st.one_of(
    st.binary(max_size=30),
    st.builds(socks5.build_selection, st.sampled_from([0, 2, 255])),
    st.builds(userpass.build_status, st.sampled_from([0, 0, 1])),
    _replies.map(socks5.build_reply),
    st.sampled_from([socks4.REJECTED, b"\0\x5a\0\0\0\0\0\0", b"HTTP/1.1 400\r\n", b"\5" * 400]),
    st.builds(lambda code: bytes([5, code]) + bytes(8), st.integers(0, 255)),
)
_beginnings = st.sampled_from([b"", b"\5\0", b"\5\2", b"\5\2\1\0", b"\1\0", b"\5\0\5\0\0"])
_anything = st.lists(_server_pieces, max_size=5).map(b"".join)
server_bytes = st.builds(bytes.__add__, _beginnings, _anything)


def outcome(request: Request, pipelined: bool, chunks: Chunks, eof: bool) -> list[Any]:
    initiator = Initiator(request, pipelined=pipelined)
    initiator.start()
    steps: list[Any] = []
    for chunk in chunks:
        if steps and isinstance(steps[-1], Opened):
            assert initiator.receive(chunk) == []
            steps[-1] = Opened(steps[-1].reply, steps[-1].rest + chunk)
        else:
            steps += initiator.receive(chunk)
    assert len(initiator._buffer) < 262
    if eof:
        steps += initiator.eof()
        assert isinstance(steps[-1], Opened | Failed)
        assert initiator.eof() == []
    return [
        (type(step.reason), str(step.reason)) if isinstance(step, Failed) else step
        for step in steps
    ]


@rows("R-32", "R-34")
@given(
    request=requests,
    pipelined=st.booleans(),
    server=chopped(server_bytes),
    eof=st.booleans(),
)
@thorough
def test_the_same_steps_however_the_bytes_come(
    request: Request, pipelined: bool, server: tuple[bytes, Chunks], eof: bool
) -> None:
    data, chunks = server
    whole = outcome(request, pipelined, (data,), eof)
    assert outcome(request, pipelined, chunks, eof) == whole
    assert len(whole) <= 3
    for place, step in enumerate(whole):
        if isinstance(step, Opened):
            assert data.endswith(step.rest)
        elif not isinstance(step, Send):
            assert issubclass(step[0], Refused)
        assert isinstance(step, Send) or place == len(whole) - 1
        assert not (pipelined and isinstance(step, Send))


@rows("S-01", "R-27", "R-32", "R-34", "S-38")
@given(
    request=requests,
    pipelined=st.booleans(),
    like_tor=st.booleans(),
    sizes=st.lists(st.integers(1, 40), min_size=1),
)
@fuzz
def test_both_ends_agree(
    request: Request, pipelined: bool, like_tor: bool, sizes: list[int]
) -> None:
    def cut(data: bytes) -> Any:
        place = turn = 0
        while place < len(data):
            size = sizes[turn % len(sizes)]
            yield data[place : place + size]
            place, turn = place + size, turn + 1

    server = Server(opened, like_tor=like_tor)
    outcome = connect(request, server, pipelined=pipelined, cut=cut, early=EARLY)
    assert_agreed(request, server, outcome)
