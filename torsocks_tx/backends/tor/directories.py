"""The directories of a tor of our own: the one that persists, and the one for its sockets."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import tempfile
from pathlib import Path

_PRIVATE = 0o700
_PREFIX = "torsocks-tx-"
_LOCK = "lock"
_LONGEST_SOCKET_PATH = 107
"""Bytes in the path of a unix socket on Linux (103 on other systems); see unix(7)."""

_SAFE_LENGTH = _LONGEST_SOCKET_PATH - 40
"""Of the directory: leaves room for a socket's name and for other systems."""


class DirectoryError(Exception):
    """A directory cannot be used; the text says why and what to do."""


def prepare_data_directory(path: str | Path) -> Path:
    """Make tor's DataDirectory if it is missing, and see that it is ours and free.

    Tor itself would find that out too, but after five seconds, and in words about itself.
    """
    directory = Path(path).expanduser().absolute()
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
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
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
        f"tor's data directory {directory} {reason}: give another one that"
        f" {_user(os.geteuid())} can write"
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
