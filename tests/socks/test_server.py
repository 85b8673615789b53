"""The server's side of the handshake: what the client sends, and the steps that follow.

Each conversation is fed whole, byte by byte and cut in two at every place, and the steps are the
same. They are also the same on listeners with extended authentication, which has its own file.
"""

from __future__ import annotations

import pytest

from tests.support.conversations import Conversation, assert_conversation, converse
from tests.support.rows import rows
from tests.support.tables import at, octets, table
from torsocks_tx.errors import ProtocolError
from torsocks_tx.http import page as http
from torsocks_tx.socks.constants import AddressType, Command, Role, Version
from torsocks_tx.socks.messages import Address, Credentials, Request
from torsocks_tx.socks.server import (
    RULES,
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
ASK = "05 01 00 03 0B 6578616D706C652E636F6D 0050"
ME = "01 02 6D65 03 796F75"
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
NONE_ACCEPTABLE, REFUSED, REJECTED_4 = (
    reject("05 FF"),
    reject("01 01"),
    reject("00 5B 0000 00000000"),
)
PAGE, CLOSED = Rejected(http.PAGE, ""), reject("")

SOCKS4 = table(
    [
        ("V1", "04 01 0050 C0000201 00", [asked4(at("192.0.2.1", 80))]),
        (
            "V2",
            "04 01 01BB 00000001 6D65 00 7777772E6578616D706C652E636F6D 00",
            [asked4(at("www.example.com", 443), b"me")],
        ),
        (
            "V8",
            "04 F0 0000 00000001 00 746F7270726F6A6563742E6F7267 00",
            [asked4(at("torproject.org"), command=RESOLVE)],
        ),
        (
            "RESOLVE of an address",
            "04 F0 0000 C0000201 00",
            [asked4(at("192.0.2.1"), command=RESOLVE)],
        ),
        (
            "early data",
            "04 01 0050 C0000201 00 474554 00 0D0A",
            [asked4(at("192.0.2.1", 80), rest=b"GET\0\r\n")],
        ),
        (
            "early data behind a name",
            "04 01 0050 00000001 6D65 00 61 00 0501000000",
            [asked4(at("a", 80), b"me", rest=b"\5\1\0\0\0")],
        ),
        (
            "a user id that looks like an extended format",
            "04 01 0050 C0000201 3C746F725330583E39 00",
            [asked4(at("192.0.2.1", 80), b"<torS0X>9")],
        ),
        (
            "the largest",
            "04 01 0050 C0000201" + "75" * 503 + "00",
            [asked4(at("192.0.2.1", 80), b"u" * 503)],
        ),
        ("a bad command waits for eight bytes", "04 03 1111", []),
        ("a bad command with eight bytes", "04 03 1111 C0000201", [REJECTED_4]),
        ("half a user id", "04 01 0050 C0000201 6D65", []),
        ("4a without its name", "04 01 0050 00000001 6D65 00", []),
        ("4a with half its name", "04 01 0050 00000001 6D65 00 6578", []),
        ("BIND", "04 02 0050 C0000201 00", [REJECTED_4]),
        ("RESOLVE_PTR", "04 F1 0000 08080808 00", [REJECTED_4]),
        ("CONNECT_DIR", "04 F2 0050 C0000201 00", [REJECTED_4]),
        ("address 0.0.0.0", "04 01 0050 00000000 00", [REJECTED_4]),
        ("port 0", "04 01 0000 C0000201 00", [REJECTED_4]),
        ("empty name", "04 01 0050 00000001 6D65 00 00", [REJECTED_4]),
        ("name with quotes", "04 01 0050 00000001 00 226122 00", [REJECTED_4]),
        ("name with a newline", "04 01 0050 00000001 00 610A62 00", [REJECTED_4]),
        ("user id without an end", "04 01 0050 C0000201" + "75" * 700, [REJECTED_4]),
        ("name of 256 bytes", "04 01 0050 00000001 00" + "61" * 256 + "00", [REJECTED_4]),
        ("a second request behind a bad one", "04 02 0050 C0000201 00" * 2, [REJECTED_4]),
    ]
)


@rows("S-04", "S-05", "S-08", "S-10", "S-13", "S-24", "S-28", "S-29", "S-32", "S-37", "P-35")
@rows("R-01", "R-02", "R-03", "R-04", "R-05", "R-06", "R-08", "R-27")
@pytest.mark.parametrize(("client", "steps"), SOCKS4)
def test_socks4(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps)


GREETINGS = table(
    [
        ("00", "05 01 00", [NO_AUTH]),
        ("02", "05 01 02", [USERPASS]),
        ("00 and 02", "05 02 00 02", [USERPASS]),
        ("02 and 00", "05 02 02 00", [USERPASS]),
        ("GSSAPI", "05 01 01", [NONE_ACCEPTABLE]),
        ("GSSAPI and 00", "05 02 01 00", [NO_AUTH]),
        ("GSSAPI and 02, as curl", "05 03 00 01 02", [USERPASS]),
        ("unknown methods and 00", "05 04 80 99 00 FE", [NO_AUTH]),
        ("unknown methods only", "05 03 03 7F 80", [NONE_ACCEPTABLE]),
        ("FF is not a method", "05 01 FF", [NONE_ACCEPTABLE]),
        ("FF and 00", "05 02 FF 00", [NO_AUTH]),
        ("no methods", "05 00", [NONE_ACCEPTABLE]),
        ("no methods, and a request", "05 00" + ASK, [NONE_ACCEPTABLE]),
        ("00 twice", "05 02 00 00", [NO_AUTH]),
        ("02 twice", "05 02 02 02", [USERPASS]),
        ("255 times 00", "05 FF" + "00" * 255, [NO_AUTH]),
        ("255 unknown ones", "05 FF" + "80" * 255, [NONE_ACCEPTABLE]),
        ("all but FF and 97", "05 FE" + bytes({*range(255)} - {0x97}).hex(), [USERPASS]),
        ("one method is missing", "05 02 00", []),
        ("only the version", "05", []),
        ("a second greeting is half a request", "05 01 00 05 01 00", [NO_AUTH]),
        ("a second greeting of 02 is a bad request", "05 01 00 05 01 02", [NO_AUTH, fail5("01")]),
    ]
)


@rows("S-15", "S-16", "S-17", "R-10", "R-11", "R-12", "R-13", "R-27", "P-35", "P-36")
@pytest.mark.parametrize(("client", "steps"), GREETINGS)
def test_greetings(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps)


def with_credentials(user: bytes, password: bytes) -> list[Step]:
    return [USERPASS, ACCEPTED, asked5(credentials=Credentials(user, password))]


AUTHENTICATIONS = table(
    [
        ("V4 and V5", "05 02 00 02" + ME + ASK, with_credentials(b"me", b"you")),
        ("any value", "05 01 02 01 01 78 01 79" + ASK, with_credentials(b"x", b"y")),
        ("both empty", "05 01 02 01 00 00" + ASK, with_credentials(b"", b"")),
        ("empty password", "05 01 02 01 01 61 00" + ASK, with_credentials(b"a", b"")),
        ("empty user name", "05 01 02 01 00 01 61" + ASK, with_credentials(b"", b"a")),
        ("NUL bytes", "05 01 02 01 01 00 01 00" + ASK, with_credentials(b"\0", b"\0")),
        (
            "the longest",
            "05 01 02 01 FF" + "75" * 255 + "FF" + "70" * 255 + ASK,
            with_credentials(b"u" * 255, b"p" * 255),
        ),
        (
            "V6",
            "05 01 02 01 09 3C746F725330583E30 03 313233" + ASK,
            with_credentials(b"<torS0X>0", b"123"),
        ),
        ("V6, type 9", "05 01 02 01 09 3C746F725330583E39 00" + ASK, [USERPASS, REFUSED]),
        ("extended, no type", "05 01 02 01 08 3C746F725330583E 00" + ASK, [USERPASS, REFUSED]),
        (
            "extended, more than the type",
            "05 01 02 01 0A 3C746F725330583E3061 03 313233" + ASK,
            [USERPASS, REFUSED],
        ),
        (
            "extended, an object",
            "05 01 02 01 0C 3C746F725330583E31616263 00" + ASK,
            [USERPASS, REFUSED],
        ),
        (
            "extended in small letters is legacy",
            "05 01 02 01 09 3C746F727330783E39 00" + ASK,
            with_credentials(b"<tors0x>9", b""),
        ),
        (
            "sent though 00 was selected",
            "05 01 00" + ME + ASK,
            [NO_AUTH, ACCEPTED, asked5(EXAMPLE, ME_YOU)],
        ),
        (
            "empty ones though 00 was selected",
            "05 01 00 01 00 00" + ASK,
            [NO_AUTH, ACCEPTED, asked5(EXAMPLE, Credentials(b"", b""))],
        ),
        (
            "extended though 00 was selected",
            "05 01 00 01 09 3C746F725330583E39 00" + ASK,
            [NO_AUTH, REFUSED],
        ),
        ("twice", "05 01 02" + ME + ME, [USERPASS, ACCEPTED, fail5("01")]),
        ("twice though 00 was selected", "05 01 00" + ME + ME, [NO_AUTH, ACCEPTED, fail5("01")]),
        ("before a greeting", ME, [CLOSED]),
        ("none before a greeting, only the version", "01", [CLOSED]),
        ("version 02", "05 01 02 02 02 6D65 03 796F75", [USERPASS, REFUSED]),
        ("version 00", "05 01 02 00", [USERPASS, REFUSED]),
        ("a request in their place", "05 01 02" + ASK, [USERPASS, REFUSED]),
        ("a greeting in their place", "05 01 02 05 01 00", [USERPASS, REFUSED]),
        ("HTTP in their place", "05 01 02 474554", [USERPASS, REFUSED]),
        ("half of them", "05 01 02 01 02 6D65 03 79", [USERPASS]),
        ("without the password's length", "05 01 02 01 02 6D65", [USERPASS]),
    ]
)


@rows("S-06", "S-16", "S-17", "S-18", "S-19", "S-20", "R-27", "P-35")
@pytest.mark.parametrize(("client", "steps"), AUTHENTICATIONS)
def test_authentication(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps)


REQUESTS = table(
    [
        ("V5", ASK, asked5()),
        ("IPv4", "05 01 00 01 C0000201 0050", asked5(at("192.0.2.1", 80))),
        (
            "IPv6",
            "05 01 00 04 20010DB8000000000000000000000001 0050",
            asked5(at("2001:db8::1", 80)),
        ),
        (
            "IPv6 as text",
            "05 01 00 03 03 3A3A31 0050",
            asked5(Address(AddressType.HOSTNAME, "::1", 80)),
        ),
        (
            "V7",
            "05 F0 00 03 0E 746F7270726F6A6563742E6F7267 0000",
            asked5(at("torproject.org"), command=RESOLVE),
        ),
        ("V9", "05 F1 00 01 08080808 0000", asked5(at("8.8.8.8"), command=RESOLVE_PTR)),
        ("early data", ASK + "16 03 01 00", asked5(rest=octets("16 03 01 00"))),
        ("early data that looks like a request", ASK + ASK, asked5(rest=octets(ASK))),
        ("early data that looks like HTTP", ASK + "474554", asked5(rest=b"GET")),
        ("early data of 1,000 bytes", ASK + "05" * 1000, asked5(rest=b"\5" * 1000)),
        (
            "onion service",
            "05 01 00 03 07 412E4F6E696F6E 0050",
            asked5(Address(AddressType.HOSTNAME, "A.Onion", 80)),
        ),
        (
            "onion service with a trailing dot",
            "05 01 00 03 08 412E4F6E696F6E2E 0050",
            asked5(Address(AddressType.HOSTNAME, "A.Onion", 80)),
        ),
        ("BIND", "05 02 00 01 C0000201 0050", fail5("07")),
        ("UDP ASSOCIATE", "05 03 00 01 C0000201 0050", fail5("07")),
        ("CONNECT_DIR", "05 F2 00 01 C0000201 0050", fail5("07")),
        ("an unknown command, at once", "05 09", fail5("07")),
        ("the reserved byte, at once", "05 01 01", fail5("01")),
        ("an unknown address type, at once", "05 01 00 02", fail5("08")),
        ("port 0", "05 01 00 01 C0000201 0000", fail5("01")),
        ("empty name", "05 01 00 03 00 0050", fail5("01")),
        ("name with a NUL", "05 01 00 03 03 610062 0050", fail5("01")),
        ("name with a newline", "05 01 00 03 03 610A62 0050", fail5("01")),
        ("name with a quote", "05 01 00 03 03 612262 0050", fail5("01")),
        ("name with a blank", "05 01 00 03 03 612062 0050", fail5("01")),
        ("name with a byte above 7F", "05 01 00 03 03 61FF62 0050", fail5("01")),
        ("RESOLVE_PTR of a name", "05 F1 00 03 01 61 0000", fail5("08")),
        ("a SOCKS4 request", "04 01 0050 C0000201 00", fail5("01")),
        ("version 06", "06 01 00 01 C0000201 0050", fail5("01")),
        ("version 00", "00 01 00 01 C0000201 0050", fail5("01")),
        ("HTTP GET", "474554202F20485454502F312E310D0A", PAGE),
        ("HTTP CONNECT", "434F4E4E454354", PAGE),
    ]
)


@rows("S-01", "S-06", "S-08", "S-11", "S-12", "S-24", "S-30", "S-32", "S-34", "S-37")
@rows("R-20", "R-22", "R-23", "R-26", "R-27")
@pytest.mark.parametrize(("client", "step"), REQUESTS)
def test_requests(client: str, step: Step) -> None:
    assert_conversation(octets("05 01 00" + client), [NO_AUTH, step])


@rows("S-17", "S-18", "R-27")
@pytest.mark.parametrize(("client", "step"), REQUESTS)
def test_requests_behind_credentials(client: str, step: Step) -> None:
    if isinstance(step, Requested):
        asked = step.request
        step = asked5(asked.address, ME_YOU, asked.command, step.rest)
    assert_conversation(octets("05 01 02" + ME + client), [USERPASS, ACCEPTED, step])


@rows("R-12", "R-27", "S-06")
@pytest.mark.parametrize("text", [ASK, "05 01 00 04" + "00" * 16 + "0050", "05 F1 00 01 08080808"])
def test_half_a_request_waits(text: str) -> None:
    whole = octets(text)
    for length in range(len(whole)):
        assert converse([octets("05 01 00") + whole[:length]]) == [NO_AUTH]


@rows("S-34", "S-35", "R-31")
@pytest.mark.parametrize(
    "text",
    [
        b"GET\n",
        b"GET / HTTP/1.1\r\nHost: secret.example\r\n\r\n",
        b"HEAD / HTTP/1.0\r\n\r\n",
        b"POST /x HTTP/1.1\r\n",
        b"PUT /x HTTP/1.1\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n",
        b"G",
        b"G\0",
    ],
)
def test_http_gets_the_page(text: bytes) -> None:
    assert_conversation(text, [PAGE])


@rows("R-31", "S-20")
def test_any_other_first_byte_is_closed_upon() -> None:
    for first in set(range(256)) - {4, 5, *b"GHPC"}:
        assert_conversation(bytes([first]) + octets("01 00 00"), [CLOSED])


def test_nothing_gives_nothing() -> None:
    assert converse([b"", b""]) == []


# What a listener may want otherwise.

PREFER = HandshakeOptions(prefer_no_auth=True)
PREFERENCES = table(
    [
        ("00 and 02", "05 02 00 02", [NO_AUTH]),
        ("02 and 00", "05 02 02 00", [NO_AUTH]),
        ("only 02", "05 01 02", [USERPASS]),
        ("only 00", "05 01 00", [NO_AUTH]),
        ("only GSSAPI", "05 01 01", [NONE_ACCEPTABLE]),
        ("credentials all the same", "05 02 00 02" + ME, [NO_AUTH, ACCEPTED]),
    ]
)


@rows("S-17", "S-18", "S-23", "R-11")
@pytest.mark.parametrize(("client", "steps"), PREFERENCES)
def test_prefer_no_auth(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps, PREFER)


REQUIRE = HandshakeOptions(require_auth=True)
REQUIREMENTS = table(
    [
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
            "05 01 02 01 02 6D65 02 6D65" + ASK,
            [USERPASS, Authenticate(Credentials(b"me", b"me")), REFUSED],
        ),
        (
            "empty credentials",
            "05 01 02 01 00 00",
            [USERPASS, Authenticate(Credentials(b"", b"")), REFUSED],
        ),
        ("only 00", "05 01 00" + ME + ASK, [NONE_ACCEPTABLE]),
        ("00 among others", "05 03 00 01 03", [NONE_ACCEPTABLE]),
        ("an extended format", "05 01 02 01 09 3C746F725330583E39 00", [USERPASS, REFUSED]),
        ("a request in their place", "05 01 02" + ASK, [USERPASS, REFUSED]),
        (
            "twice",
            "05 01 02" + ME + ME,
            [USERPASS, Authenticate(ME_YOU), ACCEPTED, fail5("01")],
        ),
        ("SOCKS4", "04 01 0050 C0000201 6D65 00", [REJECTED_4]),
        ("SOCKS4a", "04 01 0050 00000001 6D65 00 61 00", [REJECTED_4]),
        ("half a SOCKS4 request", "04 01 0050 C0000201", []),
        ("HTTP", "474554", [PAGE]),
    ]
)


