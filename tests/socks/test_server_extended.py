"""Extended authentication in the server's handshake: the client's bytes, and the steps.

Each conversation is fed whole, byte by byte and cut in two at every place.
"""

from __future__ import annotations

import time

import pytest

from tests.socks.test_server import ASK, EXAMPLE, ME, NO_AUTH, NONE_ACCEPTABLE, USERPASS, fail5
from tests.support.conversations import Conversation, assert_conversation, converse
from tests.support.rows import rows
from tests.support.tables import octets, table
from torsocks_tx.socks import extended
from torsocks_tx.socks.constants import Command, Role, Version
from torsocks_tx.socks.extended import ExtendedRules, standard_keys
from torsocks_tx.socks.messages import Credentials, KeyValues, Request
from torsocks_tx.socks.server import (
    Authenticate,
    HandshakeOptions,
    Rejected,
    Requested,
    Send,
    ServerHandshake,
    Step,
)

OPTIONS = HandshakeOptions(extended=ExtendedRules())
PREFER = HandshakeOptions(extended=ExtendedRules(), prefer_no_auth=True)
LOGIN = ExtendedRules(standard_keys(isolates=True, authenticates=True))
REQUIRE = HandshakeOptions(extended=LOGIN, require_auth=True)
EXTENDED = Send(octets("05 97"))
CLOSED, INVALID = Rejected(b"", ""), Rejected(octets("01 02 0000"), "")
FAILED = Rejected(octets("01 01 0000"), "")

GREETINGS = table(
    ("97", "05 01 97", OPTIONS, [EXTENDED]),
    ("97 over 02 over 00", "05 03 00 02 97", OPTIONS, [EXTENDED]),
    ("all but FF", "05 FF" + bytes(range(255)).hex(), OPTIONS, [EXTENDED]),
    ("00 preferred", "05 03 97 00 02", PREFER, [NO_AUTH]),
    ("97 over 02 where 00 is preferred", "05 02 02 97", PREFER, [EXTENDED]),
    ("97 where a login is required", "05 03 00 02 97", REQUIRE, [EXTENDED]),
    ("00 where a login is required", "05 01 00", REQUIRE, [NONE_ACCEPTABLE]),
)


@rows("P-06", "P-35", "P-36", "P-40")
@pytest.mark.parametrize(("client", "options", "steps"), GREETINGS)
def test_method_selected_where_extended_authentication_is_offered(
    client: str, options: HandshakeOptions, steps: list[Step]
) -> None:
    assert_conversation(octets(client), steps, options)


@rows("P-35", "P-40")
def test_a_listener_without_extended_authentication_never_selects_it() -> None:
    off = HandshakeOptions()
    assert converse([octets("05 01 97")], off)[0].data == octets("05 FF")  # type: ignore[union-attr]
    assert converse([octets("05 03 97 00 02")], off) == [USERPASS]
    request = Request(Version.SOCKS5, Command.CONNECT, EXAMPLE)
    assert converse([octets("05 02 97 00" + ASK)], off) == [NO_AUTH, Requested(request, b"")]


def asked(
    pairs: dict[str, bytes] | None = None,
    rest: bytes = b"",
    credentials: Credentials | None = None,
    avatar: bytes | None = None,
) -> Requested:
    connect, said, sent = Command.CONNECT, KeyValues.of(pairs or {}), pairs is not None
    request = Request(Version.SOCKS5, connect, EXAMPLE, credentials, avatar, said, True, sent)
    return Requested(request, rest)


def said(accepted: str, codes: str = "prop229") -> Send:
    pairs = KeyValues.of({"ACCEPTED": accepted.encode(), "REPLY_CODES": codes.encode()})
    return Send(extended.build_response(0, pairs))


V11 = '01 0002 0008 "USERNAME" 0005 "alice" 0006 "PASSWD" 0002 "pw"'
V12 = '01 0001 0009 "ISOLATION" 0000'
ALICE = {"USERNAME": b"alice", "PASSWD": b"pw"}
TOR_NAME = '0008 "USERNAME" 0009 "<torS0X>"'

