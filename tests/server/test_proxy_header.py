"""PROXY headers: what a balancer tells of its client, and what is made of it."""

from __future__ import annotations

import ipaddress
import struct
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import LogEvent, eventAsText

from tests.fuzz.strategies import fuzz, ipv4, ipv6, ports
from tests.support.peers import named
from tests.support.stage import come
from tests.support.tables import table
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.errors import Incomplete, ProtocolError
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolator
from torsocks_tx.policy.listener import parse_flags
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.proxy_header import parse_header
from torsocks_tx.socks.wire import Reader

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REQUEST = b"\5\1\0" + named("example.com", 80)
BALANCER = IPv4Address("TCP", "192.0.2.1", 40000)
ISOLATOR = Isolator(bytes(32))


def binary(family: int, body: bytes, *, command: int = 0x21, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, size) + body


def announcing(source: str, port: int = 1, tlvs: bytes = b"") -> bytes:
    packed = ipaddress.ip_address(source).packed
    family = 0x11 if len(packed) == 4 else 0x21
    return binary(family, packed + bytes(len(packed)) + struct.pack("!HH", port, 1080) + tlvs)


V4, V6, UNIX = announcing("198.51.100.7"), announcing("2001:db8::7"), binary(0x31, bytes(216))
TLVS = b"\2\0\7authority\x20\0\5\1\0\0\0\0" + b"\xea\1\0" + bytes(256)
GOOD = table(
    ("1 over IPv4", b"PROXY TCP4 198.51.100.7 192.0.2.1 65535 0\r\n", "198.51.100.7"),
    ("1 over IPv6", b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", "2001:db8::7"),
    ("1 longest", b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
     "ffff:" * 7 + "ffff"),
    ("1 IPv4 in IPv6", b"PROXY TCP6 ::ffff:198.51.100.7 ::1 1 2\r\n", "198.51.100.7"),
    ("1 unknown", b"PROXY UNKNOWN\r\n", None),
    ("1 unknown with words", b"PROXY UNKNOWN ffff::1 ::1 1 2 what ever\r\n", None),
    ("2 over IPv4", V4, "198.51.100.7"),
    ("2 over IPv6", V6, "2001:db8::7"),
    ("2 with TLVs", announcing("198.51.100.7", tlvs=TLVS), "198.51.100.7"),
    ("2 longest", announcing("198.51.100.7", tlvs=bytes(4084)), "198.51.100.7"),
    ("2 IPv4 in IPv6", announcing("::ffff:198.51.100.7"), "198.51.100.7"),
    ("2 unix", UNIX, None),
    ("2 unspecified", binary(0, b""), None),
    ("2 local", binary(0, b"", command=0x20), None),
    ("2 local with a body", binary(0x11, bytes(12), command=0x20), None),
)  # fmt: skip
BAD = table(
    ("nothing", REQUEST),
    ("words", b"canary canary canary"),
    ("HTTP", b"CONNECT example.com:80 HTTP/1.1\r\n\r\n"),
    ("1 lower case", b"proxy TCP4 198.51.100.7 192.0.2.1 1 2\r\n"),
    ("1 two spaces", b"PROXY TCP4  198.51.100.7 192.0.2.1 1 2\r\n"),
    ("1 IPv6 as IPv4", b"PROXY TCP4 ::1 192.0.2.1 1 2\r\n"),
    ("1 IPv4 as IPv6", b"PROXY TCP6 198.51.100.7 ::1 1 2\r\n"),
    ("1 scope", b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n"),
    ("1 leading zero", b"PROXY TCP4 198.51.100.07 192.0.2.1 1 2\r\n"),
    ("1 bad destination", b"PROXY TCP4 198.51.100.7 192.0.2 1 2\r\n"),
    ("1 port too large", b"PROXY TCP4 198.51.100.7 192.0.2.1 65536 2\r\n"),
    ("1 port with zeros", b"PROXY TCP4 198.51.100.7 192.0.2.1 01 2\r\n"),
    ("1 words behind", b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2 3\r\n"),
    ("1 no port", b"PROXY TCP4 198.51.100.7 192.0.2.1 canary 2\r\n"),
    ("1 no address", b"PROXY TCP4 canary 192.0.2.1 1 2\r\n"),
    ("1 no ASCII", b"PROXY TCP4 \xffcanary 192.0.2.1 1 2\r\n"),
    ("1 short", b"PROXY TCP4 198.51.100.7\r\n"),
    ("1 other protocol", b"PROXY UDP4 198.51.100.7 192.0.2.1 1 2\r\n"),
    ("1 line feed alone", b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2\n" + REQUEST + bytes(99)),
    ("1 one byte too long", b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n"),
    ("1 no end", b"PROXY UNKNOWN " + b"x" * 93),
    ("2 version", binary(0x11, bytes(12), command=0x11)),
    ("2 command", binary(0x11, bytes(12), command=0x22)),
    ("2 family", binary(0x41, bytes(12))),
    ("2 datagram", binary(0x12, bytes(12))),
    ("2 short for IPv4", binary(0x11, bytes(11))),
    ("2 short for IPv6", binary(0x21, bytes(12))),
    ("2 short for unix", binary(0x31, bytes(12))),
    ("2 too long", binary(0x11, b"", length=4097)),
    ("2 local too long", binary(0, b"", command=0x20, length=65535)),
    ("2 signature", SIGNATURE[:-1] + b"\r" + V4[12:]),
)


class Balanced:
    """A server that reads PROXY headers, and connections of its balancer."""

    def __init__(
        self,
        flags: str = "ProxyProtocol=192.0.2.1",
        name: str = "socks",
        isolator: Isolator = ISOLATOR,
        **options: Any,
    ) -> None:
        self.backend = MemoryBackend()
        self.clock = Clock()
        self.server = SOCKSFactory(
            self.backend,
            policy=parse_flags(f"{flags} Name={name}".split())[0],
            isolator=isolator,
            clock=self.clock,
            **options,
        )

    def come(self, *portions: bytes, peer: Any = BALANCER) -> Any:
        """Connect, and send these portions; None if the connection is not taken."""
        return come(self.server, *portions, peer=peer)

    def keys(self) -> list[bytes]:
        """Return what each stream is isolated by."""
        return [it.isolation.credentials.password for it in self.backend.outbounds]


def key_of(host: str, said: bytes = REQUEST) -> bytes:
    """Return what isolates a client that comes from this address without a balancer."""
    server = Balanced("")
    server.come(said, peer=IPv4Address("TCP", host, 1))
    (key,) = server.keys()
    return key


KEYS = {host: key_of(host or BALANCER.host) for _, host in (it.values for it in GOOD)}


@pytest.mark.parametrize(("header", "host"), GOOD)
def test_client_is_isolated_by_the_address_that_its_header_announces(
    header: bytes, host: str | None
) -> None:
    server = Balanced()
    said = header + REQUEST + b"early"
    cuts = range(1, len(said), 1 + len(said) // 500)
    for cut in cuts:
        server.come(said[:cut], said[cut:])
    assert {*server.keys()} == {KEYS[host]}
    assert len(server.keys()) == len(cuts)
    assert {bytes(it.written) for it in server.backend.outbounds} == {b"early"}


@pytest.mark.parametrize(("header", "host"), GOOD)
def test_header_may_come_byte_by_byte(header: bytes, host: str | None) -> None:
    server = Balanced()
    server.come(*map(bytes, zip(header + REQUEST, strict=True)))
    assert server.keys() == [KEYS[host]]


def is_plain(user: bytes) -> bool:
    """Whether a user name does not begin extended credentials."""
    return not user.startswith(b"<torS0X>")


@fuzz
@given(source=ipv4 | ipv6, user=st.binary(min_size=1, max_size=9).filter(is_plain))
def test_servers_with_one_secret_and_one_name_give_a_client_one_key(
    source: str, user: bytes
) -> None:
    login = b"\5\1\2\1" + bytes([len(user)]) + user + b"\1p"
    keys = []
    for name, isolator in (
        ("one", ISOLATOR),
        ("one", Isolator(bytes(32))),
        ("two", ISOLATOR),
        ("one", Isolator(b"x" * 32)),
    ):
        server = Balanced(name=name, isolator=isolator)
        server.come(announcing(source) + login + REQUEST[3:])
        keys += server.keys()
    assert keys[0] == keys[1]
    assert len({*keys}) == 3


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(bytes.fromhex("04 01 0050 C0000201 00"), id="4"),
        pytest.param(bytes.fromhex("04 01 0050 00000001 00") + b"example.com\0", id="4a"),
        pytest.param(b"\5\1\2\1\2me\3you" + REQUEST[3:], id="5-credentials"),
        pytest.param(b"CONNECT example.com:80 HTTP/1.1\r\nHost: example.com\r\n\r\n", id="http"),
    ],
)
def test_every_protocol_may_follow_a_header(said: bytes) -> None:
    server = Balanced()
    server.come(V4 + said)
    assert server.keys() == [key_of("198.51.100.7", said)]


@pytest.mark.parametrize("header", [it.values[0] for it in BAD], ids=[it.id for it in BAD])
def test_what_is_no_header_closes_the_connection_and_is_not_logged(
    header: bytes, log_lines: list[str], logged: list[LogEvent]
) -> None:
    server = Balanced()
    for cut in range(1, len(header) + 1):
        transport = server.come(header[:cut], header[cut:] + REQUEST)
        assert transport.take() == b""
        assert transport.asked[-1] == "loseWriteConnection"
    assert server.keys() == []
    assert log_lines == [
        "warn: connections without a valid PROXY header are closed (1): let the balancer send one,"
        " as by send-proxy-v2"
    ]
    ours = "".join(map(eventAsText, logged))
    assert not any(word in ours for word in ("Traceback", "198.51.100", "192.0.2", "canary"))


def parsed(data: bytes) -> Any:
    """Return what is parsed, or the class of the reason why nothing is."""
    reader = Reader(data)
    try:
        return parse_header(reader), data[reader.position :]
    except (Incomplete, ProtocolError) as reason:
        return type(reason)


@fuzz
@given(source=ipv4 | ipv6, port=ports, tlvs=st.binary(max_size=300), rest=st.binary(max_size=50))
def test_any_address_is_read_from_both_versions(
    source: str, port: int, tlvs: bytes, rest: bytes
) -> None:
    kind = 6 if ":" in source else 4
    text = f"PROXY TCP{kind} {source} {source} {port} 80\r\n".encode()
    address = ipaddress.ip_address(source)
    for header in (text, announcing(source, port, tlvs)):
        (host, found), left = parsed(header + rest)
        assert (ipaddress.ip_address(host), found, left) == (address, port, rest)
        assert {parsed(header[:cut]) for cut in range(len(header))} == {Incomplete}


@fuzz
@given(
    header=st.sampled_from([it.values[0] for it in (*GOOD, *BAD)]),
    place=st.integers(0, 300),
    new=st.binary(min_size=1, max_size=4),
)
def test_a_damaged_header_never_gives_an_address_that_it_does_not_hold(
    header: bytes, place: int, new: bytes
) -> None:
    place %= len(header)
    data = header[:place] + new + header[place + len(new) :]
    match parsed(data):
        case ((str(host), _), _):
            if data.startswith(b"PROXY "):
                shown = ipaddress.ip_address(data.split()[2].decode())
            else:
                shown = ipaddress.ip_address(data[16 : 20 if data[13] == 0x11 else 32])
            assert ipaddress.ip_address(host) == shown


@fuzz
@given(st.integers(0, 1 << 32))
def test_four_kilobytes_of_garbage_are_refused(seed: int) -> None:
    assert parsed(Random(seed).randbytes(4096)) is ProtocolError


@pytest.mark.parametrize(
    ("flags", "peer", "is_taken"),
    [
        ("ProxyProtocol=192.0.2.1", BALANCER, True),
        ("ProxyProtocol=198.51.100.0/24,192.0.2.0/24", BALANCER, True),
        ("ProxyProtocol=192.0.2.0/24", IPv6Address("TCP", "::ffff:192.0.2.1", 1), True),
        ("ProxyProtocol=2001:db8::/32", IPv6Address("TCP", "2001:db8::1", 1), True),
        ("ProxyProtocol=fe80::/10", IPv6Address("TCP", "fe80::1%lo", 1), True),
        ("ProxyProtocol", UNIXAddress(None), True),
        ("ProxyProtocol=192.0.2.1", UNIXAddress(None), True),
        ("ProxyProtocol=192.0.2.2", BALANCER, False),
        ("ProxyProtocol=192.0.2.1", IPv6Address("TCP", "2001:db8::1", 1), False),
        ("ProxyProtocol", BALANCER, False),
        ("ProxyProtocol", None, False),
    ],
)
def test_only_named_senders_are_believed(
    flags: str, peer: Any, is_taken: bool, log_lines: list[str]
) -> None:
    server = Balanced(flags)
    taken = [server.come(V4 + REQUEST, peer=peer) is not None for _ in range(3)]
    assert taken == [is_taken] * 3
    assert server.keys() == [KEYS["198.51.100.7"]] * 3 * is_taken
    assert [line[:37] for line in log_lines] == ["warn: connections are closed (1): Pro"][is_taken:]
    assert not any("192.0.2" in line or "2001" in line for line in log_lines)


def test_clients_are_bounded_by_announced_addresses() -> None:
    server = Balanced(limits=Limits(max_connections=9, max_per_client=2))
    asked = []
    for source in ("198.51.100.7", "2001:db8::7", "2001:db8::8", None):
        header = b"PROXY UNKNOWN\r\n" if source is None else announcing(source)
        for _ in range(3):
            transport = server.come(header + REQUEST)
            asked.append("abortConnection" in transport.asked)
    # Two addresses of one /64 network count as one; UNKNOWN counts for the balancer.
    assert asked == [*[False, False, True] * 2, *[True] * 3, *[False, False, True]]


def test_a_connection_without_its_header_makes_room_first() -> None:
    server = Balanced(limits=Limits(max_connections=2, max_per_client=1))
    waiting = server.come(V4[:20])
    for _ in range(2):
        assert server.come(b"") is not None
    assert waiting.asked[-1] == "abortConnection"


def test_the_handshake_deadline_holds_for_the_header_too() -> None:
    server = Balanced(limits=Limits(handshake_timeout=30))
    transport = server.come(V4[:-1])
    server.clock.advance(20)
    transport.protocol.dataReceived(V4[-1:] + REQUEST[:3])
    server.clock.advance(9)
    assert "loseWriteConnection" not in transport.asked
    server.clock.advance(1)
    assert transport.asked[-1] == "loseWriteConnection"


@pytest.mark.parametrize(
    "header", [b"", V4[:20], binary(0, b"", command=0x20), b"PROXY UNKNOWN\r\n"]
)
def test_a_health_check_that_closes_leaves_no_line(header: bytes, log_lines: list[str]) -> None:
    server = Balanced(debugging=False)
    transport = server.come(header) if header else server.come()
    transport.protocol.readConnectionLost()
    transport.lose()
    assert (len(server.server.connections), log_lines) == (0, [])
