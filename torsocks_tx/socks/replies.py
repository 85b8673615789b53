"""Reply codes, both ways: which code a client gets, and what a code from an upstream server means.

SOCKS4 has one failure. A SOCKS5 CONNECT gets RFC 1928's codes, and those of one more set if
``code_set`` says so: X'F0' to X'F7' or X'E0' and X'E1' for onion services on a port of tor's role,
X'F0' to X'F2' on a pluggable transport's. A failed look-up gets 04 as from tor, whatever its cause,
unless the server did not even try: there is no tor, it has too much to do, its rules forbid the
look-up, or its backend has none.
"""

from __future__ import annotations

from dataclasses import dataclass

from torsocks_tx import errors
from torsocks_tx.errors import OnionRefused, Refused, SOCKSError
from torsocks_tx.socks import socks4, socks5
from torsocks_tx.socks.constants import CodeSet, Command, Reply4, Reply5, Role, Version
from torsocks_tx.socks.messages import Address, Reply, Request

# The failures of a look-up that keep their own codes; whatever else makes one fail is X'04'.
_OF_THE_SERVER = (
    errors.AddressTypeNotSupported,
    errors.Busy,
    errors.CommandNotSupported,
    errors.Internal,
    errors.NoSuchPort,
    errors.NotAllowed,
    errors.ProxyUnreachable,
    errors.TorDown,
)
_CODE_SETS = {**{codes.value.encode(): codes for codes in CodeSet}, b"none": CodeSet.RFC1928}


def parse_code_set(value: bytes | None) -> CodeSet | None:
    """Return the set that a value of the key ``REPLY_CODES`` names; ValueError if it names none."""
    if value is None:
        return None
    if value not in _CODE_SETS:
        raise ValueError("no set of reply codes")
    return _CODE_SETS[value]


def code_set(
    role: Role, extended_errors: bool, *, offered: bool, asked: CodeSet | None = None
) -> CodeSet:
    """Choose the set of reply codes for a client.

    ``extended_errors``: the listener's flag, which means nothing on a transport's port.
    ``offered``: the client offered extended authentication, whichever method was selected; only
    then may a code of proposal 229 be sent. ``asked``: the value of its key REPLY_CODES.
    """
    by_flag = role is Role.TOR and extended_errors
    if not offered:
        return CodeSet.PROP304 if by_flag else CodeSet.RFC1928
    if asked is CodeSet.RFC1928:
        return CodeSet.RFC1928
    return CodeSet.PROP304 if by_flag and asked is not CodeSet.PROP229 else CodeSet.PROP229


@dataclass(frozen=True, slots=True)
class ReplyContext:
    """What the code of a reply depends on: the request, the kind of port, the set of codes.

    ``swap_e0_e1``: X'E0' and X'E1' as the sentences of proposal 229 have them, not its titles.
    """

    version: Version
    command: Command
    onion: bool
    role: Role = Role.TOR
    codes: CodeSet = CodeSet.RFC1928
    swap_e0_e1: bool = False

    @classmethod
    def of(
        cls,
        request: Request,
        *,
        role: Role = Role.TOR,
        extended_errors: bool = False,
        swap_e0_e1: bool = False,
    ) -> ReplyContext:
        """Return the context of the reply to a request, on a listener with these flags."""
        asked = parse_code_set(request.pairs.get("REPLY_CODES"))
        codes = code_set(role, extended_errors, offered=request.offered_extended, asked=asked)
        onion = request.address.is_onion
        return cls(request.version, request.command, onion, role, codes, swap_e0_e1)


def code_for(reason: SOCKSError, context: ReplyContext) -> int:
    """Return the reply code for this reason."""
    if context.version is Version.SOCKS4:
        return Reply4.REJECTED
    if context.command is not Command.CONNECT:
        return reason.code if isinstance(reason, _OF_THE_SERVER) else Reply5.HOST_UNREACHABLE
    if context.codes is CodeSet.RFC1928:
        return reason.code
    if context.role is Role.PT:
        return reason.code if reason.transport_code is None else reason.transport_code
    if not isinstance(reason, OnionRefused) or not context.onion:
        return reason.code
    if context.codes is CodeSet.PROP304:
        return reason.onion_code
    swapped = 0xE0 + 0xE1 - reason.prop229_code
    return swapped if context.swap_e0_e1 else reason.prop229_code


