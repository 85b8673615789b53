"""The factories: what the connections of a listener share, and how its flags are used."""

from __future__ import annotations

import os
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface.verify import verifyObject

from tests.support.names import ONION
from tests.support.peers import GRANTED, named, refused
from tests.support.rows import rows
from tests.support.stage import CONNECT, GREETING, Stage, come, key_of
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.errors import (
    DescriptorNotFound,
    Internal,
    InvalidArguments,
    InvalidBridge,
    Refused,
    Temporary,
)
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import IsolationFlags, Isolator
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.server.auth import CredAuthenticator, PasswordFile
from torsocks_tx.server.factory import (
    REQUEST_GRACE,
    SILENCE,
    SOCKS4Factory,
    SOCKS5Factory,
    SOCKSFactory,
)
from torsocks_tx.server.protocol import SOCKS4Protocol, SOCKS5Protocol, SOCKSProtocol
from torsocks_tx.socks import extended
from torsocks_tx.socks.constants import Role
from torsocks_tx.socks.extended import take_any
from torsocks_tx.socks.messages import Credentials, KeyValues

HERE = IPv4Address("TCP", "127.0.0.1", 40000)


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


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            {"authenticator": PasswordFile(os.devnull)},
            r"authenticator must be a function .* CredAuthenticator.*, not PasswordFile",
        ),
        ({"authenticator": CredAuthenticator}, "authenticator must be a function .*, not type"),
    ],
    ids=["authenticator", "class"],
)
def test_wrong_arguments_are_refused_at_the_call(change: dict[str, Any], wanted: str) -> None:
    with pytest.raises(TypeError, match=wanted):
        SOCKSFactory(**{"backend": MemoryBackend(), **change})


class Clients:
    """Clients of one factory."""

    def __init__(self, **options: Any) -> None:
        self.factory = SOCKSFactory(MemoryBackend(), clock=Clock(), **options)

    def come(self, *said: bytes, address: Any = HERE) -> Any:
        return come(self.factory, *said, peer=address)

    def is_served(self, address: Any = HERE) -> bool:
        """Whether a client that comes and makes its request is served."""
        return self.come(GREETING + CONNECT, address=address) is not None


def test_clients_are_bounded_in_all_and_by_address(log_lines: list[str]) -> None:
    clients = Clients(limits=Limits(max_connections=8, max_per_client=2))
    assert [clients.is_served() for _ in range(4)] == [True, True, False, False]
    assert log_lines == ["warn: 2 clients of one address are connected: more are turned away"]
    assert clients.is_served(IPv4Address("TCP", "127.0.0.2", 1))
    assert [clients.is_served(UNIXAddress(None)) for _ in range(6)] == [True] * 5 + [False]
    next(iter(clients.factory.connections)).transport.lose()
    assert [clients.is_served(UNIXAddress(None)) for _ in range(2)] == [True, False]


