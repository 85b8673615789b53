"""The options of ``twistd torsocks``: their defaults, their help, and which exclude each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from twisted.copyright import version as version_of_twisted
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin, findCheckerFactories
from twisted.internet.endpoints import clientFromString
from twisted.python import usage

from torsocks_tx.backends.tor.daemon import TorNotFound, find_tor
from torsocks_tx.backends.tor.files import check_directory
from torsocks_tx.policy.isolation import SECRET_BYTES
from torsocks_tx.policy.listener import ListenerPolicy, flag_help
from torsocks_tx.server.auth import AUTH_TEXT, OWN_CHECKERS, PasswordFile
from torsocks_tx.server.listen import (
    DEFAULT,
    INHERITABLE,
    Listener,
    ListenError,
    absolute_endpoint,
    check_listeners,
    check_reach,
    inherited_endpoints,
    listen_function,
    parse_listener,
    why_wrong,
)
from torsocks_tx.twistd.help import HELP, OPTIONS

_BY_METHOD = ("listen", "auth", "tor", "tor-socks", "tor-option", "version", "status",
              "new-isolation-secret")  # fmt: skip
_KEPT = [o for o in OPTIONS if not (o.name in _BY_METHOD or o.name.startswith("help"))]
"""The options of which only the value is kept; a method takes each of the others."""

_PATHS = ("tor-data-directory", "tor-password-file", "onion-auth-dir", "isolation-secret-file")
_EXAMPLES = {
    "tor": "unix:/run/tor/control or tcp:127.0.0.1:9051",
    "tor-socks": "unix:/run/tor/socks or tcp:127.0.0.1:9050",
}


class Options(usage.Options, AuthOptionMixin):
    """The options; ``postOptions`` checks them against each other."""

    supportedInterfaces = (IUsernamePassword,)
    optParameters = tuple(
        [o.name, None, o.read(o.default) if o.default else None, o.text, o.read]
        for o in _KEPT
        if o.value
    )
    optFlags = tuple([o.name, None, o.text] for o in _KEPT if not o.value)

    def __init__(self, directory: str | None = None) -> None:
        usage.Options.__init__(self)
        self.directory = _working_directory() if directory is None else directory
        """What relative paths are relative to: twistd goes elsewhere when it becomes a daemon."""
        self.listeners: list[Listener] = []
        self["tor"], self["tor-socks"], self["tor-option"] = [], [], []
        self.tor_names: list[str] = []
        """What the tors of a pool are called; by default as they are given by ``--tor``."""
        self.status: Listener | None = None
        self["tor-password"] = self["isolation-secret"] = None
        self.arguments: list[str] = []

    @property
    def command(self) -> str:
        """What this program is called."""
        return "torsocks-tx" if self.parent is None else "twistd torsocks"

    def getSynopsis(self) -> str:
        """The first line of the help."""
        return f"Usage: {self.command} [OPTION ...]"

    def getUsage(self, width: int | None = None) -> str:
        """The rest of the help."""
        return HELP

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the arguments, and keep them as they are: workers get the same.

        A mistake ends the program with one line, and one on how to get help.
        """
        self.arguments = list(sys.argv[1:] if options is None else options)
        try:
            super().parseOptions(self.arguments)
        except usage.UsageError as error:
            command = self.command
            raise SystemExit(f"{command}: {error}\nTry '{command} --help'.") from None

    def parseArgs(self, *words: str) -> None:
        """Refuse words that belong to no option."""
        if words:
            fix = "write an endpoint and its flags in one argument, in quotes"
            raise usage.UsageError(f"{words[0]!r} belongs to no option; {fix}")

    def opt_listen(self, text: str) -> None:
        """Listen here (may be given more than once): an endpoint, then flags, in one argument."""
        self.listeners.append(self._listener("listen", text))

    def opt_status(self, text: str) -> None:
        """Show here how the server is: an endpoint, in one argument with its flag."""
        self.status = self._listener("status", text)
        if self.status.policy != ListenerPolicy(allow_public=self.status.policy.allow_public):
            _refuse("status", text, "AllowPublic is the only flag that it has")

    def _listener(self, name: str, text: str) -> Listener:
        try:
            return parse_listener(text, self.directory)
        except ListenError as error:
            raise usage.UsageError(f"--{name} {error}") from None

    def opt_auth(self, description: str) -> None:
        """Ask for user names and passwords, as file:/path checks them (see --help-auth)."""
        kind, _, argument = description.partition(":")
        try:
            if kind == "file" and argument:
                self.addChecker(PasswordFile(self._absolute(argument)))
            elif kind in OWN_CHECKERS:
                self.addChecker(OWN_CHECKERS[kind](argument))
            else:
                super().opt_auth(description)
        except (ValueError, usage.UsageError) as error:
            if kind == "file" and argument:
                raise usage.UsageError(f"--auth file:{error}") from None
            _refuse("auth", description, f"{error}; --help-auth lists what there is")

    def opt_help_auth(self) -> NoReturn:
        """List what --auth takes."""
        others = [
            f"  {plugin.authType}:{plugin.argStringFormat}"
            for plugin in findCheckerFactories()
            if plugin.authType not in OWN_CHECKERS and self.supportsCheckerFactory(plugin)
        ]
        print("\n".join([AUTH_TEXT, *others]))
        raise SystemExit(0)

    def opt_help_auth_type(self, _kind: str) -> NoReturn:
        """List what --auth takes."""
        self.opt_help_auth()

    def opt_tor(self, text: str) -> None:
        """A tor to use (may be given more than once for a pool): launch, private or an endpoint."""
        self["tor"] = [*self["tor"], text]

    def opt_tor_socks(self, text: str) -> None:
        """The SocksPort of a tor whose control port is out of reach."""
        self["tor-socks"] = [*self["tor-socks"], text]

    def opt_tor_option(self, text: str) -> None:
        """A line for the launched tor's torrc, "Name value" (may be given more than once)."""
        name, _, value = text.strip().partition(" ")
        one_line = "\n" not in text and "\r" not in text
        if not (name.replace("_", "").isalnum() and value.strip() and one_line):
            _refuse("tor-option", text, "write a name and a value, such as 'ExitNodes {de}'")
        self["tor-option"] = [*self["tor-option"], (name, value.strip())]

    def opt_version(self) -> NoReturn:
        """Say which versions these are."""
        print(f"torsocks_tx {metadata.version('torsocks_tx')}\nTwisted {version_of_twisted}")
        print(_version_of_tor(self["tor-binary"]))
        raise SystemExit(0)

    def opt_new_isolation_secret(self, path: str) -> NoReturn:
        """Write a file for --isolation-secret-file, which must not be there yet."""
        path = self._absolute(path)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(SECRET_BYTES))
        except OSError as error:
            _refuse("new-isolation-secret", path, f"{error.strerror}; choose another name")
        print(f"{path!r}: give each server a copy, by --isolation-secret-file")
        raise SystemExit(0)

    def opt_help_flags(self) -> NoReturn:
        """List the flags of --listen."""
        print(flag_help())
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Check what one option alone cannot tell, and what it names."""
        self.complete()
        if fault := next(self.faults(), None):
            raise usage.UsageError(fault)

    def complete(self) -> None:
        """Fill in the default listeners, and make every path absolute."""
        if not self.listeners:
            from twisted.internet import reactor

            for text in inherited_endpoints(reactor, self.status) or [DEFAULT]:
                self.listeners.append(parse_listener(text))
                self.arguments += ["--listen", text]  # of workers, to whom systemd passes nothing
        for name in _PATHS:
            if self[name]:
                self[name] = self._absolute(self[name])
        if os.sep in (self["tor-binary"] or ""):
            self["tor-binary"] = self._absolute(self["tor-binary"])
        for name in _EXAMPLES:
            self[name] = [absolute_endpoint(text, self.directory) for text in self[name]]

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the options together, and with the files that they name."""
        wrong_choices = list(_faults_of_choices(self))
        yield from wrong_choices
        if wrong_choices:
            return  # what the others mean depends on these
        yield from _faults_together(self)
        yield from _faults_of_listeners(self)
        yield from _faults_of_files(self)
        yield from _read_secrets(self)

    def check_files(self) -> None:
        """Raise ``UsageError`` if the user that this process runs as cannot read what is named."""
        if fault := next(_faults_of_files(self), None):
            raise usage.UsageError(fault)

    def _absolute(self, path: str) -> str:
        path = os.path.expanduser(path)  # which leaves a home that nobody has as it is
        return path if path.startswith("~") else os.path.join(self.directory, path)

    @property
    def upstream(self) -> str:
        """What serves requests: direct, or a tor, which is launch, private, running or socks."""
        if self["backend"] == "direct":
            return "direct"
        if self["tor-socks"]:
            return "socks"
        tor = (self["tor"] or ["launch"])[0]
        return tor if tor in ("launch", "private") else "running"

    @property
    def places(self) -> list[tuple[str, Listener]]:
        """Each listener, and that of the status page, behind the name of its option."""
        status = [] if self.status is None else [("status", self.status)]
        return [*(("listen", each) for each in self.listeners), *status]


