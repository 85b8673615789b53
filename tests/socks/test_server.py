"""The server's side of the handshake: what the client sends, and the steps that follow.

Each conversation is fed whole, byte by byte and cut in two at every place, and the steps are the
same. They are also the same on listeners with extended authentication, which has its own file.
"""

from __future__ import annotations

import pytest

from tests.support.conversations import Conversation, assert_conversation, converse
from tests.support.rows import rows
from tests.support.tables import at, octets, table
from torsocks_tx import http
from torsocks_tx.socks import userpass
from torsocks_tx.socks.constants import COMMANDS, AddressType, Command, Role, Version
from torsocks_tx.socks.messages import Address, Credentials, Request
from torsocks_tx.socks.server import (
    Authenticate,
    HandshakeOptions,
    Rejected,
    Requested,
    Send,
    ServerHandshake,
    Step,
)

CONNECT, RESOLVE, RESOLVE_PTR = Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR
EXAMPLE = at("example.com", 80)
ASK = '05 01 00 03 0B "example.com" 0050'
ME = '01 02 "me" 03 "you"'
ME_YOU = Credentials(b"me", b"you")


def send(text: str) -> Send:
    return Send(octets(text))


def reject(text: str) -> Rejected:
    return Rejected(octets(text), "")


def fail5(code: str) -> Rejected:
    return reject(f"05 {code} 00 01 00000000 0000")


def asked5(
    address: Address = EXAMPLE,
    credentials: Credentials | None = None,
    command: Command = CONNECT,
    rest: bytes = b"",
    avatar: bytes | None = None,
) -> Requested:
    return Requested(Request(Version.SOCKS5, command, address, credentials, avatar), rest)


def asked4(
    address: Address, user: bytes = b"", command: Command = CONNECT, rest: bytes = b""
) -> Requested:
    return Requested(Request(Version.SOCKS4, command, address, Credentials(user)), rest)


NO_AUTH, USERPASS, ACCEPTED = send("05 00"), send("05 02"), send("01 00")
NONE_ACCEPTABLE, REFUSED = reject("05 FF"), reject("01 01")
REJECTED_4 = reject("00 5B 0000 00000000")
PLACE, WWW, TORPROJECT = at("192.0.2.1", 80), at("www.example.com", 443), at("torproject.org")
PAGE, CLOSED = Rejected(http.PAGE, ""), reject("")

SOCKS4 = table(
    ("V1", "04 01 0050 C0000201 00", [asked4(PLACE)]),
    ("V2", '04 01 01BB 00000001 "me" 00 "www.example.com" 00', [asked4(WWW, b"me")]),
    ("V8", '04 F0 0000 00000001 00 "torproject.org" 00', [asked4(TORPROJECT, command=RESOLVE)]),
    ("early data", '04 01 0050 C0000201 00 "GET" 00 0D0A', [asked4(PLACE, rest=b"GET\0\r\n")]),
    (
        "early data behind a name",
        '04 01 0050 00000001 "me" 00 61 00 0501000000',
        [asked4(at("a", 80), b"me", rest=b"\5\1\0\0\0")],
    ),
    ("a bad command with eight bytes", "04 03 1111 C0000201", [REJECTED_4]),
    ("4a with half its name", '04 01 0050 00000001 "me" 00 "ex"', []),
    ("a second request behind a bad one", "04 02 0050 C0000201 00" * 2, [REJECTED_4]),
)


@rows("S-04", "S-05", "S-08", "S-10", "S-13", "S-24", "S-28", "S-29", "S-32", "S-37", "P-35")
@rows("R-01", "R-02", "R-03", "R-04", "R-05", "R-06", "R-08", "R-27")
@pytest.mark.parametrize(("client", "steps"), SOCKS4)
def test_steps_of_socks4_clients(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps)


GREETINGS = table(
    ("00", "05 01 00", [NO_AUTH]),
    ("02", "05 01 02", [USERPASS]),
    ("00 and 02", "05 02 00 02", [USERPASS]),
    ("GSSAPI", "05 01 01", [NONE_ACCEPTABLE]),
    ("GSSAPI and 00", "05 02 01 00", [NO_AUTH]),
    ("GSSAPI and 02, as curl", "05 03 00 01 02", [USERPASS]),
    ("unknown methods and 00", "05 04 80 99 00 FE", [NO_AUTH]),
    ("unknown methods only", "05 03 03 7F 80", [NONE_ACCEPTABLE]),
    ("FF is not a method", "05 01 FF", [NONE_ACCEPTABLE]),
    ("no methods", "05 00", [NONE_ACCEPTABLE]),
    ("all but FF and 97", "05 FE" + bytes({*range(255)} - {0x97}).hex(), [USERPASS]),
    ("one method is missing", "05 02 00", []),
    ("only the version", "05", []),
    ("a second greeting is half a request", "05 01 00 05 01 00", [NO_AUTH]),
    ("a second greeting of 02 is a bad request", "05 01 00 05 01 02", [NO_AUTH, fail5("01")]),
)


