"""The handshake, for all bytes in all portions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.conversations import converse
from tests.fuzz.strategies import (
    Chunks,
    chopped,
    client_bytes,
    conversation_of,
    fuzz,
    requests_4,
    requests_5,
    thorough,
)
from tests.rows import rows
from tests.tables import octets
from torsocks_tx.codes import Version
from torsocks_tx.handshake import (
    BOTH_VERSIONS,
    Authenticate,
    HandshakeOptions,
    Rejected,
    Requested,
    Send,
    Step,
)
from torsocks_tx.messages import Request
from torsocks_tx.wire import http, socks5

options = st.builds(
    HandshakeOptions,
    versions=st.just(BOTH_VERSIONS) | st.frozensets(st.sampled_from(Version), min_size=1),
    prefer_no_auth=st.booleans(),
    require_auth=st.booleans(),
)

SENT = {octets("05 00"), octets("05 02"), octets("01 00")}
LAST_WORDS = {
    b"",
    http.PAGE,
    octets("05 FF"),
    octets("01 01"),
    octets("00 5B 0000 00000000"),
    socks5.failure(0x01),
    socks5.failure(0x07),
    socks5.failure(0x08),
}


@rows("R-03", "R-27", "R-30", "R-31", "S-21", "S-36")
@given(client=chopped(client_bytes), wanted=options)
@thorough
def test_the_same_steps_however_the_bytes_come(
    client: tuple[bytes, Chunks], wanted: HandshakeOptions
) -> None:
    """``converse`` also checks that little is held, and that a last step is the last."""
    data, chunks = client
    whole = converse([data], wanted)
    assert converse(chunks, wanted) == whole
    assert_orderly(whole, data)


def assert_orderly(steps: list[Step], data: bytes) -> None:
    for place, step in enumerate(steps):
        match step:
            case Send(sent):
                assert sent in SENT
            case Rejected(sent, reason):
                # These are all the words there are: nothing of the client's can be among them.
                assert sent in LAST_WORDS
                assert reason
                assert place == len(steps) - 1
            case Requested(_, rest):
                assert data.endswith(rest)
                assert place == len(steps) - 1
            case Authenticate():
                assert place < len(steps) - 1
    assert len(steps) <= 4


@rows("S-01", "S-04", "S-05", "S-37", "R-06", "R-27")
@given(request=requests_4(), early=st.binary(max_size=600), data=st.data())
@fuzz
def test_every_socks4_conversation_gives_its_request(
    request: Request, early: bytes, data: st.DataObject
) -> None:
    _, chunks = data.draw(chopped(st.just(conversation_of(request) + early)))
    assert converse(chunks) == [Requested(request, early)]


@rows("S-01", "S-06", "S-16", "S-17", "S-37", "R-10", "R-11", "R-27")
@given(
    request=requests_5(),
    others=st.binary(max_size=200),
    early=st.binary(max_size=600),
    data=st.data(),
)
@fuzz
def test_every_socks5_conversation_gives_its_request(
    request: Request, others: bytes, early: bytes, data: st.DataObject
) -> None:
    # A client that offers 02 as well must be ready to use it, if it is preferred.
    others = others if request.credentials else others.replace(b"\2", b"")
    _, chunks = data.draw(chopped(st.just(conversation_of(request, others) + early)))
    expected: list[Step] = [Send(octets("05 00")), Requested(request, early)]
    if request.credentials is not None:
        expected = [Send(octets("05 02")), Send(octets("01 00")), Requested(request, early)]
    assert converse(chunks) == expected


@rows("S-18")
@given(request=requests_5(), early=st.binary(max_size=600), data=st.data())
@fuzz
def test_credentials_count_though_no_authentication_was_selected(
    request: Request, early: bytes, data: st.DataObject
) -> None:
    client = conversation_of(request, b"\0") + early
    _, chunks = data.draw(chopped(st.just(client)))
    steps = converse(chunks, HandshakeOptions(prefer_no_auth=True))
    assert steps[0] == Send(octets("05 00"))
    assert steps[-1] == Requested(request, early)
    assert len(steps) == (2 if request.credentials is None else 3)
