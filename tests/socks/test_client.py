"""The client's side of the handshake: each answer of a server, and its outcome.

The server's bytes are fed whole, byte by byte and cut in two at every place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support.conversations import feed
from tests.support.rows import rows
from tests.support.tables import at, cuts, octets, table
from torsocks_tx import errors
from torsocks_tx.errors import LoginRefused, ProxyBroken
from torsocks_tx.socks import replies
from torsocks_tx.socks.client import ClientHandshake, Failed, Opened, Unconfirmed
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Reply, Request
from torsocks_tx.socks.server import Send

ASK = '05 01 00 03 0B "example.com" 0050'
ME = '01 02 "me" 03 "you"'
OK = "05 00 00 01 00000000 0000"
OK_22 = "05 00 00 04" + "00" * 16 + "0000"


def asking(
    credentials: Credentials | None = None,
    address: Address | None = None,
    version: Version = Version.SOCKS5,
    command: Command = Command.CONNECT,
) -> Request:
    return Request(version, command, address or at("example.com", 80), credentials)


PLAIN = asking()
KNOWN = asking(Credentials(b"me", b"you"))
OLD = asking(Credentials(b"me"), version=Version.SOCKS4)


def outcome(request: Request, pipelined: bool, chunks: Iterable[bytes], eof: bool) -> list[Any]:
    """Return the bytes sent, then the outcome: the reply and its rest, or the class of failure."""
    handshake = ClientHandshake(request, pipelined=pipelined)
    found: list[Any] = [handshake.start()]
    steps = feed(handshake, chunks, eof=eof)
    assert all(isinstance(step, Send) for step in steps[:-1])
    assert len(handshake._buffer) < 262
    return found + [told(step) for step in steps]


def told(step: Any) -> Any:
    if isinstance(step, Failed):
        return type(step.reason)
    if isinstance(step, Opened):
        return step.reply, step.rest
    return step.data if isinstance(step, Send) else type(step)


def assert_outcome(
    request: Request, server: str, expected: list[Any], *, pipelined: bool, eof: bool = False
) -> None:
    expected = [octets(step) if isinstance(step, str) else step for step in expected]
    for chunks in cuts(octets(server)):
        assert outcome(request, pipelined, chunks, eof) == expected


def opened(address: Address | None = None, rest: bytes = b"") -> tuple[Reply, bytes]:
    return (Reply(0, address) if address else Reply(0), rest)


SIX = at("::")
RESOLVE = asking(address=at("example.com"), command=Command.RESOLVE)
RESOLVE_PTR = asking(address=at("8.8.8.8"), command=Command.RESOLVE_PTR)
# What is sent for each request, while the server agrees.
SENT = {
    PLAIN: ["05 01 00", ASK],
    KNOWN: ["05 01 02", ME, ASK],
    RESOLVE: ["05 01 00", '05 F0 00 03 0B "example.com" 0000'],
    RESOLVE_PTR: ["05 01 00", "05 F1 00 01 08080808 0000"],
}
REFUSED_22 = "05 06 00 04" + "00" * 18
# The request, the server's bytes, how many messages were sent by then, and the outcome.
STEP_BY_STEP = table(
    ("credentials accepted", KNOWN, "05 02 01 00", 3, None),
    ("opened with credentials", KNOWN, "05 02 01 00" + OK, 3, opened()),
    ("22 bytes", PLAIN, "05 00" + OK_22, 2, opened(SIX)),
    ("a bound address", PLAIN, "0500 05000001C00002010050", 2, opened(at("192.0.2.1", 80))),
    ("early data", PLAIN, "05 00" + OK + "05 02 01", 2, opened(rest=b"\5\2\1")),
    ("half a reply", PLAIN, "05 00" + OK[:-2], 2, None),
    ("00 though only 02 was offered", KNOWN, "05 00" + OK, 1, ProxyBroken),
    ("02 though only 00 was offered", PLAIN, "05 02", 1, ProxyBroken),
    ("no acceptable method", PLAIN, "05 FF", 1, LoginRefused),
    ("HTTP", PLAIN, b"HTTP/1.1 400 Bad Request\r\n".hex(), 1, ProxyBroken),
    ("credentials refused", KNOWN, "05 02 01 01", 2, LoginRefused),
    ("credentials refused by a reply, as from tor", KNOWN, "0502 0501", 2, LoginRefused),
    ("a status with the version of SOCKS", KNOWN, "05 02 05 00" + OK, 3, opened()),
    ("a status before the selection", KNOWN, "01 00", 1, ProxyBroken),
    ("a reply of another version", PLAIN, "05 00 04 00 00 01", 2, ProxyBroken),
    ("success of an unknown address type", PLAIN, "05 00 05 00 00 00", 2, ProxyBroken),
    ("failed RESOLVE", RESOLVE, "0500 0504000000000000 0000", 2, errors.HostUnreachable),
    ("RESOLVE", RESOLVE, "0500 05000001C0000201 0000", 2, opened(at("192.0.2.1"))),
    ("RESOLVE_PTR", RESOLVE_PTR, "0500 05000003016100 00", 2, opened(at("a"))),
    ("a failure of two bytes", PLAIN, "05 00 05 02", 2, errors.NotAllowed),
    ("a failure of 22 bytes", PLAIN, "05 00" + REFUSED_22, 2, errors.TimedOut),
)


@rows("R-34", "R-20", "R-32", "S-06")
@pytest.mark.parametrize(("request_", "server", "sent", "end"), STEP_BY_STEP)
def test_outcome_of_each_answer_step_by_step(
    request_: Request, server: str, sent: int, end: Any
) -> None:
    expected = [*SENT[request_][:sent], *([] if end is None else [end])]
    assert_outcome(request_, server, expected, pipelined=False)


# C Tor sends only the last answer to what came in one read.
PIPELINED = table(
    ("00, kept", PLAIN, "05 00" + OK, [opened()]),
    ("00 and a failure", PLAIN, "05 00 05 04 00 01 00000000 0000", [errors.HostUnreachable]),
    ("02, omitted", KNOWN, "01 00" + OK, [opened()]),
    ("02, kept", KNOWN, "05 02 01 00" + OK, [opened()]),
    ("22 bytes", KNOWN, "01 00" + OK_22 + "FF", [opened(SIX, b"\xff")]),
    ("early bytes like a status", KNOWN, "01 00" + OK + "0100", [opened(rest=b"\1\0")]),
    ("early bytes like a selection", PLAIN, "05 00" + OK + "0502", [opened(rest=b"\5\2")]),
    ("half a reply", KNOWN, "01 00 05 00 00", []),
    ("refused at once", KNOWN, "05 01 00 01 00000000 0000", [errors.GeneralFailure]),
    ("refused at once, no PTR", KNOWN, "05 08 00 01", [errors.AddressTypeNotSupported]),
    ("refused by SafeSocks", KNOWN, "05 02 00 01 00000000 0000", [errors.NotAllowed]),
    ("refused by SafeSocks, in steps", KNOWN, "05 02 01 00 05 02 00 01", [errors.NotAllowed]),
    ("an onion code", KNOWN, "01 00 05 F0 00 01 00000000 0000", [errors.DescriptorNotFound]),
    ("no acceptable method", KNOWN, "05 FF", [LoginRefused]),
    ("00 though only 02 was offered", KNOWN, "05 00" + OK, [ProxyBroken]),
    ("credentials refused", KNOWN, "01 01", [LoginRefused]),
    ("credentials refused in steps", KNOWN, "05 02 01 01", [LoginRefused]),
    ("a status that nobody asked for", PLAIN, "01 00" + OK, [ProxyBroken]),
)


@rows("R-34", "R-32", "S-38")
@pytest.mark.parametrize(("request_", "server", "expected"), PIPELINED)
def test_outcome_of_each_answer_to_a_pipelined_request(
    request_: Request, server: str, expected: list[Any]
) -> None:
    assert_outcome(request_, server, ["".join(SENT[request_]), *expected], pipelined=True)


FIRST_4 = '04 01 0050 00000001 "me" 00 "example.com" 00'
SOCKS4 = table(
    ("granted", "00 5A 0000 00000000", [(Reply(0x5A), b"")]),
    ("early data", "00 5A 0050 C0000201 00 5B", [(Reply(0x5A, at("192.0.2.1", 80)), b"\0[")]),
    ("rejected", "00 5B 0000 00000000", [errors.GeneralFailure]),
    ("rejected for want of identd", "00 5C 0000 00000000", [errors.GeneralFailure]),
    ("half a reply", "00 5A 0000", []),
    ("another version", "04 5A 0000 00000000", [ProxyBroken]),
    ("a SOCKS5 reply", OK, [ProxyBroken]),
)


@rows("S-04", "S-05", "R-32")
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(("server", "expected"), SOCKS4)
def test_outcome_of_each_answer_of_a_socks4_server(
    server: str, expected: list[Any], pipelined: bool
) -> None:
    assert_outcome(OLD, server, [FIRST_4, *expected], pipelined=pipelined)


CODES = [(kind.code, kind) for kind in replies.PLAIN]
CODES += [(kind.onion_code, kind) for kind in replies.ONION]
CODES += [(code, errors.GeneralFailure) for code in (0x09, 0x5B, 0xE0, 0xFF)]


@rows("R-34")
@pytest.mark.parametrize("request_", [PLAIN, KNOWN], ids=["00", "02"])
def test_refusal_for_each_reply_code(request_: Request) -> None:
    before = "05 00" if request_ is PLAIN else "05 02 01 00"
    for code, kind in CODES:
        for tail in ("00 01 00000000 0000", "00 04" + "00" * 18, "00 00 00000000 0000", ""):
            server = octets(f"{before} 05 {code:02X} {tail}")
            for pipelined in (False, True):
                assert outcome(request_, pipelined, [server], eof=False)[-1] is kind


ENDS = table(
    ("at once", PLAIN, ""),
    ("at once, with credentials", KNOWN, ""),
    ("after the selection", PLAIN, "05 00"),
    ("after the selection of 02: tor refused the credentials", KNOWN, "05 02"),
    ("after the status", KNOWN, "05 02 01 00"),
    ("within the reply", KNOWN, "05 02 01 00 05 00 00 01"),
    ("SOCKS4", OLD, ""),
    ("SOCKS4, within the reply", OLD, "00 5A 0000"),
)


@rows("R-34")
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(("request_", "server"), ENDS)
def test_a_close_before_the_reply_is_a_refusal(
    request_: Request, server: str, pipelined: bool
) -> None:
    for chunks in cuts(octets(server)):
        assert outcome(request_, pipelined, chunks, eof=True)[-1] is ProxyBroken


def test_a_close_after_the_reply_gives_no_step() -> None:
    assert_outcome(PLAIN, "05 00" + OK, ["05 01 00", ASK, opened()], pipelined=False, eof=True)
    failed = ["05 01 00", ASK, errors.NotAllowed]
    assert_outcome(PLAIN, "05 00 05 02", failed, pipelined=False, eof=True)


@rows("S-38")
def test_requested_is_true_once_the_request_is_among_the_bytes_to_send() -> None:
    """Each row: the answers, and after each whether the request is among the bytes to send."""
    for request, pipelined, answers in (
        (PLAIN, False, [("", False), ("05 00", True)]),
        (KNOWN, False, [("", False), ("05 02", False), ("01 00", True)]),
        (PLAIN, True, [("", True)]),
        (KNOWN, True, [("", True), ("01 00", True)]),
        (OLD, False, [("", True)]),
    ):
        handshake = ClientHandshake(request, pipelined=pipelined)
        handshake.start()
        for answer, requested in answers:
            handshake.receive(octets(answer))
            assert handshake.requested is requested


@pytest.mark.parametrize("pipelined", [False, True])
def test_megabytes_of_an_answer_are_not_held(pipelined: bool) -> None:
    for first in (b"", octets("05 00"), octets("05 00" + OK), octets("05 00 05 01")):
        handshake = ClientHandshake(PLAIN, pipelined=pipelined)
        handshake.start()
        handshake.receive(first)
        for _ in range(64):
            handshake.receive(b"\5\0\0\3" + b"x" * 65536)
        assert len(handshake._buffer) < 262


def test_repr_hides_bytes_after_the_reply() -> None:
    assert "payload" not in repr(Opened(Reply(0), b"payload"))


NOT_FOUND = "05 F0 00 01 00000000 0000"
# What the server sends, what happens then, and the steps. C Tor with ExtendedErrors sends X'F0' for
# streams that work, too: it is a failure only if tor closes the stream.
UNCONFIRMED = table(
    ("a close", NOT_FOUND, ClientHandshake.eof, [Unconfirmed, errors.DescriptorNotFound]),
    ("data", NOT_FOUND + "05", None, [Unconfirmed, (Reply(0xF0), b"\5")]),
    ("a while", NOT_FOUND, ClientHandshake.confirm, [Unconfirmed, (Reply(0xF0), b"")]),
    ("nothing", NOT_FOUND, None, [Unconfirmed]),
    ("half of it", NOT_FOUND[:12], ClientHandshake.eof, [errors.DescriptorNotFound]),
    ("another code", "05 F1", None, [errors.DescriptorInvalid]),
    ("F2", "05 F2", None, [errors.IntroductionFailed]),
    ("a plain code", "05 05", None, [errors.ConnectionRefused]),
    ("no answer", "", ClientHandshake.confirm, []),
)


@rows("S-03", "S-43")
@pytest.mark.parametrize(("server", "then", "expected"), UNCONFIRMED)
def test_f0_is_a_failure_only_if_the_server_closes(
    server: str, then: Callable[[ClientHandshake], list[Any]] | None, expected: list[Any]
) -> None:
    for chunks in cuts(octets("05 00" + server)):
        handshake = ClientHandshake(PLAIN, verify_f0=True)
        handshake.start()
        steps = [step for chunk in chunks for step in handshake.receive(chunk)][1:]
        steps += then(handshake) if then is not None else []
        assert [told(step) for step in steps] == expected
        if expected and expected[-1] is not Unconfirmed:
            assert handshake.eof() == handshake.confirm() == handshake.receive(b"more") == []


def test_a_look_up_is_never_unconfirmed() -> None:
    handshake = ClientHandshake(asking(command=Command.RESOLVE), verify_f0=True)
    handshake.receive(b"\5\0")
    (step,) = handshake.receive(octets(NOT_FOUND)[:2])
    assert isinstance(step, Failed)