class TestEmptiness:
    def test_when_empty_fires_at_once_without_connections(self) -> None:
        assert self.waits(Clients()) == [None]

    def test_when_empty_waits_for_the_last_connection(self) -> None:
        clients = Clients()
        first, second = clients.come(), clients.come()
        waiting, other = self.waits(clients), self.waits(clients)
        first.lose()
        assert waiting == []
        second.lose()
        assert (waiting, other) == ([None], [None])

    def test_abort_all_resets_every_connection(self) -> None:
        clients = Clients()
        transports = [clients.come(), clients.come()]
        clients.factory.abort_all()
        for transport in transports:
            assert transport.asked[-1] == "abortConnection"
            transport.finish()
        assert clients.factory.connections == set()

    def test_of_open_streams_a_shutdown_resets_those_whose_client_has_left(self) -> None:
        clients: Any = Clients()
        left, others, staying = clients.come(), clients.come(), clients.come()
        for transport in (left, others, staying):
            transport.protocol.dataReceived(GREETING + CONNECT)
        clients.factory.clock.advance(0)
        for outbound in clients.factory.backend.outbounds:
            outbound.receiver.opened()
        for transport in (left, others):
            transport.protocol.readConnectionLost()
        # A listener with the same limit, which goes on.
        clients.factory.connections.remove(others.protocol)
        ended = clients.factory.shutdown(600)
        clients.factory.clock.pump([SILENCE] * 3)
        reset = ["abortConnection" in each.asked for each in (left, others, staying)]
        assert reset == [True, False, False]
        for transport in (left, staying):
            transport.lose()
        clients.factory.clock.advance(0)
        assert ended.called

    def test_client_that_came_last_may_finish_its_request(self) -> None:
        clients: Any = Clients()
        last, silent = clients.come(GREETING), clients.come(GREETING)
        clients.factory.shutdown(600)
        clients.factory.clock.advance(REQUEST_GRACE * 0.9)
        last.protocol.dataReceived(CONNECT)
        clients.factory.clock.pump([REQUEST_GRACE] * 3)
        assert ["abortConnection" in each.asked for each in (last, silent)] == [False, True]
        clients.factory.backend.outbounds[0].receiver.opened()
        assert last.take().endswith(GRANTED)

    def test_a_client_that_cannot_be_reset_keeps_no_other(
        self, logged_failures: list[LogEvent]
    ) -> None:
        clients = Clients()
        transports: list[Any] = [clients.come() for _ in range(3)]
        ended = clients.factory.shutdown(600)
        for transport in transports:
            transport.abortConnection = lambda: {}["x"]
        clock: Any = clients.factory.clock
        clock.advance(1)
        assert [event["log_failure"].type for event in logged_failures] == [KeyError] * 3
        logged_failures.clear()
        for transport in transports:
            transport.lose()
        clock.advance(0)
        assert ended.called
        assert clock.getDelayedCalls() == []

    def waits(self, clients: Clients) -> list[object]:
        fired: list[object] = []
        clients.factory.when_empty().addCallback(fired.append)
        return fired


def login(user: bytes, password: bytes) -> bytes:
    credentials = bytes([1, len(user)]) + user + bytes([len(password)]) + password
    return b"\5\1\2" + credentials + CONNECT


def socks4(user: bytes) -> bytes:
    return b"\4\1\0\x50\xc0\0\2\1" + user + b"\0"


class TestIsolation:
    def setup_method(self) -> None:
        self.factory = SOCKSFactory(MemoryBackend(), clock=Clock())

    @rows("S-13", "S-17", "S-19", "S-23")
    def test_streams_share_credentials_upstream_only_with_equal_authentication(self) -> None:
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
        tokens = [key_of(self.factory, one) for one in said]
        assert len(set(tokens)) == len(said)
        assert [key_of(self.factory, one) for one in said] == tokens

    @rows("S-18")
    def test_credentials_after_method_00_isolate_like_others(self) -> None:
        factory = SOCKSFactory(MemoryBackend(), clock=Clock())
        regular = key_of(factory, login(b"me", b"you"))
        assert key_of(factory, b"\5\1\0" + b"\1\2me\3you" + CONNECT) == regular

    @rows("R-33")
    def test_the_address_of_a_client_isolates_and_its_port_does_not(self) -> None:
        peers = [
            HERE,
            IPv4Address("TCP", "127.0.0.1", 50000),
            IPv6Address("TCP", "::ffff:127.0.0.1", 1),
            IPv4Address("TCP", "127.0.0.2", 40000),
            IPv6Address("TCP", "::1", 40000),
            IPv6Address("TCP", "fe80::1%lo", 40000),
            UNIXAddress(None),
        ]
        tokens = [key_of(self.factory, GREETING + CONNECT, peer) for peer in peers]
        assert len(set(tokens[:3])) == 1
        assert len(set(tokens)) == len(peers) - 2

    def test_listeners_share_only_with_one_name_and_one_secret(self) -> None:
        def of(**options: Any) -> bytes:
            factory = SOCKSFactory(MemoryBackend(), clock=Clock(), **options)
            return key_of(factory, GREETING + CONNECT)

        assert of() != of()
        assert of(listener="a") == of(listener="a")
        secret = Isolator(bytes(32))
        assert of(listener="a", isolator=secret) == of(listener="a", isolator=Isolator(bytes(32)))
        assert of(listener="a", isolator=secret) != of(listener="a")

    def test_the_backend_gets_the_flags_that_its_socks_port_must_have(self) -> None:
        stage = Stage(policy=ListenerPolicy(ipv6_traffic=False))
        stage.ask(CONNECT)
        assert stage.backend.outbounds[0].isolation.port_flags == {"NoIPv6Traffic"}


