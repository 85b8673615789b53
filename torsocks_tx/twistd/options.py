"""The options of ``twistd torsocks``, and what they must not be together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin, findCheckerFactories
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.python import usage

from torsocks_tx.limits import RENDEZVOUS_TIMEOUT
from torsocks_tx.server.auth import AUTH_TEXT, OWN_CHECKERS
from torsocks_tx.twistd.listen import (
    DEFAULT,
    INHERITABLE,
    Listener,
    ListenError,
    check_reach,
    parse_listener,
)
from torsocks_tx.twistd.optiontext import (
    DESCRIPTION,
    FLAG_TEXT,
    FLAGS_WITHOUT_VALUE,
    TEXTS,
    WITH_VALUE,
)

_OF_TOR = (
    "tor",
    "tor-socks",
    "tor-password-file",
    "tor-data-directory",
    "tor-binary",
    "onion-auth-dir",
)
_OF_LAUNCHED_TOR = ("tor-data-directory", "tor-binary")


def _seconds(name: str) -> Callable[[str], float]:
    """Reads the seconds of an option: above 0, or 0 too where that means something."""
    least = 0.0 if name in ("idle-timeout", "shutdown-grace") else 0.001

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not least <= number < 1e9:
            raise ValueError(f"--{name} {text!r}: write a number of seconds, such as 30")
        return number

    return read


def _count(name: str) -> Callable[[str], int]:
    """Reads the count of an option, at least 1."""

    def read(text: str) -> int:
        if not (text.isdecimal() and text.isascii() and int(text) >= 1):
            raise ValueError(f"--{name} {text!r}: write a whole number above 0, such as 1000")
        return int(text)

    return read


def _parameter(name: str, default: Any) -> list[Any]:
    """One entry of ``optParameters``; the kind of its value follows from its name."""
    if name.endswith(("-timeout", "-limit", "-grace")):
        return [name, None, default, TEXTS[name], _seconds(name)]
    if name in (
        "early-data",
        "extended-bytes",
        "extended-pairs",
        "max-connections",
        "max-per-client",
        "workers",
    ):
        return [name, None, default, TEXTS[name], _count(name)]
    return [name, None, default, TEXTS[name]]


class Options(usage.Options, AuthOptionMixin):
    """The options; ``postOptions`` checks them against each other."""

    synopsis = "[--listen 'ENDPOINT [FLAG ...]']... [--tor launch|private|ENDPOINT] [option ...]"
    longdesc = DESCRIPTION
    supportedInterfaces = (IUsernamePassword,)
    optParameters = tuple(_parameter(name, default) for name, default in WITH_VALUE)
    optFlags = tuple([name, None, TEXTS[name]] for name in FLAGS_WITHOUT_VALUE)

    def __init__(self) -> None:
        usage.Options.__init__(self)
        self.listeners: list[Listener] = []
        self.tor_options: list[tuple[str, str]] = []
        self.arguments: list[str] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the arguments, and keep them as they are: workers get the same."""
        self.arguments = list(sys.argv[1:] if options is None else options)
        super().parseOptions(self.arguments)

    def opt_listen(self, text: str) -> None:
        """Listen here (may be given more than once): an endpoint, then flags, in one argument."""
        try:
            self.listeners.append(parse_listener(text))
        except ListenError as error:
            raise usage.UsageError(str(error)) from None

    def opt_auth(self, description: str) -> None:
        """Ask for user names and passwords, as file:/path checks them (see --help-auth)."""
        kind, _, argument = description.partition(":")
        try:
            if kind in OWN_CHECKERS:
                self.addChecker(OWN_CHECKERS[kind](argument))
            else:
                super().opt_auth(description)
        except (ValueError, usage.UsageError) as error:
            mend = "--help-auth lists what there is"
            raise usage.UsageError(f"--auth {description!r}: {error}; {mend}") from None

    def opt_help_auth(self) -> None:
        """List what --auth takes."""
        others = [
            f"  {plugin.authType}:{plugin.argStringFormat}"
            for plugin in findCheckerFactories()
            if plugin.authType not in OWN_CHECKERS and self.supportsCheckerFactory(plugin)
        ]
        print("\n".join([AUTH_TEXT, *others]))
        raise SystemExit(0)

    def opt_help_auth_type(self, kind: str) -> None:
        """Describe one kind of --auth."""
        if kind in OWN_CHECKERS:
            self.opt_help_auth()
        super().opt_help_auth_type(kind)

    def opt_tor_option(self, text: str) -> None:
        """A line for the launched tor's torrc, "Name value" (may be given more than once)."""
        name, _, value = text.strip().partition(" ")
        one_line = "\n" not in text and "\r" not in text
        if not (name.replace("_", "").isalnum() and value.strip() and one_line):
            mend = "write a name and a value, such as 'ExitNodes {de}'"
            raise usage.UsageError(f"--tor-option {text!r}: {mend}")
        self.tor_options.append((name, value.strip()))

    def opt_help_flags(self) -> None:
        """List the flags of --listen."""
        print(FLAG_TEXT)
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Check what one option alone cannot tell."""
        if not self.listeners:
            self.listeners.append(parse_listener(DEFAULT))
        self._check_backend()
        self._check_endpoints()
        for checker in self.get("credCheckers") or ():
            _check_password_file(checker)
        for listener in self.listeners:
            if self["workers"] > 1 and listener.kind not in INHERITABLE:
                mend = "workers share plain sockets only: tcp, tcp6, unix or systemd"
                raise usage.UsageError(f"--listen {listener.text!r}: {mend}")
            try:
                check_reach(listener, authenticated=bool(self.get("credCheckers")))
            except ListenError as error:
                raise usage.UsageError(str(error)) from None
        if self["onion-auth-dir"] is not None:
            self._check_key_directory()
        no_control = self["tor-socks"] or self["backend"] == "direct"
        if no_control and self["rendezvous-timeout"] != RENDEZVOUS_TIMEOUT:
            mend = "this needs tor's control port, which says when a service was told"
            raise usage.UsageError(f"--rendezvous-timeout {self['rendezvous-timeout']:g}: {mend}")
        if self["tor-password-file"]:
            self["tor-password"] = _read_password(self["tor-password-file"])

    def _given(self, names: tuple[str, ...]) -> str | None:
        given = [name for name in names if self[name]] + ["tor-option"] * bool(self.tor_options)
        return given[0] if given else None

    def _check_backend(self) -> None:
        if self["backend"] not in ("tor", "direct"):
            raise usage.UsageError(f"--backend {self['backend']!r}: choose tor or direct")
        if self["backend"] == "direct":
            if name := self._given(_OF_TOR):
                raise usage.UsageError(f"--{name} {self._value(name)}: --backend direct has no tor")
        elif self["allow-internal"]:
            raise usage.UsageError("--allow-internal: this needs --backend direct")
        if self["tor"] and self["tor-socks"]:
            mend = "it is for a tor without a control port, so leave --tor out"
            raise usage.UsageError(f"--tor-socks {self['tor-socks']!r}: {mend}")
        launched = (self["tor"] or "launch") == "launch" and not self["tor-socks"]
        if not launched and (name := self._given(_OF_LAUNCHED_TOR)):
            mend = "this needs --tor launch; another tor is not ours to set up"
            raise usage.UsageError(f"--{name} {self._value(name)}: {mend}")
        if self["tor-password-file"] and (launched or self["tor-socks"]):
            mend = "this needs --tor with the control port of a running tor"
            raise usage.UsageError(f"--tor-password-file {self['tor-password-file']!r}: {mend}")

    def _check_key_directory(self) -> None:
        """The files in it are for the log to complain of; without it there is nothing to do."""
        path = self["onion-auth-dir"]
        if self["tor-socks"]:
            mend = "keys are given to tor by its control port: use --tor"
            raise usage.UsageError(f"--onion-auth-dir {path!r}: {mend}")
        try:
            os.listdir(path)
        except OSError as error:
            mend = "name a directory that this user can read"
            raise usage.UsageError(f"--onion-auth-dir {path!r}: {error.strerror}; {mend}") from None

    def _value(self, name: str) -> str:
        return repr(" ".join(self.tor_options[0]) if name == "tor-option" else self[name])

    def _check_endpoints(self) -> None:
        from twisted.internet import reactor

        for listener in self.listeners:
            try:
                serverFromString(reactor, listener.endpoint)
            except Exception as error:
                mend = f"write it as {DEFAULT} or unix:/run/socks"
                raise usage.UsageError(
                    f"--listen {listener.text!r}: {_why(error)}; {mend}"
                ) from None
        for name in ("tor", "tor-socks"):
            text = self[name]
            if not text or (name == "tor" and text in ("launch", "private")):
                continue
            try:
                clientFromString(reactor, text)
            except Exception as error:
                mend = "write it as unix:/run/tor/control or tcp:127.0.0.1:9051"
                raise usage.UsageError(f"--{name} {text!r}: {_why(error)}; {mend}") from None


def _why(error: Exception) -> str:
    """What an endpoint parser of Twisted complains of; some say it by the exception's type."""
    if isinstance(error, IndexError):
        return "there is no such inherited socket"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error).rstrip(".") or type(error).__name__


def _check_password_file(checker: Any) -> None:
    """A file checker reads its file at each login: say at the start if there is none."""
    path = getattr(checker, "filename", None)
    if path is None:
        return
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        mend = "make that file, with lines of user:password"
        raise usage.UsageError(f"--auth 'file:{path}': {error.strerror}; {mend}") from None


def _read_password(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        mend = "name a file that this user can read"
        raise usage.UsageError(f"--tor-password-file {path!r}: {error.strerror}; {mend}") from None
    except UnicodeError:
        mend = "it holds something else than text"
        raise usage.UsageError(f"--tor-password-file {path!r}: {mend}") from None
