"""What a client is told when a SOCKS server refuses, or cannot be reached."""

from __future__ import annotations

import errno

import pytest
from twisted.internet import error as twisted_error
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from tests.support.rows import rows
from torsocks_tx.client.failures import SOCKSError, refused_by
from torsocks_tx.errors import (
    ArgumentsRefused,
    ConnectionRefused,
    GeneralFailure,
    HostUnreachable,
    InvalidBridge,
    LoginRefused,
    NetworkUnreachable,
    NotIsolated,
    ProxyBroken,
    Refused,
    Retry,
    Temporary,
    TimedOut,
)
from torsocks_tx.socks.messages import KeyValues


def test_a_socks_error_is_a_connect_error_with_all_that_is_known() -> None:
    pairs = KeyValues.of({"UNSUPPORTED": b"A"})
    error = SOCKSError(ArgumentsRefused("x"), None, 2, pairs)
    assert isinstance(error, ConnectError)
    assert (error.code, error.status, error.pairs) == (None, 2, pairs)
    assert type(error.reason) is ArgumentsRefused


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SOCKSError(TimedOut("secret"), 6), "The connection was not made in time. (reply 06)"),
        (
            SOCKSError(LoginRefused("secret"), status=1),
            "The SOCKS server refused the login: it wants other credentials, or another method."
            " (status 01)",
        ),
        (
            SOCKSError(ProxyBroken("secret")),
            "The SOCKS server broke the protocol, or closed the connection without an answer.",
        ),
    ],
)
def test_the_text_of_a_socks_error_is_a_sentence_with_the_code(
    error: SOCKSError, text: str
) -> None:
    assert str(error) == text
    assert text.startswith(error.sentence)


@rows("P-34")
def test_a_socks_error_advises_whether_to_try_again() -> None:
    assert SOCKSError(Temporary("x")).retry is Retry.NOW
    assert SOCKSError(TimedOut("x")).retry is Retry.LATER
    for kind in (InvalidBridge, LoginRefused, ArgumentsRefused, NotIsolated):
        assert SOCKSError(kind("x")).retry is Retry.NEVER


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
def test_what_a_failed_attempt_to_connect_means(reason: Exception, kind: type[Refused]) -> None:
    refused = refused_by(Failure(reason))
    assert type(refused) is kind
    # Only the kind of error is told: its text may hold the destination.
    assert str(refused) == type(reason).__name__


def test_a_refusal_stays_what_it_is() -> None:
    reason = HostUnreachable("as it was")
    assert refused_by(Failure(reason)) is reason