@rows("R-07", "R-11", "S-17")
@pytest.mark.parametrize(("client", "steps"), REQUIREMENTS)
def test_require_auth(client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps, REQUIRE)


@rows("R-07", "R-11")
def test_required_credentials_win_over_preferences() -> None:
    options = HandshakeOptions(prefer_no_auth=True, require_auth=True)
    assert_conversation(octets("05 02 00 02"), [USERPASS], options)
    assert_conversation(octets("05 01 00" + ASK), [NONE_ACCEPTABLE], options)


def test_an_answer_that_nobody_waits_for_does_nothing() -> None:
    handshake = ServerHandshake(REQUIRE)
    assert handshake.authenticated(b"me") == []
    assert handshake.receive(octets("05 01 02")) == [USERPASS]
    assert handshake.authenticated(b"me") == []
    assert handshake.receive(octets(ME)) == [Authenticate(ME_YOU)]
    assert handshake.authenticated(None) == [Rejected(octets("01 01"), "credentials refused")]
    assert handshake.authenticated(b"me") == []


def test_what_comes_while_credentials_are_checked_is_kept() -> None:
    handshake = ServerHandshake(REQUIRE)
    handshake.receive(octets("05 01 02" + ME + "05 01"))
    assert handshake.receive(octets(ASK)[2:] + b"early") == []
    steps = handshake.authenticated(b"me")
    assert steps == [ACCEPTED, asked5(EXAMPLE, ME_YOU, rest=b"early", avatar=b"me")]


