"""No client's words or address in the log, whatever it sends and however it ends."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.logger import LogEvent, LogLevel, eventAsText, globalLogPublisher

from tests.fuzz.strategies import Chunks, chopped, thorough
from tests.support.rows import rows
from tests.support.stage import Stage
from tests.support.transports import FakeTransport
from torsocks_tx.backends.memory import MemoryBackend, MemoryOutbound
from torsocks_tx.errors import HostUnreachable
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.server.factory import LOGIN_ISOLATES
from torsocks_tx.socks import extended, socks4, socks5, userpass
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request

MARK = b"qzjx7"
CLIENT = "127.77.66.55"
PLACE = Address(AddressType.HOSTNAME, f"{MARK.decode()}.{MARK.decode()}.example", 80)
LOGIN = Credentials(MARK * 2, MARK * 3)
PAIRS = KeyValues.of({"USERNAME": MARK, "PASSWD": MARK * 2, MARK.decode(): MARK})

CONVERSATIONS = [
    greeting + login + socks5.build_request(command, PLACE) + MARK * 9
    for greeting, login in (
        (socks5.build_greeting(b"\0"), b""),
        (socks5.build_greeting(b"\0\2"), userpass.build_credentials(LOGIN)),
        (socks5.build_greeting(b"\x97"), extended.build_request(PAIRS)),
    )
    for command in (Command.CONNECT, Command.RESOLVE)
] + [
    socks4.build_request(Request(Version.SOCKS4, Command.CONNECT, PLACE, Credentials(MARK * 4)))
    + MARK * 9,
    b"CONNECT "
    + PLACE.host.encode()
    + b":80 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic "
    + b64encode(MARK + b":" + MARK)
    + b"\r\nTor-Stream-Isolation: "
    + MARK
    + b"\r\n\r\n"
    + MARK * 9,
    b"OPTIONS /" + MARK + b" HTTP/1.1\r\nHost: " + MARK + b"\r\nCookie: " + MARK * 9 + b"\r\n\r\n",
    b"GET http://" + MARK * 2 + b"/ HTTP/1.1\r\nCookie: " + MARK * 9 + b"\r\n\r\n",
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A conversation with some bytes changed, or cut off."""
    said = bytearray(draw(st.sampled_from(CONVERSATIONS)))
    for _ in range(draw(st.integers(0, 3))):
        # Most of what has a meaning comes first.
        place = draw(st.integers(0, 20) | st.integers(0, len(said) - 1))
        said[place] = draw(st.integers(0, 255))
    return bytes(said[: draw(st.just(len(said)) | st.integers(0, len(said)))])


def refuse(outbound: MemoryOutbound) -> None:
    """Refuse a stream once the server waits for it."""
    outbound.on_write = lambda _: outbound.receiver.refused(HostUnreachable("no such host"))


@rows("S-36")
@given(said=chopped(damaged()), refused=st.booleans(), guarded=st.booleans(), clean=st.booleans())
@thorough
def test_log_never_holds_what_a_client_sends(
    said: tuple[bytes, Chunks], refused: bool, guarded: bool, clean: bool
) -> None:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        stage = Stage(
            MemoryBackend(refuse if refused else None),
            transport=FakeTransport(CLIENT),
            policy=ListenerPolicy(extended_errors=True),
            authenticator=(lambda _: succeed(b"me")) if guarded else None,
        )
        for chunk in said[1]:
            stage.protocol.dataReceived(chunk)
        stage.clock.advance(0)
        stage.transport.lose(clean)
    finally:
        globalLogPublisher.removeObserver(events.append)
    loud = [event for event in events if event["log_level"] > LogLevel.debug]
    # By HTTP, a login that nobody checks: a text without fields, once.
    assert [event["log_format"] for event in loud] in ([], [LOGIN_ISOLATES])
    for event in events:
        assert MARK.decode() not in eventAsText(event)
        assert CLIENT not in eventAsText(event)
