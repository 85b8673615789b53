"""The factories: what connections share, who is let in, and how streams are kept apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface.verify import verifyObject

from tests.support.names import ONION
from tests.support.peers import named, refused
from tests.support.rows import rows
from tests.support.stage import GREETING, Stage
from tests.support.transports import FakeTransport
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.errors import (
    DescriptorNotFound,
    Fault,
    Internal,
    InvalidArguments,
    InvalidBridge,
    Refused,
    Temporary,
)
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import IsolationFlags, Isolator
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.server.factory import SOCKS4Factory, SOCKS5Factory, SOCKSFactory
from torsocks_tx.server.protocol import SOCKS4Protocol, SOCKS5Protocol, SOCKSProtocol
from torsocks_tx.socks import extended
from torsocks_tx.socks.constants import Role
from torsocks_tx.socks.extended import take_any
from torsocks_tx.socks.messages import Credentials, KeyValues

CONNECT = named("example.com", 80)
HERE = IPv4Address("TCP", "127.0.0.1", 40000)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Give what is logged above debug, each line with its level."""
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"].startswith("torsocks_tx") and event["log_level"] > LogLevel.debug:
            found.append(f"{event['log_level'].name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@rows("S-04", "S-05", "S-06")
@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        (SOCKSFactory, SOCKSProtocol),
        (SOCKS4Factory, SOCKS4Protocol),
        (SOCKS5Factory, SOCKS5Protocol),
    ],
)
def test_each_factory_makes_its_protocol(
    kind: type[SOCKSFactory], protocol: type[SOCKSProtocol]
) -> None:
    factory = kind(MemoryBackend())
    assert verifyObject(IProtocolFactory, factory)
    made = factory.buildProtocol(HERE)
    assert type(made) is protocol
    assert made.factory is factory
    assert not factory.noisy


class Clients:
    """Clients of one factory."""

    def __init__(self, **options: Any) -> None:
        self.factory = SOCKSFactory(MemoryBackend(), clock=Clock(), **options)

    def come(self, address: Any = HERE) -> FakeTransport | None:
        protocol = self.factory.buildProtocol(address)
        if protocol is None:
            return None
        transport = FakeTransport()
        transport.connect(protocol)
        return transport

    def is_served(self, address: Any = HERE) -> bool:
        """Whether a client that comes and makes its request is served."""
        transport = self.come(address)
        if transport is not None:
            transport.protocol.dataReceived(GREETING + CONNECT)
        return transport is not None


class TestMaxConnections:
    def test_one_more_is_turned_away_and_said_once(self, lines: list[str]) -> None:
        clients = Clients(limits=Limits(max_connections=2))
        assert [clients.is_served() for _ in range(5)] == [True, True, False, False, False]
        assert lines == ["warn: 2 clients are connected: more are turned away"]
        next(iter(clients.factory.connections)).transport.lose()
        assert [clients.is_served() for _ in range(2)] == [True, False]
        assert len(lines) == 1

    def test_a_client_without_a_request_makes_room(self, lines: list[str]) -> None:
        clients = Clients(limits=Limits(max_connections=2))
        first, second = clients.come(), clients.come()
        assert first is not None
        assert second is not None
        assert clients.is_served()
        assert first.asked[-1:] == ["abortConnection"]
        assert clients.is_served()
        assert second.asked[-1:] == ["abortConnection"]
        assert not clients.is_served()
        assert len(lines) == 1

    def test_one_address_has_a_share(self, lines: list[str]) -> None:
        clients = Clients(limits=Limits(max_connections=12, max_per_client=2))
        assert [clients.is_served() for _ in range(4)] == [True, True, False, False]
        assert lines == ["warn: 2 clients of one address are connected: more are turned away"]
        assert clients.is_served(IPv4Address("TCP", "127.0.0.2", 1))
        assert all(clients.is_served(UNIXAddress(None)) for _ in range(5))

    def test_a_proxy_in_front_that_connects_for_everybody_has_none(self) -> None:
        limits = Limits(max_connections=12, max_per_client=2)
        clients = Clients(limits=limits, tells_clients_apart=False)
        assert sum(clients.is_served() for _ in range(20)) == 12

    def test_none_is_no_bound(self) -> None:
        clients = Clients()
        assert all(clients.is_served() for _ in range(500))