@rows("S-15", "S-16", "S-17", "R-10", "R-11", "R-12", "R-13", "R-27", "P-35", "P-36")
@pytest.mark.parametrize(("client", "steps"), GREETINGS)
def test_method_selected_for_each_greeting(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps)


def with_credentials(user: bytes, password: bytes) -> list[Step]:
    return [USERPASS, ACCEPTED, asked5(credentials=Credentials(user, password))]


AUTHENTICATIONS = table(
    ("V4 and V5", "05 02 00 02" + ME + ASK, with_credentials(b"me", b"you")),
    ("both empty", "05 01 02 01 00 00" + ASK, with_credentials(b"", b"")),
    ("V6", '05 01 02 01 09 "<torS0X>0" 03 313233' + ASK, with_credentials(b"<torS0X>0", b"123")),
    ("V6, type 9", '05 01 02 01 09 "<torS0X>9" 00' + ASK, [USERPASS, REFUSED]),
    ("sent after 00", "05 01 00" + ME + ASK, [NO_AUTH, ACCEPTED, asked5(EXAMPLE, ME_YOU)]),
    ("extended after 00", '05 01 00 01 09 "<torS0X>9" 00' + ASK, [NO_AUTH, REFUSED]),
    ("twice", "05 01 02" + ME + ME, [USERPASS, ACCEPTED, fail5("01")]),
    ("twice though 00 was selected", "05 01 00" + ME + ME, [NO_AUTH, ACCEPTED, fail5("01")]),
    ("before a greeting", ME, [CLOSED]),
    ("version 02", '05 01 02 02 02 "me" 03 "you"', [USERPASS, REFUSED]),
    ("a request in their place", "05 01 02" + ASK, [USERPASS, REFUSED]),
    ("HTTP in their place", '05 01 02 "GET"', [USERPASS, REFUSED]),
    ("half of them", '05 01 02 01 02 "me" 03 79', [USERPASS]),
)


@rows("S-06", "S-16", "S-17", "S-18", "S-19", "S-20", "R-27", "P-35")
@pytest.mark.parametrize(("client", "steps"), AUTHENTICATIONS)
def test_steps_after_credentials(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps)


REQUESTS = table(
    ("V5", ASK, asked5()),
    ("V7", '05 F0 00 03 0E "torproject.org" 0000', asked5(at("torproject.org"), command=RESOLVE)),
    ("V9", "05 F1 00 01 08080808 0000", asked5(at("8.8.8.8"), command=RESOLVE_PTR)),
    ("early data", ASK + "16 03 01 00", asked5(rest=octets("16 03 01 00"))),
    ("early data that looks like a request", ASK + ASK, asked5(rest=octets(ASK))),
    ("early data of 1,000 bytes", ASK + "05" * 1000, asked5(rest=b"\5" * 1000)),
    (
        "onion service with a trailing dot",
        "05 01 00 03 08 412E4F6E696F6E2E 0050",
        asked5(Address(AddressType.HOSTNAME, "A.Onion", 80)),
    ),
    ("an unknown command, at once", "05 09", fail5("07")),
    ("the reserved byte, at once", "05 01 01", fail5("01")),
    ("an unknown address type, at once", "05 01 00 02", fail5("08")),
    ("a SOCKS4 request", "04 01 0050 C0000201 00", fail5("01")),
    ("HTTP GET", "474554202F20485454502F312E310D0A", PAGE),
    ("HTTP CONNECT", '"CONNECT"', PAGE),
)


@rows("S-01", "S-06", "S-08", "S-11", "S-12", "S-24", "S-30", "S-32", "S-34", "S-37")
@rows("R-20", "R-22", "R-23", "R-26", "R-27")
@pytest.mark.parametrize(("client", "step"), REQUESTS)
def test_steps_after_a_request(client: str, step: Step) -> None:
    assert_conversation(octets("05 01 00" + client), [NO_AUTH, step])


@rows("S-17", "S-18", "R-27")
@pytest.mark.parametrize(("client", "step"), REQUESTS)
def test_steps_after_credentials_and_a_request(client: str, step: Step) -> None:
    if isinstance(step, Requested):
        asked = step.request
        step = asked5(asked.address, ME_YOU, asked.command, step.rest)
    assert_conversation(octets("05 01 02" + ME + client), [USERPASS, ACCEPTED, step])


