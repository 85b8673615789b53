"""The server's side of HTTP CONNECT, for any bytes in any portions, with h11 as the oracle."""

from __future__ import annotations

import h11
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import Chunks, addresses, chopped, fuzz, thorough
from tests.support.conversations import converse
from tests.support.http import answers_in
from tests.support.rows import rows
from torsocks_tx.http.answers import Answers
from torsocks_tx.http.client import HTTPClientHandshake
from torsocks_tx.http.server import HTTPOptions
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials
from torsocks_tx.socks.server import Authenticate, Rejected, Requested, Send, Step

MARK = b"qzjx7"
ANSWERS = Answers(tor=True, isolates=True)
STATUSES = {200, 400, 405, 407, 431, 501, 505}

targets = st.sampled_from([MARK + b".example:80", b"[::1]:443", b"*", b"/", b"a:0", b"a@b:1", b"a"])
values = st.sampled_from(
    [MARK, b"", b"localhost", b"5", b"chunked", b"close", b"\xff", b"Basic eA=="]
)
names = st.sampled_from(
    [MARK, b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Tor-RPC-Target",
     b"Tor-Stream-Isolation", b"Proxy-Authorization", b"a b", b" folded", b""]
)  # fmt: skip
ends = st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r"])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head, nearly correct."""
    method = draw(st.sampled_from([b"CONNECT", b"CONNECT", b"OPTIONS", b"DELETE", b"CONNECTED"]))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"FTP/1"]))
    end = draw(ends)
    lines = [b" ".join([method, draw(targets), version])]
    if draw(st.booleans()):
        lines.append(b"Host: localhost")
    lines += [name + b": " + draw(values) for name in draw(st.lists(names, max_size=4))]
    return end.join([*lines, b"", b""])


def said() -> st.SearchStrategy[bytes]:
    """Some heads, other bytes among them and behind them."""
    return st.lists(heads() | st.binary(max_size=40), min_size=1, max_size=4).map(b"".join)


@rows("H-03", "H-04", "H-06")
@given(client=chopped(said().filter(lambda data: data[:1] in (b"C", b"O", b"D", b"T"))))
@thorough
def test_steps_do_not_depend_on_the_portions(client: tuple[bytes, Chunks]) -> None:
    data, chunks = client
    whole = converse([data], HTTPOptions(ANSWERS))
    assert converse(chunks, HTTPOptions(ANSWERS)) == whole
    assert_orderly(whole, data)


@rows("H-04", "H-17")
@given(client=chopped(said()), options=st.builds(HTTPOptions, st.just(ANSWERS),
       require_auth=st.booleans(), ask_for_credentials=st.booleans()))  # fmt: skip
@thorough
def test_whatever_comes_is_answered_by_http_or_with_a_close(
    client: tuple[bytes, Chunks], options: HTTPOptions
) -> None:
    data, chunks = client
    assert_orderly(converse(chunks, options), data)


def assert_orderly(steps: list[Step], data: bytes) -> None:
    for place, step in enumerate(steps):
        match step:
            case Send(sent) | Rejected(sent, _):
                found = answers_in(sent)
                assert len(found) == 1 or (sent == b"" and isinstance(step, Rejected))
                assert {answer.status for answer in found} <= STATUSES
                assert MARK not in sent
            case Requested(_, rest):
                assert data.endswith(rest)
        last = isinstance(step, Requested | Rejected)
        assert not last or place == len(steps) - 1
        assert not isinstance(step, Rejected) or MARK.decode() not in step.reason


tokens = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60)


@rows("H-01", "H-03", "H-08", "H-09")
@given(
    address=addresses,
    isolation=st.none() | tokens,
    known=st.none()
    | st.builds(Credentials, st.binary(max_size=80).filter(lambda n: b":" not in n), st.binary()),
    early=st.binary(max_size=600),
    data=st.data(),
)
@fuzz
def test_every_request_of_our_client_is_understood(
    address: Address,
    isolation: str | None,
    known: Credentials | None,
    early: bytes,
    data: st.DataObject,
) -> None:
    client = HTTPClientHandshake(address, known, isolation)
    first = client.start()
    if isolation is not None:
        [step] = converse([first], HTTPOptions(ANSWERS))
        assert isinstance(step, Send)
        [step] = client.receive(step.data)  # type: ignore[list-item]
        assert isinstance(step, Send)
        first = step.data
    _, chunks = data.draw(chopped(st.just(first + early)))
    [step] = converse(chunks, HTTPOptions(ANSWERS))
    assert isinstance(step, Requested)
    assert step.rest == early
    assert step.request.address == Address.of(address.host, address.port)
    assert (step.request.version, step.request.command) == (Version.HTTP, Command.CONNECT)
    sent = None if isolation is None else isolation.encode()
    assert step.request.pairs.get("Tor-Stream-Isolation") == sent
    if known is not None:
        asked, *_ = converse([first], HTTPOptions(ANSWERS, require_auth=True))
        assert asked == Authenticate(known)


@rows("H-02", "H-08")
@given(
    headers=st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
                lambda name: name.lower() not in (
                    "host", "tor-rpc-target", "content-length", "transfer-encoding"
                )
            ),
            tokens,
        ),
        max_size=20,
    )
)  # fmt: skip
@fuzz
def test_every_request_that_h11_writes_is_understood(headers: list[tuple[str, str]]) -> None:
    request = h11.Request(method="CONNECT", target="a:1", headers=[("Host", "a"), *headers])
    [step] = converse([h11.Connection(h11.CLIENT).send(request)], HTTPOptions(ANSWERS))
    assert isinstance(step, Requested)
