"""Driving a server's handshake: the client's bytes in any portions, and the steps that come out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tests.support.tables import cuts
from torsocks_tx.socks import extended, socks5, userpass
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


class Conversation:
    """One client's bytes and what came of them. Only the user ``me`` with ``you`` is known."""

    def __init__(self, options: HandshakeOptions | None = None) -> None:
        self.handshake = ServerHandshake(options)
        self.steps: list[Step] = []
        by_transport = options is not None and options.role is Role.PT
        self._longest_frame = LONGEST_FRAME + (userpass.MAX_TEXT if by_transport else 0)

    def feed(self, chunk: bytes) -> None:
        """Hand in some bytes; behind a request they are early data, which the caller keeps."""
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
        """Whether the last word has been said."""
        return bool(self.steps) and isinstance(self.steps[-1], Requested | Rejected)


def converse(chunks: Iterable[bytes], options: HandshakeOptions | None = None) -> list[Step]:
    """The steps that come of these bytes; a last step is the last, whatever follows."""
    conversation = Conversation(options)
    for chunk in chunks:
        conversation.feed(chunk)
    if conversation.over:
        assert conversation.handshake.receive(b"\x05\x01\x00") == []
        assert conversation.handshake.authenticated(b"me") == []
    return conversation.steps


def without_reasons(steps: Iterable[Step]) -> list[Step]:
    """The steps as a peer sees them: the reason of a rejection is for our log."""
    return [Rejected(s.data, "") if isinstance(s, Rejected) else s for s in steps]


def assert_conversation(
    client: bytes, steps: list[Step], options: HandshakeOptions | None = None
) -> None:
    """The client's bytes give these steps, however they come in.

    A client that does not offer method X'97' gets them whether or not the server has it.
    """
    options = options or HandshakeOptions()
    with_extended = [] if options.extended else [replace(options, extended=ExtendedRules())]
    for wanted in [options, *with_extended]:
        whole = converse((client,), wanted)
        assert without_reasons(whole) == steps
        for chunks in cuts(client):
            assert converse(chunks, wanted) == whole