CONVERSATIONS = table(
    ("no pairs", "01 0000" + ASK, [said(""), asked({})]),
    ("V11", V11 + ASK, [said("USERNAME,PASSWD"), asked(ALICE, b"", Credentials(b"alice", b"pw"))]),
    ("V12", V12 + ASK, [said("ISOLATION"), asked({"ISOLATION": b""})]),
    ("early data", V12 + ASK + '"GET"', [said("ISOLATION"), asked({"ISOLATION": b""}, b"GET")]),
    ("no request yet", V12, [said("ISOLATION")]),
    ("an unknown key", "01 0001 0001 41 0001 42" + ASK, [said(""), asked({})]),
    ("a known format of names", "01 0001" + TOR_NAME + "30" + ASK,
     [said("USERNAME"), asked({"USERNAME": b"<torS0X>0"}, b"", Credentials(b"<torS0X>0"))]),
    ("an unknown format of names", "01 0001" + TOR_NAME + "39" + ASK, [INVALID]),
    ("a request in its place", ASK, [CLOSED]),
    ("HTTP in its place", '"GET"', [CLOSED]),
    ("RFC 1929 in its place", ME + ASK, [INVALID]),
    ("too many pairs", "01 FFFF", [INVALID]),
    ("a key twice", "01 0002" + '0009 "ISOLATION" 0000' * 2 + ASK, [INVALID]),
    ("an unknown key is required", '01 0001 0007 "REQUIRE" 0005 46414D494C' + ASK,
     [Rejected(octets('01 02 0001 000B "UNSUPPORTED" 0005 46414D494C'), "")]),
    ("a second one", "01 0000 01 0000", [said(""), fail5("01")]),
)  # fmt: skip


@rows("P-04", "P-06", "P-07", "P-08", "P-09", "P-10", "P-11", "P-12", "P-13", "P-14", "P-15")
@rows("P-16", "P-18", "P-20", "P-21", "P-23", "P-24", "R-27")
@pytest.mark.parametrize(("client", "steps"), CONVERSATIONS)
def test_steps_after_extended_authentication(client: str, steps: list[Step]) -> None:
    assert_conversation(octets("05 01 97" + client), [EXTENDED, *steps], OPTIONS)


LOGINS = table(
    (
        "a known user who isolates",
        {"USERNAME": b"me", "PASSWD": b"you", "ISOLATION": b"x"},
        [
            Authenticate(Credentials(b"me", b"you")),
            said("USERNAME,PASSWD,ISOLATION"),
            asked(
                {"USERNAME": b"me", "PASSWD": b"you", "ISOLATION": b"x"},
                b"early",
                Credentials(b"me", b"you"),
                b"me",
            ),
        ],
    ),
    (
        "a wrong password",
        {"USERNAME": b"me", "PASSWD": b"me"},
        [Authenticate(Credentials(b"me", b"me")), FAILED],
    ),
    ("no password", {"USERNAME": b"me"}, [FAILED]),
    ("nothing", {}, [FAILED]),
    (
        "an unknown key is required of a known user",
        {"USERNAME": b"me", "PASSWD": b"you", "REQUIRE": b"A"},
        [
            Authenticate(Credentials(b"me", b"you")),
            Rejected(extended.build_response(2, KeyValues.of({"UNSUPPORTED": b"A"})), ""),
        ],
    ),
)


@rows("P-05", "P-20", "P-21", "P-23", "P-24")
@pytest.mark.parametrize(("pairs", "steps"), LOGINS)
def test_steps_of_logins_by_extended_authentication(
    pairs: dict[str, bytes], steps: list[Step]
) -> None:
    client = extended.build_request(KeyValues.of(pairs)) + octets(ASK) + b"early"
    assert_conversation(octets("05 01 97") + client, [EXTENDED, *steps], REQUIRE)


@rows("P-01", "P-26")
def test_the_request_says_that_extended_authentication_was_offered() -> None:
    assert converse([octets("05 02 00 97" + ASK)], PREFER) == [NO_AUTH, asked()]
    (_, requested) = converse([octets("05 01 00" + ASK)], PREFER)
    assert isinstance(requested, Requested)
    assert not requested.request.offered_extended


def test_user_names_have_no_format_on_a_transports_port() -> None:
    options = HandshakeOptions(extended=ExtendedRules(), role=Role.PT)
    arguments = b"<torS0X>9=x"
    by_pairs = "05 01 97 01 0001" + TOR_NAME + "39"
    by_fields = "05 01 02 01 0B" + arguments.hex() + "01 00"
    for client, expected in (
        (by_pairs, Credentials(b"<torS0X>9", b"")),
        (by_fields, Credentials(arguments, b"\0")),
    ):
        (*_, requested) = converse([octets(client + ASK)], options)
        assert isinstance(requested, Requested)
        assert requested.request.credentials == expected


