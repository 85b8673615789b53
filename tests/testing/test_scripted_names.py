"""The grammar of scripted names, and the timing of replies, on a clock without sockets."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.support.peers import GRANTED, named, refused
from tests.support.tables import at
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request
from torsocks_tx.testing.scripted import BANNER, GRAMMAR, ScriptedBackend
from torsocks_tx.testing.scripted.names import (
    Act,
    Script,
    ScriptError,
    parse_script,
    pointer_of,
    script_of,
)
from torsocks_tx.testing.scripted.server import ScriptedFactory

ONION = "a" * 56 + ".onion"


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("example.com", "example.com ends neither in .test nor in .onion"),
        ("test", "test says nothing"),
        (ONION, f"{ONION} says nothing"),
        ("", " ends neither"),
        ("replay-05.test", "there is no label replay-05"),
        ("reply-5.test", "there is no label reply-5"),
        ("reply-005.test", "there is no label reply-005"),
        ("raw-0.test", "there is no label raw-0"),
        ("delay-5.test", "there is no label delay-5"),
        ("split.echo.echo.test", "split.echo.echo.test has two of the same kind: action"),
        ("v4.v6.test", "v4.v6.test has two of the same kind: bound address"),
        ("delay-601s.test", "601s is too long: 600 s is the most"),
        ("split-11s.test", "11s is too long: 10 s is the most"),
        ("status-099.test", "99 is no final status of HTTP"),
        ("status-101.test", "101 is no final status of HTTP"),
        ("bytes-1073741825.test", "1073741825 bytes are too many: 1073741824 is the most"),
        ("a-192-0-2.test", "'192.0.2' does not appear to be an IPv4 or IPv6 address"),
        ("aaaa-1-2.test", "'1:2' does not appear to be"),
        (f"reply-05.{ONION[1:]}", "there is no label aaaaaaa"),
    ],
)
def test_invalid_name_is_a_mistake(host: str, complaint: str) -> None:
    with pytest.raises(ScriptError, match=re.escape(complaint)):
        parse_script(host)
    request = Request(Version.SOCKS5, Command.CONNECT, at(host, 80))
    script = script_of(request)
    assert (script.act, script.code) == (Act.REPLY, 4)
    assert script.mistake.startswith(complaint)


@given(st.text() | st.from_regex(r"[a-z0-9.-]*\.(test|onion)", fullmatch=True))
def test_any_name_is_a_script_or_a_mistake(host: str) -> None:
    with contextlib.suppress(ScriptError):
        assert isinstance(parse_script(host), Script)


@given(st.ip_addresses())
@example("::ffff:192.0.2.1")
def test_pointer_of_an_address_resolves_to_it(ip: object) -> None:
    address = Address.of(str(ip))
    assert parse_script(pointer_of(address)).answer == address


def test_grammar_lists_every_label() -> None:
    """Each line of the help begins with an example or a pattern, and all of them mean something."""
    examples = re.findall(r"^  ([^ ,]+(?:, \w+)*)", GRAMMAR, re.MULTILINE)
    labels = {label for example in examples for label in example.split(", ")} - {"5a"}
    known = {
        label.replace("-NNN", "-407").replace("-N", "-7").replace("-XX", "-05") for label in labels
    }
    for label in known:
        parse_script(f"{label}.test")
    acts = {parse_script(f"{label}.test").act for label in known}
    assert acts == set(Act)
    assert len(known) == 19


# On a clock.


class Transport(StringTransport):
    """A transport that, like real ones, accepts ``unregisterProducer`` without a producer."""

    def unregisterProducer(self) -> None:
        self.producer = None


class Told:
    """A client on a clock."""

    def __init__(self, host: str, early: bytes = b"") -> None:
        self.clock = Clock()
        self.transport = Transport()
        self.server = ScriptedFactory(self.clock)
        protocol = self.server.buildProtocol(None)
        assert protocol is not None
        self.protocol = protocol
        protocol.makeConnection(self.transport)
        protocol.dataReceived(b"\5\1\0")
        self.transport.clear()
        protocol.dataReceived(named(host, 80) + early)

    def after(self, seconds: float) -> bytes:
        """Advance the clock; return what has been received since the last call."""
        self.clock.advance(seconds)
        value = self.transport.value()
        self.transport.clear()
        return value


@pytest.mark.parametrize(
    ("name", "reply"), [("reply-06", refused(6)), ("bytes-2", GRANTED + b"xx")]
)
def test_reply_is_delayed(name: str, reply: bytes) -> None:
    told = Told(f"delay-200ms.{name}.test")
    assert told.after(0.199) == b""
    assert told.after(0.001) == reply


def test_answer_of_a_look_up_is_delayed() -> None:
    clock = Clock()
    request = Request(Version.SOCKS5, Command.RESOLVE, Address.of("delay-2s.a-1-2-3-4.test"))
    answer = ScriptedBackend(clock).resolve(request, Isolation(Credentials(b"")))
    found: list[object] = []
    answer.addCallback(found.append)
    clock.advance(1.9)
    assert found == []
    clock.advance(0.1)
    assert found == [Address.of("1.2.3.4")]


def test_split_reply_is_sent_byte_by_byte_before_the_stream() -> None:
    told = Told("split-50ms.banner.test", early=b"early")
    assert told.after(0) == GRANTED[:1]
    told.protocol.dataReceived(b"late")
    assert told.after(0.049) == b""
    assert told.after(0.001) == GRANTED[1:2]
    assert [told.after(0.05) for _ in range(7)] == [GRANTED[i : i + 1] for i in range(2, 9)]
    assert told.after(0.05) == GRANTED[9:] + BANNER + b"earlylate"
    assert not told.protocol.deadline.is_waiting


def test_split_and_truncated_refusal() -> None:
    told = Told("split-50ms.truncated-3.reply-05.test")
    assert [told.after(0), told.transport.disconnecting] == [b"\5", False]
    assert [told.after(0.05), told.after(0.05)] == [b"\5", b"\0"]
    assert told.transport.disconnecting


def test_silent_destination_is_refused_after_an_hour() -> None:
    told = Told("silent.test")
    assert told.after(3599) == b""
    assert told.after(1) == refused(6)


def test_echo_that_is_not_read_is_paused() -> None:
    told = Told("echo.test")
    assert told.after(0) == GRANTED
    producer = told.transport.producer
    assert producer is not None
    producer.pauseProducing()
    assert told.transport.producerState == "paused"
    told.protocol.dataReceived(b"on its way")
    assert told.after(0) == b""
    producer.resumeProducing()
    assert told.after(0) == b"on its way"
    assert told.transport.producerState == "producing"


def test_bytes_pause_with_the_client() -> None:
    told = Told(f"bytes-{2**30}.test")
    received = 0

    def write(data: bytes) -> None:
        nonlocal received
        received += len(data)
        if received > 100000 and told.transport.producer is not None:
            told.transport.producer.pauseProducing()

    told.transport.write = write  # type: ignore[method-assign]
    told.clock.advance(0)
    assert 100000 < received < 300000
    before = received
    assert told.transport.producer is not None
    told.transport.producer.resumeProducing()
    assert before < received < before + 100000
