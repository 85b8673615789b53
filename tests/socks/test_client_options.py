"""What a client offers: no method that would drop what the user asked for."""

from __future__ import annotations

import hashlib
import hmac
import math

import pytest

from tests.support.names import ONION
from tests.support.rows import rows
from tests.support.tables import at, table
from torsocks_tx.errors import ArgumentsRefused, LoginRefused, LoginRequired, NotIsolated, Refused
from torsocks_tx.socks.client_options import ClientOptions, Offer
from torsocks_tx.socks.constants import AddressType, CodeSet, Command, Method, Role, Version
from torsocks_tx.socks.messages import Address, Credentials, KeyValues

CONNECT, RESOLVE, RESOLVE_PTR = Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR
NO_AUTH, USERPASS, EXTENDED = Method.NO_AUTH, Method.USERNAME_PASSWORD, Method.EXTENDED
ME = Credentials(b"me", b"you")
LONG = Credentials(b"u" * 256, b"")
COLOUR = KeyValues.of({"X-paint.colour": b"red"})
SECRET = bytes(range(32))
TOKEN, EMPTY = (hmac.digest(SECRET, text, "sha256").hex().encode() for text in (b"x", b""))
TOR_TOKEN = Credentials(b"<torS0X>0", TOKEN)

# The options, the methods offered, what is sent by 97 and by 02, and what a refusal means.
OFFERS = table(
    ("nothing", {}, [EXTENDED, NO_AUTH], {}, None, LoginRequired),
    ("codes", {"reply_codes": CodeSet.PROP304}, [EXTENDED, NO_AUTH], {"REPLY_CODES": b"prop304"},
     None, LoginRequired),
    ("credentials", {"credentials": ME}, [EXTENDED, USERPASS],
     {"USERNAME": b"me", "PASSWD": b"you"}, ME, LoginRefused),
    ("long credentials", {"credentials": LONG}, [EXTENDED],
     {"USERNAME": b"u" * 256, "PASSWD": b""}, LONG, ArgumentsRefused),
    ("isolation", {"isolation": b"x"}, [EXTENDED, USERPASS],
     {"ISOLATION": b"x", "REQUIRE": b"ISOLATION"}, TOR_TOKEN, NotIsolated),
    ("isolation by an empty value", {"isolation": b""}, [EXTENDED, USERPASS],
     {"ISOLATION": b"", "REQUIRE": b"ISOLATION"}, Credentials(b"<torS0X>0", EMPTY), NotIsolated),
    ("isolation, without 97", {"isolation": b"x", "extended": False}, [USERPASS],
     {"ISOLATION": b"x", "REQUIRE": b"ISOLATION"}, TOR_TOKEN, NotIsolated),
    ("isolation and credentials", {"isolation": b"x", "credentials": ME}, [EXTENDED],
     {"USERNAME": b"me", "PASSWD": b"you", "ISOLATION": b"x", "REQUIRE": b"ISOLATION"}, ME,
     NotIsolated),
    ("pairs", {"pairs": COLOUR}, [EXTENDED], {"X-paint.colour": b"red"}, None, ArgumentsRefused),
    ("pairs that are required",
     {"pairs": COLOUR, "require": ("X-paint.colour",), "isolation": b"x"}, [EXTENDED],
     {"ISOLATION": b"x", "REQUIRE": b"ISOLATION,X-paint.colour", "X-paint.colour": b"red"},
     TOR_TOKEN, NotIsolated),
)  # fmt: skip


@rows("P-05", "P-23", "P-24", "R-34", "S-23")
@pytest.mark.parametrize(("wishes", "methods", "said", "legacy", "unless"), OFFERS)
def test_offer_and_request_for_each_option(
    wishes: dict[str, object],
    methods: list[Method],
    said: dict[str, bytes],
    legacy: Credentials | None,
    unless: type[Refused],
) -> None:
    options = ClientOptions(isolation_secret=SECRET, **wishes)  # type: ignore[arg-type]
    request = options.request(CONNECT, at("example.com", 80))
    needed = frozenset(said.get("REQUIRE", b"").decode().split(",")) - {""}
    login = LoginRefused if options.credentials else LoginRequired
    assert options.offer == Offer(tuple(methods), needed, unless, login=login)
    assert request.pairs == KeyValues.of(said)
    if USERPASS in methods:
        assert request.credentials == legacy


def test_different_isolation_gives_different_credentials() -> None:
    seen = set()
    for version in (4, 5):
        for isolation in (b"", b"x", b"y", b"x" * 300):
            options = ClientOptions(isolation=isolation, version=version)
            seen.add(options.request(CONNECT, at("a", 1)).credentials)
    assert len(seen) == 8


def test_the_hash_of_isolation_depends_on_a_secret() -> None:
    def token(**secret: bytes) -> bytes:
        request = ClientOptions(isolation=b"x", **secret).request(CONNECT, at("a", 1))
        assert request.credentials is not None
        return request.credentials.password

    assert token() == token() != hashlib.sha256(b"x").hexdigest().encode()
    assert token(isolation_secret=SECRET) == TOKEN != token()


