"""What a failed attempt to connect means, to a destination or to a proxy."""

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
    ProxyUnreachable,
    Refused,
    SOCKSError,
    TimedOut,
    without_text,
)

_log = Logger()

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
    if failure.check(SOCKSError, CancelledError) is None:
        text = "a fault while preparing a connection; the client is refused"
        _log.failure(text, without_text(failure))
    return failure


def destination_failed(failure: Failure) -> SOCKSError:
    """Return what it means that the destination cannot be reached; a ``SOCKSError`` stays as it is.

    The detail names the kind of error, since its text may hold the destination.
    """
    reason = failure.value
    if isinstance(reason, SOCKSError):
        return reason
    name = type(reason).__name__
    for exception, kind in _BY_EXCEPTION:
        if isinstance(reason, exception):
            return kind(name)
    number = reason.osError if isinstance(reason, error.ConnectError) else None
    if isinstance(reason, OSError):
        number = reason.errno
    return _BY_ERRNO.get(number or 0, GeneralFailure)(name)


def proxy_failed(failure: Failure) -> SOCKSError:
    """Return what it means that the proxy cannot be reached; the original is the ``__cause__``.

    That is so whatever the failure is: also what another proxy says on the way to this one.
    """
    unreachable = ProxyUnreachable(type(failure.value).__name__)
    unreachable.__cause__ = failure.value
    return unreachable