class TestPolicy:
    @rows("S-09")
    def test_a_request_that_a_flag_forbids_does_not_reach_the_backend(self) -> None:
        stage = Stage(policy=ListenerPolicy(safe_socks=True))
        assert stage.ask(b"\5\1\0\1\xc0\0\2\1\0\x50") == refused(2)
        assert stage.closes
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
    def test_test_socks_logs_the_kind_of_address_and_not_the_address(
        self, log_lines: list[str], request_: bytes, line: str
    ) -> None:
        stage = Stage(policy=ListenerPolicy(test_socks=True))
        stage.ask(request_)
        assert log_lines == [f"info: TestSocks: {line}"]

    @rows("S-16", "S-15", "R-11", "P-35", "P-40")
    def test_method_selected_with_each_flag(self) -> None:
        off = IsolationFlags(socks_auth=False)
        for policy, offered, selected in [
            (ListenerPolicy(), b"\0", 0),
            (ListenerPolicy(), b"\0\2", 2),
            (ListenerPolicy(), b"\1\0", 0),
            (ListenerPolicy(), b"\1", 0xFF),
            (ListenerPolicy(prefer_socks_no_auth=True), b"\2\0", 0),
            (ListenerPolicy(isolation=off), b"\2\0", 0),
            (ListenerPolicy(isolation=off), b"\2", 2),
            (ListenerPolicy(isolation=off), b"\x97\0\2", 0),
            (ListenerPolicy(prefer_socks_no_auth=True), b"\x97\0\2", 0),
            (ListenerPolicy(prefer_socks_no_auth=True), b"\x97\2", 0x97),
            (ListenerPolicy(extended_auth=False), b"\x97\0\2", 2),
            (ListenerPolicy(extended_auth=False), b"\x97", 0xFF),
        ]:
            stage = Stage(policy=policy)
            answer = stage.say(bytes([5, len(offered)]) + offered)
            assert answer == bytes([5, selected]), (policy, offered)

    def test_debug_lines_can_be_switched_off(self, logged: list[LogEvent]) -> None:
        stage = Stage(debugging=False)
        stage.say(b"garbage")
        assert stage.closes
        assert [event for event in logged if "torsocks_tx" in event["log_namespace"]] == []


def test_the_reactor_is_the_clock_by_default() -> None:
    from twisted.internet import reactor

    assert SOCKSFactory(MemoryBackend()).clock is reactor


def by_pairs(**pairs: bytes) -> bytes:
    """A greeting that offers every method, and an extended authentication."""
    return b"\5\3\0\2\x97" + extended.build_request(KeyValues.of(pairs))


def answered(**pairs: bytes) -> bytes:
    return b"\5\x97" + extended.build_response(0, KeyValues.of(pairs))