@rows("S-34", "S-35", "R-31")
@pytest.mark.parametrize(
    "text",
    [
        b"GET\n",
        b"GET / HTTP/1.1\r\nHost: secret.example\r\n\r\n",
        b"HEAD / HTTP/1.0\r\n\r\n",
        b"POST /x HTTP/1.1\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n",
        b"G",
        b"G\0",
    ],
)
def test_http_is_answered_with_the_page(text: bytes) -> None:
    assert_conversation(text, [PAGE])


@rows("R-31", "S-20")
def test_any_other_first_byte_closes_without_an_answer() -> None:
    for first in set(range(256)) - {4, 5, *b"GHPC"}:
        assert_conversation(bytes([first]) + octets("01 00 00"), [CLOSED])


PREFER = HandshakeOptions(prefer_no_auth=True)
PREFERENCES = table(
    ("00 and 02", "05 02 00 02", [NO_AUTH]),
    ("02 and 00", "05 02 02 00", [NO_AUTH]),
    ("only 02", "05 01 02", [USERPASS]),
    ("only 00", "05 01 00", [NO_AUTH]),
    ("credentials all the same", "05 02 00 02" + ME, [NO_AUTH, ACCEPTED]),
)


@rows("S-17", "S-18", "S-23", "R-11")
@pytest.mark.parametrize(("client", "steps"), PREFERENCES)
def test_a_listener_that_prefers_no_authentication(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps, PREFER)


REQUIRE = HandshakeOptions(require_auth=True)
REQUIREMENTS = table(
    (
        "a known user",
        "05 02 00 02" + ME + ASK + "FF",
        [
            USERPASS,
            Authenticate(ME_YOU),
            ACCEPTED,
            asked5(EXAMPLE, ME_YOU, rest=b"\xff", avatar=b"me"),
        ],
    ),
    (
        "an unknown user",
        '05 01 02 01 02 "me" 02 "me"' + ASK,
        [USERPASS, Authenticate(Credentials(b"me", b"me")), REFUSED],
    ),
    ("empty ones", "05 01 02 01 00 00", [USERPASS, Authenticate(Credentials(b"", b"")), REFUSED]),
    ("only 00", "05 01 00" + ME + ASK, [NONE_ACCEPTABLE]),
    ("00 among others", "05 03 00 01 03", [NONE_ACCEPTABLE]),
    ("an extended format", '05 01 02 01 09 "<torS0X>9" 00', [USERPASS, REFUSED]),
    ("a request in their place", "05 01 02" + ASK, [USERPASS, REFUSED]),
    ("twice", "05 01 02" + ME + ME, [USERPASS, Authenticate(ME_YOU), ACCEPTED, fail5("01")]),
    ("SOCKS4", '04 01 0050 C0000201 "me" 00', [REJECTED_4]),
    ("SOCKS4a", '04 01 0050 00000001 "me" 00 61 00', [REJECTED_4]),
    ("half a SOCKS4 request", "04 01 0050 C0000201", []),
    ("HTTP", '"GET"', [PAGE]),
)


@rows("R-07", "R-11", "S-17")
@pytest.mark.parametrize(("client", "steps"), REQUIREMENTS)
def test_a_listener_that_requires_a_login(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps, REQUIRE)


def test_authenticated_does_nothing_unless_credentials_are_checked() -> None:
    handshake = ServerHandshake(REQUIRE)
    assert handshake.authenticated(b"me") == []
    assert handshake.receive(octets("05 01 02")) == [USERPASS]
    assert handshake.authenticated(b"me") == []
    assert handshake.receive(octets(ME)) == [Authenticate(ME_YOU)]
    assert handshake.authenticated(None) == [Rejected(octets("01 01"), "credentials refused")]
    assert handshake.authenticated(b"me") == []


def test_bytes_that_come_while_credentials_are_checked_are_kept() -> None:
    handshake = ServerHandshake(REQUIRE)
    handshake.receive(octets("05 01 02" + ME + "05 01"))
    assert handshake.receive(octets(ASK)[2:] + b"early") == []
    steps = handshake.authenticated(b"me")
    assert steps == [ACCEPTED, asked5(EXAMPLE, ME_YOU, rest=b"early", avatar=b"me")]


ONLY = table(
    ("4 takes 4", Version.SOCKS4, "04 01 0050 C0000201 00", [asked4(PLACE)]),
    ("4 is closed upon 5", Version.SOCKS4, "05 01 00", [CLOSED]),
    ("4 shows the page", Version.SOCKS4, '"GET"', [PAGE]),
    ("5 takes 5", Version.SOCKS5, "05 01 00" + ASK, [NO_AUTH, asked5()]),
    ("5 is closed upon 4", Version.SOCKS5, "04 01 0050 C0000201 00", [CLOSED]),
    ("5 shows the page", Version.SOCKS5, '"GET"', [PAGE]),
)