class TestEmptiness:
    def test_an_empty_factory_is_empty_at_once(self) -> None:
        assert self.waits(Clients()) == [None]

    def test_it_waits_for_the_last(self) -> None:
        clients = Clients()
        first, second = clients.come(), clients.come()
        waiting, other = self.waits(clients), self.waits(clients)
        assert first is not None
        assert second is not None
        first.lose()
        assert waiting == []
        second.lose()
        assert (waiting, other) == ([None], [None])

    def test_close_all_resets_all(self) -> None:
        clients = Clients()
        transports = [clients.come(), clients.come()]
        clients.factory.close_all()
        for transport in transports:
            assert transport is not None
            assert transport.asked[-1] == "abortConnection"
            transport.finish()
        assert clients.factory.connections == set()

    def waits(self, clients: Clients) -> list[object]:
        fired: list[object] = []

        async def wait() -> None:
            fired.append(await clients.factory.when_empty())

        ensureDeferred(wait())
        return fired


def token(factory: SOCKSFactory, said: bytes, peer: Any = HERE) -> bytes:
    """Return the password that stands upstream for the isolation of this client's stream."""
    protocol = factory.buildProtocol(peer)
    assert protocol is not None
    transport = FakeTransport()
    transport.getPeer = lambda: peer  # type: ignore[method-assign]
    transport.connect(protocol)
    protocol.dataReceived(said)
    outbound = factory.backend.outbounds[-1]  # type: ignore[attr-defined]
    transport.lose(clean=False)
    assert outbound.isolation.credentials.username == b"<torS0X>0"
    password: bytes = outbound.isolation.credentials.password
    return password


def login(user: bytes, password: bytes) -> bytes:
    credentials = bytes([1, len(user)]) + user + bytes([len(password)]) + password
    return b"\5\1\2" + credentials + CONNECT


def socks4(user: bytes) -> bytes:
    return b"\4\1\0\x50\xc0\0\2\1" + user + b"\0"


class TestIsolation:
    def setup_method(self) -> None:
        self.factory = SOCKSFactory(MemoryBackend())

    @rows("S-13", "S-17", "S-19", "S-23")
    def test_equal_authentication_is_one_token_and_different_is_another(self) -> None:
        said = [
            GREETING + CONNECT,
            login(b"x", b"y"),
            login(b"ab", b"c"),
            login(b"a", b"bc"),
            login(b"", b""),
            login(b"x", b""),
            socks4(b"a"),
            socks4(b"b"),
            socks4(b""),
        ]
        tokens = [token(self.factory, one) for one in said]
        assert len(set(tokens)) == len(said)
        assert [token(self.factory, one) for one in said] == tokens

    @rows("S-18")
    def test_credentials_that_were_not_asked_for_count_as_if_they_were(self) -> None:
        factory = SOCKSFactory(MemoryBackend())
        regular = token(factory, login(b"me", b"you"))
        assert token(factory, b"\5\1\0" + b"\1\2me\3you" + CONNECT) == regular

    @rows("S-23")
    def test_the_flag_switches_it_off(self) -> None:
        policy = ListenerPolicy(isolation=IsolationFlags(socks_auth=False))
        factory = SOCKSFactory(MemoryBackend(), policy=policy)
        assert token(factory, login(b"x", b"y")) == token(factory, login(b"z", b"y"))

    @rows("S-23")
    def test_the_token_tells_nothing_of_the_client(self) -> None:
        assert b"canary" not in token(self.factory, login(b"canary", b"canary"))

    @rows("R-33")
    def test_the_clients_address_counts_and_not_its_port(self) -> None:
        peers = [
            HERE,
            IPv4Address("TCP", "127.0.0.1", 50000),
            IPv6Address("TCP", "::ffff:127.0.0.1", 1),
            IPv4Address("TCP", "127.0.0.2", 40000),
            IPv6Address("TCP", "::1", 40000),
            IPv6Address("TCP", "fe80::1%lo", 40000),
            UNIXAddress(None),
        ]
        tokens = [token(self.factory, GREETING + CONNECT, peer) for peer in peers]
        assert len(set(tokens[:3])) == 1
        assert len(set(tokens)) == len(peers) - 2

    def test_listeners_are_apart_unless_named_alike_with_one_secret(self) -> None:
        def of(**options: Any) -> bytes:
            return token(SOCKSFactory(MemoryBackend(), **options), GREETING + CONNECT)

        assert of() != of()
        assert of(listener="a") == of(listener="a")
        secret = Isolator(bytes(32))
        assert of(listener="a", isolator=secret) == of(listener="a", isolator=Isolator(bytes(32)))
        assert of(listener="a", isolator=secret) != of(listener="a")

    def test_a_session_group_joins_listeners(self) -> None:
        policy = ListenerPolicy(isolation=IsolationFlags(session_group=7))
        first = token(SOCKSFactory(MemoryBackend(), policy=policy), GREETING + CONNECT)
        assert token(SOCKSFactory(MemoryBackend(), policy=policy), GREETING + CONNECT) == first

    def test_the_backend_is_told_which_flags_only_its_port_can_keep(self) -> None:
        stage = Stage(policy=ListenerPolicy(ipv6_traffic=False))
        stage.ask(CONNECT)
        assert stage.backend.outbounds[0].isolation.port_flags == {"NoIPv6Traffic"}


