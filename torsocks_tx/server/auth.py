"""Checking of user names and passwords, with delays for addresses that guess them."""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NoReturn, TypeGuard

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from torsocks_tx.backends.endpoint import run_if_coroutine
from torsocks_tx.backends.tor.events import printable
from torsocks_tx.limits import check_arguments
from torsocks_tx.server.connections import RareWarning
from torsocks_tx.socks.messages import Credentials

Authenticator = Callable[[Credentials], Awaitable[bytes | None] | bytes | None]
"""Checks credentials: the answer is the user's name, or None for a refusal.

It may come later, by a Deferred or a coroutine. Bytes that are not empty are a name; any other
answer than these, such as True, is a mistake of the authenticator, and refuses the client.
"""

FIRST_DELAY, LONGEST_DELAY = 0.25, 4.0
"""Seconds that an address must wait after its first refused login, and at most after many."""

FORGOTTEN_AFTER = 600.0
"""Seconds without a refused login, after which the delay of an address starts again."""

MOST_ADDRESSES, MOST_WAITING, MOST_ACCEPTED = 4096, 100, 4096
"""Addresses with delays, waiting logins of one address, and accepted logins that are remembered."""

_MISTAKE = (
    "{who} answered a login with a value of the type {{kind}}, where {wanted} is expected (and a"
    " name is not empty): such logins are refused"
)


@implementer(IUsernamePassword, IUsernameHashedPassword)
class ConstantTimePassword:
    """The credentials of a client, compared in a time that does not depend on how much is right."""

    def __init__(self, credentials: Credentials) -> None:
        self.username = credentials.username
        self.password = credentials.password

    def checkPassword(self, password: Any) -> bool:
        """Whether this is the password, given as text or bytes."""
        known = password.encode("utf-8") if isinstance(password, str) else password
        return isinstance(known, bytes) and hmac.compare_digest(known, self.password)


async def _find_user(passwords: Mapping[bytes, bytes], credentials: Any) -> Any:
    """Return the user's name or raise ``UnauthorizedLogin``; an unknown name takes as long."""
    known = passwords.get(credentials.username)
    if not credentials.checkPassword(known or b"") or known is None:
        raise UnauthorizedLogin
    return credentials.username


@implementer(ICredentialsChecker)
class PasswordTable:
    """A checker for a table of names and passwords, in bytes."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, passwords: Mapping[bytes, bytes]) -> None:
        self._passwords = passwords

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Fire with the user's name, or with ``UnauthorizedLogin``."""
        return Deferred.fromCoroutine(_find_user(self._passwords, credentials))


@implementer(ICredentialsChecker)
class PasswordFile:
    """A checker for a file with lines of ``name:password``; the password may hold colons.

    The file is read at the first login and again when it has changed. One that cannot be read now
    is a ``ValueError``; if that comes later, every login is refused meanwhile. Of two lines with
    one name the first counts; a name is not empty.
    """

    credentialInterfaces = (IUsernamePassword,)
    _log = Logger()

    def __init__(self, filename: str | PathLike[str]) -> None:
        check_arguments(str, PathLike, filename=filename)
        self.filename = filename
        self._passwords: Mapping[bytes, bytes] = {}
        self._state: object = None
        try:
            open(filename, "rb").close()
        except OSError as error:
            fix = f"make it, with lines of name:password, for uid {os.geteuid()} to read"
            raise ValueError(f"{filename}: {error.strerror}; {fix}") from None

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Fire with the user's name, or with ``UnauthorizedLogin``."""
        self._read()
        return Deferred.fromCoroutine(_find_user(self._passwords, credentials))

    def _read(self) -> None:
        try:
            status = os.stat(self.filename)
            state: object = (status.st_mtime_ns, status.st_size, status.st_ino)
            if state != self._state:
                with open(self.filename, "rb") as file:
                    self._passwords = _parse_passwords(file.read())
        except OSError as error:
            self._passwords, state = {}, error.errno
            if state != self._state:
                text = "cannot read the password file {path}: {reason}; nobody can log in"
                self._log.error(
                    text, path=printable(os.fspath(self.filename)), reason=error.strerror
                )
        self._state = state


def _parse_passwords(content: bytes) -> dict[bytes, bytes]:
    passwords: dict[bytes, bytes] = {}
    for line in content.split(b"\n"):
        name, colon, password = line.removesuffix(b"\r").partition(b":")
        if name and colon:
            passwords.setdefault(name, password)
    return passwords


def _file(argument: str) -> ICredentialsChecker:
    if not argument:
        raise ValueError("write file:/path, a file with lines of name:password")
    return PasswordFile(argument)


def _memory(argument: str) -> ICredentialsChecker:
    name, colon, password = os.fsencode(argument).partition(b":")
    if not (name and colon):
        raise ValueError("write memory:name:password")
    return PasswordTable({name: password})


def _unix(argument: str) -> NoReturn:
    raise ValueError(
        "SOCKS sends passwords in the clear, so those of this machine's accounts are not taken;"
        " write file:/path"
    )


OWN_CHECKERS: Mapping[str, Callable[[str], ICredentialsChecker]] = {
    "file": _file,
    "memory": _memory,
    "unix": _unix,
}
"""Makes the checker of each kind of ``--auth``; ValueError says how to fix its argument."""

AUTH_TEXT = """What --auth takes; it may be given more than once, and one that agrees is enough:
  file:/path             a file with lines of name:password, read again when it changes
  memory:name:password   one user; others on this machine can see it in the list of processes"""


