"""Connecting and authenticating to tor's control port (control-spec 3.5, 3.24).

A stranger may answer at the address while tor is down. So a cookie is never sent: SAFECOOKIE has
the other side prove that it knows the cookie, and the cookie must be in a file that only tor, root
or this user can have written. Four commands are sent, where ``txtorcon.connect`` sends hundreds; a
filter may refuse any of them.
"""

from __future__ import annotations

import grp
import hmac
import os
import pwd
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from torsocks_tx.backends.tor import commands
from torsocks_tx.backends.tor.commands import UNRECOGNIZED
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost, TorLog
from torsocks_tx.backends.tor.events import EventError, parse_event, path_of, printable
from torsocks_tx.backends.tor.files import UntrustedFile, read_trusted
from torsocks_tx.backends.tor.waiting import limit

if TYPE_CHECKING:
    from torsocks_tx.backends.tor.control_protocol import ControlProtocol

CONNECT_TIMEOUT = 10.0
"""Seconds from the first packet to the end of the authentication."""

TOR_USERS = ("debian-tor", "tor", "_tor", "toranon")
"""Users as whom tor runs on Debian, Arch and Alpine, BSD and macOS, Fedora."""

_COOKIE_LENGTH = 32
_BAD_AUTHENTICATION = 515
_DEBIAN_GROUP = "debian-tor"
_TOR_PROVES = b"Tor safe cookie authentication server-to-controller hash"
_WE_PROVE = b"Tor safe cookie authentication controller-to-server hash"


class ControlUnavailable(ControlError):
    """The control port cannot be used now; a later try may succeed."""

    def __init__(self, text: str) -> None:
        super().__init__(0, text)


class ControlRefused(ControlUnavailable):
    """The control port cannot be used until somebody fixes what the text says."""


async def connect(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    *,
    password: str | None = None,
    proof: bool = False,
    name: str = "tor's control port",
    log: TorLog | None = None,
) -> Control:
    """Connect and authenticate to the control port of a running tor.

    ``password``: for a tor with HashedControlPassword. ``proof``: require a proof that the other
    side knows tor's cookie. ``name``: what error messages call the control port. ``log``: see
    ``Control``. Whatever goes wrong is a ``ControlUnavailable``.
    """
    authentication = _Authentication(name, password, proof)
    opening = Deferred.fromCoroutine(authentication.open(reactor, endpoint, log or TorLog()))
    try:
        return await limit(opening, CONNECT_TIMEOUT, reactor)
    except TimeoutError:
        raise ControlUnavailable(f"{name} did not answer within {CONNECT_TIMEOUT:g} s") from None
    except (CancelledError, ConnectingCancelledError):
        raise CancelledError from None


async def _or_refused(answer: Awaitable[str]) -> str | None:
    """Return an answer, or None where a filter does not let the command pass."""
    try:
        return await answer
    except ControlError as error:
        if error.code != UNRECOGNIZED:
            raise
        return None


