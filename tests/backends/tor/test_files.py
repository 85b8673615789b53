"""The directories of a tor that this program starts."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from torsocks_tx.backends.tor import files
from torsocks_tx.backends.tor.files import (
    DirectoryError,
    default_data_directory,
    make_socket_directory,
    prepare_data_directory,
)


def test_a_data_directory_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepare_data_directory(tmp_path / "a" / "b")
    assert made == tmp_path / "a" / "b"
    assert made.stat().st_mode & 0o777 == 0o700
    (made / "state").write_text("kept")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare_data_directory("~/a/b") == made
    assert (made / "state").read_text() == "kept"


def test_without_a_home_the_error_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000_000)
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_data_directory() == Path("/home/x/.local/state/torsocks_tx/tor")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_data_directory() == Path("/state/torsocks_tx/tor")
    assert default_data_directory(number=2) == Path("/state/torsocks_tx/tor-2")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 1_000_000)
    with pytest.raises(DirectoryError, match=r"user 1000000 has no home .* --tor-data"):
        default_data_directory()
    with pytest.raises(DirectoryError, match="is in no home directory: give another one"):
        prepare_data_directory("~nobody-has-this-name/tor")


def test_root_makes_the_system_directory_for_the_user_that_will_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "new" / "torsocks_tx" / "tor"
    server = os.geteuid() or 65534  # only root can make directories for others
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(files, "SYSTEM_DIRECTORY", system)
    old = os.umask(0o077)
    try:
        assert default_data_directory(server) == system
    finally:
        os.umask(old)
    assert (system.stat().st_uid, system.stat().st_mode & 0o777) == (server, 0o700)
    assert system.parent.stat().st_mode & 0o777 == 0o755
    assert default_data_directory(server, 2) == system.with_name("tor-2")
    assert (system.with_name("tor-2").stat().st_uid) == server
    default_data_directory(0)
    assert system.stat().st_uid == server, "what is there belongs to whom it did"
    monkeypatch.setattr(files, "SYSTEM_DIRECTORY", Path("/proc/torsocks_tx/tor"))
    with pytest.raises(DirectoryError, match="cannot be made"):
        default_data_directory(server)


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DirectoryError, match=r"cannot be made \(\w.*\): .* --tor-data-dir"):
            prepare_data_directory(path)


@pytest.mark.parametrize(
    ("name", "fake", "reason"),
    [
        (
            "geteuid",
            lambda: os.getuid() + 1_000_000,
            r"belongs to .+: give .* this user .user \d+. can",
        ),
        ("access", lambda _, mode: mode != os.R_OK | os.W_OK | os.X_OK, "is not writable"),
    ],
)
def test_a_data_directory_that_this_user_cannot_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fake: Any, reason: str
) -> None:
    monkeypatch.setattr(os, name, fake)
    with pytest.raises(DirectoryError, match=reason):
        prepare_data_directory(tmp_path)


def test_a_data_directory_that_another_tor_uses_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DirectoryError, match="is in use by another tor: give another one"):
            prepare_data_directory(tmp_path)
    prepare_data_directory(tmp_path)
    with (tmp_path / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    with pytest.raises(DirectoryError, match="is not usable"):
        prepare_data_directory(tmp_path)


def test_a_directory_for_sockets_is_private_and_has_a_short_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    made = make_socket_directory()
    assert len(str(made)) < 60
    assert made.stat().st_mode & 0o777 == 0o700
    made.rmdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(DirectoryError, match=r"can be used \(No such .*\): set TMPDIR to one that"):
        make_socket_directory()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setattr(files, "_SAFE_LENGTH", 3)
    with pytest.raises(DirectoryError, match="short enough"):
        make_socket_directory()
    assert list(deep.iterdir()) == []