class CredAuthenticator:
    """Asks checkers in turn; the user's name is the avatar id of the first that accepts.

    They must take ``IUsernamePassword`` or ``IUsernameHashedPassword``. An avatar id that is not a
    name, in bytes or text, is no login: the checker is taken as one that refuses, with a warning.
    """

    _log = Logger()

    def __init__(self, checkers: Sequence[ICredentialsChecker]) -> None:
        check_arguments(list, tuple, checkers=checkers)
        if not checkers:
            raise ValueError("without a checker nobody could log in")
        taken = {IUsernamePassword, IUsernameHashedPassword}
        for checker in checkers:
            is_checker = ICredentialsChecker.providedBy(checker)
            if not is_checker or taken.isdisjoint(checker.credentialInterfaces):
                wanted = "an ICredentialsChecker for IUsernamePassword or IUsernameHashedPassword"
                raise TypeError(f"each checker must be {wanted}, not {type(checker).__name__}")
        self._checkers = tuple(checkers)
        text = _MISTAKE.format(who="a checker", wanted="a name")
        self._warning = RareWarning(self._log, text)

    def __call__(self, credentials: Credentials) -> Deferred[bytes | None]:
        """Fire with the user's name, or None if no checker accepts the credentials."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Credentials) -> bytes | None:
        wrapped = ConstantTimePassword(credentials)
        for checker in self._checkers:
            try:
                asking: Deferred[Any] = maybeDeferred(checker.requestAvatarId, wrapped)
                avatar = await asking.addCallback(run_if_coroutine)
            except UnauthorizedLogin:
                continue
            name = avatar.encode("utf-8") if isinstance(avatar, str) else avatar
            if _is_name(name):
                return name
            self._warning.note(kind=type(avatar).__name__)
        return None


def _is_name(answer: object) -> TypeGuard[bytes]:
    """Whether an answer names the user: no other answer logs anybody in."""
    return isinstance(answer, bytes) and answer != b""


class _Address:
    """An address with refused logins; the next login waits until ``free_at``."""

    def __init__(self) -> None:
        self.refused = 0
        self.free_at = 0.0
        self.waiting = 0
        self.lock = DeferredLock()


class LoginGuard:
    """Asks an authenticator, and slows down addresses whose logins are refused.

    The logins of such an address are checked one at a time, each after a delay that doubles with
    every refusal up to ``LONGEST_DELAY``. Credentials that were right before are checked at once,
    so that users do not wait for others with the same address. If ``MOST_WAITING`` logins of an
    address wait, one more is refused after ``LONGEST_DELAY`` without being checked.
    Whatever is no name of a user is a refusal, and so is an authenticator that fails.
    """

    _log = Logger()

    def __init__(self, authenticator: Authenticator, clock: IReactorTime) -> None:
        check_arguments(Callable, authenticator=authenticator)
        if isinstance(authenticator, type):  # such as CredAuthenticator, without its checkers
            raise TypeError("authenticator must be a function of Credentials, not type")
        self._authenticator = authenticator
        self._clock = clock
        self._secret = os.urandom(32)
        self._addresses: dict[bytes | None, _Address] = {}
        self._accepted: dict[bytes, None] = {}
        text = "logins are refused: {count} since the last such line"
        self._warning = RareWarning(self._log, text, clock.seconds)
        text = _MISTAKE.format(who="the authenticator", wanted="a name in bytes, or None,")
        self._mistake = RareWarning(self._log, text, clock.seconds)

    def check(self, credentials: Credentials, client: bytes | None) -> Deferred[bytes | None]:
        """Fire with the user's name, or None; ``client`` is the ``client_network``."""
        return Deferred.fromCoroutine(self._check(credentials, client))

    async def _check(self, credentials: Credentials, client: bytes | None) -> bytes | None:
        length = len(credentials.username).to_bytes(4, "big")
        message = length + credentials.username + credentials.password
        proof = hmac.digest(self._secret, message, "sha256")
        address = self._addresses.get(client)
        if address is None or proof in self._accepted:
            return await self._ask(credentials, client, proof)
        if address.waiting >= MOST_WAITING:
            self._warning.note()
            await deferLater(self._clock, LONGEST_DELAY)
            return None
        address.waiting += 1
        try:
            async with address.lock:
                pause = address.free_at - self._clock.seconds()
                if pause > 0 and proof not in self._accepted:
                    await deferLater(self._clock, pause)
                return await self._ask(credentials, client, proof)
        finally:
            address.waiting -= 1

    async def _ask(
        self, credentials: Credentials, client: bytes | None, proof: bytes
    ) -> bytes | None:
        try:
            asking: Deferred[Any] = maybeDeferred(self._authenticator, credentials)
            answer = await asking.addCallback(run_if_coroutine)
        except CancelledError:
            raise
        except BaseException:
            # Else what fails for a wrong password could be asked without a delay.
            self._refuse(client, proof)
            raise
        if _is_name(answer):
            _remember(self._accepted, proof, None, MOST_ACCEPTED)
            return answer
        if answer is not None:
            self._mistake.note(kind=type(answer).__name__)
        self._refuse(client, proof)
        return None

    def _refuse(self, client: bytes | None, proof: bytes) -> None:
        self._warning.note()
        self._accepted.pop(proof, None)
        now = self._clock.seconds()
        address = self._addresses.pop(client, None)
        if address is None or now - address.free_at > FORGOTTEN_AFTER:
            address = _Address()
        address.refused += 1
        delay = FIRST_DELAY * 2 ** min(address.refused - 1, 16)
        address.free_at = now + min(delay, LONGEST_DELAY)
        _remember(self._addresses, client, address, MOST_ADDRESSES)


def _remember(table: dict[Any, Any], key: object, value: object, most: int) -> None:
    """Put an entry last into a table, and drop the first if there are too many."""
    table.pop(key, None)
    table[key] = value
    if len(table) > most:
        del table[next(iter(table))]
