"""The client's handshake, for any answers in any portions."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import (
    Chunks,
    any_address,
    chopped,
    fuzz,
    pairs,
    requests_4,
    requests_5,
    thorough,
)
from tests.socks.test_both_ends import EARLY, Server, assert_agreed, connect, opened
from tests.support.conversations import feed
from tests.support.rows import rows
from torsocks_tx.errors import SOCKSError
from torsocks_tx.socks import extended, socks4, socks5
from torsocks_tx.socks.client import ClientHandshake, Failed, Opened
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.constants import CodeSet, Command, Role
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Reply, Request
from torsocks_tx.socks.server import Send

requests = requests_4() | requests_5()

_replies = st.builds(Reply, st.integers(0, 255) | st.just(0), any_address)
_server_pieces = st.one_of(
    st.binary(max_size=30),
    st.builds(socks5.build_selection, st.sampled_from([0, 2, 255])),
    st.sampled_from([b"\1\0", b"\1\0", b"\1\1"]),
    _replies.map(socks5.build_reply),
    st.sampled_from([socks4.REJECTED, b"\0\x5a\0\0\0\0\0\0", b"HTTP/1.1 400\r\n", b"\5" * 400]),
    st.builds(lambda code: bytes([5, code]) + bytes(8), st.integers(0, 255)),
)
_beginnings = st.sampled_from([b"", b"\5\0", b"\5\2", b"\5\2\1\0", b"\1\0", b"\5\0\5\0\0"])
_anything = st.lists(_server_pieces, max_size=5).map(b"".join)
server_bytes = st.builds(bytes.__add__, _beginnings, _anything)


def outcome(request: Request, pipelined: bool, chunks: Chunks, eof: bool) -> list[Any]:
    handshake = ClientHandshake(request, pipelined=pipelined)
    handshake.start()
    steps = feed(handshake, chunks)
    assert len(handshake._buffer) < 262
    if eof:
        steps += handshake.eof()
        assert isinstance(steps[-1], Opened | Failed)
        assert handshake.eof() == []
    return [
        (type(step.reason), str(step.reason)) if isinstance(step, Failed) else step
        for step in steps
    ]


@rows("R-32", "R-34")
@given(request=requests, pipelined=st.booleans(), server=chopped(server_bytes), eof=st.booleans())
@thorough
def test_steps_do_not_depend_on_the_portions(
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
            assert issubclass(step[0], SOCKSError)
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
def test_requests_and_replies_arrive_unchanged(
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


_wishes = st.sampled_from(
    [
        ClientOptions(),
        ClientOptions(isolation=b"x"),
        ClientOptions(credentials=Credentials(b"a", b"b")),
        ClientOptions(require=("A",), role=Role.PT),
        ClientOptions(optimistic=True, reply_codes=CodeSet.PROP304, role=Role.TOR),
    ]
)
_answers = st.one_of(
    _server_pieces,
    st.just(b"\5\x97"),
    st.builds(
        lambda status, said: b"\1" + bytes([status]) + extended.build_pairs(said),
        st.sampled_from([0, 0, 0, 1, 2, 3]),
        pairs,
    ),
    st.just(extended.build_response(0, KeyValues.of({"ACCEPTED": b"A,ISOLATION"}))),
)


@rows("P-09", "P-11", "P-19", "P-22", "R-27")
@given(
    options=_wishes,
    server=chopped(
        st.builds(
            bytes.__add__,
            st.sampled_from([b"", b"\5\x97", b"\5\x97\1\0\0\0", b"\5\x97\1\0\0\2\0\1A"]),
            st.lists(_answers, max_size=5).map(b"".join),
        )
    ),
)
@thorough
def test_any_answer_to_an_offer_has_an_outcome(
    options: ClientOptions, server: tuple[bytes, Chunks]
) -> None:
    data, chunks = server
    found = []
    for portions in ((data,), chunks):
        request = options.request(Command.CONNECT, Address.of("example.com", 80))
        handshake = ClientHandshake(request, offer=options.offer)
        handshake.start()
        steps: list[Any] = feed(handshake, portions, eof=True)
        assert isinstance(steps[-1], Opened | Failed)
        assert all(isinstance(step, Send) for step in steps[:-1])
        last = steps[-1]
        if isinstance(last, Failed):
            last = (type(last.reason), str(last.reason), last.reason.pairs)
        elif options.offer.needed and b"\5\2" not in data[:2]:
            assert options.offer.needed <= set(last.pairs.get("ACCEPTED").decode().split(","))
        found.append([*steps[:-1], last])
    assert found[0] == found[1]
