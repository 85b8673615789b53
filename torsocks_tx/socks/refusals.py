"""What a SOCKS server meant by a reply code: from the byte back to a ``Refused``.

One byte may mean two things: proposal 229 gave tor's X'F0' to X'F2' to transports, too. The role of
the port decides. The way there is in ``replies``.
"""

from __future__ import annotations

from torsocks_tx.errors import (
    AddressTypeNotSupported,
    CommandNotSupported,
    ConnectionRefused,
    DescriptorInvalid,
    DescriptorNotFound,
    GeneralFailure,
    HostUnreachable,
    Internal,
    IntroductionFailed,
    IntroductionTimedOut,
    InvalidBridge,
    InvalidOnionAddress,
    MissingClientAuth,
    NetworkUnreachable,
    NotAllowed,
    OnionNotFound,
    OnionNotReachable,
    OnionRefused,
    Refused,
    RendezvousFailed,
    Temporary,
    TimedOut,
    TransportRefused,
    WrongClientAuth,
)
from torsocks_tx.socks.constants import CodeSet, HiddenServiceReply, Role, TransportReply

PLAIN: tuple[type[Refused], ...] = (
    GeneralFailure,
    NotAllowed,
    NetworkUnreachable,
    HostUnreachable,
    ConnectionRefused,
    TimedOut,
    CommandNotSupported,
    AddressTypeNotSupported,
)
ONION: tuple[type[OnionRefused], ...] = (
    DescriptorNotFound,
    DescriptorInvalid,
    IntroductionFailed,
    RendezvousFailed,
    MissingClientAuth,
    WrongClientAuth,
    InvalidOnionAddress,
    IntroductionTimedOut,
)
# What is heard from a server that follows proposal 229: two codes for all that can go wrong.
HIDDEN_SERVICE: tuple[type[OnionRefused], ...] = (OnionNotFound, OnionNotReachable)
TRANSPORT: tuple[type[TransportRefused], ...] = (Temporary, InvalidBridge, Internal)
_BY_CODE: dict[int, type[Refused]] = {
    **{kind.code: kind for kind in PLAIN},
    **{kind.onion_code: kind for kind in ONION},
}
_BY_TRANSPORT_CODE: dict[int, type[Refused]] = {kind.transport_code: kind for kind in TRANSPORT}
_BY_PROPOSAL_229: dict[int, type[Refused]] = {
    HiddenServiceReply.NOT_FOUND: OnionNotFound,
    HiddenServiceReply.NOT_REACHABLE: OnionNotReachable,
}


def refusal(code: int) -> Refused:
    """The ``Refused`` that a tor meant by this REP byte; unknown codes are general failures.

    X'F0' to X'F7' are read as tor's onion codes, never as those of a pluggable transport.
    """
    return _refusal(_BY_CODE.get(code), code)


def extended_refusal(code: int, role: Role | None, codes: CodeSet | None) -> Refused:
    """The ``Refused`` that a server meant which was offered method X'97'.

    ``role`` is what kind of port it is, where that is known; otherwise ``codes`` decides, the set
    that the server announced: under proposal 229 X'F0' to X'F2' are those of a transport.
    """
    by_transport = role is Role.PT or (role is None and codes is CodeSet.PROP229)
    if role is not Role.PT and code in _BY_PROPOSAL_229:
        return _refusal(_BY_PROPOSAL_229[code], code)
    if by_transport and code >= TransportReply.TEMPORARY:
        return _refusal(_BY_TRANSPORT_CODE.get(code), code)
    return _refusal(_BY_CODE.get(code), code)


def _refusal(kind: type[Refused] | None, code: int) -> Refused:
    if kind is None:
        return GeneralFailure(f"upstream answered with unknown code {code}")
    return kind(f"upstream answered with code {code}")
