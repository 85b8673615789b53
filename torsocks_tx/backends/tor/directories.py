"""The directories of a tor of our own: the one that persists, and the one for its sockets."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import tempfile
from pathlib import Path

from torsocks_tx.backends.tor.paths import printable

SYSTEM_DIRECTORY = Path("/var/lib/torsocks_tx/tor")
"""The data directory of a server that root starts."""

_PRIVATE, _TRAVERSABLE = 0o700, 0o755
PREFIX = "torsocks-tx-"
_LOCK = "lock"
_LONGEST_SOCKET_PATH = 107
"""Bytes in the path of a unix socket on Linux (103 on other systems); see unix(7)."""

_SAFE_LENGTH = _LONGEST_SOCKET_PATH - 40
"""Of the directory: leaves room for a socket's name and for other systems."""


class DirectoryError(Exception):
    """A directory cannot be used; the text says why and what to do."""


def default_data_directory(server: int | None = None) -> Path:
    """Return where a tor of ours keeps its guards, which must outlive it, if nothing else is said.

    Root has a system directory. Where it hands over to another user (``server``) before tor is
    started, that directory is made now, for that user.
    """
    if os.geteuid() == 0:
        _make_system_directory(server or 0)
        return SYSTEM_DIRECTORY
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise DirectoryError(
            f"{_user(os.geteuid())} has no home directory that could hold tor's data directory:"
            " name one with --tor-data-directory"
        ) from None
    return Path(state, "torsocks_tx", "tor")


def _make_system_directory(owner: int) -> None:
    parent, directory = SYSTEM_DIRECTORY.parent, SYSTEM_DIRECTORY
    if directory.exists():
        return
    try:
        parent.mkdir(parents=True, exist_ok=True)
        parent.chmod(_TRAVERSABLE)
        directory.mkdir(mode=_PRIVATE)
        os.chown(directory, owner, -1)
    except OSError as error:
        raise DirectoryError(_unusable(directory, f"cannot be made ({error.strerror})")) from None


def prepare_data_directory(path: str | Path) -> Path:
    """Make tor's DataDirectory if it is missing, and see that it is ours and free.

    Tor itself would find that out too, but after five seconds, and in words about itself.
    """
    try:
        directory = Path(path).expanduser().absolute()
    except RuntimeError:
        raise DirectoryError(_unusable(Path(path), "is in no home directory")) from None
    try:
        directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        owner = directory.stat().st_uid
    except OSError as error:
        raise DirectoryError(_unusable(directory, f"cannot be made ({error.strerror})")) from None
    if owner != os.geteuid():
        raise DirectoryError(_unusable(directory, f"belongs to {_user(owner)}"))
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise DirectoryError(_unusable(directory, "is not writable"))
    _check_lock(directory)
    return directory


def make_socket_directory() -> Path:
    """Make a private directory with a path that is short enough for unix sockets."""
    for parent in (None, "/tmp"):
        try:
            directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            raise DirectoryError(
                f"no directory for temporary files can be used ({error.strerror}): set TMPDIR to"
                f" one that {_user(os.geteuid())} can write"
            ) from None
        if len(os.fsencode(directory)) <= _SAFE_LENGTH:
            return directory
        directory.rmdir()
    raise DirectoryError("no directory for temporary files has a path short enough for sockets")


def remove_directory(path: Path) -> None:
    """Remove a directory with all that is in it; it may be gone."""
    shutil.rmtree(path, ignore_errors=True)


def _check_lock(directory: Path) -> None:
    """See that no other tor runs on this directory: such a one holds a lock on a file in it."""
    try:
        with (directory / _LOCK).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise DirectoryError(_unusable(directory, "is in use by another tor")) from None
    except OSError as error:
        raise DirectoryError(_unusable(directory, f"is not usable ({error.strerror})")) from None


def _unusable(directory: Path, reason: str) -> str:
    return (
        f"tor's data directory {printable(directory)} {reason}: give another one that"
        f" {_user(os.geteuid())} can write"
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
