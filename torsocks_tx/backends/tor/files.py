"""The directories of a tor that we start, and files that others must not have written."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from torsocks_tx.backends.tor.events import printable

SYSTEM_DIRECTORY = Path("/var/lib/torsocks_tx/tor")
"""The data directory of a server that root starts."""

_PRIVATE, _TRAVERSABLE = 0o700, 0o755
PREFIX = "torsocks-tx-"
_LOCK = "lock"
_SAFE_LENGTH = 67
"""Bytes of a directory's path: with a socket's name it is under 103, the most of any system."""


class DirectoryError(Exception):
    """A directory cannot be used; the text says why and what to do."""


def default_data_directory(server: int | None = None, number: int = 1) -> Path:
    """Return the default data directory of a tor that we start: it keeps tor's entry guards.

    ``number``: of how many there are; the second has ``tor-2``.

    Root has a system directory. Where it hands over to another user (``server``) before tor is
    started, that directory is made now, for that user.
    """
    if os.geteuid() == 0:
        return _system_directory(numbered(SYSTEM_DIRECTORY, number), server or 0)
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise DirectoryError(
            f"{name_of_user(os.geteuid())} has no home directory that could hold tor's data"
            " directory: name one with --tor-data-directory"
        ) from None
    return numbered(Path(state, "torsocks_tx", "tor"), number)


def numbered(directory: Path, number: int) -> Path:
    """Return the directory of the tor of this number, beside that of the first."""
    return directory if number == 1 else directory.with_name(f"{directory.name}-{number}")


def _system_directory(directory: Path, owner: int) -> Path:
    parent = directory.parent
    if directory.exists():
        return directory
    try:
        parent.mkdir(parents=True, exist_ok=True)
        parent.chmod(_TRAVERSABLE)
        directory.mkdir(mode=_PRIVATE)
        os.chown(directory, owner, -1)
    except OSError as error:
        raise DirectoryError(_unusable(directory, f"cannot be made ({error.strerror})")) from None
    return directory


def prepare_data_directory(path: str | Path) -> Path:
    """Make tor's DataDirectory if it is missing; check that it is ours and that no tor uses it.

    tor would find that out too, but after five seconds and without saying what to do.
    """
    try:
        directory = Path(path).expanduser().absolute()
    except RuntimeError:
        raise DirectoryError(_unusable(Path(path), "is in no home directory")) from None
    try:
        make_private_directory(directory)
        owner = directory.stat().st_uid
    except OSError as error:
        raise DirectoryError(_unusable(directory, f"cannot be made ({error.strerror})")) from None
    if owner != os.geteuid():
        raise DirectoryError(_unusable(directory, f"belongs to {name_of_user(owner)}"))
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise DirectoryError(_unusable(directory, "is not writable"))
    _check_lock(directory)
    return directory


def make_private_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, for this user only.

    Whatever the umask: who may write to the one above can put another in its place.
    """
    for directory in (*reversed(path.parents), path):
        directory.mkdir(mode=_PRIVATE, exist_ok=True)


def make_socket_directory() -> Path:
    """Make a private directory with a path that is short enough for unix sockets."""
    for parent in (None, "/tmp"):
        try:
            directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            raise DirectoryError(
                f"no directory for temporary files can be used ({error.strerror}): set TMPDIR to"
                f" one that this user ({name_of_user(os.geteuid())}) can write"
            ) from None
        if len(os.fsencode(directory)) <= _SAFE_LENGTH:
            return directory
        directory.rmdir()
    raise DirectoryError("no directory for temporary files has a path short enough for sockets")


def _check_lock(directory: Path) -> None:
    """Check that no other tor uses this directory: tor locks a file in it."""
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
        f"tor's data directory {printable(directory)} {reason}: give another one,"
        f" which this user ({name_of_user(os.geteuid())}) can write, with --tor-data-directory"
    )


_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UntrustedFile(PermissionError):
    """Somebody else may have written a file; ``strerror`` does not name the file."""

    def __init__(self, reason: str, path: str | Path) -> None:
        super().__init__(errno.EPERM, reason, str(path))


def check_directory(path: str | Path) -> None:
    """Raise ``UntrustedFile`` if others than root and this user may put files into a directory.

    Raises ``OSError`` if it is not there.
    """
    _check(path, os.stat(path), trusted_users())


def read_trusted(path: str | Path, most: int, owners: Iterable[int] = ()) -> bytes:
    """Return at most so many bytes of a file of root, of this user or of one of ``owners``.

    Raises:
        UntrustedFile: it is no regular file, or others may have written it.
        OSError: it cannot be read.
    """
    # O_NONBLOCK: opening a pipe would wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedFile("not a file", path)
        _check(path, status, trusted_users() | set(owners))
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def trusted_users() -> set[int]:
    """Return the ids of root and of this user."""
    return {0, os.geteuid()}


def _check(path: str | Path, status: os.stat_result, owners: set[int]) -> None:
    if status.st_uid not in owners:
        raise UntrustedFile(f"it belongs to {name_of_user(status.st_uid)}", path)
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise UntrustedFile("others may write to it: chmod go-w", path)


def name_of_user(number: int) -> str:
    """Return the name of a user, or the number where there is no name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
