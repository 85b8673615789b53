"""``--check``: judges options, and the files that they name, and starts and writes nothing."""

from __future__ import annotations

import errno
import getopt
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.python import usage

from torsocks_tx.backends.tor.daemon import TorNotFound
from torsocks_tx.backends.tor.files import SYSTEM_DIRECTORY, DirectoryError, name_of_user, numbered
from torsocks_tx.backends.tor.onion.client_auth import load_directory
from torsocks_tx.server.auth import PasswordFile
from torsocks_tx.server.listen import fields_of, inherited_endpoints
from torsocks_tx.twistd import options as plain
from torsocks_tx.twistd.upstream import make_upstream


class Options(plain.Options):
    """The options; with ``--check`` among them all faults are told, and the program ends."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the arguments, or judge them."""
        arguments = list(sys.argv[1:] if options is None else options)
        # Of every option its beginning will do, and no other begins with --ch.
        if not any(word.startswith("--ch") and "--check".startswith(word) for word in arguments):
            super().parseOptions(arguments)
            return
        faults = list(_Judged(self.directory).faults_of(arguments))
        for fault in faults:
            print(f"{self.command}: {fault}", file=sys.stderr)
        if not faults:
            print("Nothing is wrong with these options, nor with what they name.")
        raise SystemExit(1 if faults else 0)


class _Judged(plain.Options):
    """Options that are read one by one, so that a fault of one does not hide those of others."""

    def faults_of(self, arguments: Sequence[str]) -> Iterator[str]:
        """Yield what is wrong: with each option alone, with all together, with what they name."""
        from twisted.internet import reactor

        try:
            pairs, words = getopt.gnu_getopt(arguments, self.shortOpt, self.longOpt)
        except getopt.GetoptError as error:
            yield str(error)
            return
        # systemd passes sockets to the server only.
        has_sockets = bool(inherited_endpoints(reactor))
        alone = [
            [f"{name}={value}" if f"{name[2:]}=" in self.longOpt else name]
            for name, value in pairs
            if has_sockets or "systemd:" not in value
        ]
        for each in [*alone, words]:
            try:
                usage.Options.parseOptions(self, each)
            except usage.UsageError as error:
                yield str(error)
        self.complete()
        yield from self.faults()
        yield from _faults_in_files(self)
        yield from _faults_of_tor(reactor, self)

    def postOptions(self) -> None:
        """Leave it until all of them are read."""

    def opt_new_isolation_secret(self, path: str) -> None:  # type: ignore[override]
        """Judge whether there could be such a file."""
        place = Path(self.directory, path).expanduser()
        exists = f"{os.strerror(errno.EEXIST)}; choose another name"
        if reason := exists if os.path.lexists(place) else _cannot_write(place.parent):
            raise usage.UsageError(f"--new-isolation-secret {path!r}: {reason}")
        print("--new-isolation-secret: --check writes no file")


def _faults_in_files(options: plain.Options) -> Iterator[str]:
    """Yield what is wrong in files that can be read."""
    for checker in options.get("credCheckers") or ():
        if isinstance(checker, PasswordFile):
            yield from _faults_of_passwords(Path(checker.filename))
    if options["onion-auth-dir"]:
        with suppress(OSError):  # that the directory cannot be read is told already
            for complaint in load_directory(Path(options["onion-auth-dir"]))[1]:
                yield f"--onion-auth-dir {complaint}"
    for name, listener in options.places:
        positional, _ = fields_of(listener.endpoint)
        if listener.kind == "unix":
            parent = Path(positional[1]).parent
            if reason := _cannot_write(parent):
                yield f"--{name} {listener.text}: {reason}"


def _faults_of_passwords(path: Path) -> Iterator[str]:
    users = set()
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        name, colon, _ = line.partition(b":")
        if line.strip() and not (name and colon):
            yield f"--auth file:{path}: line {number} is not name:password"
        elif name and name in users:
            yield f"--auth file:{path}: line {number} is for a name that an earlier line has"
        users.add(name)
    if not users - {b""}:
        yield f"--auth file:{path}: it has no line of name:password, so nobody can log in"


def _faults_of_tor(reactor: Any, options: plain.Options) -> Iterator[str]:
    """Yield why the tor that is to be launched would not start."""
    if options.upstream != "launch" or options["backend"] != "tor":
        return
    if os.geteuid() == 0 and not options["tor-data-directory"]:
        options["tor-data-directory"] = str(SYSTEM_DIRECTORY)  # which is made only by a server
    try:
        make_upstream(reactor, options)
    except (ValueError, DirectoryError, TorNotFound) as error:
        yield str(error)
    given = options["tor-data-directory"]
    for number in range(1, options["tors"] + 1) if given else ():
        directory = numbered(Path(given), number)
        there = next(each for each in (directory, *directory.parents) if os.path.exists(each))
        if reason := _cannot_write(there):
            yield f"--tor-data-directory {directory}: {reason}"
        elif there == directory and there.stat().st_uid != os.geteuid():
            owner = name_of_user(there.stat().st_uid)
            yield f"--tor-data-directory {directory}: it belongs to {owner}"


def _cannot_write(directory: Path) -> str:
    """Why this user can make nothing in a directory; "" if it can."""
    try:
        is_directory = stat.S_ISDIR(directory.stat().st_mode)
    except PermissionError:
        is_directory = True
    except OSError:
        is_directory = False
    if not is_directory:
        return f"the directory {directory}: there is none"
    is_open = os.access(directory, os.W_OK | os.X_OK)
    user = name_of_user(os.geteuid())
    return "" if is_open else f"the directory {directory}: {user} cannot write there"