def failure(reason: SOCKSError, context: ReplyContext) -> bytes:
    """Return the bytes of the failure reply."""
    if context.version is Version.SOCKS4:
        return socks4.REJECTED
    return socks5.failure(code_for(reason, context))


_CONNECTED = {
    Version.SOCKS4: socks4.build_reply(Reply(Reply4.GRANTED)),
    Version.SOCKS5: socks5.build_reply(Reply(Reply5.SUCCEEDED)),
}


def success(request: Request, answer: Address | None = None) -> bytes:
    """Return the bytes of the success reply: ``answer`` is what a look-up found, None for CONNECT.

    The reply to CONNECT gives 0.0.0.0:0, so that clients learn nothing of the server's addresses.
    Raises ValueError for an answer that does not fit (a SOCKS4 reply has room for IPv4 only).
    """
    if answer is None:
        return _CONNECTED[request.version]
    if request.version is Version.SOCKS4:
        return socks4.build_reply(Reply(Reply4.GRANTED, answer))
    return socks5.build_reply(Reply(Reply5.SUCCEEDED, answer))


# From a code back to its meaning.

PLAIN: tuple[type[Refused], ...] = (
    errors.GeneralFailure,
    errors.NotAllowed,
    errors.NetworkUnreachable,
    errors.HostUnreachable,
    errors.ConnectionRefused,
    errors.TimedOut,
    errors.CommandNotSupported,
    errors.AddressTypeNotSupported,
)
ONION: tuple[type[OnionRefused], ...] = (
    errors.DescriptorNotFound,
    errors.DescriptorInvalid,
    errors.IntroductionFailed,
    errors.RendezvousFailed,
    errors.MissingClientAuth,
    errors.WrongClientAuth,
    errors.InvalidOnionAddress,
    errors.IntroductionTimedOut,
)
# The two codes of a server that follows proposal 229.
HIDDEN_SERVICE: tuple[type[OnionRefused], ...] = (errors.OnionNotFound, errors.OnionNotReachable)
TRANSPORT: tuple[type[SOCKSError], ...] = (errors.Temporary, errors.InvalidBridge, errors.Internal)
_BY_CODE: dict[int, type[SOCKSError]] = {
    **{kind.code: kind for kind in PLAIN},
    **{kind.onion_code: kind for kind in ONION},
}
_BY_TRANSPORT_CODE = {kind.transport_code: kind for kind in TRANSPORT}
_BY_PROPOSAL_229 = {kind.prop229_code: kind for kind in HIDDEN_SERVICE}


def refusal(code: int) -> SOCKSError:
    """Return the failure that this REP byte of a tor stands for; unknown: a general failure.

    X'F0' to X'F7' are read as tor's onion codes, never as those of a pluggable transport.
    """
    return _refusal(_BY_CODE.get(code), code)


def extended_refusal(code: int, role: Role | None, codes: CodeSet | None) -> SOCKSError:
    """Return the failure for a REP byte of a server that was offered extended authentication.

    X'F0' to X'F2' mean one thing from a tor and another from a pluggable transport. ``role`` is the
    kind of port, where that is known; otherwise the set of ``codes`` that the server announced
    decides: under proposal 229 they are those of a transport.
    """
    by_transport = role is Role.PT or (role is None and codes is CodeSet.PROP229)
    kind: type[SOCKSError] | None = _BY_CODE.get(code)
    if role is not Role.PT and code in _BY_PROPOSAL_229:
        kind = _BY_PROPOSAL_229[code]
    elif by_transport and code >= errors.Temporary.transport_code:
        kind = _BY_TRANSPORT_CODE.get(code)
    return _refusal(kind, code)


def _refusal(kind: type[SOCKSError] | None, code: int) -> SOCKSError:
    unknown = "" if kind else "unknown "
    kind = kind or errors.GeneralFailure
    return kind(f"the proxy answered with {unknown}code {code}", reply=code)
