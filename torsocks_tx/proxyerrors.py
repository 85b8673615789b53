"""What can go wrong between a client and its SOCKS server, on top of what ``errors`` has.

To a client behind us all of these are general failures.
"""

from __future__ import annotations

from torsocks_tx.errors import GeneralFailure, Retry


class ProxyBroken(GeneralFailure):
    """The SOCKS server broke the protocol, or closed the connection without an answer."""


class LoginRefused(GeneralFailure):
    """The SOCKS server does not let us in: it wants other credentials, or another method."""

    retry = Retry.NEVER


class ArgumentsRefused(GeneralFailure):
    """The SOCKS server does not accept what was said by method 0x97, or cannot be told."""

    retry = Retry.NEVER


class NotIsolated(GeneralFailure):
    """The SOCKS server cannot keep this connection apart from others, so it was not made."""

    retry = Retry.NEVER
