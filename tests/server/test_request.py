"""The handling of a request: streams, look-ups, and their replies."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogEvent

from tests.support.names import ONION
from tests.support.peers import GRANTED, named, refused
from tests.support.rows import rows
from tests.support.stage import GREETING, REJECTED_4, Stage
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.errors import (
    DescriptorNotFound,
    GeneralFailure,
    HostUnreachable,
    NotAllowed,
    SOCKSError,
    TorDown,
)
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.socks.messages import Address

RESOLVE, RESOLVE_PTR = 0xF0, 0xF1


def resolve_4(host: bytes, ip: str = "0.0.0.1", port: int = 0) -> bytes:
    address = bytes(int(part) for part in ip.split("."))
    name = host + b"\0" if host else b""
    return b"\4\xf0" + port.to_bytes(2, "big") + address + b"\0" + name


class TestConnect:
    @rows("S-02", "R-25")
    def test_connect_is_granted_with_an_address_of_zeros(self) -> None:
        stage = Stage()
        assert stage.ask(named("example.com", 80)) == b""
        [outbound] = stage.backend.outbounds
        outbound.receiver.opened()
        assert stage.transport.take() == GRANTED
        outbound.receiver.data(b"payload")
        assert stage.transport.take() == b"payload"

    @rows("S-21", "S-22", "S-41", "S-42")
    @pytest.mark.parametrize(
        ("host", "extended", "reason", "code"),
        [
            ("example.com", True, NotAllowed("x"), 2),
            (ONION, False, DescriptorNotFound("x"), 4),
            (ONION, True, DescriptorNotFound("x"), 0xF0),
            ("example.com", True, DescriptorNotFound("x"), 4),
        ],
    )
    def test_failure(self, host: str, extended: bool, reason: SOCKSError, code: int) -> None:
        stage = Stage(policy=ListenerPolicy(extended_errors=extended))
        stage.ask(named(host, 80))
        stage.backend.outbounds[0].receiver.refused(reason)
        assert stage.transport.take() == refused(code)
        assert stage.closes

    @rows("S-08", "R-24")
    @pytest.mark.parametrize(
        ("wire", "host"),
        [
            (b"\5\1\0\1\xc0\0\2\1\0\x50", "192.0.2.1"),
            (b"\5\1\0\4" + bytes.fromhex("20010db8") + bytes(11) + b"\1\0\x50", "2001:db8::1"),
            (named("example.com", 80), "example.com"),
        ],
    )
    def test_the_request_that_the_backend_gets(self, wire: bytes, host: str) -> None:
        stage = Stage()
        stage.ask(wire)
        [outbound] = stage.backend.outbounds
        assert (outbound.request.address.host, outbound.request.address.port) == (host, 80)

    @pytest.mark.parametrize(("host", "seconds"), [("example.com", 120), (ONION, 600)])
    def test_the_connect_deadline_gives_06(self, host: str, seconds: float) -> None:
        stage = Stage()
        stage.ask(named(host, 80))
        stage.clock.advance(seconds - 1)
        assert stage.transport.take() == b""
        stage.clock.advance(1)
        assert stage.transport.take() == refused(6)
        assert stage.closes
        assert stage.backend.outbounds[0].events == ["abort"]

    def test_the_connect_deadline_gives_5b_to_socks4(self) -> None:
        stage = Stage()
        stage.say(b"\4\1\0\x50\xc0\0\2\1\0")
        stage.clock.advance(120)
        assert stage.transport.take() == REJECTED_4


def answering(answer: Any) -> MemoryBackend:
    """Return a backend whose look-ups give this answer, or fail with this exception."""

    def look_up(_: object) -> Any:
        if isinstance(answer, Exception):
            return fail(answer)
        return succeed(answer) if isinstance(answer, Address) else answer

    return MemoryBackend(look_up=look_up)


LOOK_UP = GREETING + named(ONION, 0, RESOLVE)
LOOK_UP_PTR = GREETING + b"\5\xf1\0\1\x08\x08\x08\x08\0\0"


class TestLookUp:
    @rows("S-24", "S-25", "S-26", "S-27", "R-26", "R-28")
    @pytest.mark.parametrize(
        ("answer", "reply"),
        [
            ("192.0.2.1", "05 00 00 01 C0000201 0000"),
            ("2001:db8::1", "05 00 00 04 20010DB8 00000000 00000000 00000001 0000"),
        ],
    )
    def test_resolve(self, answer: str, reply: str) -> None:
        stage = Stage()
        assert stage.ask(named("example.com", 4321, RESOLVE)) == b""
        [(request, _, deferred)] = stage.backend.lookups
        assert request.address.host == "example.com"
        deferred.callback(Address.of(answer, 99))
        assert stage.transport.take() == bytes.fromhex(reply)
        assert stage.closes
        assert stage.backend.outbounds == []

    @rows("S-29", "S-30")
    @pytest.mark.parametrize(
        ("address", "host"),
        [
            (b"\1\x08\x08\x08\x08", "8.8.8.8"),
            (b"\4" + bytes(15) + b"\1", "::1"),
            (b"\3\x078.8.8.8", "8.8.8.8"),
            (b"\3\x05[::1]", "::1"),
        ],
    )
    def test_resolve_ptr(self, address: bytes, host: str) -> None:
        stage = Stage()
        stage.ask(b"\5\xf1\0" + address + b"\0\0")
        [(request, _, deferred)] = stage.backend.lookups
        assert request.address.literal().host == host
        deferred.callback(Address.of("dns.google"))
        assert stage.transport.take() == b"\5\0\0\3\x0adns.google\0\0"
        assert stage.closes

    @rows("S-24", "S-26", "S-27", "R-04")
    @pytest.mark.parametrize(
        ("said", "outcome", "reply"),
        [
            (resolve_4(b"example.com"), Address.of("192.0.2.1"), b"\0\x5a\0\0\xc0\0\2\1"),
            (resolve_4(b"example.com"), Address.of("2001:db8::1"), REJECTED_4),
            (LOOK_UP, HostUnreachable("x"), b"\5\0" + refused(4)),
            (LOOK_UP, GeneralFailure("x"), b"\5\0" + refused(4)),
            (LOOK_UP, DescriptorNotFound("x"), b"\5\0" + refused(4)),
            (LOOK_UP, TorDown("x"), b"\5\0" + refused(1)),
            (LOOK_UP_PTR, Address.of("x" * 256), b"\5\0" + refused(4)),
            (LOOK_UP_PTR, Address.of("\u263a.example"), b"\5\0" + refused(4)),
        ],
    )
    def test_reply_to_a_look_up(
        self, said: bytes, outcome: Address | SOCKSError, reply: bytes
    ) -> None:
        stage = Stage(answering(outcome), policy=ListenerPolicy(extended_errors=True))
        assert stage.say(said) == reply
        assert stage.closes

    @rows("S-28", "R-05", "R-24")
    @pytest.mark.parametrize(
        ("said", "reply"),
        [
            (resolve_4(b"", "192.0.2.1"), "00 5A 0000 C0000201"),
            (resolve_4(b"192.0.2.1"), "00 5A 0000 C0000201"),
            (GREETING + b"\5\xf0\0\1\xc0\0\2\1\0\0", "05 00 05 00 00 01 C0000201 0000"),
            (GREETING + named("192.0.2.1", 0, RESOLVE), "05 00 05 00 00 01 C0000201 0000"),
            (
                GREETING + named("[2001:db8::1]", 0, RESOLVE),
                "05 00 05 00 00 04 20010DB8 00000000 00000000 00000001 0000",
            ),
        ],
    )
    def test_resolve_of_an_ip_address_is_answered_without_the_backend(
        self, said: bytes, reply: str
    ) -> None:
        stage = Stage()
        assert stage.say(said) == bytes.fromhex(reply)
        assert stage.backend.lookups == []
        assert stage.closes

    def test_the_deadline_cancels_a_look_up(self) -> None:
        cancelled: list[object] = []
        stage = Stage(answering(Deferred(cancelled.append)))
        stage.ask(named("example.com", 0, RESOLVE))
        stage.clock.advance(120)
        assert stage.transport.take() == refused(4)
        assert len(cancelled) == 1
        assert stage.closes

    @rows("R-29")
    def test_a_client_that_leaves_cancels_its_look_up(self) -> None:
        cancelled: list[object] = []
        stage = Stage(answering(Deferred(cancelled.append)))
        stage.ask(named("example.com", 0, RESOLVE))
        stage.protocol.readConnectionLost()
        assert stage.transport.asked[-1] == "loseConnection"
        assert len(cancelled) == 1
        stage.transport.finish()
        assert len(cancelled) == 1
        assert stage.transport.take() == b""
        assert stage.clock.getDelayedCalls() == []
        assert stage.server.connections == set()

    def test_early_data_after_a_look_up_is_dropped(self) -> None:
        stage = Stage()
        stage.ask(named("example.com", 0, RESOLVE) + b"early")
        stage.say(bytes(1024 * 1024))
        stage.backend.lookups[0][2].callback(Address.of("192.0.2.1"))
        assert len(stage.transport.take()) == 10
        assert stage.backend.outbounds == []

    def test_a_fault_in_a_look_up_is_logged_and_gives_a_failure(
        self, logged_failures: list[LogEvent]
    ) -> None:
        stage = Stage(answering(RuntimeError("out of order")))
        assert stage.ask(named("example.com", 0, RESOLVE)) == refused(1)
        assert stage.closes
        [event] = logged_failures
        assert event["log_failure"].check(RuntimeError)
        logged_failures.clear()
