"""What a client gets in place of a connection, and what a failed attempt to connect means."""

from __future__ import annotations

import errno

from twisted.internet import error
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.errors import (
    ConnectionRefused,
    GeneralFailure,
    HostUnreachable,
    NetworkUnreachable,
    Refused,
    Retry,
    TimedOut,
    without_text,
)
from torsocks_tx.socks.messages import NO_PAIRS, KeyValues

_log = Logger()


class SOCKSError(error.ConnectError):
    """A SOCKS server was reached, and the connection or the look-up failed.

    Attributes:
        reason: a ``Refused`` of ``torsocks_tx.errors``; its class is the meaning.
        code: the REP byte of the reply (SOCKS4: its second byte), None if there was no reply.
        status: the STATUS byte that answered credentials or pairs with a refusal, else None.
        pairs: what the server said by method X'97'.
    """

    def __init__(
        self,
        reason: Refused,
        code: int | None = None,
        status: int | None = None,
        pairs: KeyValues = NO_PAIRS,
    ) -> None:
        super().__init__()
        self.reason = reason
        self.code = code
        self.status = status
        self.pairs = pairs

    @property
    def sentence(self) -> str:
        """What happened, in a sentence for a person."""
        return self.reason.sentence

    @property
    def retry(self) -> Retry:
        """Whether to try again at once, later, or never."""
        return self.reason.retry

    def __str__(self) -> str:
        if self.code is not None:
            return f"{self.sentence} (reply {self.code:02X})"
        if self.status is not None:
            return f"{self.sentence} (status {self.status:02X})"
        return self.sentence


_BY_ERRNO: dict[int, type[Refused]] = {
    errno.ECONNREFUSED: ConnectionRefused,
    errno.ECONNRESET: ConnectionRefused,
    errno.ENETUNREACH: NetworkUnreachable,
    errno.EHOSTUNREACH: HostUnreachable,
    errno.ETIMEDOUT: TimedOut,
}
_BY_EXCEPTION: tuple[tuple[type[BaseException], type[Refused]], ...] = (
    (error.ConnectionRefusedError, ConnectionRefused),
    (error.TimeoutError, TimedOut),
    (error.DNSLookupError, HostUnreachable),
    (error.UnknownHostError, HostUnreachable),
    (error.NoRouteError, NetworkUnreachable),
)


def log_fault(failure: Failure) -> Failure:
    """Log an unexpected failure of ours to prepare a connection; an errback that passes it on."""
    if failure.check(Refused, CancelledError) is None:
        text = "a fault while preparing a connection; the client is refused"
        _log.failure(text, without_text(failure))
    return failure


def refused_by(failure: Failure) -> Refused:
    """The ``Refused`` for a failed attempt; it names the kind of error, not the destination."""
    reason = failure.value
    if isinstance(reason, Refused):
        return reason
    if isinstance(reason, SOCKSError):
        # A chain of SOCKS servers: the first hears what the last has said.
        return reason.reason
    name = type(reason).__name__
    for exception, kind in _BY_EXCEPTION:
        if isinstance(reason, exception):
            return kind(name)
    number = reason.osError if isinstance(reason, error.ConnectError) else None
    if isinstance(reason, OSError):
        number = reason.errno
    return _BY_ERRNO.get(number or 0, GeneralFailure)(name)
