"""HTTP CONNECT on a SOCKS port: the same requests, limits and isolation, by other words."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel

from tests.support.http import Answer, answers_in
from tests.support.peers import named
from tests.support.rows import rows
from tests.support.stage import GREETING, Stage, key_of
from torsocks_tx import http
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.errors import DescriptorNotFound, HostUnreachable, SOCKSError
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import IsolationFlags
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.server.factory import SOCKS4Factory, SOCKS5Factory, SOCKSFactory
from torsocks_tx.socks.constants import Role
from torsocks_tx.socks.messages import Credentials

CONNECT = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n"
BARE = CONNECT + b"\r\n"


def only(data: bytes) -> Answer:
    [answer] = answers_in(data)
    return answer


@rows("H-01", "H-18")
def test_a_stream_carries_early_data_and_data_both_ways() -> None:
    stage = Stage()
    early = bytes(range(256)) * 256
    stage.say(BARE + early)
    [outbound] = stage.backend.outbounds
    assert outbound.written == early
    assert (outbound.request.address.host, outbound.request.address.port) == ("example.com", 443)
    outbound.receiver.opened()
    assert only(stage.transport.take()).status == 200
    outbound.receiver.data(b"HTTP/1.1 200 OK\r\n\r\n")
    assert stage.transport.take() == b"HTTP/1.1 200 OK\r\n\r\n"


@rows("H-18")
def test_early_data_is_bounded_as_by_socks() -> None:
    stage = Stage(limits=Limits(early_data=1000))
    stage.say(BARE + bytes(1000))
    assert not stage.transport.reading


@pytest.mark.parametrize(
    ("reason", "status", "token"),
    [(HostUnreachable, 503, "host-unreachable"),
     (DescriptorNotFound, 503, "onion-descriptor-not-found")],
)  # fmt: skip
@rows("H-14", "H-15")
def test_a_refusal_is_told_and_the_connection_closed(
    reason: type[SOCKSError], status: int, token: str
) -> None:
    stage = Stage()
    stage.say(BARE)
    stage.backend.outbounds[0].receiver.refused(reason("no"))
    answer = only(stage.transport.take())
    assert answer.status == status
    assert answer.headers["tor-request-failed"] == f"torsocks_tx/{token}"
    assert stage.closes


@rows("H-04")
def test_a_head_that_does_not_end_is_closed_by_the_handshake_deadline() -> None:
    stage = Stage(limits=Limits(handshake_timeout=5.0))
    stage.say(CONNECT)
    stage.clock.advance(5.0)
    assert stage.transport.take() == b""
    assert stage.closes


@rows("H-05", "S-34", "S-35")
@pytest.mark.parametrize("said", [b"GET\n", b"G", b"HEAD / HTTP/1.1\r\n", b"POST", b"PUT", b"PRI"])
def test_a_method_of_plain_http_gets_the_page_at_once(said: bytes) -> None:
    stage = Stage()
    assert stage.say(said) == http.PAGE
    assert stage.closes


@rows("H-19")
@pytest.mark.parametrize(
    "options",
    [
        {"policy": ListenerPolicy(http_connect=False)},
        {"policy": ListenerPolicy(role=Role.PT)},
        {"kind": SOCKS4Factory},
        {"kind": SOCKS5Factory},
    ],
)
def test_a_listener_without_http_gives_the_page(options: dict[str, Any]) -> None:
    stage = Stage(**options)
    assert stage.say(BARE) == http.PAGE
    assert stage.closes
    assert Stage(**options).say(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""


@rows("S-34")
def test_connect_in_place_of_a_socks5_request_gets_the_page() -> None:
    assert Stage().ask(BARE) == http.PAGE


@rows("H-12")
def test_tor_is_named_only_by_a_backend_that_uses_it() -> None:
    class OverTor(MemoryBackend):
        uses_tor = True

    for backend, via in ((OverTor(), "tor/1.0 tor-network"), (MemoryBackend(), "1.1 torsocks_tx")):
        stage = Stage(backend)
        stage.say(BARE)
        backend.outbounds[0].receiver.opened()
        assert only(stage.transport.take()).headers["via"].startswith(via)


HEADERS = ["Proxy-Authorization", "Tor-Stream-Isolation", "X-Tor-Stream-Isolation"]


@rows("H-08", "H-09")
def test_streams_with_different_isolation_headers_never_share() -> None:
    factory = SOCKSFactory(MemoryBackend(), listener="one", clock=Clock())
    values = ("", "a", "b", "Basic dG9yLWlzbzph", "Basic dG9yOmE=", "Basic eC10b3I6YQ==")
    said = [
        CONNECT + f"{header}: {value}\r\n\r\n".encode() for header in HEADERS for value in values
    ]
    said = [BARE, GREETING + named("example.com", 443), b"\4\1\1\xbb\0\0\0\1\0example.com\0", *said]
    said.append(CONNECT + b"".join(f"{name}: a\r\n".encode() for name in HEADERS) + b"\r\n")
    tokens = [key_of(factory, each) for each in said]
    assert len(set(tokens)) == len(said)
    assert [key_of(factory, each) for each in said] == tokens
    # What does not isolate, and the second of two, make no difference.
    assert key_of(factory, CONNECT + b"Cookie: a\r\nTor-Family-Preference: x\r\n\r\n") == tokens[0]
    once = CONNECT + b"Tor-Stream-Isolation: a\r\n"
    twice = key_of(factory, once + b"tor-stream-isolation: b\r\n\r\n")
    assert twice == tokens[said.index(once + b"\r\n")]


@rows("H-08")
def test_headers_do_not_isolate_where_credentials_do_not() -> None:
    policy = ListenerPolicy(isolation=IsolationFlags(socks_auth=False))
    factory = SOCKSFactory(MemoryBackend(), policy=policy, listener="one", clock=Clock())
    assert key_of(factory, BARE) == key_of(factory, CONNECT + b"Tor-Stream-Isolation: a\r\n\r\n")


@rows("H-09")
def test_a_login_that_looks_as_if_it_were_checked_is_warned_of_once(logged: list[LogEvent]) -> None:
    def warnings(factory: SOCKSFactory, *values: str) -> int:
        del logged[:]
        for value in values:
            key_of(factory, CONNECT + f"Proxy-Authorization: {value}\r\n\r\n".encode())
        key_of(factory, BARE)
        lines = [event for event in logged if event["log_level"] is LogLevel.warn]
        assert "bWU6eW91" not in str(lines)
        return len(lines)

    factory = SOCKSFactory(MemoryBackend(), clock=Clock())
    usual = ("Basic dG9yLWlzbzph", "basic dG9yOmE=", "Basic eC10b3I6YQ==")
    assert warnings(factory, *usual) == 0
    assert warnings(factory, "Basic bWU6eW91", "Basic bWU6eW91", "Bearer a") == 1
    assert warnings(SOCKSFactory(MemoryBackend(), clock=Clock()), "Bearer a") == 1


FAMILIES = {
    "ipv4-preferred": set(),
    "ipv6-preferred": {"PreferIPv6"},
    "ipv4-only": {"NoIPv6Traffic"},
    "ipv6-only": {"NoIPv4Traffic"},
    "IPv6-only": set(),
    "": set(),
}


def preferring(value: str, target: str = "example.com:443") -> bytes:
    return f"CONNECT {target} HTTP/1.0\r\nTor-Family-Preference: {value}\r\n\r\n".encode()


@rows("H-10")
@pytest.mark.parametrize(("value", "flags"), FAMILIES.items())
def test_a_family_preference_asks_for_a_port_with_its_flags(value: str, flags: set[str]) -> None:
    stage = Stage()
    stage.say(preferring(value))
    assert stage.backend.outbounds[0].isolation.port_flags == flags
    only_onions = ListenerPolicy(dns_request=False, ipv4_traffic=False, ipv6_traffic=False)
    for policy in (ListenerPolicy(), only_onions):
        onion = Stage(policy=policy)
        onion.say(preferring(value, "a.onion:80"))
        assert onion.backend.outbounds[0].isolation.port_flags == frozenset()


@rows("H-10")
def test_a_family_preference_goes_before_that_of_the_listener_and_never_beyond_it() -> None:
    for value in ("ipv4-preferred", "unknown"):
        stage = Stage(policy=ListenerPolicy(prefer_ipv6=True))
        stage.say(preferring(value))
        assert stage.backend.outbounds[0].isolation.port_flags == frozenset()
    stage = Stage(policy=ListenerPolicy(ipv6_traffic=False))
    stage.say(preferring("ipv6-preferred"))
    assert stage.backend.outbounds[0].isolation.port_flags == {"NoIPv6Traffic", "PreferIPv6"}
    for value, target in (("ipv6-only", "example.com:443"), ("ipv6-only", "192.0.2.1:443"),
                          ("ipv4-preferred", "[2001:db8::1]:443")):  # fmt: skip
        stage = Stage(policy=ListenerPolicy(ipv6_traffic=False))
        assert only(stage.say(preferring(value, target))).status == 403
    assert only(Stage().say(preferring("ipv4-only", "[2001:db8::1]:443"))).status == 403


@rows("H-04", "S-09")
def test_flags_of_the_listener_hold_for_http(logged: list[LogEvent]) -> None:
    stage = Stage(policy=ListenerPolicy(safe_socks=True, test_socks=True))
    answer = only(stage.say(preferring("", "192.0.2.1:443")))
    assert answer.status == 403
    assert answer.headers["tor-request-failed"] == "torsocks_tx/not-allowed"
    above_debug = [event for event in logged if event["log_level"] > LogLevel.debug]
    assert [event["name"] for event in above_debug] == ["HTTP"]


@rows("H-17")
class TestAuthentication:
    RIGHT = CONNECT + b"Proxy-Authorization: Basic bWU6eW91\r\n\r\n"
    WRONG = CONNECT + b"Proxy-Authorization: Basic bWU6bm8=\r\n\r\n"

    def stage(self) -> Stage:
        def check(credentials: Credentials) -> Deferred[bytes | None]:
            return succeed(b"me" if credentials == Credentials(b"me", b"you") else None)

        return Stage(authenticator=check)

    def test_a_client_without_credentials_is_asked_and_then_served(
        self, log_lines: list[str]
    ) -> None:
        stage = self.stage()
        assert only(stage.say(BARE)).status == 407
        assert stage.say(self.RIGHT + b"early") == b""
        [outbound] = stage.backend.outbounds
        assert outbound.request.avatar == b"me"
        assert outbound.written == b"early"
        assert log_lines == []

    def test_three_wrong_logins_are_delayed_and_then_closed(self) -> None:
        stage = self.stage()
        statuses = []
        for _ in range(3):
            answer = stage.say(self.WRONG)
            stage.clock.advance(4.0)
            statuses.append(only(answer or stage.transport.take()).status)
        assert statuses == [407, 407, 407]
        assert stage.closes
        assert stage.backend.outbounds == []