def _faults_of_choices(options: Options) -> Iterator[str]:
    """Yield what is wrong with the choice of what serves requests."""
    from twisted.internet import reactor

    if options["backend"] not in ("tor", "direct"):
        yield f"--backend {options['backend']!r}: choose tor or direct"
    for name, examples in _EXAMPLES.items():
        for text in options[name]:
            if name == "tor" and text in ("launch", "private"):
                continue
            try:
                clientFromString(reactor, text)
            except Exception as error:
                yield f"--{name} {text!r}: {why_wrong(error)}; write it as {examples}"
    for text in options["tor-socks"][1:]:
        fix = "only control ports tell which tor of a pool is there: use --tor"
        yield f"--tor-socks {text!r}: {fix}"
    tors = options["tor"]
    for text in dict.fromkeys(tors) if len(tors) > 1 else ():
        if text in ("launch", "private"):
            fix = "to launch a pool of tors use --tors N; other pools are of control ports"
            yield f"--tor {text!r}: {fix}"
        elif tors.count(text) > 1:
            yield f"--tor {text!r}: name each tor of a pool once"


def _faults_together(options: Options) -> Iterator[str]:
    """Yield options that mean nothing, or something else, beside others."""
    upstream = options.upstream
    of_launched = ("tor-data-directory", "tor-binary", "tor-option")
    of_tor = ("tor", "tors", "tor-socks", "tor-password-file", "onion-auth-dir", *of_launched)
    of_control = ("onion-auth-dir", "rendezvous-timeout")
    rules: tuple[tuple[bool, tuple[str, ...], str], ...] = (
        (upstream == "direct", of_tor, "--backend direct has no tor"),
        (upstream != "direct", ("allow-internal",), "this needs --backend direct"),
        (bool(options["tor"]), ("tor-socks",), "this is instead of --tor: leave that out"),
        (upstream != "launch", of_launched, "this needs --tor launch: no other tor is set up"),
        (upstream != "launch", ("tors",), "this is for --tor launch"),
        (upstream != "running", ("tor-password-file",), "this needs --tor ENDPOINT"),
        (upstream in ("direct", "socks"), of_control, "this needs a control port: use --tor"),
    )
    wrong = {
        name: reason
        for is_wrong, names, reason in reversed(rules)
        for name in names
        if is_wrong and options[name] != options.defaults.get(name, [])
    }
    yield from (f"--{name}: {reason}" for name, reason in wrong.items())