SOCKS4 = table(
    ("nothing", {}, b""),
    ("a user id", {"credentials": Credentials(b"me")}, b"me"),
    ("isolation", {"isolation": b"x"}, TOKEN),
)


@rows("S-13", "S-04", "S-05")
@pytest.mark.parametrize(("wishes", "user"), SOCKS4)
def test_socks4_user_id_for_each_option(wishes: dict[str, object], user: bytes) -> None:
    options = ClientOptions(version=4, isolation_secret=SECRET, **wishes)  # type: ignore[arg-type]
    request = options.request(CONNECT, at("example.com", 80))
    assert (request.version, request.credentials) == (Version.SOCKS4, Credentials(user))
    assert not request.pairs


@rows("R-04")
def test_socks4_sends_ipv6_as_a_name() -> None:
    request = ClientOptions(version=4).request(CONNECT, at("2001:db8::1", 80))
    assert request.address == Address(AddressType.HOSTNAME, "2001:db8::1", 80)


@pytest.mark.parametrize(
    ("wishes", "complaint"),
    [
        ({"version": 3}, "versions 4 and 5"),
        ({"pairs": KeyValues.of({"ISOLATION": b"x"})}, "options of their own"),
        ({"pairs": COLOUR, "extended": False}, "switched off"),
        ({"require": ("A",), "extended": False}, "switched off"),
        ({"isolation": b"x", "credentials": ME, "extended": False}, "switched off"),
        ({"version": 4, "credentials": ME}, "one user id"),
        ({"timeout": 0}, "seconds above 0"),
        ({"timeout": -1.0}, "seconds above 0"),
        ({"timeout": math.nan}, "seconds above 0"),
        ({"timeout": math.inf}, "seconds above 0"),
        ({"isolation": "x"}, "isolation must be bytes, not str"),
        ({"isolation_secret": "x" * 16}, "isolation_secret must be bytes"),
        ({"isolation_secret": b"x" * 15}, "16 random bytes"),
        ({"credentials": ("a", "b")}, "class Credentials, not tuple"),
        ({"pairs": {"X-a.b": b""}}, "class KeyValues, not dict"),
        ({"require": "FAMILY"}, "class tuple, not str"),
        ({"version": 4, "pairs": COLOUR}, "one user id"),
        ({"version": 4, "require": ("A",)}, "one user id"),
        ({"version": 4, "isolation": b"", "credentials": Credentials(b"a")}, "one user id"),
        ({"pairs": KeyValues.of({"a b": b""})}, "a key is"),
        ({"isolation": b"x" * 65536}, "65535"),
        ({"credentials": LONG, "extended": False}, "255 bytes"),
        ({"protocol": "https"}, "protocol is"),
        ({"protocol": "http", "version": 4}, "of SOCKS, not of HTTP"),
        ({"protocol": "http", "pairs": COLOUR}, "of SOCKS, not of HTTP"),
        ({"protocol": "http", "require": ("A",)}, "of SOCKS, not of HTTP"),
        ({"protocol": "http", "role": Role.TOR}, "of SOCKS, not of HTTP"),
        ({"protocol": "http", "credentials": Credentials(b"a:b")}, "with a colon"),
    ],
)
def test_options_that_are_refused(wishes: dict[str, object], complaint: str) -> None:
    with pytest.raises((TypeError, ValueError), match=complaint):
        ClientOptions(**wishes)  # type: ignore[arg-type]


MISFITS = table(
    ("a long name", {}, CONNECT, "a" * 256, "255"),
    ("a NUL by SOCKS4", {"version": 4}, CONNECT, "a\0b", "NUL"),
    ("a user id with a NUL", {"version": 4, "credentials": Credentials(b"a\0")}, RESOLVE, ONION,
     "NUL"),
    ("RESOLVE_PTR by SOCKS4", {"version": 4}, RESOLVE_PTR, "192.0.2.1", "SOCKS4"),
    ("a look-up by HTTP", {"protocol": "http"}, RESOLVE, "example.com", "no look-ups"),
)  # fmt: skip


@pytest.mark.parametrize(("wishes", "command", "host", "complaint"), MISFITS)
def test_requests_that_cannot_be_made(
    wishes: dict[str, object], command: Command, host: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        ClientOptions(**wishes).request(command, at(host, 80))  # type: ignore[arg-type]


def test_the_offer_has_the_role() -> None:
    assert ClientOptions().offer.role is None
    assert ClientOptions(role=Role.PT).offer.role is Role.PT


@rows("P-37")
def test_repr_hides_secrets() -> None:
    options = ClientOptions(isolation=b"qzjx7", credentials=Credentials(b"qzjx7", b"qzjx7"))
    secret = ClientOptions(isolation_secret=b"qzjx7" * 4)
    assert "qzjx7" not in repr(options) + repr(secret)
    assert "qzjx7" not in repr(options.request(CONNECT, at("a", 1)))
