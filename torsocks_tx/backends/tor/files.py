"""Reading files whose content is only worth something if nobody else can have written it."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UntrustedFile(OSError):
    """Somebody else may have written a file; the text does not name the file."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)


def check_directory(path: str | Path) -> None:
    """Raise ``UntrustedFile`` if others than root and this user may put files into a directory.

    Raises ``OSError`` if it is not there.
    """
    _check(os.stat(path), trusted_users())


def read_trusted(path: str | Path, most: int, owners: Iterable[int] = ()) -> bytes:
    """Return at most so many bytes of a file of root, of this user or of one of ``owners``.

    Raises:
        UntrustedFile: it is no regular file, or others may have written it.
        OSError: it cannot be read.
    """
    # A pipe would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedFile("not a file")
        _check(status, trusted_users() | set(owners))
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def trusted_users() -> set[int]:
    """Return the ids of root and of this user."""
    return {0, os.geteuid()}


def _check(status: os.stat_result, owners: set[int]) -> None:
    if status.st_uid not in owners:
        raise UntrustedFile(f"it belongs to {name_of_user(status.st_uid)}")
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise UntrustedFile("others may write to it: chmod go-w")


def name_of_user(number: int) -> str:
    """Return the name of a user, or the number where there is no name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