@rows("S-04", "S-06", "R-31")
@pytest.mark.parametrize(("version", "client", "steps"), ONLY)
def test_a_listener_for_one_version_closes_on_the_other(
    version: Version, client: str, steps: list[Step]
) -> None:
    assert_conversation(octets(client), steps, HandshakeOptions(frozenset({version})))


@rows("R-03", "R-30")
@pytest.mark.parametrize(
    "client",
    [
        pytest.param(octets("04 01 0050 C0000201") + b"u" * 4_000_000, id="SOCKS4 user id"),
        pytest.param(octets("04 01 0050 00000001 00") + b"n" * 4_000_000, id="SOCKS4a name"),
        pytest.param(octets("05 01 00 05 01 00 03 FF") + b"n" * 4_000_000, id="SOCKS5 name"),
        pytest.param(octets("05 01 02") + b"\1\xff" * 2_000_000, id="credentials"),
        pytest.param(b"GET /" + b"x" * 4_000_000, id="HTTP"),
        pytest.param(b"\x16\x03\x01" + b"x" * 4_000_000, id="TLS"),
    ],
)
def test_megabytes_of_one_field_are_not_held(client: bytes) -> None:
    portions = [client[i : i + 65536] for i in range(0, len(client), 65536)]
    bytewise = [client[i : i + 1] for i in range(600)]
    for chunks in (portions, [client], [*bytewise, client[600:]]):
        conversation = Conversation()
        for chunk in chunks:
            conversation.feed(chunk)
        assert conversation.over
        assert conversation.handshake._buffer == b""


MARK = b"qzjx7"
SAYING = [
    octets("04 01 0050 C0000201") + MARK + b"\0",
    octets("04 01 0050 00000001") + MARK + b"\0" + MARK + b" bad\0",
    octets("05 01 02 01 05") + MARK + b"\5" + MARK + octets("05 01 00 03 05") + MARK + b"\0\0",
    octets("05 01 02 01 0D") + b"<torS0X>" + MARK + b"\0",
    octets("05 01 00 05 01 00 03 06") + MARK + b"!\0\x50",
    octets("05 01 00 05 F1 00 03 05") + MARK + b"\0\x50",
    b"GET /" + MARK,
    b"x" + MARK,
]


@rows("S-36")
@pytest.mark.parametrize("client", SAYING)
@pytest.mark.parametrize("options", [HandshakeOptions(), REQUIRE])
def test_answers_and_reasons_never_quote_the_client(
    client: bytes, options: HandshakeOptions
) -> None:
    steps = converse([client], options)
    assert steps
    for step in steps:
        if isinstance(step, Send | Rejected):
            assert MARK not in step.data
        if isinstance(step, Rejected):
            assert MARK.decode() not in step.reason
            assert step.reason


@pytest.mark.parametrize("step", [asked5(EXAMPLE, ME_YOU, rest=b"payload"), Authenticate(ME_YOU)])
def test_repr_of_steps_hides_credentials_and_payload(step: Step) -> None:
    for word in ("'you'", "'me'", "payload"):
        assert word not in repr(step)


FORMAT_9, ARGUMENTS, NEITHER = Credentials(b"<torS0X>9"), Credentials(b"k=v"), Credentials(b"hello")


@rows("P-02")
@pytest.mark.parametrize(
    ("role", "taken", "refused"),
    [
        (Role.TOR, [ARGUMENTS, NEITHER], [FORMAT_9]),
        (Role.PT, [ARGUMENTS, Credentials(b"", b"\0")], [FORMAT_9, NEITHER]),
    ],
)
def test_credentials_on_a_port_of_each_role(
    role: Role, taken: list[Credentials], refused: list[Credentials]
) -> None:
    options = HandshakeOptions(role=role)
    for credentials in (*taken, *refused):
        client = octets("05 01 02") + userpass.build_credentials(credentials)
        answer = Rejected(b"\1\1", "") if credentials in refused else Send(b"\1\0")
        assert_conversation(client, [send("05 02"), answer], options)


@rows("P-02")
def test_commands_of_each_role() -> None:
    assert {Role.TOR: {CONNECT, RESOLVE, RESOLVE_PTR}, Role.PT: {CONNECT}} == COMMANDS


@pytest.mark.parametrize(("role", "longest"), [(Role.TOR, 512), (Role.PT, 1022)])
def test_socks4_user_ids_are_longer_where_they_are_arguments(role: Role, longest: int) -> None:
    options, head = HandshakeOptions(role=role), octets("04 01 0050 01010101")
    user = b"u" * (longest - 9)
    assert isinstance(converse([head + user + b"\0"], options)[-1], Requested)
    assert isinstance(converse([head + user + b"u\0"], options)[-1], Rejected)
