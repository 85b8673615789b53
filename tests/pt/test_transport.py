"""Transports: arguments, targets, and the SOCKS server in front of them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NoReturn

import pytest
from twisted.internet import error
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent

from tests.pt.ports import CONNECT, Port, pairs, userpass
from tests.support.peers import GRANTED, refused
from tests.support.rows import rows
from tests.support.tables import at, octets, table
from torsocks_tx.errors import Internal, InvalidBridge, Temporary, TimedOut
from torsocks_tx.pt.transport import HANDSHAKE_TIMEOUT, Dialer, Setting, Target, _refusals
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Credentials, KeyValues, Request

PLACE = at("192.0.2.1", 4000)
SOCKS4_REFUSED = octets("00 5B 0000 00000000")

Pairs = tuple[tuple[str, bytes], ...]

OFFERS = table(
    ("nothing", b"\0", 0),
    ("credentials", b"\2", 2),
    ("both", b"\0\2", 2),
    ("both, the other way round", b"\2\0", 2),
    ("pairs too", b"\0\2\x97", 0x97),
    ("pairs and nothing", b"\0\x97", 0x97),
    ("GSSAPI", b"\1", 0xFF),
)


def own_reason(target: Target) -> NoReturn:
    raise InvalidBridge(f"no proof of {target.address.host}")


class TestMethods:
    @rows("P-02")
    @pytest.mark.parametrize(("offered", "selected"), OFFERS)
    def test_method_with_arguments_is_preferred(self, offered: bytes, selected: int) -> None:
        port = Port()
        assert port.say(bytes([5, len(offered)]) + offered) == bytes([5, selected])

    def test_parent_without_authentication_has_no_arguments(self) -> None:
        port = Port().greet(0)
        port.say(CONNECT)
        assert port.target.arguments == KeyValues()
        assert port.target.address == PLACE

    def test_credentials_sent_after_method_00_are_arguments(self) -> None:
        port = Port().greet(0)
        assert port.say(userpass(b"k=v")) == b"\1\0"
        port.say(CONNECT)
        assert port.target.arguments == KeyValues((("k", b"v"),))


def text_of(length: int) -> bytes:
    return b"k=" + b"v" * (length - 2)


ARGUMENTS = table(
    ("short", b"a=1;b=2", (("a", b"1"), ("b", b"2"))),
    ("escapes", rb"k=\\\;\=;a\=b=c=d", (("k", rb"\;="), ("a=b", b"c=d"))),
    ("255", text_of(255), (("k", b"v" * 253),)),
    ("256", text_of(256), (("k", b"v" * 254),)),
    ("510", text_of(510), (("k", b"v" * 508),)),
    ("cut in an escape", b"k=" + b"v" * 252 + rb"\\w", (("k", b"v" * 252 + rb"\w"),)),
    ("a key twice", b"k=1;k=0", (("k", b"1"), ("k", b"0"))),
    ("what isolates elsewhere", b"<torS0X>9=x", (("<torS0X>9", b"x"),)),
)


class TestArguments:
    @rows("P-02")
    @pytest.mark.parametrize(("text", "arguments"), ARGUMENTS)
    def test_arguments_in_credentials(self, text: bytes, arguments: Pairs) -> None:
        port = Port().greet(0, 2)
        assert port.say(userpass(text[:255], text[255:] or b"\0")) == b"\1\0"
        assert port.say(CONNECT) == b""
        assert port.target.arguments == KeyValues(arguments)

    @pytest.mark.parametrize(("text", "arguments"), ARGUMENTS)
    def test_arguments_in_a_socks4_user_id(self, text: bytes, arguments: Pairs) -> None:
        port = Port()
        assert port.say(octets("04 01 0FA0 C0000201") + text + b"\0") == b""
        assert port.target.arguments == KeyValues(arguments)
        assert port.then(port.endpoint.come, port.far)[:2] == b"\0\x5a"

    @rows("P-02", "P-03")
    def test_arguments_in_key_value_pairs(self) -> None:
        """No escapes, and no bound of 510 bytes; other keys are no arguments."""
        port = Port().greet(0x97)
        long = b"\0;=\\" * 15_000
        answer = port.say(
            pairs((b"PT.k", long), (b"PT.a", b""), (b"USERNAME", b"x=y"), (b"PT.k", b"2"))
        )
        assert answer[:2] == b"\1\0"
        port.say(CONNECT)
        assert port.target.arguments == KeyValues((("k", long), ("a", b""), ("k", b"2")))

    def test_unknown_key_value_pairs_are_refused_by_name(self) -> None:
        port = Port(arguments=frozenset({"k"})).greet(0x97)
        answer = port.say(pairs((b"PT.k", b"1"), (b"PT.l", b"2")))
        assert answer[:2] == b"\1\2"
        assert b"UNSUPPORTED\0\4PT.l" in answer
        assert port.is_closing
        assert port.targets == []

    @rows("P-20", "P-21")
    @pytest.mark.parametrize(("required", "status"), [(b"PT.k", 0), (b"PT.k,PT.l", 2)])
    def test_required_argument_must_be_known(self, required: bytes, status: int) -> None:
        port = Port(arguments=frozenset({"k"})).greet(0x97)
        answer = port.say(pairs((b"REQUIRE", required), (b"PT.k", b"1")))
        assert answer[:2] == bytes([1, status])
        assert (b"UNSUPPORTED\0\4PT.l" in answer) == (status == 2)

    @rows("P-20")
    def test_list_of_unknown_arguments_is_cut_to_the_longest_value(
        self, logged_failures: list[LogEvent]
    ) -> None:
        port = Port(arguments=frozenset()).greet(0x97)
        names = [b"PT.%061d" % number for number in range(1024)]
        answer = port.say(pairs(*((name, b"") for name in names)))
        assert answer.startswith(b"\1\2\0\1\0\x0bUNSUPPORTED")
        assert answer.endswith(b"," + names[1007])
        assert port.is_closing

    def test_key_without_a_name_is_not_an_argument(self) -> None:
        port = Port().greet(0x97)
        assert b"PT." not in port.say(pairs((b"PT.", b"1")))
        port.say(CONNECT)
        assert port.target.arguments == KeyValues()

    @pytest.mark.parametrize(
        "text", [b"k", b"k=v;", b"=v", b"k=v\\", rb"k=\v", b"<torS0X>9", b"<torS0X>0"]
    )
    def test_malformed_arguments_in_credentials_are_refused(self, text: bytes) -> None:
        port = Port().greet(2)
        assert port.say(userpass(text)) == b"\1\1"
        assert port.is_closing
        assert port.say(CONNECT) == b""
        assert port.targets == []

    def test_malformed_arguments_in_a_socks4_user_id_are_refused(self) -> None:
        port = Port()
        assert port.say(octets("04 01 0FA0 C0000201") + b"k\0") == SOCKS4_REFUSED
        assert port.is_closing
        assert port.targets == []

    def test_arguments_are_not_in_the_repr_of_a_target(self) -> None:
        port = Port().greet(2)
        port.say(userpass(b"secret=hunter2") + CONNECT)
        assert "hunter2" not in repr(port.target)


REQUESTS = table(
    ("BIND", "05 02 00 01 C0000201 0FA0", 7),
    ("UDP ASSOCIATE", "05 03 00 01 C0000201 0FA0", 7),
    ("RESOLVE", "05 F0 00 03 01 61 0000", 7),
    ("RESOLVE of an IP address", "05 F0 00 01 C0000201 0000", 7),
    ("RESOLVE_PTR", "05 F1 00 01 C0000201 0000", 7),
    ("a name", "05 01 00 03 01 61 0FA0", 8),
    ("RESOLVE by SOCKS4", "04 F0 0000 C0000201 00", None),
    ("BIND by SOCKS4", "04 02 0FA0 C0000201 00", None),
)


class TestRequests:
    @rows("P-02")
    @pytest.mark.parametrize(("request_", "code"), REQUESTS)
    def test_other_commands_and_names_are_refused(self, request_: str, code: int | None) -> None:
        port = Port()
        if code is None:
            assert port.say(octets(request_)) == SOCKS4_REFUSED
        else:
            assert port.greet(0).say(octets(request_)) == refused(code)
        assert port.is_closing
        assert port.targets == []

    @pytest.mark.parametrize(
        ("request_", "host"),
        [
            ("05 01 00 04 20010DB8000000000000000000000001 0FA0", "2001:db8::1"),
            ('05 01 00 03 09 "192.0.2.1" 0FA0', "192.0.2.1"),
        ],
        ids=["IPv6", "an IP address as text"],
    )
    def test_ip_address_is_accepted_in_every_notation(self, request_: str, host: str) -> None:
        port = Port().greet(0)
        port.say(octets(request_))
        assert port.target.address == at(host, 4000)

    def test_the_reply_waits_for_the_transports_handshake(self) -> None:
        port = Port().greet(0)
        assert port.say(CONNECT + b"early") == b""
        port.clock.advance(HANDSHAKE_TIMEOUT + 1)
        assert port.transport.take() == b""
        assert port.then(port.endpoint.come, port.far) == GRANTED
        assert port.far.take() == b"early"
        assert port.say(b" bird") == b""
        assert port.far.take() == b"early bird"[5:]
        assert port.then(port.far.protocol.dataReceived, b"hello") == b"hello"

    def test_parent_that_leaves_cancels_the_connection(self) -> None:
        port = Port().greet(0)
        port.say(CONNECT)
        port.transport.lose()
        assert port.endpoint.cancelled == 1
        assert port.clock.getDelayedCalls() == []

    def test_socks_handshake_has_a_short_deadline(self) -> None:
        port = Port()
        port.clock.advance(HANDSHAKE_TIMEOUT - 0.1)
        assert port.transport.asked[-1] != "loseWriteConnection"
        port.clock.advance(0.2)
        assert port.is_closing

    def test_credentials_isolate_nothing(self) -> None:
        port = Port()
        requests = [
            Request(Version.SOCKS5, Command.CONNECT, PLACE, credentials)
            for credentials in (None, Credentials(b"k=v"))
        ]
        first, second = (port.factory.admit(each, port.transport.getPeer()) for each in requests)
        assert first == second


# A failure; the code for a parent that did not offer method 0x97, and for one that did.
OUTCOMES = table(
    ("Temporary", Temporary("busy"), 0x01, 0xF0),
    ("InvalidBridge", InvalidBridge("no"), 0x05, 0xF1),
    ("Internal", Internal("oh"), 0x01, 0xF2),
    ("another refusal", TimedOut("late"), 0x06, 0x06),
    ("refused", error.ConnectionRefusedError(), 0x05, 0x05),
    ("refused, by number", error.ConnectError(errno.ECONNREFUSED), 0x05, 0x05),
    ("reset", error.ConnectError(errno.ECONNRESET), 0x05, 0x05),
    ("no network", error.NoRouteError(), 0x03, 0x03),
    ("no network, by number", error.ConnectError(errno.ENETUNREACH), 0x03, 0x03),
    ("no host", error.ConnectError(errno.EHOSTUNREACH), 0x04, 0x04),
    ("late", error.TimeoutError(), 0x06, 0x06),
    ("late, by number", error.ConnectError(errno.ETIMEDOUT), 0x06, 0x06),
    ("late, by Python", OSError(errno.ETIMEDOUT, "late"), 0x06, 0x06),
    ("another error of the network", error.ConnectError(errno.EACCES), 0x01, 0x01),
    ("lost", error.ConnectionLost(), 0x01, 0x01),
)


class TestOutcomes:
    @rows("P-26", "P-29", "P-31", "P-33")
    @pytest.mark.parametrize(("reason", "plain", "extended"), OUTCOMES)
    def test_failure_of_the_transport_is_its_reply_code(
        self, reason: Exception, plain: int, extended: int
    ) -> None:
        for methods, code in (((0,), plain), ((0, 2), plain), ((0, 0x97), extended)):
            port = Port()
            self.ask(port, *methods)
            assert port.then(port.endpoint.fail, reason) == refused(code)
            assert port.is_closing
            port = Port(raises=reason)
            assert self.ask(port, *methods) == refused(code)
            assert port.is_closing

    @rows("P-33")
    @pytest.mark.parametrize("early", [True, False], ids=["choosing", "connecting"])
    @pytest.mark.parametrize(("methods", "code"), [((0,), 1), ((0, 0x97), 0xF2)])
    def test_fault_of_a_transport_is_logged_once(
        self, early: bool, methods: tuple[int, ...], code: int, logged_failures: list[LogEvent]
    ) -> None:
        port = Port(raises=ZeroDivisionError() if early else None)
        answer = self.ask(port, *methods)
        if not early:
            answer = port.then(port.endpoint.fail, ZeroDivisionError())
        assert answer == refused(code)
        [event] = logged_failures
        assert event["log_failure"].type is ZeroDivisionError
        logged_failures.clear()

    @rows("P-26")
    def test_parent_may_ask_for_plain_reply_codes(self) -> None:
        for value, code in ((b"rfc1928", 1), (b"none", 1), (b"prop229", 0xF0)):
            port = Port().greet(0x97)
            port.say(pairs((b"REPLY_CODES", value)))
            port.say(CONNECT)
            assert port.then(port.endpoint.fail, Temporary("busy")) == refused(code)

    def ask(self, port: Port, *methods: int) -> bytes:
        port.greet(*methods)
        if 0x97 in methods:
            assert port.say(pairs())[:2] == b"\1\0"
        elif 2 in methods:
            assert port.say(userpass(b"k=v")) == b"\1\0"
        return port.say(CONNECT)


class TestInvalidBridges:
    """The user can correct the bridge line, so tor's log has why; a text may hold an address."""

    @pytest.mark.parametrize(
        ("refuse", "why"),
        [
            (lambda target: target.require("key"), "the bridge line has no argument key"),
            (lambda target: target.endpoint_to("a b", 1), "invalid host name"),
            (own_reason, "InvalidBridge at test_transport.py:LINE"),
        ],
        ids=["argument", "host", "own"],
    )
    @pytest.mark.parametrize("late", [False, True], ids=["in the function", "in connect"])
    def test_the_reason_is_logged_and_counted(
        self, refuse: Callable[[Target], object], why: str, late: bool, log_lines: list[str]
    ) -> None:
        _refusals.cache_clear()
        for _ in range(3):
            port = Port(acts=None if late else refuse).greet(0)
            answer = port.say(CONNECT)
            if late:
                failing = maybeDeferred(refuse, port.target)
                failing.addErrback(port.endpoint.fail)
                answer = port.transport.take()
            assert answer == refused(5)
        why = why.replace("LINE", str(own_reason.__code__.co_firstlineno + 1))
        told = f"warn: the transport refuses the bridge ({why}); attempts refused: 1"
        assert log_lines == [told]
        assert _refusals(why)._count == 2

    def test_a_reason_without_a_place_is_named_by_its_kind(self, log_lines: list[str]) -> None:
        _refusals.cache_clear()
        port = Port().greet(0)
        port.say(CONNECT)
        port.endpoint.fail(InvalidBridge("192.0.2.1"))
        assert len(log_lines) == 1
        assert "(InvalidBridge); attempts refused: 1" in log_lines[0]


class TestTarget:
    def target(self, reactor: MemoryReactorClock, **options: object) -> Target:
        setting = Setting(Dialer(reactor), **options)  # type: ignore[arg-type]
        return Target(PLACE, KeyValues((("k", b"1"), ("e", b""), ("k", b"2"))), setting)

    def test_require_refuses_a_missing_argument(self) -> None:
        target = self.target(MemoryReactorClock())
        assert target.require("k") == b"1"
        assert target.require("e") == b""
        with pytest.raises(InvalidBridge, match="no argument other"):
            target.require("other")

    def test_endpoints_of_a_target_connect_as_the_parent_asks(self) -> None:
        reactor = MemoryReactorClock()
        target = self.target(reactor)
        target.endpoint.connect(None)  # type: ignore[arg-type]
        target.endpoint_to("198.51.100.7", 443).connect(None)  # type: ignore[arg-type]
        places = [client[:2] for client in reactor.tcpClients]
        assert places == [("192.0.2.1", 4000), ("198.51.100.7", 443)]

    def test_report_without_a_parent_goes_to_the_debug_log(self) -> None:
        Setting(Dialer(Clock())).report({"CONNECT": "Success"})
