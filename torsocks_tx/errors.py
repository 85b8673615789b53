"""All exceptions of the package, in three kinds.

``ProtocolError``: the peer broke the protocol. ``Refused``: the network, tor or the rules of this
server do not allow a request. Any other exception is a fault of this server: it is logged with its
traceback but without its text, which may quote a client, and the client gets a general failure.
``Incomplete`` is not an error: more bytes are needed.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, ClassVar

from torsocks_tx.socks.constants import OnionReply, Reply5, TransportReply
from torsocks_tx.socks.messages import NO_PAIRS, KeyValues


def without_text(failure: Any) -> Any:
    """Return a ``Failure`` with the same kind and traceback, without the text of the exception.

    The text may quote what a client sent, which must not be logged above debug.
    """
    kind = failure.type
    try:
        bare = kind.__new__(kind)
    except TypeError:
        bare = Exception(kind.__name__)
    return failure.__class__(bare, type(bare), failure.getTracebackObject())


class Incomplete(Exception):
    """The message is not complete yet: more bytes are needed."""


class ProtocolError(Exception):
    """The peer broke the protocol.

    ``answer``: the bytes to send before closing, which may be none. The text never quotes what the
    peer sent.
    """

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


class InvalidArguments(Exception):
    """The values of a key of extended authentication cannot be accepted: the answer is STATUS 02.

    ``pairs`` go with that answer. The text is for debug logs and never quotes the client.
    """

    def __init__(self, reason: str, pairs: KeyValues | None = None) -> None:
        super().__init__(reason)
        self.pairs = pairs or NO_PAIRS


class Retry(Enum):
    """When a client may repeat a request that was refused: at once, some time later, or never.

    NEVER: the same request with the same keys will fail again.
    """

    NOW = auto()
    LATER = auto()
    NEVER = auto()


class Refused(Exception):
    """A request was understood but not carried out.

    There is a subclass for each reason. Its docstring is the sentence for a person; ``code`` is the
    nearest code of RFC 1928, ``retry`` the advice for a client. The text given to the constructor
    is for debug logs.
    """

    code: ClassVar[int] = Reply5.GENERAL_FAILURE
    retry: ClassVar[Retry] = Retry.LATER

    @property
    def sentence(self) -> str:
        """Return what happened, in a sentence for a person."""
        return (type(self).__doc__ or "").strip().split("\n")[0]


class GeneralFailure(Refused):
    """The connection could not be made, and nothing more is known."""


class TorDown(GeneralFailure):
    """There is no tor to carry the connection."""


# The next four are failures of the client of this package with its SOCKS server.


class ProxyBroken(GeneralFailure):
    """The SOCKS server broke the protocol, or closed the connection without an answer."""


class LoginRefused(GeneralFailure):
    """The SOCKS server refused the login: it wants other credentials, or another method."""

    retry = Retry.NEVER


class ArgumentsRefused(GeneralFailure):
    """The SOCKS server has no extended authentication, or did not accept what was sent by it."""

    retry = Retry.NEVER


class NotIsolated(GeneralFailure):
    """The SOCKS server cannot keep this connection apart from others, so it was not made."""

    retry = Retry.NEVER


class Fault(GeneralFailure):
    """The server has a fault; its log has the details."""


class Busy(GeneralFailure):
    """The server has too much to do at the moment."""


class NotAllowed(Refused):
    """The rules of this server, or of the exit relay, do not allow the connection."""

    code = Reply5.NOT_ALLOWED
    retry = Retry.NEVER


class NetworkUnreachable(Refused):
    """The network could not be reached."""

    code = Reply5.NETWORK_UNREACHABLE


class HostUnreachable(Refused):
    """The host was not found or could not be reached."""

    code = Reply5.HOST_UNREACHABLE


class ConnectionRefused(Refused):
    """The destination refused the connection."""

    code = Reply5.CONNECTION_REFUSED


class TimedOut(Refused):
    """The connection was not made in time."""

    code = Reply5.TTL_EXPIRED


class CommandNotSupported(Refused):
    """The command is not supported."""

    code = Reply5.COMMAND_NOT_SUPPORTED
    retry = Retry.NEVER


class AddressTypeNotSupported(Refused):
    """Addresses of this kind are not supported."""

    code = Reply5.ADDRESS_TYPE_NOT_SUPPORTED
    retry = Retry.NEVER


class OnionRefused(Refused):
    """An onion service could not be reached.

    ``onion_code`` is its code of socks-extensions, section 6; ``code`` is what tor sends instead on
    a port without ExtendedErrors (measured on tor 0.4.9.11; tor never sends F1 or F3).
    """

    onion_code: ClassVar[OnionReply]


class DescriptorNotFound(OnionRefused):
    """No directory has a descriptor of the onion service: it is not running, or never was."""

    code = Reply5.HOST_UNREACHABLE
    onion_code = OnionReply.DESCRIPTOR_NOT_FOUND


class DescriptorInvalid(OnionRefused):
    """The descriptor of the onion service cannot be read or its signature is wrong."""

    code = Reply5.HOST_UNREACHABLE
    onion_code = OnionReply.DESCRIPTOR_INVALID


class IntroductionFailed(OnionRefused):
    """The onion service is no longer at its introduction points."""

    code = Reply5.HOST_UNREACHABLE
    onion_code = OnionReply.INTRODUCTION_FAILED


class RendezvousFailed(OnionRefused):
    """The onion service got the request, but did not come to the rendezvous point."""

    code = Reply5.TTL_EXPIRED
    onion_code = OnionReply.RENDEZVOUS_FAILED


class MissingClientAuth(OnionRefused):
    """The onion service wants client authorization, and tor holds no key for it."""

    onion_code = OnionReply.MISSING_CLIENT_AUTH
    retry = Retry.NEVER


class WrongClientAuth(OnionRefused):
    """The onion service does not accept the client authorization key that tor holds."""

    onion_code = OnionReply.WRONG_CLIENT_AUTH
    retry = Retry.NEVER


class InvalidOnionAddress(OnionRefused):
    """The address of the onion service is not valid: it was mistyped, or is of an older kind."""

    onion_code = OnionReply.INVALID_ADDRESS
    retry = Retry.NEVER


class IntroductionTimedOut(OnionRefused):
    """No introduction point of the onion service answered in time."""

    code = Reply5.HOST_UNREACHABLE
    onion_code = OnionReply.INTRODUCTION_TIMED_OUT


class OnionNotFound(OnionRefused):
    """The onion service was not found."""

    code = Reply5.HOST_UNREACHABLE
    onion_code = OnionReply.DESCRIPTOR_NOT_FOUND


class OnionNotReachable(OnionRefused):
    """The onion service was found, but could not be reached."""

    code = Reply5.HOST_UNREACHABLE
    onion_code = OnionReply.INTRODUCTION_FAILED


class TransportRefused(Refused):
    """A pluggable transport could not make the connection.

    ``transport_code`` is its code of proposal 229; ``code`` is sent instead to a tor that did not
    offer extended authentication.
    """

    transport_code: ClassVar[TransportReply]


class Temporary(TransportRefused):
    """The pluggable transport failed, but the same attempt is likely to succeed now."""

    transport_code = TransportReply.TEMPORARY
    retry = Retry.NOW


class InvalidBridge(TransportRefused):
    """The bridge does not speak this pluggable transport, and is not likely to."""

    code = Reply5.CONNECTION_REFUSED
    transport_code = TransportReply.INVALID_BRIDGE
    retry = Retry.NEVER


class Internal(TransportRefused):
    """The pluggable transport has a fault; it may help to restart it, or to wait."""

    transport_code = TransportReply.INTERNAL
