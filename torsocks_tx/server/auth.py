"""Real authentication by ``twisted.cred`` checkers, such as ``--auth file:/path`` makes."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from torsocks_tx.socks.messages import Credentials


@implementer(IUsernamePassword)
class ConstantTimePassword:
    """The credentials of a client, compared in a time that does not depend on what is equal."""

    def __init__(self, credentials: Credentials) -> None:
        self.username = credentials.username
        self.password = credentials.password

    def checkPassword(self, password: Any) -> bool:
        """Whether this is the password, given as text or bytes."""
        known = password.encode("utf-8") if isinstance(password, str) else bytes(password)
        return hmac.compare_digest(known, self.password)


class CredAuthenticator:
    """Asks the checkers in turn; who is accepted by one is known by the name that it gives."""

    def __init__(self, checkers: Sequence[ICredentialsChecker]) -> None:
        self._checkers = tuple(checkers)

    def __call__(self, credentials: Credentials) -> Deferred[bytes | None]:
        """Fire with the user's name, or None if no checker accepts the credentials."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Credentials) -> bytes | None:
        wrapped = ConstantTimePassword(credentials)
        for checker in self._checkers:
            try:
                avatar = await maybeDeferred(checker.requestAvatarId, wrapped)
            except UnauthorizedLogin:
                continue
            return avatar if isinstance(avatar, bytes) else str(avatar).encode("utf-8")
        return None
