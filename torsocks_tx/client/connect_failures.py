"""What a failed connection attempt of Twisted means, as a ``Refused``."""

from __future__ import annotations

import errno

from twisted.internet import error
from twisted.python.failure import Failure

from torsocks_tx.client.failures import SOCKSError
from torsocks_tx.errors import (
    ConnectionRefused,
    GeneralFailure,
    HostUnreachable,
    NetworkUnreachable,
    Refused,
    TimedOut,
)

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
    number = getattr(reason, "osError", None) or getattr(reason, "errno", None)
    return _BY_ERRNO.get(number or 0, GeneralFailure)(name)
