"""The client's and the server's handshake connected: requests and replies arrive unchanged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.names import ONION
from tests.support.rows import rows
from tests.support.tables import at
from torsocks_tx import errors
from torsocks_tx.errors import LoginRefused
from torsocks_tx.socks import replies, userpass
from torsocks_tx.socks.client import ClientHandshake, Failed, Opened
from torsocks_tx.socks.client import Step as ClientStep
from torsocks_tx.socks.constants import AddressType, Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request
from torsocks_tx.socks.server import (
    Authenticate,
    HandshakeOptions,
    Rejected,
    Requested,
    ServerHandshake,
)
from torsocks_tx.socks.server import Send as ServerSend
from torsocks_tx.socks.server import Step as ServerStep

CONNECT, RESOLVE, RESOLVE_PTR = Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR
Answer = Callable[[Request], bytes]
EARLY, LATE = b"\x05\x01early", b"\x01\x00late"


@dataclass
class Server:
    """A server's handshake; ``like_tor``: it sends only the last answer to one read."""

    answer: Answer
    options: HandshakeOptions | None = None
    like_tor: bool = False
    request: Request | None = None
    early: bytes = b""
    closed: bool = False
    handshake: ServerHandshake = field(init=False)

    def __post_init__(self) -> None:
        self.handshake = ServerHandshake(self.options)

    def receive(self, data: bytes) -> list[bytes]:
        if self.request is not None:
            self.early += data
            return []
        return self._act(self.handshake.receive(data))

    def _act(self, steps: list[ServerStep]) -> list[bytes]:
        said: list[bytes] = []
        for step in steps:
            match step:
                case ServerSend(data):
                    self._omit_selection(said, data)
                    said.append(data)
                case Authenticate(credentials):
                    avatar = b"me" if credentials.password == b"you" else None
                    said += self._act(self.handshake.authenticated(avatar))
                case Requested(request, rest):
                    self.request, self.early = request, rest
                    said.append(self.answer(request) + LATE)
                case Rejected(data, _):
                    said.append(data)
                    self.closed = True
        return said

    def _omit_selection(self, said: list[bytes], answer: bytes) -> None:
        if self.like_tor and answer == userpass.ACCEPTED:
            said.clear()


def whole(data: bytes) -> Iterator[bytes]:
    return iter([data] if data else [])


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


Cut = Callable[[bytes], Iterator[bytes]]


def connect(
    request: Request, server: Server, *, pipelined: bool, cut: Cut, early: bytes = b""
) -> Opened | Failed:
    """Run both handshakes to the outcome; early data is sent right after the request."""
    client = ClientHandshake(request, pipelined=pipelined)
    outgoing, outcome = client.start(), None
    sent_early = False
    while outcome is None:
        if client.requested and not sent_early:
            outgoing, sent_early = outgoing + early, True
        incoming = b"".join(itertools.chain(*map(server.receive, cut(outgoing))))
        outgoing = b""
        steps: list[ClientStep] = []
        for piece in cut(incoming):
            if steps and isinstance(steps[-1], Opened):
                steps[-1] = Opened(steps[-1].reply, steps[-1].rest + piece)
            else:
                steps += client.receive(piece)
        if not steps:
            assert server.closed, "both ends wait for each other"
            steps = client.eof()
        for step in steps:
            if isinstance(step, Opened | Failed):
                outcome = step
            else:
                outgoing += step.data
    return outcome


CREDENTIALS = [
    None,
    Credentials(b"", b""),
    Credentials(b"me", b""),
    Credentials(b"", b"you"),
    Credentials(b"me", b"you"),
    Credentials(b"\0\xff", b"\n" * 255),
    Credentials(b"<torS0X>0", b"0123456789abcdef"),
]
ADDRESSES = [
    at("192.0.2.1", 80),
    at("2001:db8::1", 65535),
    at("example.com", 443),
    at("a." * 127 + "a", 1),
    at(ONION, 80),
    Address(AddressType.HOSTNAME, "[::1]", 80),
]
REQUESTS_5 = [
    Request(Version.SOCKS5, command, address, credentials)
    for credentials in CREDENTIALS
    for address in ADDRESSES
    for command in (CONNECT, RESOLVE, RESOLVE_PTR)
    if command is not RESOLVE_PTR or address.is_ip
]
REQUESTS_4 = [
    Request(Version.SOCKS4, command, address, Credentials(user))
    for user in (b"", b"me", b"\x05\xff", b"u" * 200)
    for address in ADDRESSES
    for command in (CONNECT, RESOLVE)
    if address.type is not AddressType.IPV6
]


def opened(request: Request) -> bytes:
    return replies.success(request, None if request.command is CONNECT else at("192.0.2.7"))


def assert_agreed(
    request: Request, server: Server, outcome: Opened | Failed, early: bytes = EARLY
) -> None:
    assert isinstance(outcome, Opened)
    assert (server.request, server.early) == (request, early)
    answer = at("0.0.0.0") if request.command is CONNECT else at("192.0.2.7")
    assert (outcome.reply.address, outcome.rest) == (answer, LATE)


@rows("S-01", "S-04", "S-05", "S-06", "S-08", "S-13", "S-19", "S-24", "S-27", "S-30", "S-37")
@rows("R-02", "R-25", "R-27", "R-32", "R-34")
@pytest.mark.parametrize("cut", [whole, bytewise])
@pytest.mark.parametrize("pipelined", [False, True])
def test_every_request_arrives_unchanged(pipelined: bool, cut: Cut) -> None:
    for request in REQUESTS_5 + REQUESTS_4:
        server = Server(opened)
        outcome = connect(request, server, pipelined=pipelined, cut=cut, early=EARLY)
        assert_agreed(request, server, outcome)


@rows("S-18", "S-23")
@pytest.mark.parametrize("pipelined", [False, True])
def test_a_server_that_prefers_no_authentication(pipelined: bool) -> None:
    for request in REQUESTS_5:
        server = Server(opened, HandshakeOptions(prefer_no_auth=True))
        outcome = connect(request, server, pipelined=pipelined, cut=whole, early=EARLY)
        assert_agreed(request, server, outcome)


@rows("S-17", "R-07")
@pytest.mark.parametrize("cut", [whole, bytewise])
@pytest.mark.parametrize("pipelined", [False, True])
def test_a_server_that_requires_a_login(pipelined: bool, cut: Cut) -> None:
    for request in REQUESTS_5 + REQUESTS_4:
        server = Server(opened, HandshakeOptions(require_auth=True))
        outcome = connect(request, server, pipelined=pipelined, cut=cut)
        password = request.credentials.password if request.credentials else None
        if request.version is Version.SOCKS5 and password == b"you":
            known = Request(
                request.version, request.command, request.address, request.credentials, b"me"
            )
            assert_agreed(known, server, outcome, early=b"")
        else:
            assert isinstance(outcome, Failed)
            by_version_5 = request.version is Version.SOCKS5
            expected = LoginRefused if by_version_5 else errors.GeneralFailure
            assert type(outcome.reason) is expected
            assert server.request is None
