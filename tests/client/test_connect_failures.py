"""What a failed attempt to connect is to a client."""

from __future__ import annotations

import errno

import pytest
from twisted.internet import error
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from torsocks_tx.client.connect_failures import refused_by
from torsocks_tx.errors import (
    ConnectionRefused,
    GeneralFailure,
    HostUnreachable,
    NetworkUnreachable,
    Refused,
    TimedOut,
)

MEANINGS = [
    (error.getConnectError((errno.ECONNREFUSED, "x")), ConnectionRefused),
    (error.getConnectError((errno.ETIMEDOUT, "x")), TimedOut),
    (error.getConnectError((errno.ENETUNREACH, "x")), NetworkUnreachable),
    (error.getConnectError((errno.EHOSTUNREACH, "x")), HostUnreachable),
    (error.getConnectError((errno.ECONNRESET, "x")), ConnectionRefused),
    (error.getConnectError((errno.EMFILE, "x")), GeneralFailure),
    (error.TimeoutError(), TimedOut),
    (error.DNSLookupError("canary"), HostUnreachable),
    (error.UnknownHostError("canary"), HostUnreachable),
    (error.ConnectBindError(errno.EMFILE, "x"), GeneralFailure),
    (error.ConnectionLost(), GeneralFailure),
    (FileNotFoundError(errno.ENOENT, "canary"), GeneralFailure),
    (OSError(errno.EHOSTUNREACH, "x"), HostUnreachable),
    (CancelledError(), GeneralFailure),
    (RuntimeError("canary"), GeneralFailure),
]


@pytest.mark.parametrize(("reason", "kind"), MEANINGS, ids=lambda value: repr(value)[:40])
def test_meanings(reason: Exception, kind: type[Refused]) -> None:
    refused = refused_by(Failure(reason))
    assert type(refused) is kind
    # Only the kind of error is told: its text may hold the destination.
    assert str(refused) == type(reason).__name__


def test_a_refusal_stays_what_it_is() -> None:
    reason = HostUnreachable("as it was")
    assert refused_by(Failure(reason)) is reason
