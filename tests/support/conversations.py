"""Driving the handshakes: the peer's bytes in any portions, and the steps that follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tests.support.tables import cuts
from torsocks_tx.http.server import MAX_HEAD, HTTPOptions, HTTPServerHandshake
from torsocks_tx.socks import extended, socks5, userpass
from torsocks_tx.socks.client import ClientHandshake, Opened
from torsocks_tx.socks.client import Step as ClientStep
from torsocks_tx.socks.constants import Method, Role
from torsocks_tx.socks.extended import ExtendedRules
from torsocks_tx.socks.messages import Credentials
from torsocks_tx.socks.server import (
    Authenticate,
    HandshakeOptions,
    Rejected,
    Requested,
    Send,
    ServerHandshake,
    Step,
)

LONGEST_FRAME = 513
"""RFC 1929 credentials with two fields of 255 bytes: only pairs are longer, and a transport's
arguments in a SOCKS4 user id."""

LONGEST_PAIR = 2 + extended.MAX_KEY + 2 + 0xFFFF


def feed(
    handshake: ClientHandshake, chunks: Iterable[bytes], *, eof: bool = False
) -> list[ClientStep]:
    """Return the steps of a client's handshake that gets these bytes, and perhaps a close."""
    steps: list[ClientStep] = []
    for chunk in chunks:
        if steps and isinstance(steps[-1], Opened):
            assert handshake.receive(chunk) == []
            steps[-1] = replace(steps[-1], rest=steps[-1].rest + chunk)
        else:
            steps += handshake.receive(chunk)
    return steps + (handshake.eof() if eof else [])


class Conversation:
    """A server's handshake with one client. Only the user ``me`` with password ``you`` is known."""

    def __init__(self, options: HandshakeOptions | HTTPOptions | None = None) -> None:
        self.steps: list[Step] = []
        self.handshake: ServerHandshake | HTTPServerHandshake
        self._longest_frame = LONGEST_FRAME
        if isinstance(options, HTTPOptions):
            self.handshake = HTTPServerHandshake(options)
            self._longest_frame = MAX_HEAD + 1
        else:
            self.handshake = ServerHandshake(options)
            if options is not None and options.role is Role.PT:
                self._longest_frame += userpass.MAX_TEXT

    def feed(self, chunk: bytes) -> None:
        """Hand in bytes of the client; after its request they are early data."""
        if self.steps and isinstance(self.steps[-1], Requested):
            last = self.steps[-1]
            self.steps[-1] = Requested(last.request, last.rest + chunk)
            assert self.handshake.receive(chunk) == []
            return
        self._take(self.handshake.receive(chunk))
        by_pairs = Send(socks5.build_selection(Method.EXTENDED)) in self.steps
        assert len(self.handshake._buffer) < (LONGEST_PAIR if by_pairs else self._longest_frame)
        assert not self.over or self.handshake._buffer == b""

    def _take(self, steps: list[Step]) -> None:
        self.steps += steps
        if steps and isinstance(steps[-1], Authenticate):
            known = steps[-1].credentials == Credentials(b"me", b"you")
            self._take(self.handshake.authenticated(b"me" if known else None))

    @property
    def over(self) -> bool:
        """Whether the handshake has ended."""
        return bool(self.steps) and isinstance(self.steps[-1], Requested | Rejected)


def converse(
    chunks: Iterable[bytes], options: HandshakeOptions | HTTPOptions | None = None
) -> list[Step]:
    """Return the steps for these bytes; check that nothing follows the last step."""
    conversation = Conversation(options)
    for chunk in chunks:
        conversation.feed(chunk)
    if conversation.over:
        assert conversation.handshake.receive(b"\x05\x01\x00") == []
        assert conversation.handshake.authenticated(b"me") == []
    return conversation.steps


def without_reasons(steps: Iterable[Step]) -> list[Step]:
    """Return the steps as a peer sees them, without the reasons of rejections."""
    return [Rejected(s.data, "") if isinstance(s, Rejected) else s for s in steps]


def assert_conversation(
    client: bytes, steps: list[Step], options: HandshakeOptions | None = None
) -> None:
    """Check that the client's bytes give these steps in portions of any size.

    A client that does not offer extended authentication gets them whether or not the server has it.
    """
    options = options or HandshakeOptions()
    with_extended = [] if options.extended else [replace(options, extended=ExtendedRules())]
    for wanted in [options, *with_extended]:
        whole = converse((client,), wanted)
        assert without_reasons(whole) == steps
        for chunks in cuts(client):
            assert converse(chunks, wanted) == whole
