"""The options of ``twistd torsocks``: their defaults, their help, and which exclude each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin, findCheckerFactories
from twisted.internet.endpoints import clientFromString
from twisted.python import usage

from torsocks_tx.backends.tor.files import check_directory
from torsocks_tx.limits import RENDEZVOUS_TIMEOUT, Limits
from torsocks_tx.policy.listener import flag_help
from torsocks_tx.server.auth import AUTH_TEXT, OWN_CHECKERS, PasswordFile
from torsocks_tx.server.binding import server_endpoint
from torsocks_tx.server.listen import (
    DEFAULT,
    INHERITABLE,
    Listener,
    ListenError,
    absolute_endpoint,
    check_reach,
    parse_listener,
)

DESCRIPTION = """A SOCKS4, SOCKS4a and SOCKS5 server in front of Tor. Without options it launches
a tor of its own and listens at 127.0.0.1:1080. A listener's flags follow its endpoint in the same
argument, as in --listen "tcp:9150:interface=127.0.0.1 ExtendedErrors IsolateDestAddr";
--help-flags lists them."""

SHUTDOWN_GRACE = 5.0

_LIMITS = Limits()

WITH_VALUE: tuple[tuple[str, Any], ...] = (
    ("tor", None),
    ("tor-socks", None),
    ("tor-password-file", None),
    ("tor-data-directory", None),
    ("tor-binary", None),
    ("onion-auth-dir", None),
    ("backend", "tor"),
    ("handshake-timeout", _LIMITS.handshake_timeout),
    ("connect-timeout", _LIMITS.connect_timeout),
    ("onion-timeout", _LIMITS.onion_timeout),
    ("rendezvous-timeout", RENDEZVOUS_TIMEOUT),
    ("idle-timeout", 0.0),
    ("linger-timeout", _LIMITS.linger_timeout),
    ("linger-limit", _LIMITS.linger_limit),
    ("shutdown-grace", SHUTDOWN_GRACE),
    ("early-data", _LIMITS.early_data),
    ("extended-bytes", _LIMITS.extended_bytes),
    ("extended-pairs", _LIMITS.extended_pairs),
    ("max-connections", None),
    ("max-per-client", None),
    ("workers", 1),
)
"""The options that take a value, with their defaults."""

FLAGS_WITHOUT_VALUE = ("allow-internal", "optimistic-data", "debug")

TEXTS = {
    "tor": "launch: a tor of our own (the default). private: a private Tor network on this machine,"
    " for trials. Else the control port of a running tor: unix:/run/tor/control,"
    " tcp:127.0.0.1:9051.",
    "tor-socks": "The SocksPort of a running tor whose control port is out of reach, such as"
    " tcp:127.0.0.1:9050.",
    "tor-password-file": "File with the password of the control port, if it has one.",
    "tor-data-directory": "Where the launched tor keeps its state, its entry guards above all"
    " [default: torsocks_tx/tor in $XDG_STATE_HOME or ~/.local/state; /var/lib/torsocks_tx/tor for"
    " root].",
    "tor-binary": "The tor to launch, if not the one in PATH.",
    "onion-auth-dir": "Directory of client authorization keys for onion services: .auth_private"
    " files as for tor's ClientOnionAuthDir, read again at SIGHUP. Every user of that tor gets in"
    " by them.",
    "backend": "tor, or direct: no Tor at all; internal addresses are refused.",
    "handshake-timeout": "Seconds for a client's whole request.",
    "connect-timeout": "Seconds until a connection is made or a name is looked up.",
    "onion-timeout": "Seconds until a connection to an onion service is made; tor itself gives most"
    " of them up sooner.",
    "rendezvous-timeout": "Seconds that an onion service has to come to the rendezvous point once"
    " it has the request; then clients hear F3.",
    "idle-timeout": "Seconds that an open stream may carry nothing; 0: for ever.",
    "linger-timeout": "Seconds that the destination may be silent after the client closed its"
    " side.",
    "linger-limit": "Seconds that a stream may last in all after the client closed its side.",
    "shutdown-grace": "Seconds that open streams get when the server stops.",
    "early-data": "Bytes taken from a client before its stream is open.",
    "extended-bytes": "Bytes of key-value pairs that a client may send by extended authentication"
    " (method X'97').",
    "extended-pairs": "Key-value pairs that a client may send by extended authentication.",
    "max-connections": "Clients at one time [default: what the descriptor limit allows].",
    "max-per-client": "Clients at one time from one address (of IPv6: one /64 network) [default: a"
    " quarter of --max-connections; for 127.0.0.1 and ::1, which all programs here share, no bound"
    " of their own]. Not for unix sockets, nor behind haproxy:.",
    "workers": "Processes that serve together; listeners, and a tor of our own, are one for all.",
    "allow-internal": "With --backend direct: also reach loopback and private addresses.",
    "optimistic-data": "Send early data before tor's answer even where tor is not known to be C"
    " Tor (Arti closes on it).",
    "debug": "Log a line for each refused request (never its destination).",
}
"""What each option is for."""

_OF_TOR = (
    "tor",
    "tor-socks",
    "tor-password-file",
    "tor-data-directory",
    "tor-binary",
    "onion-auth-dir",
)
_OF_LAUNCHED_TOR = ("tor-data-directory", "tor-binary")
_PATHS = ("tor-data-directory", "tor-password-file", "onion-auth-dir")


def _seconds(name: str) -> Callable[[str], float]:
    """Reads the seconds of an option: above 0, or 0 too where that means something."""
    least = 0.0 if name in ("idle-timeout", "shutdown-grace") else 0.001

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not least <= number < 1e9:
            raise usage.UsageError(f"--{name} {text!r}: write a number of seconds, such as 30")
        return number

    return read


def _count(name: str) -> Callable[[str], int]:
    """Reads the count of an option, at least 1."""

    def read(text: str) -> int:
        if not (text.isdecimal() and text.isascii() and int(text) >= 1):
            fix = "write a whole number above 0, such as 1000"
            raise usage.UsageError(f"--{name} {text!r}: {fix}")
        return int(text)

    return read


def _parameter(name: str, default: Any) -> list[Any]:
    """One entry of ``optParameters``; the kind of its value follows from its name."""
    if name.endswith(("-timeout", "-limit", "-grace")):
        return [name, None, default, TEXTS[name], _seconds(name)]
    if name.startswith(("max-", "extended-")) or name in ("early-data", "workers"):
        return [name, None, default, TEXTS[name], _count(name)]
    return [name, None, default, TEXTS[name]]


class Options(usage.Options, AuthOptionMixin):
    """The options; ``postOptions`` checks them against each other."""

    synopsis = "[--listen 'ENDPOINT [FLAG ...]']... [--tor launch|private|ENDPOINT] [option ...]"
    longdesc = DESCRIPTION
    supportedInterfaces = (IUsernamePassword,)
    optParameters = tuple(_parameter(name, default) for name, default in WITH_VALUE)
    optFlags = tuple([name, None, TEXTS[name]] for name in FLAGS_WITHOUT_VALUE)

    def __init__(self, directory: str | None = None) -> None:
        usage.Options.__init__(self)
        self.directory = _working_directory() if directory is None else directory
        """What relative paths are relative to: twistd goes elsewhere when it becomes a daemon."""
        self.listeners: list[Listener] = []
        self.tor_options: list[tuple[str, str]] = []
        self.arguments: list[str] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the arguments, and keep them as they are: workers get the same."""
        self.arguments = list(sys.argv[1:] if options is None else options)
        try:
            super().parseOptions(self.arguments)
        except usage.UsageError as error:
            # These are getopt's own words.
            fix = "; --help lists the options" if str(error).startswith("option ") else ""
            raise usage.UsageError(f"{error}{fix}") from None

    def parseArgs(self, *words: str) -> None:
        """Refuse words that belong to no option."""
        if words:
            fix = "write an endpoint and its flags in one argument, in quotes"
            raise usage.UsageError(f"{words[0]!r} belongs to no option; {fix}")

    def opt_listen(self, text: str) -> None:
        """Listen here (may be given more than once): an endpoint, then flags, in one argument."""
        try:
            self.listeners.append(parse_listener(text, self.directory))
        except ListenError as error:
            raise usage.UsageError(f"--listen {error}") from None

    def opt_auth(self, description: str) -> None:
        """Ask for user names and passwords, as file:/path checks them (see --help-auth)."""
        kind, _, argument = description.partition(":")
        try:
            if kind == "file" and argument:
                argument = self._absolute(argument)
            if kind in OWN_CHECKERS:
                self.addChecker(OWN_CHECKERS[kind](argument))
            else:
                super().opt_auth(description)
        except (ValueError, usage.UsageError) as error:
            fix = "--help-auth lists what there is"
            raise usage.UsageError(f"--auth {description!r}: {error}; {fix}") from None

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
        try:
            super().opt_help_auth_type(kind)
        except usage.UsageError as error:
            raise usage.UsageError(f"{error}; --help-auth lists what there is") from None

    def opt_tor_option(self, text: str) -> None:
        """A line for the launched tor's torrc, "Name value" (may be given more than once)."""
        name, _, value = text.strip().partition(" ")
        one_line = "\n" not in text and "\r" not in text
        if not (name.replace("_", "").isalnum() and value.strip() and one_line):
            fix = "write a name and a value, such as 'ExitNodes {de}'"
            raise usage.UsageError(f"--tor-option {text!r}: {fix}")
        self.tor_options.append((name, value.strip()))

    def opt_version(self) -> None:
        """Say which version this is."""
        print("torsocks_tx", metadata.version("torsocks_tx"))
        raise SystemExit(0)

    def opt_help_flags(self) -> None:
        """List the flags of --listen."""
        print(flag_help())
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Check what one option alone cannot tell, and what it names."""
        self.complete()
        self._check_backend()
        self._check_endpoints()
        if self["onion-auth-dir"] is not None and self["tor-socks"]:
            fix = "keys are given to tor by its control port: use --tor"
            raise usage.UsageError(f"--onion-auth-dir {self['onion-auth-dir']!r}: {fix}")
        self.check_files()
        for listener in self.listeners:
            if self["workers"] > 1 and listener.kind not in INHERITABLE:
                fix = "workers share plain sockets only: tcp, tcp6, unix or systemd"
                raise usage.UsageError(f"--listen {listener.text!r}: {fix}")
            try:
                check_reach(listener, authenticated=bool(self.get("credCheckers")))
            except ListenError as error:
                raise usage.UsageError(f"--listen {error}") from None
        no_control = self["tor-socks"] or self["backend"] == "direct"
        if no_control and self["rendezvous-timeout"] != RENDEZVOUS_TIMEOUT:
            fix = "this needs tor's control port, which says when a service was told"
            raise usage.UsageError(f"--rendezvous-timeout {self['rendezvous-timeout']:g}: {fix}")
        if self["tor-password-file"]:
            self["tor-password"] = _read_password(self["tor-password-file"])

    def complete(self) -> None:
        """Fill in the default listener, and make every path absolute."""
        if not self.listeners:
            self.listeners.append(parse_listener(DEFAULT))
        for name in _PATHS:
            if self[name]:
                self[name] = self._absolute(self[name])
        if os.sep in (self["tor-binary"] or ""):
            self["tor-binary"] = self._absolute(self["tor-binary"])
        for name in ("tor", "tor-socks"):
            if self[name]:
                self[name] = absolute_endpoint(self[name], self.directory)

    def check_files(self) -> None:
        """Raise ``UsageError`` if the user that this process runs as cannot read what is named."""
        for checker in self.get("credCheckers") or ():
            if isinstance(checker, PasswordFile):
                _check_password_file(checker.filename)
        path = self["onion-auth-dir"]
        # The files in it are for the log to complain of; without it there is nothing to do.
        if path is not None:
            try:
                os.listdir(path)
                check_directory(path)
            except OSError as error:
                fix = f"name a directory that uid {os.geteuid()} can read"
                raise usage.UsageError(
                    f"--onion-auth-dir {path!r}: {error.strerror}; {fix}"
                ) from None

    def _absolute(self, path: str) -> str:
        return os.path.join(self.directory, os.path.expanduser(path))

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
            fix = "it is for a tor without a control port, so leave --tor out"
            raise usage.UsageError(f"--tor-socks {self['tor-socks']!r}: {fix}")
        launched = (self["tor"] or "launch") == "launch" and not self["tor-socks"]
        if not launched and (name := self._given(_OF_LAUNCHED_TOR)):
            fix = "this needs --tor launch; another tor is not ours to set up"
            raise usage.UsageError(f"--{name} {self._value(name)}: {fix}")
        if self["tor-password-file"] and (launched or self["tor-socks"]):
            fix = "this needs --tor with the control port of a running tor"
            raise usage.UsageError(f"--tor-password-file {self['tor-password-file']!r}: {fix}")

    def _value(self, name: str) -> str:
        return repr(" ".join(self.tor_options[0]) if name == "tor-option" else self[name])

    def _check_endpoints(self) -> None:
        from twisted.internet import reactor

        for listener in self.listeners:
            try:
                server_endpoint(reactor, listener.endpoint)
            except Exception as error:
                fix = f"write it as {DEFAULT} or unix:/run/socks"
                raise usage.UsageError(
                    f"--listen {listener.text!r}: {_why(error)}; {fix}"
                ) from None
        for name in ("tor", "tor-socks"):
            text = self[name]
            if not text or (name == "tor" and text in ("launch", "private")):
                continue
            try:
                clientFromString(reactor, text)
            except Exception as error:
                fix = "write it as unix:/run/tor/control or tcp:127.0.0.1:9051"
                raise usage.UsageError(f"--{name} {text!r}: {_why(error)}; {fix}") from None


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        # It has been removed: a relative path then names nothing anywhere.
        return os.sep


def _why(error: Exception) -> str:
    """What an endpoint parser of Twisted complains of; some say it by the exception's type."""
    if isinstance(error, IndexError):
        return "there is no such inherited socket"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error).rstrip(".") or type(error).__name__


def _check_password_file(path: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        fix = f"make that file, with lines of user:password, for uid {os.geteuid()} to read"
        raise usage.UsageError(f"--auth 'file:{path}': {error.strerror}; {fix}") from None


def _read_password(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        fix = "name a file that this user can read"
        raise usage.UsageError(f"--tor-password-file {path!r}: {error.strerror}; {fix}") from None
    except UnicodeError:
        fix = "it holds something else than text"
        raise usage.UsageError(f"--tor-password-file {path!r}: {fix}") from None