ONLY = table(
    [
        ("4 takes 4", Version.SOCKS4, "04 01 0050 C0000201 00", [asked4(at("192.0.2.1", 80))]),
        ("4 is closed upon 5", Version.SOCKS4, "05 01 00", [CLOSED]),
        ("4 shows the page", Version.SOCKS4, "474554", [PAGE]),
        ("5 takes 5", Version.SOCKS5, "05 01 00" + ASK, [NO_AUTH, asked5()]),
        ("5 is closed upon 4", Version.SOCKS5, "04 01 0050 C0000201 00", [CLOSED]),
        ("5 shows the page", Version.SOCKS5, "474554", [PAGE]),
    ]
)


@rows("S-04", "S-06", "R-31")
@pytest.mark.parametrize(("version", "client", "steps"), ONLY)
def test_one_version_only(version: Version, client: str, steps: list[Step]) -> None:
    assert_conversation(octets(client), steps, HandshakeOptions(frozenset({version})))


# What bad clients do to memory, and what is said of them.


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
def test_megabytes_leave_nothing_behind(client: bytes) -> None:
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
def test_what_is_said_and_logged_never_holds_the_clients_words(
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
def test_credentials_and_payload_have_no_representation(step: Step) -> None:
    for word in ("'you'", "'me'", "payload"):
        assert word not in repr(step)


FORMAT_9, ARGUMENTS, NEITHER = Credentials(b"<torS0X>9"), Credentials(b"k=v"), Credentials(b"hello")


def test_every_role_has_rules() -> None:
    assert set(RULES) == set(Role)


@rows("P-02")
@pytest.mark.parametrize(
    ("role", "commands", "taken", "refused", "longest"),
    [
        (Role.TOR, {CONNECT, RESOLVE, RESOLVE_PTR}, [ARGUMENTS, NEITHER], [FORMAT_9], 512),
        (Role.PT, {CONNECT}, [ARGUMENTS, Credentials(b"", b"\0")], [FORMAT_9, NEITHER], 1022),
    ],
)
def test_rules(
    role: Role,
    commands: set[Command],
    taken: list[Credentials],
    refused: list[Credentials],
    longest: int,
) -> None:
    rules = RULES[role]
    assert rules.commands == commands
    assert rules.longest_socks4 == longest
    for credentials in taken:
        rules.check_format(credentials)
    for credentials in refused:
        with pytest.raises(ProtocolError) as caught:
            rules.check_format(credentials)
        assert caught.value.answer == b"\1\1"
