"""Opening a control connection of our own, and saying in one sentence why it could not be.

txtorcon's light path: seven commands, where ``txtorcon.connect`` sends hundreds. Authentication is
by cookie, safe cookie, password or none, as tor asks (control-spec 3.5, 3.24). It never retries.
"""

from __future__ import annotations

import grp
import os
import re
from enum import Enum
from typing import NoReturn

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from txtorcon.torcontrolprotocol import (
    TorControlProtocol,
    TorDisconnectError,
    TorProtocolError,
    TorProtocolFactory,
)

from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.paths import path_of, printable

CONNECT_TIMEOUT = 10.0
"""Seconds from the first packet to the end of the authentication."""

_TEMPORARY = re.compile(rb"4\d\d ")
_COOKIE_LENGTH = 32
_BAD_AUTHENTICATION = 515
_DEBIAN_GROUP = "debian-tor"


class ControlUnavailable(ControlError):
    """There is no control connection to be had now; it may come by itself."""

    def __init__(self, text: str) -> None:
        super().__init__(0, text)


class ControlRefused(ControlUnavailable):
    """There is no control connection to be had until somebody mends what the text says."""


async def connect(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    *,
    password: str | None = None,
    timeout: float = CONNECT_TIMEOUT,
    name: str = "tor's control port",
) -> Control:
    """Connect and authenticate to the control port of a running tor.

    ``name`` is how errors call it. Whatever goes wrong is a ``ControlUnavailable``.
    """
    factory = _GuardedFactory(password, name)
    opening = Deferred.fromCoroutine(_open(endpoint, factory))
    try:
        protocol = await opening.addTimeout(timeout, reactor, factory.too_slow)
    except (CancelledError, ConnectingCancelledError):
        raise CancelledError from None
    except Exception as error:
        raise factory.explain(error) from None
    return Control(protocol, reactor, ours=True)


async def _open(endpoint: IStreamClientEndpoint, factory: _GuardedFactory) -> _GuardedProtocol:
    protocol: _GuardedProtocol = await endpoint.connect(factory)  # type: ignore[assignment]
    try:
        await protocol.post_bootstrap
    except BaseException:
        protocol.transport.abortConnection()
        raise
    return protocol


class _Stage(Enum):
    """How far the conversation came; for most of them, what is wrong if it went no further."""

    GREETED = "{name} cannot be authenticated to: {error}"
    COOKIE_READ = "{name} does not accept the cookie: is it another tor's?"
    COOKIE_UNREADABLE = "{cookie_fault}"
    PASSWORD_GIVEN = (
        "{name} does not accept the password: give the one whose hash is the"
        " HashedControlPassword of tor's torrc"
    )
    PASSWORD_MISSING = (
        "{name} wants a password (HashedControlPassword): give it, or set"
        " CookieAuthentication 1 in tor's torrc"
    )
    NONSENSE_HEARD = "{name} is not a control port of tor: give tor's ControlPort or ControlSocket"


class _GuardedProtocol(TorControlProtocol):  # type: ignore[misc]
    """txtorcon's protocol; what it cannot read ends the connection, never the reactor's calm."""

    _log = Logger()
    MAX_LENGTH = 2**20  # the length of a line; txtorcon 22 has 16 KiB, tor itself 1 MiB

    def __init__(self, password: str | None) -> None:
        super().__init__(self._give_password)
        self.on_disconnect = None  # deprecated; txtorcon 26 would warn about it at each loss
        self.stage = _Stage.GREETED
        self.cookie_fault = ""
        self._password = password

    def lineReceived(self, line: bytes) -> None:
        if _TEMPORARY.match(line) and self.command is not None and not self.response:
            line = b"5" + line[1:]  # such as 451, no room: txtorcon knows no such answers
        try:
            super().lineReceived(line)
        except Exception:
            self.stage = _Stage.NONSENSE_HEARD
            self._log.debug("a line on the control connection is no control reply")
            self.transport.abortConnection()

    def _read_cookie(self, path: str) -> None:
        # txtorcon calls this, falls back to the password if it may, and leaves the file open.
        self.stage = _Stage.COOKIE_UNREADABLE
        path = path_of(path)
        try:
            with open(path, "rb") as cookie:
                self._cookie_data = cookie.read(_COOKIE_LENGTH + 1)
        except OSError as error:
            self.cookie_fault = _explain_cookie(path, error)
            raise
        if len(self._cookie_data) != _COOKIE_LENGTH:
            self.cookie_fault = (
                f"tor's authentication cookie {printable(path)} is not {_COOKIE_LENGTH} bytes"
            )
            raise RuntimeError(self.cookie_fault)
        self.stage = _Stage.COOKIE_READ

    def _give_password(self) -> str:
        # txtorcon calls this where a password is the only way left.
        if self._password is not None:
            self.stage = _Stage.PASSWORD_GIVEN
        elif self.stage is _Stage.GREETED:
            self.stage = _Stage.PASSWORD_MISSING
        return self._password or ""


class _GuardedFactory(TorProtocolFactory):  # type: ignore[misc]
    """Makes the one protocol, and knows why it did not come to be."""

    def __init__(self, password: str | None, name: str) -> None:
        super().__init__()
        self._password = password
        self._name = name
        self._protocol: _GuardedProtocol | None = None

    def buildProtocol(self, addr: object) -> _GuardedProtocol:
        self._protocol = _GuardedProtocol(self._password)
        self._protocol.factory = self
        return self._protocol

    def too_slow(self, _: object, timeout: float) -> NoReturn:
        """Say that the time is over, whatever came of cancelling."""
        raise ControlUnavailable(f"{self._name} did not answer within {timeout:g} s")

    def explain(self, error: Exception) -> ControlUnavailable:
        """Make an error for a person of what connecting or authenticating raised."""
        name, protocol = self._name, self._protocol
        if isinstance(error, ControlUnavailable):
            return error
        if protocol is None:
            return _explain_unreachable(name, error)
        stage = protocol.stage
        if isinstance(error, TorDisconnectError) and stage is not _Stage.NONSENSE_HEARD:
            return ControlUnavailable(f"{name} closed the connection before it was made")
        if isinstance(error, TorProtocolError) and error.code != _BAD_AUTHENTICATION:
            return ControlRefused(f"{name} answered with an error: {error}")
        return ControlRefused(
            stage.value.format(name=name, error=error, cookie_fault=protocol.cookie_fault)
        )


def _explain_unreachable(name: str, error: Exception) -> ControlUnavailable:
    number = error.osError if isinstance(error, ConnectError) else getattr(error, "errno", None)
    reason = os.strerror(number) if isinstance(number, int) else str(error)
    return ControlUnavailable(
        f"{name} cannot be reached ({reason}): tor must run, have this ControlPort or"
        " ControlSocket in its torrc, and let this user in"
    )


def _explain_cookie(path: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        mend = f"join the group {_group_of(path)}"
    else:
        mend = "run where tor's files can be seen"
    return (
        f"tor's authentication cookie {printable(path)} cannot be read ({error.strerror}): {mend},"
        " or set HashedControlPassword in tor's torrc and give the password"
    )


def _group_of(path: str) -> str:
    """Return the group that may read the file, or the one that Debian uses."""
    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return _DEBIAN_GROUP
