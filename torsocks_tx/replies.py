"""Which code a client hears. The only place that picks one.

SOCKS4 has one failure. SOCKS5 CONNECT hears RFC 1928's codes, and X'F0' to X'F7' only where the
listener has ExtendedErrors and the destination is an onion service. A failed look-up is 04 as from
tor, whatever its cause, unless there is no tor or our own rules forbid it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torsocks_tx.codes import Command, Reply4, Reply5, Version
from torsocks_tx.errors import (
    AddressTypeNotSupported,
    Fault,
    NotAllowed,
    OnionRefused,
    Refused,
    TorDown,
)
from torsocks_tx.messages import Address, Reply, Request
from torsocks_tx.wire import socks4, socks5


@dataclass(frozen=True, slots=True)
class Audience:
    """Who asks: what was requested and whether the listener has ExtendedErrors."""

    version: Version
    command: Command
    onion: bool
    extended_errors: bool = False

    @classmethod
    def of(cls, request: Request, *, extended_errors: bool) -> Audience:
        """The audience of this request."""
        onion = request.address.is_onion
        return cls(request.version, request.command, onion, extended_errors)


def code_for(reason: Refused, audience: Audience) -> int:
    """The reply code that this audience hears for this reason."""
    if audience.version is Version.SOCKS4:
        return Reply4.REJECTED
    if audience.command is not Command.CONNECT:
        spoken = (TorDown, Fault, NotAllowed, AddressTypeNotSupported)
        return reason.code if isinstance(reason, spoken) else Reply5.HOST_UNREACHABLE
    if not isinstance(reason, OnionRefused):
        return reason.code
    return reason.onion_code if audience.onion and audience.extended_errors else reason.code


def failure(reason: Refused, audience: Audience) -> bytes:
    """The bytes of the failure reply."""
    if audience.version is Version.SOCKS4:
        return socks4.REJECTED
    return socks5.failure(code_for(reason, audience))


_CONNECTED = {
    Version.SOCKS4: socks4.build_reply(Reply(Reply4.GRANTED)),
    Version.SOCKS5: socks5.build_reply(Reply(Reply5.SUCCEEDED)),
}


def success(request: Request, answer: Address | None = None) -> bytes:
    """The bytes of the success reply: ``answer`` is what a look-up found, None for CONNECT.

    A CONNECT is answered with 0.0.0.0:0: our own sockets are nobody's business. Raises ValueError
    for an answer that the version cannot carry (a SOCKS4 reply has room for IPv4 only).
    """
    if answer is None:
        return _CONNECTED[request.version]
    reply = Reply(Reply5.SUCCEEDED, answer)
    if request.version is Version.SOCKS4:
        return socks4.build_reply(Reply(Reply4.GRANTED, reply.address))
    return socks5.build_reply(reply)