@rows("P-03", "P-17")
def test_a_value_of_60000_bytes_in_portions_of_any_size() -> None:
    value = bytes(range(256)) * 234 + b"\0" * 96
    assert len(value) == 60000
    frame = extended.build_request(KeyValues.of({"ISOLATION": value}))
    for size in (1, 7, 1448, 65536):
        client = octets("05 01 97") + frame + octets(ASK)
        chunks = [client[i : i + size] for i in range(0, len(client), size)]
        (_, _, requested) = converse(chunks, OPTIONS)
        assert isinstance(requested, Requested)
        assert requested.request.pairs == KeyValues.of({"ISOLATION": value})


@pytest.mark.parametrize("claim", ["01 FFFF", "01 0400 0001 41 FFFF", "01 0005 0001 41 FFFF"])
def test_a_message_above_the_bound_is_refused_early(claim: str) -> None:
    conversation = Conversation(OPTIONS)
    conversation.feed(octets("05 01 97" + claim))
    sent = 0
    while not conversation.over:
        conversation.feed(b"\0\1A\xff\xff" if sent % 65540 == 65535 else b"v" * 65535)
        sent += 5 if sent % 65540 == 65535 else 65535
        assert sent <= 256 * 1024
    assert conversation.steps[-1].data == octets("01 02 0000")  # type: ignore[union-attr]


@rows("P-03")
def test_pairs_without_a_handler_are_not_held() -> None:
    unknown = KeyValues.of({f"X-{i}": b"v" * 60000 for i in range(4)})
    rules = ExtendedRules(budget=extended.Budget(70_000))
    conversation = Conversation(HandshakeOptions(extended=rules))
    frame = extended.build_request(unknown)
    for piece in (octets("05 01 97"), frame[:-1], frame[-1:]):
        conversation.feed(piece)
    assert conversation.steps == [EXTENDED, said("")]
    assert rules.budget.left == 70_000


@rows("P-03")
def test_unfinished_requests_share_a_budget_that_small_logins_do_not_need() -> None:
    rules = ExtendedRules(budget=extended.Budget(100_000))
    options = HandshakeOptions(extended=rules)
    big = extended.build_request(KeyValues.of({"ISOLATION": b"v" * 60000}))
    greedy = [Conversation(options) for _ in range(10)]
    for conversation in greedy:
        conversation.feed(octets("05 01 97") + big[:20])
    assert [len(conversation.steps) for conversation in greedy] == [1] + [2] * 9
    assert {conversation.steps[-1].data for conversation in greedy[1:]} == {  # type: ignore[union-attr]
        octets("01 02 0000")
    }
    small = extended.build_request(KeyValues.of({"ISOLATION": b"v" * 900}))
    (*_, requested) = converse([octets("05 01 97") + small + octets(ASK)], options)
    assert isinstance(requested, Requested)
    for _ in range(2):
        greedy[0].handshake.close()
    assert rules.budget.left == 100_000
    (*_, requested) = converse([octets("05 01 97") + big + octets(ASK)], options)
    assert isinstance(requested, Requested)
    assert rules.budget.left == 100_000


def test_thousands_of_pairs_byte_by_byte_take_little_time() -> None:
    count = 16 * 1024 // 5
    rules = ExtendedRules(max_pairs=count)
    frame = b"\1" + count.to_bytes(2, "big") + b"\0\1k\0\0" * count
    handshake = ServerHandshake(HandshakeOptions(extended=rules))
    assert handshake.receive(octets("05 01 97")) == [EXTENDED]
    begun = time.process_time()
    for place in range(len(frame) - 1):
        assert handshake.receive(frame[place : place + 1]) == []
    assert handshake.receive(frame[-1:]) == [said("")]
    assert time.process_time() - begun < 0.5


@rows("P-37")
def test_answers_and_repr_never_quote_the_pairs() -> None:
    mark = "qzjx7"
    for key in ("USERNAME", "PASSWD", "ISOLATION", "REPLY_CODES", "X-a"):
        value = b"<torS0X>" * (key == "USERNAME") + mark.encode()
        client = extended.build_request(KeyValues.of({key: value})) + octets(ASK)
        for options in (OPTIONS, REQUIRE):
            for step in converse([octets("05 01 97") + client], options):
                assert mark not in repr(step)
                if isinstance(step, Send | Rejected):
                    assert mark.encode() not in step.data
