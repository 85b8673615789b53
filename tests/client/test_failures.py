"""What a failed attempt to connect means."""

from __future__ import annotations

import errno

import pytest
from twisted.internet import error as twisted_error
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from torsocks_tx.client.failures import destination_failed, proxy_failed
from torsocks_tx.errors import (
    ConnectionRefused,
    GeneralFailure,
    HostUnreachable,
    NetworkUnreachable,
    ProxyUnreachable,
    SOCKSError,
    TimedOut,
)

MEANINGS = [
    (twisted_error.getConnectError((errno.ECONNREFUSED, "x")), ConnectionRefused),
    (twisted_error.getConnectError((errno.ETIMEDOUT, "x")), TimedOut),
    (twisted_error.getConnectError((errno.ENETUNREACH, "x")), NetworkUnreachable),
    (twisted_error.getConnectError((errno.EHOSTUNREACH, "x")), HostUnreachable),
    (twisted_error.getConnectError((errno.ECONNRESET, "x")), ConnectionRefused),
    (twisted_error.getConnectError((errno.EMFILE, "x")), GeneralFailure),
    (twisted_error.TimeoutError(), TimedOut),
    (twisted_error.DNSLookupError("canary"), HostUnreachable),
    (twisted_error.UnknownHostError("canary"), HostUnreachable),
    (twisted_error.ConnectBindError(errno.EMFILE, "x"), GeneralFailure),
    (twisted_error.ConnectionLost(), GeneralFailure),
    (FileNotFoundError(errno.ENOENT, "canary"), GeneralFailure),
    (OSError(errno.EHOSTUNREACH, "x"), HostUnreachable),
    (CancelledError(), GeneralFailure),
    (RuntimeError("canary"), GeneralFailure),
]


@pytest.mark.parametrize(("reason", "kind"), MEANINGS, ids=lambda value: repr(value)[:40])
def test_what_a_failed_attempt_to_connect_means(reason: Exception, kind: type[SOCKSError]) -> None:
    failed = destination_failed(Failure(reason))
    assert type(failed) is kind
    # Only the kind of error is told: its text may hold the destination.
    assert failed.detail == type(reason).__name__


def test_a_failure_that_is_understood_stays_what_it_is() -> None:
    reason = HostUnreachable("as it was")
    assert destination_failed(Failure(reason)) is reason


@pytest.mark.parametrize("reason", [twisted_error.ConnectionRefusedError(), HostUnreachable("x")])
def test_a_proxy_that_cannot_be_reached_is_to_blame(reason: Exception) -> None:
    failed = proxy_failed(Failure(reason))
    assert type(failed) is ProxyUnreachable
    assert failed.detail == type(reason).__name__
    assert failed.__cause__ is reason