class TestExtended:
    """Extended authentication on listeners with different flags and handlers."""

    @rows("P-04", "P-06")
    def test_extended_authentication_is_on_by_default(self) -> None:
        stage = Stage()
        answer = stage.say(by_pairs(ISOLATION=b"x"))
        assert answer == answered(ACCEPTED=b"ISOLATION", REPLY_CODES=b"prop229")
        stage.say(CONNECT)
        assert stage.backend.outbounds[0].request.pairs == KeyValues.of({"ISOLATION": b"x"})

    def test_a_transports_port_always_prefers_credentials(self) -> None:
        policy = ListenerPolicy(role=Role.PT, prefer_socks_no_auth=True)
        assert Stage(policy=policy).say(b"\5\2\0\2") == b"\5\2"
        stage = Stage(policy=policy, keys={"PT.": take_any})
        answer = stage.say(by_pairs(**{"PT.a": b"1", "ISOLATION": b"x"}))
        assert answer == answered(ACCEPTED=b"PT.a", REPLY_CODES=b"prop229")

    def test_keys_that_do_not_isolate_are_not_accepted(self) -> None:
        stage = Stage(policy=ListenerPolicy(isolation=IsolationFlags(socks_auth=False)))
        answer = stage.say(b"\5\1\x97" + by_pairs(ISOLATION=b"x", USERNAME=b"")[5:])
        assert answer == answered(ACCEPTED=b"", REPLY_CODES=b"prop229")

    @rows("P-03")
    def test_pairs_are_bounded_by_the_limits_of_the_listener(self) -> None:
        stage = Stage(limits=Limits(extended_pairs=1, extended_bytes=20))
        assert stage.say(by_pairs(A=b"", B=b"")) == b"\5\x97\1\2\0\0"
        assert stage.closes
        stage = Stage(limits=Limits(extended_pairs=1, extended_bytes=20))
        assert stage.say(by_pairs(A=b"x" * 16)) == b"\5\x97\1\2\0\0"

    @pytest.mark.parametrize("end", ["leaves", "stays too long", "asks"])
    def test_the_budget_is_given_back_when_a_handshake_ends(self, end: str) -> None:
        stage = Stage()
        budget = stage.server.limiter.pairs_budget
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

    def test_an_open_stream_does_not_hold_its_pairs(self) -> None:
        stage = Stage()
        stage.say(by_pairs(ISOLATION=b"v" * 5000, REPLY_CODES=b"none") + named(ONION, 80))
        [outbound] = stage.backend.outbounds
        assert outbound.request.pairs.get("ISOLATION") == b"v" * 5000
        kept = stage.protocol._handler._request
        assert (kept.credentials, kept.pairs) == (None, KeyValues.of({"REPLY_CODES": b"none"}))
        stage.transport.take()
        outbound.receiver.refused(DescriptorNotFound("x"))
        assert stage.transport.take() == refused(4)

    @rows("P-04")
    def test_a_handler_of_the_application_accepts_and_refuses(self) -> None:
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
        assert stage.closes

    @pytest.mark.parametrize(
        ("handler", "fault"),
        [
            (lambda pairs: 1 / 0, ZeroDivisionError),
            *(
                (lambda pairs, answer=answer: answer, TypeError)
                for answer in (None, True, False, 1)
            ),
        ],
    )
    def test_a_handler_that_raises_or_answers_no_pairs_closes_the_connection(
        self, handler: Any, fault: type[Exception], logged_failures: list[LogEvent]
    ) -> None:
        stage = Stage(keys={"X-a.b": handler})
        assert stage.say(by_pairs(**{"X-a.b": b""}) + CONNECT) == b""
        assert stage.closes
        assert stage.backend.outbounds == []
        assert [event["log_failure"].type for event in logged_failures] == [fault]
        logged_failures.clear()

    @rows("P-05", "P-21")
    @pytest.mark.parametrize(("password", "status"), [(b"you", 0), (b"me", 1)])
    def test_a_login_by_extended_authentication_waits_for_its_check(
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
            assert stage.closes
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
    def test_reply_codes_for_each_flag_and_offer(
        self, policy: ListenerPolicy, greeting: bytes, code: int
    ) -> None:
        stage = Stage(policy=policy)
        stage.say(greeting)
        stage.say(named(ONION, 80))
        stage.backend.outbounds[0].receiver.refused(DescriptorNotFound("x"))
        assert stage.transport.take() == refused(code)

    @rows("P-29", "P-31", "P-33")
    @pytest.mark.parametrize(
        ("reason", "offered", "plain"),
        [(Temporary, 0xF0, 1), (InvalidBridge, 0xF1, 5), (Internal, 0xF2, 1)],
    )
    def test_reply_codes_of_a_transport(
        self, reason: type[Refused], offered: int, plain: int
    ) -> None:
        for greeting, code in ((b"\5\1\x97\1\0\0", offered), (b"\5\1\0", plain)):
            stage = Stage(policy=ListenerPolicy(role=Role.PT, extended_errors=True))
            stage.say(greeting)
            stage.say(CONNECT)
            stage.backend.outbounds[0].receiver.refused(reason("x"))
            assert stage.transport.take() == refused(code)
