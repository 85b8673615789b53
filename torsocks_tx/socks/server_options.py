"""What a listener accepts before the request, and which method it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torsocks_tx.socks.constants import Method, Role, Version
from torsocks_tx.socks.extended import ExtendedRules

BOTH_VERSIONS = frozenset({Version.SOCKS4, Version.SOCKS5})

MOST_ANSWERED = 64


@dataclass(frozen=True, slots=True)
class HandshakeOptions:
    """What a listener accepts before the request.

    ``prefer_no_auth``: method 00 over the others where it is offered. ``require_auth``: only
    methods that carry credentials, and these are checked; SOCKS4 is rejected, since it has none.
    ``extended``: what method X'97' may say; without it that method does not exist here. On a port
    of the ``role`` of a transport credentials are its arguments (``roles``).
    """

    versions: frozenset[Version] = BOTH_VERSIONS
    prefer_no_auth: bool = False
    require_auth: bool = False
    extended: ExtendedRules | None = None
    role: Role = Role.TOR
    answered: dict[bytes, Any] = field(default_factory=dict, compare=False, repr=False)
    """Greetings that came before, and what they led to: at most ``MOST_ANSWERED``."""

    def remember(self, greeting: bytes, outcome: Any) -> None:
        """Keep what a greeting led to, so that the next such client need not be judged."""
        if len(self.answered) < MOST_ANSWERED:
            self.answered[greeting] = outcome

    def select(self, offered: bytes) -> Method:
        """The method that is taken of those that a client offers."""
        wanted = [Method.USERNAME_PASSWORD]
        if self.extended is not None:
            wanted.insert(0, Method.EXTENDED)
        if not self.require_auth:
            wanted.insert(0 if self.prefer_no_auth else len(wanted), Method.NO_AUTH)
        return next((method for method in wanted if method in offered), Method.NONE_ACCEPTABLE)