def _faults_of_listeners(options: Options) -> Iterator[str]:
    """Yield what is wrong with each listener, or with all of them."""
    from twisted.internet import reactor

    has_users = bool(options.get("credCheckers"))
    good = []
    for name, listener in options.places:
        is_status = name == "status"  # served by the first process, without passwords
        try:
            if listener.policy.chooses_exits and options.upstream in ("direct", "socks"):
                fix = "ExitCountry, ExitNode and ClientParameters need a control port: use --tor"
                raise ListenError(f"{listener.text!r}: {fix}")
            listen_function(reactor, listener)
            if options["workers"] > 1 and listener.kind not in INHERITABLE and not is_status:
                fix = "workers share plain sockets only: tcp, tcp6, unix or systemd"
                raise ListenError(f"{listener.text!r}: {fix}")
            check_reach(listener, authenticated=has_users and not is_status, status=is_status)
            good.append(listener)
        except ListenError as error:
            yield f"--{name} {error}"
    try:
        check_listeners(good, authenticated=has_users)
    except ListenError as error:
        yield f"--listen {error}"


def _faults_of_files(options: Options) -> Iterator[str]:
    """Yield which of the files that are named this user cannot read."""
    if (directory := options["tor-data-directory"] or "").startswith("~"):
        yield f"--tor-data-directory {directory!r}: there is no such home; name another place"
    for checker in options.get("credCheckers") or ():
        if isinstance(checker, PasswordFile):
            try:
                PasswordFile(checker.filename)
            except ValueError as error:
                yield f"--auth file:{error}"
    path = options["onion-auth-dir"]
    # The files in it are for the log to complain of; without it there is nothing to do.
    if path is not None:
        try:
            os.listdir(path)
            check_directory(path)
        except OSError as error:
            fix = f"name a directory that uid {os.geteuid()} can read"
            yield f"--onion-auth-dir {path!r}: {error.strerror}; {fix}"


def _read_secrets(options: Options) -> Iterator[str]:
    """Read the files whose content is kept, or yield why that cannot be."""
    for name, read in (("tor-password", _read_password), ("isolation-secret", _read_secret)):
        path = options[f"{name}-file"]
        try:
            options[name] = read(path) if path else None
        except ValueError as error:
            yield f"--{name}-file {path!r}: {error}"


def _refuse(name: str, value: str, reason: str) -> NoReturn:
    raise usage.UsageError(f"--{name} {value!r}: {reason}") from None


def _read_password(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{error.strerror}; name a file that this user can read") from None
    except UnicodeError:
        raise ValueError("it holds something else than text") from None


def _read_secret(path: str) -> bytes:
    """Return the bytes of a file for the isolation of several servers; it must be private."""
    reason = "make one by --new-isolation-secret"
    try:
        # Without O_NONBLOCK a FIFO in its place would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            state, secret = os.fstat(file.fileno()), file.read(SECRET_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{error.strerror}; {reason}") from None
    if state.st_uid not in (0, os.geteuid()) or state.st_mode & 0o077:
        fix = f"chown it to uid {os.geteuid()}, and chmod it to 600"
        raise ValueError(f"others may read or own it; {fix}")
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"it does not hold {SECRET_BYTES} bytes; {reason}")
    return secret


def _version_of_tor(binary: str | None) -> str:
    """Return what tor says of its version, or why there is none."""
    try:
        command = [find_tor(binary), "--version"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (TorNotFound, OSError, subprocess.SubprocessError) as error:
        return f"no tor: {error}"
    return f"{said.stdout.partition(chr(10))[0].rstrip('.')} ({command[0]})"


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        # It has been removed: a relative path then names nothing anywhere.
        return os.sep
