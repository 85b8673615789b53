"""The server's handshake, for any bytes in any portions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import (
    Chunks,
    chopped,
    client_bytes,
    conversation_of,
    fuzz,
    pairs,
    requests_4,
    requests_5,
    thorough,
)
from tests.support.conversations import converse
from tests.support.rows import rows
from tests.support.tables import octets
from torsocks_tx import http
from torsocks_tx.policy.circuits import split_username
from torsocks_tx.socks import extended, socks5, userpass
from torsocks_tx.socks.constants import Role, Version
from torsocks_tx.socks.extended import ExtendedRules, standard_keys
from torsocks_tx.socks.messages import Credentials, KeyValues, Request
from torsocks_tx.socks.server import (
    BOTH_VERSIONS,
    Authenticate,
    HandshakeOptions,
    Rejected,
    Requested,
    Send,
    Step,
)

options = st.builds(
    HandshakeOptions,
    versions=st.just(BOTH_VERSIONS) | st.frozensets(st.sampled_from(Version), min_size=1),
    prefer_no_auth=st.booleans(),
    require_auth=st.booleans(),
    extended=st.none() | st.builds(ExtendedRules, extended_errors=st.booleans()),
    role=st.sampled_from(Role),
    split_name=st.none() | st.just(split_username),
)

USED = {"USERNAME", "PASSWD", "ISOLATION", "REQUIRE", "REPLY_CODES"}
SENT = {octets("05 00"), octets("05 02"), octets("05 97"), octets("01 00")}
REJECTIONS = {
    b"",
    http.PAGE,
    octets("05 FF"),
    octets("01 01"),
    octets("01 01 0000"),
    octets("01 02 0000"),
    octets("00 5B 0000 00000000"),
    socks5.failure(0x01),
    socks5.failure(0x07),
    socks5.failure(0x08),
}
# Of what a client sent, answers repeat only names of keys: those accepted or unsupported.
ANSWERED = octets("01 00 0002 0008") + b"ACCEPTED"
UNSUPPORTED = octets("01 02 0001 000B") + b"UNSUPPORTED"


@rows("R-03", "R-27", "R-30", "R-31", "S-21", "S-36", "P-09", "P-11", "P-21")
@given(client=chopped(client_bytes), wanted=options)
@thorough
def test_steps_do_not_depend_on_the_portions(
    client: tuple[bytes, Chunks], wanted: HandshakeOptions
) -> None:
    """``converse`` also checks that little is held, and that nothing follows the last step."""
    data, chunks = client
    whole = converse([data], wanted)
    assert converse(chunks, wanted) == whole
    assert_orderly(whole, data)


def assert_orderly(steps: list[Step], data: bytes) -> None:
    for place, step in enumerate(steps):
        match step:
            case Send(sent):
                assert sent in SENT or sent.startswith(ANSWERED)
            case Rejected(sent, reason):
                assert sent in REJECTIONS or sent.startswith(UNSUPPORTED)
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
    # Without credentials the client cannot offer 02, which would be selected.
    others = others if request.credentials else others.replace(b"\2", b"")
    _, chunks = data.draw(chopped(st.just(conversation_of(request, others) + early)))
    expected: list[Step] = [Send(octets("05 00")), Requested(request, early)]
    if request.credentials is not None:
        expected = [Send(octets("05 02")), Send(octets("01 00")), Requested(request, early)]
    assert converse(chunks) == expected


@rows("S-18")
@given(request=requests_5(), early=st.binary(max_size=600), data=st.data())
@fuzz
def test_credentials_sent_after_method_00_are_taken(
    request: Request, early: bytes, data: st.DataObject
) -> None:
    client = conversation_of(request, b"\0") + early
    _, chunks = data.draw(chopped(st.just(client)))
    steps = converse(chunks, HandshakeOptions(prefer_no_auth=True))
    assert steps[0] == Send(octets("05 00"))
    assert steps[-1] == Requested(request, early)
    assert len(steps) == (2 if request.credentials is None else 3)


@rows("P-11", "P-13", "P-17", "P-18", "P-35")
@given(
    request=requests_5(),
    said=pairs,
    others=st.binary(max_size=20),
    early=st.binary(max_size=600),
    data=st.data(),
)
@fuzz
def test_every_extended_authentication_gives_its_request_or_a_refusal(
    request: Request, said: KeyValues, others: bytes, early: bytes, data: st.DataObject
) -> None:
    greeting = socks5.build_greeting(others + b"\x97")
    asked = socks5.build_request(request.command, request.address)
    client = greeting + extended.build_request(said) + asked + early
    _, chunks = data.draw(chopped(st.just(client)))
    first, *_, last = converse(chunks, HandshakeOptions(extended=ExtendedRules()))
    assert first == Send(octets("05 97"))
    if isinstance(last, Rejected):
        assert last.data.startswith(octets("01 02"))
        return
    assert isinstance(last, Requested)
    used = KeyValues.of(pair for pair in said if pair[0] in USED)
    assert (last.request.pairs, last.request.offered_extended) == (used, True)
    assert (last.request.address, last.rest) == (request.address, early)


LOGINS = st.sampled_from([Credentials(b"me", b"you"), Credentials(b"me", b"me"), Credentials(b"")])
orders = st.lists(
    st.one_of(
        st.sampled_from([b"\0", b"\2", b"\x97", b"\0\2\x97", b""]).map(socks5.build_greeting),
        LOGINS.map(userpass.build_credentials),
        LOGINS.map(
            lambda login: extended.build_request(
                KeyValues.of({"USERNAME": login.username, "PASSWD": login.password})
            )
        ),
        st.sampled_from([b"\1\0\0", b"\1\0", b"\4\1\0\x50\1\1\1\1me\0"]),
        requests_5().map(lambda request: socks5.build_request(request.command, request.address)),
    ),
    max_size=6,
).map(b"".join)


@rows("R-07")
@given(said=chopped(orders), prefer=st.booleans(), extended=st.booleans())
@thorough
def test_no_order_of_messages_avoids_the_login(
    said: tuple[bytes, Chunks], prefer: bool, extended: bool
) -> None:
    rules = ExtendedRules(standard_keys(isolates=True, authenticates=True)) if extended else None
    options = HandshakeOptions(prefer_no_auth=prefer, require_auth=True, extended=rules)
    steps = converse(said[1], options)
    if steps and isinstance(steps[-1], Requested):
        checked = [step.credentials for step in steps if isinstance(step, Authenticate)]
        assert checked == [Credentials(b"me", b"you")]
        assert steps[-1].request.avatar == b"me"