class TestPolicy:
    @rows("S-09")
    def test_a_request_that_the_policy_forbids_reaches_no_backend(self) -> None:
        stage = Stage(policy=ListenerPolicy(safe_socks=True))
        assert stage.ask(b"\5\1\0\1\xc0\0\2\1\0\x50") == refused(2)
        assert stage.farewell
        assert stage.backend.outbounds == []

    @rows("S-09")
    @pytest.mark.parametrize(
        ("request_", "line"),
        [
            (CONNECT, "SOCKS5 request by host name: safe"),
            (
                b"\5\1\0\1\xc0\0\2\1\0\x50",
                "SOCKS5 request by IP address: this client may have looked the name up itself,"
                " outside Tor",
            ),
            (b"\5\xf1\0\1\xc0\0\2\1\0\0", "SOCKS5 request by host name: safe"),
        ],
    )
    def test_test_socks_says_what_kind_and_not_which(
        self, lines: list[str], request_: bytes, line: str
    ) -> None:
        stage = Stage(policy=ListenerPolicy(test_socks=True))
        stage.ask(request_)
        assert lines == [f"info: TestSocks: {line}"]

    @rows("S-16", "S-15", "R-11")
    def test_the_method_that_is_selected(self) -> None:
        off = IsolationFlags(socks_auth=False)
        for policy, offered, selected in [
            (ListenerPolicy(), b"\0", 0),
            (ListenerPolicy(), b"\0\2", 2),
            (ListenerPolicy(), b"\1\0", 0),
            (ListenerPolicy(), b"\1", 0xFF),
            (ListenerPolicy(prefer_socks_no_auth=True), b"\2\0", 0),
            (ListenerPolicy(isolation=off), b"\2\0", 0),
            (ListenerPolicy(isolation=off), b"\2", 2),
        ]:
            stage = Stage(policy=policy)
            answer = stage.say(bytes([5, len(offered)]) + offered)
            assert answer == bytes([5, selected]), (policy, offered)

    def test_debug_lines_can_be_switched_off(self) -> None:
        seen: list[LogEvent] = []
        globalLogPublisher.addObserver(seen.append)
        stage = Stage(debugging=False)
        stage.say(b"garbage")
        globalLogPublisher.removeObserver(seen.append)
        assert stage.farewell
        assert [event for event in seen if "torsocks_tx" in event["log_namespace"]] == []


def test_the_reactor_is_the_clock_by_default() -> None:
    from twisted.internet import reactor

    assert SOCKSFactory(MemoryBackend()).clock is reactor


def by_pairs(**pairs: bytes) -> bytes:
    """A greeting that offers every method, and a request of X'97'."""
    return b"\5\3\0\2\x97" + extended.build_request(KeyValues.of(pairs))


def answered(**pairs: bytes) -> bytes:
    return b"\5\x97" + extended.build_response(0, KeyValues.of(pairs))


