"""Isolation keys against a model of the specification, and the credentials made of them."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.fuzz.strategies import fuzz
from tests.support.rows import rows
from torsocks_tx.policy.isolation import IsolationFlags, Isolator, isolation_key
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request

# Few values, so that keys are often equal; many look like parts of keys.
words = st.sampled_from([b"", b"a", b"b", b"ab", b"a\0", b"<torS0X>0", b"no-auth", b"client",
                         b"absent", b"present:", b"present:a", b"extended", b"socks4", b"avatar",
                         b"userpass", b"torS0X0", b"address"])  # fmt: skip
hosts = st.sampled_from(["a.example", "A.example", "b.example", "192.0.2.1", "::1", "x.onion",
                         "::ffff:192.0.2.1", "::ffff:c000:201", "0:0::1", "port"])  # fmt: skip
listeners = st.sampled_from(["one", "two", "1", "group"])
clients = st.sampled_from(["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "::1", "0:0::1", None,
                           "fe80::1", "fe80::1%lo", "fe80::1%e", "fe80:0::1%e"])  # fmt: skip
KEYS_OF_PAIRS = {
    Version.SOCKS5: ("USERNAME", "PASSWD", "ISOLATION"),
    Version.HTTP: ("Proxy-Authorization", "Tor-Stream-Isolation", "X-Tor-Stream-Isolation"),
}
flags = st.builds(
    IsolationFlags,
    client_addr=st.booleans(),
    socks_auth=st.booleans(),
    client_protocol=st.booleans(),
    dest_port=st.booleans(),
    dest_addr=st.booleans(),
    session_group=st.sampled_from([None, None, 0, 1]),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, str | None, Request]:
    """A listener, a client and what it asks for."""
    version = draw(st.sampled_from(Version))
    known: Credentials | None = Credentials(draw(words)) if version is Version.SOCKS4 else None
    if version is Version.SOCKS5:
        known = draw(st.none() | st.builds(Credentials, words, words))
    address = Address.of(draw(hosts), draw(st.sampled_from([80, 443])))
    avatar = draw(st.sampled_from([None, None, b"a", b"b", b"anyone"]))
    said = None
    if version in KEYS_OF_PAIRS:
        pairs = st.dictionaries(st.sampled_from(KEYS_OF_PAIRS[version]), words).map(KeyValues.of)
        said = draw(pairs if version is Version.HTTP else st.none() | pairs)
    sent = said is not None and version is Version.SOCKS5
    request = Request(
        version, Command.CONNECT, address, known, avatar, said or KeyValues(), extended=sent
    )
    return draw(listeners), draw(clients), request


def model(kept: IsolationFlags, stream: tuple[str, str | None, Request]) -> list[Any]:
    """Return what must be equal for two streams to share, as the specification says."""
    listener, client, request = stream
    known, version = request.credentials, request.version
    auth: Any = ("4 or 4a", known.username if known else None)
    if request.extended or version is Version.HTTP:
        auth = (f"pairs of {version.name}", *map(request.pairs.get, KEYS_OF_PAIRS[version]))
    elif version is Version.SOCKS5 and known is None:
        auth = "none"
    elif version is Version.SOCKS5 and known is not None:
        extended = known.username == b"<torS0X>0"
        auth = ("extended", known.password) if extended else (known.username, known.password)
    address: Any = ipaddress.ip_address(client) if client else None
    host: Any = request.address.host.lower()
    with contextlib.suppress(ValueError):
        host = ipaddress.ip_address(request.address.host)
    return [
        listener if kept.session_group is None else kept.session_group,
        request.avatar,
        (getattr(address, "ipv4_mapped", None) or address) if kept.client_addr else None,
        auth if kept.socks_auth else None,
        version if kept.client_protocol else None,
        request.address.port if kept.dest_port else None,
        host if kept.dest_addr else None,
    ]


@rows("S-13", "S-17", "S-23", "R-33")
@given(kept=flags, one=streams(), other=streams())
@fuzz
def test_keys_are_equal_where_the_specification_says_so(
    kept: IsolationFlags, one: Any, other: Any
) -> None:
    same = model(kept, one) == model(kept, other)
    keys = [isolation_key(kept, *stream) for stream in (one, other)]
    assert (keys[0] == keys[1]) is same


secrets = st.binary(min_size=32, max_size=32)
parts = st.lists(st.binary(max_size=6), max_size=5).map(tuple)


@rows("S-17")
@given(one=parts, other=parts, secret=secrets)
@fuzz
def test_credentials_for_tor_are_equal_where_keys_are(
    one: tuple[bytes, ...], other: tuple[bytes, ...], secret: bytes
) -> None:
    isolator = Isolator(secret)
    assert (isolator.credentials(one) == isolator.credentials(other)) is (one == other)


@rows("S-17")
@given(key=parts, secret=secrets, other=secrets)
@fuzz
def test_credentials_for_tor_depend_on_the_secret(
    key: tuple[bytes, ...], secret: bytes, other: bytes
) -> None:
    assume(other != secret)
    assert Isolator(secret).credentials(key) != Isolator(other).credentials(key)
