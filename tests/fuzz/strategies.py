"""What the fuzz tests send: any bytes, nearly correct messages, and correct ones."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st

from tests.support.names import INVALID_NAMES, LITERALS, VALID_NAMES, WITH_NUL
from torsocks_tx.socks import extended, socks4, socks5, userpass
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request, ip_text

fuzz = settings(max_examples=200)
thorough = settings(max_examples=600)

Chunks = tuple[bytes, ...]

ports = st.integers(1, 65535) | st.sampled_from([1, 80, 443, 65535])
octets = st.binary(max_size=255)

_TEXTS = [text for _, text in VALID_NAMES] + [text for _, text, _ in LITERALS]
_label = st.builds(str.__add__, st.sampled_from("aZ0"), st.text("bY9-_", max_size=12))
names = st.sampled_from([t for t in _TEXTS if not t.lower().endswith(".onion.")]) | st.builds(
    ".".join, st.lists(_label, min_size=1, max_size=8)
)
ipv4 = st.ip_addresses(v=4).map(ip_text)
ipv6 = st.ip_addresses(v=6).map(ip_text)

addresses = (
    st.builds(Address, st.just(AddressType.HOSTNAME), names, ports)
    | st.builds(Address, st.just(AddressType.IPV4), ipv4, ports)
    | st.builds(Address, st.just(AddressType.IPV6), ipv6, ports)
)
# SOCKS4 has no IPv6, and 0.0.0.x is 4a's own.
addresses_4 = st.builds(Address, st.just(AddressType.HOSTNAME), names, ports) | st.builds(
    Address,
    st.just(AddressType.IPV4),
    ipv4.filter(lambda host: not host.startswith("0.0.0.")),
    ports,
)
any_host = (
    names
    | st.sampled_from([t for _, t in [*INVALID_NAMES, *WITH_NUL]])
    | st.text(st.characters(max_codepoint=255), max_size=255)
)
any_address = addresses | st.builds(
    Address, st.just(AddressType.HOSTNAME), any_host, st.integers(0, 65535)
)

credentials = st.builds(Credentials, octets, octets).filter(
    lambda known: not known.username.startswith(userpass.EXTENDED_PREFIX)
) | st.builds(Credentials, st.just(userpass.ISOLATION_USERNAME), octets)


@st.composite
def requests_4(draw: st.DrawFn) -> Request:
    """A request that SOCKS4 can carry and this server takes."""
    address = draw(addresses_4)
    user = draw(st.binary(max_size=240).map(lambda name: name.replace(b"\0", b"")))
    command = draw(st.sampled_from([Command.CONNECT, Command.RESOLVE]))
    return Request(Version.SOCKS4, command, address, Credentials(user))


@st.composite
def requests_5(draw: st.DrawFn) -> Request:
    """A request that this server takes by SOCKS5."""
    address = draw(addresses)
    commands = [Command.CONNECT, Command.RESOLVE]
    commands += [Command.RESOLVE_PTR] if address.is_ip else []
    command = draw(st.sampled_from(commands))
    return Request(Version.SOCKS5, command, address, draw(st.none() | credentials))


def conversation_of(request: Request, methods: bytes = b"") -> bytes:
    """What a client sends for a request; ``methods`` are offered on top of the one it uses."""
    if request.version is Version.SOCKS4:
        return socks4.build_request(request)
    known = request.credentials
    offered = methods + (b"\0" if known is None else b"\2")
    sent = socks5.build_greeting(offered)
    sent += b"" if known is None else userpass.build_credentials(known)
    return sent + socks5.build_request(request.command, request.address)


_KEYS = ["USERNAME", "PASSWD", "ISOLATION", "REQUIRE", "REPLY_CODES", "PT.a", "X-a.b", "other"]
_keys = st.sampled_from(_KEYS) | st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)
_values = st.binary(max_size=40) | st.sampled_from(
    [b"", b"ISOLATION", b"ISOLATION,other", b"prop304", b"none", b"<torS0X>9", b"x" * 300]
)
pairs = st.builds(KeyValues, st.lists(st.tuples(_keys, _values), max_size=8).map(tuple))

# Messages of all kinds, correct and not.
_pieces = st.one_of(
    st.binary(max_size=20),
    st.builds(socks5.build_greeting, st.binary(max_size=8)),
    st.builds(userpass.build_credentials, st.builds(Credentials, octets, octets)),
    st.builds(socks5.build_request, st.sampled_from([0, 1, 2, 3, 0xF0, 0xF1, 0xF2]), any_address),
    requests_4().map(socks4.build_request),
    pairs.map(extended.build_request),
    pairs.map(lambda said: b"\5\1\x97" + extended.build_request(said) + b"\5\1\0\1\1\1\1\1\0\1"),
    st.sampled_from([b"GET / HTTP/1.1\r\n", b"\4\1", b"\5\1\0", b"\5\1\2", b"\1\0\0", b"\0" * 600]),
    st.builds(lambda byte, times: byte * times, st.binary(min_size=1, max_size=1), st.just(600)),
)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """Correct conversations and single messages, with some bytes changed, inserted or removed."""
    right = st.one_of(requests_4(), requests_5()).map(conversation_of)
    parts = draw(st.lists(_pieces | right, max_size=4))
    data = bytearray(b"".join(parts))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        data[place : place + draw(st.integers(0, 1))] = draw(st.binary(max_size=2))
    return bytes(data[: draw(st.integers(0, 1500))] if draw(st.booleans()) else data)


_beginnings = st.sampled_from(
    [
        b"\4\1\0\x50\xc0\0\2\1",
        b"\4\xf0\0\0\0\0\0\1me\0",
        b"\5\1\0",
        b"\5\1\2",
        b"\5\2\0\2\1\2me\3you",
        b"\5\1\0\1\0\0",
        b"\5\1\2\1\x0a<torS0X>0",
        b"\5\1\0\5\1\0\3",
        b"\5\1\0\5\xf1\0",
        b"\5\2\x97\0\1",
        b"\5\1\x97\1\0\2\0\1a\0\0",
    ]
)
_anything = st.binary(max_size=700) | broken()
client_bytes = _anything | st.builds(bytes.__add__, _beginnings, _anything)


@st.composite
def chopped(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> tuple[bytes, Chunks]:
    """Some bytes, and the same in portions, some of them empty."""
    data = draw(whole)
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    edges = [0, *places, len(data)]
    if draw(st.booleans()) and len(data) < 300:
        edges = list(range(len(data) + 1))
    return data, tuple(data[a:b] for a, b in pairwise(edges))