class _Authentication:
    """Makes one control connection, and authenticates over it."""

    _control: Control

    def __init__(self, name: str, password: str | None, proof: bool) -> None:
        self._name = name
        self._password = password
        self._proof = proof
        self._fault = ""
        self._version = ""  # tor's, as PROTOCOLINFO has told it

    async def open(
        self, reactor: IReactorTime, endpoint: IStreamClientEndpoint, log: TorLog
    ) -> Control:
        """Return a connection over which commands may be sent."""
        # txtorcon installs the reactor when it is imported: only now is one surely chosen.
        from torsocks_tx.backends.tor.control_protocol import ControlProtocol

        factory = Factory.forProtocol(partial(ControlProtocol, log))
        factory.noisy = False
        try:
            protocol: ControlProtocol = await endpoint.connect(factory)  # type: ignore[assignment]
        except (CancelledError, ConnectingCancelledError):
            raise
        except Exception as error:
            raise ControlUnavailable(_explain_unreachable(self._name, error)) from None
        control = self._control = Control(protocol, reactor, ours=True, log=log)
        try:
            control.is_proven = await self._authenticate()
            version = await _or_refused(control.get_info(commands.VERSION.key()))
            protocol.introduce(self._version if version is None else version)
        except BaseException as error:
            control.close()
            if isinstance(error, ControlError | EventError):
                raise _explain(self._name, protocol, error) from None
            raise
        return control

    async def _authenticate(self) -> bool:
        """Authenticate; return whether the other side has proved to know tor's cookie."""
        words = await self._ask_methods()
        methods = words["METHODS"].split(",")
        cookie = self._read_cookie(words) if "SAFECOOKIE" in methods else None
        if cookie is not None:
            if await self._prove(cookie):
                return True
            methods.append("NULL")  # so it is not tor who answers, but a filter before it
        line, refusal = self._without_proof(methods)
        await self._send(line, refusal)
        return False

    async def _ask_methods(self) -> Mapping[str, str]:
        answer = await _or_refused(self._control.command(commands.PROTOCOLINFO.line()))
        if answer is None:
            return {"METHODS": "NULL" if self._password is None else "HASHEDPASSWORD"}
        lines = dict(line.split(" ", 1) for line in answer.splitlines() if " " in line)
        self._version = parse_event(lines.get("VERSION", "")).keywords.get("Tor", "")
        words = parse_event(lines.get("AUTH", "")).keywords
        if "METHODS" not in words:
            raise EventError("no AUTH line in the answer to PROTOCOLINFO")
        return words

    def _read_cookie(self, words: Mapping[str, str]) -> bytes | None:
        """Return tor's cookie, or None and why not in ``_fault``."""
        if "COOKIEFILE" not in words:
            self._fault = f"{self._name} does not tell where its authentication cookie is"
            return None
        path = path_of(words["COOKIEFILE"])
        trouble = f"tor's authentication cookie {printable(path)}"
        try:
            cookie = read_trusted(path, _COOKIE_LENGTH + 1, self._users_of_tor())
        except UntrustedFile as error:
            self._fault = (
                f"{trouble} is not taken ({error.strerror}): whoever answers may not be tor; give"
                " the path of tor's ControlSocket, or a password (HashedControlPassword)"
            )
        except OSError as error:
            self._fault = f"{trouble} {_explain_unreadable(path, error)}"
        else:
            if len(cookie) == _COOKIE_LENGTH:
                return cookie
            self._fault = f"{trouble} is not {_COOKIE_LENGTH} bytes"
        return None

    def _users_of_tor(self) -> set[int]:
        """Return the ids of users that tor may run as; its ControlSocket belongs to its user."""
        users = {user.pw_uid for user in map(_find_user, TOR_USERS) if user is not None}
        socket = self._control.peer_path
        if socket is not None:
            users.add(os.stat(socket).st_uid)
        return users

    async def _prove(self, cookie: bytes) -> bool:
        """Have the other side prove that it knows the cookie, then prove the same.

        Return whether that was possible; a filter may refuse it.
        """
        nonce = os.urandom(32)
        challenge = commands.AUTHCHALLENGE.line(nonce=nonce.hex())
        answer = await _or_refused(self._control.command(challenge))
        if answer is None:
            return False
        words = parse_event(answer).keywords
        try:
            proof, theirs = (bytes.fromhex(words[key]) for key in ("SERVERHASH", "SERVERNONCE"))
        except (KeyError, ValueError):
            raise EventError("not an answer to AUTHCHALLENGE") from None
        both = cookie + nonce + theirs
        refusal = f"{self._name} does not know the cookie that it names: is it another tor's?"
        if not hmac.compare_digest(hmac.digest(_TOR_PROVES, both, "sha256"), proof):
            raise ControlRefused(refusal)
        ours = hmac.digest(_WE_PROVE, both, "sha256")
        await self._send(commands.AUTHENTICATE.line(secret=ours.hex()), refusal)
        return True

    def _without_proof(self, methods: list[str]) -> tuple[str, str]:
        """Return the command to authenticate without a cookie, and the message if it is refused."""
        name = self._name
        if self._proof:
            raise ControlRefused(
                f"{name} does not prove any more that it is tor"
                f" ({self._fault or 'it offers no SAFECOOKIE'}): if tor's authentication was"
                " changed, start this program again"
            )
        if self._password is not None and "HASHEDPASSWORD" in methods:
            return (
                commands.AUTHENTICATE.line(secret=self._password.encode().hex()),
                f"{name} does not accept the password: give the one whose hash is the"
                " HashedControlPassword of tor's torrc",
            )
        if self._fault:
            raise ControlRefused(self._fault)
        if "NULL" in methods and self._password is None:
            refusal = f"{name} cannot be authenticated to: it takes nobody"
            return commands.AUTHENTICATE.line(secret=""), refusal
        raise ControlRefused(f"{name} {self._explain_methods(methods)}")

    def _explain_methods(self, methods: list[str]) -> str:
        if "NULL" in methods:
            return (
                "does not ask for the password, so that whoever answers may not be tor: set"
                " HashedControlPassword in tor's torrc, or give no password"
            )
        if "HASHEDPASSWORD" in methods:
            return (
                "wants a password (HashedControlPassword): give it, or set"
                " CookieAuthentication 1 in tor's torrc"
            )
        return (
            f"cannot be authenticated to: it offers {printable(','.join(methods))}, and a cookie"
            " is never sent to whoever asks for it (no SAFECOOKIE)"
        )

    async def _send(self, line: str, refusal: str) -> None:
        try:
            await _or_refused(self._control.command(line))
        except ControlError as error:
            if error.code == _BAD_AUTHENTICATION:
                raise ControlRefused(refusal) from None
            raise


def _find_user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _explain(
    name: str, protocol: ControlProtocol, error: ControlError | EventError
) -> ControlUnavailable:
    """Return an error that says why this connection cannot be used."""
    if isinstance(error, ControlUnavailable):
        return error
    if protocol.is_nonsense or isinstance(error, EventError):
        return ControlRefused(
            f"{name} does not speak tor's control protocol: give tor's ControlPort or ControlSocket"
            " (to --tor; its SocksPort is for --tor-socks)"
        )
    if isinstance(error, ControlLost):
        return ControlUnavailable(f"{name} closed the connection before it was made")
    return ControlRefused(f"{name} answered with an error: {error}")


def _explain_unreachable(name: str, error: Exception) -> str:
    number = error.osError if isinstance(error, ConnectError) else getattr(error, "errno", None)
    reason = os.strerror(number) if isinstance(number, int) else str(error)
    return (
        f"{name} cannot be reached ({reason}): tor must run, have this ControlPort or"
        " ControlSocket in its torrc, and let this user in"
    )


def _explain_unreadable(path: str, error: OSError) -> str:
    hint = "run where tor's files can be seen"
    if isinstance(error, PermissionError):
        hint = f"join the group {_group_of(path)}"
    return (
        f"cannot be read ({error.strerror}): {hint},"
        " or set HashedControlPassword in tor's torrc and give the password"
    )


def _group_of(path: str) -> str:
    """Return the group that may read the file, or the one that Debian uses."""
    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return _DEBIAN_GROUP
