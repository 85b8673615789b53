"""What a client is told when a SOCKS server refuses."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectError

from tests.support.rows import rows
from torsocks_tx.client.failures import SOCKSError
from torsocks_tx.errors import InvalidBridge, Retry, Temporary, TimedOut
from torsocks_tx.proxyerrors import ArgumentsRefused, LoginRefused, NotIsolated, ProxyBroken
from torsocks_tx.socks.messages import KeyValues


def test_it_is_a_connect_error_with_all_that_is_known() -> None:
    pairs = KeyValues.of({"UNSUPPORTED": b"A"})
    error = SOCKSError(ArgumentsRefused("x"), None, 2, pairs)
    assert isinstance(error, ConnectError)
    assert (error.code, error.status, error.pairs) == (None, 2, pairs)
    assert type(error.reason) is ArgumentsRefused


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            SOCKSError(TimedOut("secret"), 6),
            "The connection was not made in time. (reply 06)",
        ),
        (
            SOCKSError(LoginRefused("secret"), status=1),
            "The SOCKS server does not let us in: it wants other credentials, or another method."
            " (status 01)",
        ),
        (
            SOCKSError(ProxyBroken("secret")),
            "The SOCKS server broke the protocol, or closed the connection without an answer.",
        ),
    ],
)
def test_sentences(error: SOCKSError, text: str) -> None:
    assert str(error) == text
    assert text.startswith(error.sentence)


@rows("P-34")
def test_advice() -> None:
    assert SOCKSError(Temporary("x")).retry is Retry.NOW
    assert SOCKSError(TimedOut("x")).retry is Retry.LATER
    for kind in (InvalidBridge, LoginRefused, ArgumentsRefused, NotIsolated):
        assert SOCKSError(kind("x")).retry is Retry.NEVER
