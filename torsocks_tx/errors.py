"""All exceptions of the package.

``SOCKSError``: a request was not carried out. What a backend raises, what our server turns into a
reply code, and what applications get from the client are the same classes, of two kinds:
``Refused``, by the destination, the network, tor or a rule, and ``ProxyFault``, where the proxy
itself failed. ``ProtocolError``: the peer broke the protocol. ``Incomplete`` is not an error: more
bytes are needed. Any other exception is a fault of this server: it is logged with its traceback but
without its text, which may quote a client, and the client gets a general failure.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, ClassVar

from twisted.internet.error import ConnectError

from torsocks_tx.socks.constants import Reply5
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

    def __init__(self, reason: str, pairs: KeyValues = NO_PAIRS) -> None:
        super().__init__(reason)
        self.pairs = pairs


class Retry(Enum):
    """When a client may repeat a request that failed: at once, some time later, or never.

    NEVER: the same request with the same keys will fail again.
    """

    NOW = auto()
    LATER = auto()
    NEVER = auto()


class SOCKSError(ConnectError):
    """A request was not carried out; there is a subclass for each reason.

    Of the class: ``sentence`` says what happened, to a person; ``blame`` names who or what is at
    fault; ``code`` is the nearest code of RFC 1928; ``transport_code`` replaces it on the port of a
    pluggable transport; ``retry`` is the advice for a client.

    Of an instance: ``detail`` says more, and names no destination. What the client was told by its
    proxy: ``reply`` is the REP byte (SOCKS4: the second byte), None if there was no reply;
    ``status`` is the STATUS byte that refused credentials or pairs, else None; ``pairs`` came by
    extended authentication.
    """

    sentence: ClassVar[str] = "The request was not carried out."
    blame: ClassVar[str] = "unknown"
    code: ClassVar[int] = Reply5.GENERAL_FAILURE
    transport_code: ClassVar[int | None] = None
    retry: ClassVar[Retry] = Retry.LATER
    detail: str = ""
    reply: int | None = None
    status: int | None = None
    pairs: KeyValues = NO_PAIRS

    def __init_subclass__(cls) -> None:
        # One text for those who read help() and for those who meet the error, also under -OO.
        cls.__doc__ = cls.__doc__ or cls.sentence

    def __init__(
        self, detail: str = "", *, reply: int | None = None, status: int | None = None
    ) -> None:
        super().__init__()
        self.detail = detail
        self.reply = reply
        self.status = status

    def __str__(self) -> str:
        if self.reply is not None:
            return f"{self.sentence} (reply {self.reply:02X})"
        if self.status is not None:
            return f"{self.sentence} (status {self.status:02X})"
        return f"{self.sentence} ({self.detail})" if self.detail else self.sentence

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


class Refused(SOCKSError):
    """The proxy did its part: the destination, the network, tor or a rule refused the request."""

    blame = "the destination or the way to it"


class ProxyFault(SOCKSError):
    """The proxy itself failed, or could not be used: nothing is known of the destination."""

    blame = "the proxy"


class GeneralFailure(Refused):
    sentence = "The connection could not be made, and nothing more is known."
    blame = "unknown"


class NotAllowed(Refused):
    sentence = "The rules of the proxy, or of the exit relay, do not allow the connection."
    blame = "a rule of the proxy or of the exit relay"
    code = Reply5.NOT_ALLOWED
    retry = Retry.NEVER


class NoSuchExit(NotAllowed):
    sentence = "No exit relay of the Tor network is in the choice that was asked for."
    blame = "the choice of exits"
    retry = Retry.LATER


class NetworkUnreachable(Refused):
    sentence = "The network could not be reached."
    code = Reply5.NETWORK_UNREACHABLE


class HostUnreachable(Refused):
    sentence = "The host was not found or could not be reached."
    code = Reply5.HOST_UNREACHABLE


class ConnectionRefused(Refused):
    sentence = "The destination refused the connection."
    blame = "the destination"
    code = Reply5.CONNECTION_REFUSED


class TimedOut(Refused):
    sentence = "The connection was not made in time."
    code = Reply5.TTL_EXPIRED


class CommandNotSupported(Refused):
    sentence = "The command is not supported."
    blame = "the request"
    code = Reply5.COMMAND_NOT_SUPPORTED
    retry = Retry.NEVER


class AddressTypeNotSupported(Refused):
    sentence = "Addresses of this kind are not supported."
    blame = "the request"
    code = Reply5.ADDRESS_TYPE_NOT_SUPPORTED
    retry = Retry.NEVER


class OnionRefused(Refused):
    """An onion service could not be reached.

    ``onion_code`` is its code of socks-extensions, section 6; ``code`` is what tor sends instead on
    a port without ExtendedErrors (measured on tor 0.4.9.11; tor never sends F1 or F3).
    ``prop229_code`` is that of proposal 229: E0, not found, or E1, not reachable. The proposal
    contradicts itself, since its sentences swap the two; its titles are followed here.
    """

    blame = "the onion service"
    onion_code: ClassVar[int]
    prop229_code: ClassVar[int] = 0xE1


class DescriptorNotFound(OnionRefused):
    sentence = (
        "No directory has a descriptor of the onion service: it is not running, or never was."
    )
    code = Reply5.HOST_UNREACHABLE
    onion_code = 0xF0
    prop229_code = 0xE0


class DescriptorInvalid(OnionRefused):
    sentence = "The descriptor of the onion service cannot be read or its signature is wrong."
    code = Reply5.HOST_UNREACHABLE
    onion_code = 0xF1
    prop229_code = 0xE0


class IntroductionFailed(OnionRefused):
    sentence = "The onion service is no longer at its introduction points."
    code = Reply5.HOST_UNREACHABLE
    onion_code = 0xF2


class RendezvousFailed(OnionRefused):
    sentence = "The onion service got the request, but did not come to the rendezvous point."
    code = Reply5.TTL_EXPIRED
    onion_code = 0xF3


class MissingClientAuth(OnionRefused):
    sentence = "The onion service wants client authorization, and tor holds no key for it."
    blame = "the keys in tor"
    onion_code = 0xF4
    retry = Retry.NEVER


class WrongClientAuth(OnionRefused):
    sentence = "The onion service does not accept the client authorization key that tor holds."
    blame = "the keys in tor"
    onion_code = 0xF5
    retry = Retry.NEVER


class InvalidOnionAddress(OnionRefused):
    sentence = (
        "The address of the onion service is not valid: it was mistyped, or is of an older kind."
    )
    blame = "the address"
    onion_code = 0xF6
    prop229_code = 0xE0
    retry = Retry.NEVER


class IntroductionTimedOut(OnionRefused):
    sentence = "No introduction point of the onion service answered in time."
    code = Reply5.HOST_UNREACHABLE
    onion_code = 0xF7


class OnionNotFound(OnionRefused):
    sentence = "The onion service was not found."
    code = Reply5.HOST_UNREACHABLE
    onion_code = 0xF0
    prop229_code = 0xE0


class OnionNotReachable(OnionRefused):
    sentence = "The onion service was found, but could not be reached."
    code = Reply5.HOST_UNREACHABLE
    onion_code = 0xF2


class InvalidBridge(Refused):
    sentence = "The bridge does not speak this pluggable transport, and is not likely to."
    blame = "the bridge"
    code = Reply5.CONNECTION_REFUSED
    transport_code = 0xF1
    retry = Retry.NEVER


class Temporary(Refused):
    sentence = "The pluggable transport did not connect, but is likely to if asked again now."
    blame = "the bridge or the way to it"
    transport_code = 0xF0
    retry = Retry.NOW


class Internal(ProxyFault):
    sentence = "The proxy, or the pluggable transport, has a fault; its log has the details."
    transport_code = 0xF2


class Busy(ProxyFault):
    sentence = "The proxy has too much to do at the moment."


class NoFreshCircuit(Busy):
    sentence = "There is no fresh circuit now: the proxy makes so many in a minute, and no more."


class TorDown(ProxyFault):
    sentence = "There is no tor to carry the connection."
    blame = "tor, behind the proxy"


class NoSuchPort(ProxyFault):
    sentence = "Tor has no SocksPort with the flags that this connection needs."
    blame = "tor, behind the proxy"


class ProxyUnreachable(ProxyFault):
    sentence = "The proxy could not be reached, or did not answer."


class ProxyBroken(ProxyFault):
    sentence = "The proxy broke the protocol, or closed the connection without an answer."


class LoginRefused(ProxyFault):
    sentence = "The proxy refused the login: it wants other credentials, or another method."
    blame = "the login"
    retry = Retry.NEVER


class LoginRequired(LoginRefused):
    sentence = "The proxy wants a login, and none was given."


class ArgumentsRefused(ProxyFault):
    sentence = "The proxy has no extended authentication, or did not accept what was sent by it."
    blame = "the pairs, or the proxy"
    retry = Retry.NEVER


class NotIsolated(ProxyFault):
    sentence = "The proxy cannot keep this connection apart from others, so it was not made."
    retry = Retry.NEVER