class TestExtended:
    """Method X'97' as the flags of a listener, and its application, have it."""

    @rows("P-04", "P-06")
    def test_it_is_there_by_default(self) -> None:
        stage = Stage()
        answer = stage.say(by_pairs(ISOLATION=b"x"))
        assert answer == answered(ACCEPTED=b"ISOLATION", REPLY_CODES=b"prop229")
        stage.say(CONNECT)
        assert stage.backend.outbounds[0].request.pairs == KeyValues.of({"ISOLATION": b"x"})

    @rows("P-40", "P-35")
    def test_it_can_be_switched_off(self) -> None:
        stage = Stage(policy=ListenerPolicy(extended_auth=False))
        assert stage.say(b"\5\3\x97\0\2") == b"\5\2"
        stage = Stage(policy=ListenerPolicy(extended_auth=False))
        assert stage.say(b"\5\1\x97") == b"\5\xff"

    @rows("P-35")
    @pytest.mark.parametrize(
        "policy",
        [
            ListenerPolicy(prefer_socks_no_auth=True),
            ListenerPolicy(isolation=IsolationFlags(socks_auth=False)),
        ],
    )
    def test_no_authentication_may_be_preferred(self, policy: ListenerPolicy) -> None:
        assert Stage(policy=policy).say(b"\5\3\x97\0\2") == b"\5\0"
        assert Stage(policy=policy).say(b"\5\2\x97\2") == b"\5\x97"

    def test_a_transports_port_wants_what_its_parent_has_to_say(self) -> None:
        policy = ListenerPolicy(role=Role.PT, prefer_socks_no_auth=True)
        assert Stage(policy=policy).say(b"\5\2\0\2") == b"\5\2"
        stage = Stage(policy=policy, keys={"PT.": take_any})
        answer = stage.say(by_pairs(**{"PT.a": b"1", "ISOLATION": b"x"}))
        assert answer == answered(ACCEPTED=b"PT.a", REPLY_CODES=b"prop229")

    def test_what_does_not_isolate_is_not_said_to_be_accepted(self) -> None:
        stage = Stage(policy=ListenerPolicy(isolation=IsolationFlags(socks_auth=False)))
        answer = stage.say(b"\5\1\x97" + by_pairs(ISOLATION=b"x", USERNAME=b"")[5:])
        assert answer == answered(ACCEPTED=b"", REPLY_CODES=b"prop229")

    @rows("P-03")
    def test_bounds_are_the_listeners(self) -> None:
        stage = Stage(limits=Limits(extended_pairs=1, extended_bytes=20))
        assert stage.say(by_pairs(A=b"", B=b"")) == b"\5\x97\1\2\0\0"
        assert stage.farewell
        stage = Stage(limits=Limits(extended_pairs=1, extended_bytes=20))
        assert stage.say(by_pairs(A=b"x" * 16)) == b"\5\x97\1\2\0\0"

    @pytest.mark.parametrize("end", ["leaves", "stays too long", "asks"])
    def test_a_clients_pairs_leave_the_budget_of_all_with_it(self, end: str) -> None:
        stage = Stage()
        budget = stage.server._limiter.pairs_budget
        before = budget.left
        said = by_pairs(ISOLATION=b"v" * 5000)
        stage.say(said[:-1])
        assert budget.left < before
        if end == "leaves":
            stage.transport.lose(clean=False)
        elif end == "stays too long":
            stage.clock.advance(30)
            stage.transport.finish()
        else:
            stage.say(said[-1:] + CONNECT)
        assert budget.left == before

    def test_a_stream_does_not_keep_what_isolates_it(self) -> None:
        stage = Stage()
        stage.say(by_pairs(ISOLATION=b"v" * 5000, REPLY_CODES=b"none") + named(ONION, 80))
        [outbound] = stage.backend.outbounds
        assert outbound.request.pairs.get("ISOLATION") == b"v" * 5000
        kept = stage.protocol._errand._request
        assert (kept.credentials, kept.pairs) == (None, KeyValues.of({"REPLY_CODES": b"none"}))
        stage.transport.take()
        outbound.receiver.refused(DescriptorNotFound("x"))
        assert stage.transport.take() == refused(4)

    @rows("R-30")
    def test_half_a_frame_has_the_handshakes_deadline(self) -> None:
        stage = Stage()
        stage.say(by_pairs(ISOLATION=b"x")[:-1])
        stage.clock.advance(29.9)
        assert stage.transport.asked[-1:] != ["loseWriteConnection"]
        stage.clock.advance(0.2)
        assert stage.farewell
        assert stage.transport.take() == b""

    def test_a_client_that_leaves_in_the_middle_hears_nothing(self) -> None:
        stage = Stage()
        stage.say(by_pairs(ISOLATION=b"x")[:-1])
        stage.protocol.readConnectionLost()
        assert stage.transport.take() == b""
        assert stage.transport.asked[-1] == "loseConnection"

    @rows("P-04")
    def test_keys_of_an_application(self) -> None:
        def colour(pairs: KeyValues) -> KeyValues:
            if pairs.get("X-paint.colour") != b"red":
                raise InvalidArguments("not red", KeyValues.of({"X-paint.known": b"red"}))
            return KeyValues.of({"X-paint.price": b"7"})

        stage = Stage(keys={"X-paint.colour": colour})
        answer = stage.say(by_pairs(**{"X-paint.colour": b"red"}))
        assert answer == answered(
            ACCEPTED=b"X-paint.colour", REPLY_CODES=b"prop229", **{"X-paint.price": b"7"}
        )
        stage = Stage(keys={"X-paint.colour": colour})
        pairs = KeyValues.of({"X-paint.known": b"red"})
        answer = stage.say(by_pairs(**{"X-paint.colour": b"blue"}))
        assert answer == b"\5\x97" + extended.build_response(2, pairs)
        assert stage.farewell

    def test_a_fault_of_an_applications_key_ends_the_connection(
        self, logged_failures: list[LogEvent]
    ) -> None:
        def broken(pairs: KeyValues) -> KeyValues:
            raise ZeroDivisionError

        stage = Stage(keys={"X-a.b": broken})
        assert stage.say(by_pairs(**{"X-a.b": b""})) == b""
        assert stage.farewell
        assert [event["log_failure"].type for event in logged_failures] == [ZeroDivisionError]
        logged_failures.clear()

    @rows("P-05", "P-21")
    @pytest.mark.parametrize(("password", "status"), [(b"you", 0), (b"me", 1)])
    def test_passwords_are_checked_when_the_checker_has_time(
        self, password: bytes, status: int
    ) -> None:
        checks: list[Deferred[bytes | None]] = []

        def check(credentials: Credentials) -> Deferred[bytes | None]:
            checks.append(Deferred())
            return checks[0]

        stage = Stage(authenticator=check)
        said = by_pairs(USERNAME=b"me", PASSWD=password, ISOLATION=b"x")
        assert stage.say(said + CONNECT) == b"\5\x97"
        checks[0].callback(b"me" if password == b"you" else None)
        answer = stage.transport.take()
        if status == 0:
            accepted = b"USERNAME,PASSWD,ISOLATION"
            assert b"\5\x97" + answer == answered(ACCEPTED=accepted, REPLY_CODES=b"prop229")
            assert stage.backend.outbounds[0].request.avatar == b"me"
        else:
            assert answer == b"\1\1\0\0"
            assert stage.farewell
            assert stage.backend.outbounds == []

    @rows("P-26", "P-27", "P-28")
    @pytest.mark.parametrize(
        ("policy", "greeting", "code"),
        [
            (ListenerPolicy(), b"\5\1\0", 4),
            (ListenerPolicy(prefer_socks_no_auth=True), b"\5\2\x97\0", 0xE0),
            (ListenerPolicy(extended_auth=False), b"\5\2\x97\0", 4),
            (ListenerPolicy(), b"\5\1\x97\1\0\0", 0xE0),
            (ListenerPolicy(swap_e0_e1=True), b"\5\1\x97\1\0\0", 0xE1),
            (ListenerPolicy(extended_errors=True), b"\5\1\x97\1\0\0", 0xF0),
        ],
    )
    def test_codes(self, policy: ListenerPolicy, greeting: bytes, code: int) -> None:
        stage = Stage(policy=policy)
        stage.say(greeting)
        stage.say(named(ONION, 80))
        stage.backend.outbounds[0].receiver.refused(DescriptorNotFound("x"))
        assert stage.transport.take() == refused(code)

    @rows("P-29", "P-31", "P-33")
    @pytest.mark.parametrize(
        ("reason", "offered", "plain"),
        [(Temporary, 0xF0, 1), (InvalidBridge, 0xF1, 5), (Internal, 0xF2, 1), (Fault, 0xF2, 1)],
    )
    def test_codes_of_a_transport(self, reason: type[Refused], offered: int, plain: int) -> None:
        for greeting, code in ((b"\5\1\x97\1\0\0", offered), (b"\5\1\0", plain)):
            stage = Stage(policy=ListenerPolicy(role=Role.PT, extended_errors=True))
            stage.say(greeting)
            stage.say(CONNECT)
            stage.backend.outbounds[0].receiver.refused(reason("x"))
            assert stage.transport.take() == refused(code)
