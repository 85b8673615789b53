"""Files with client authorization keys, and giving them to tor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.backends.tor.onion.staged import staged
from tests.support.tables import table
from torsocks_tx.backends.tor import files
from torsocks_tx.backends.tor.control import ControlError, ControlLost
from torsocks_tx.backends.tor.onion.client_auth import (
    MAX_FILE_BYTES,
    MOST_COMPLAINTS,
    BadKeyFile,
    InstalledKeys,
    Keyring,
    load_directory,
    parse_key,
)

DUCK = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad"
SECRET = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"
LINE = f"{DUCK}:descriptor:x25519:{SECRET}"
PATH = Path("/keys/duck.auth_private")

GOOD = [LINE, f"{LINE}\n", f"  {LINE}\r\n", LINE.replace(DUCK, DUCK.upper()),
        LINE.replace(SECRET, SECRET.lower()), f"{LINE}===="]  # fmt: skip
BAD = table(
    ("empty", "", "not a client authorization key"),
    ("another kind", LINE.replace("descriptor", "introduction"), "not a client authorization key"),
    ("another curve", LINE.replace("x25519", "ed25519"), "not a client authorization key"),
    ("a field too many", f"{LINE}:x", "not a client authorization key"),
    ("two keys", f"{LINE}\n{LINE}", "not a client authorization key"),
    ("with .onion", LINE.replace(DUCK, f"{DUCK}.onion"), "the address is not valid"),
    ("mistyped", LINE.replace("duckduckgo", "luckduckgo"), "the address is not valid"),
    ("a short key", LINE[:-1], "the key is not 32 bytes"),
    ("a long key", f"{LINE}AAAA", "the key is not 32 bytes"),
    ("not base32", LINE.replace("BB", "1!"), "the key is not 32 bytes"),
    ("a subdomain", f"www.{LINE}", "the address is not valid"),
    ("a line break", f"x\r\nSIGNAL HALT.{LINE}", "the address is not valid"),
    ("not ASCII", LINE.replace("BB", "é"), "the key is not 32 bytes"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a good key file."""
    path = tmp_path / "a.auth_private"
    path.write_text(LINE)
    return path


def test_no_log_line_has_a_whole_address() -> None:
    for name in (f"{DUCK}.auth_private", f"x-{DUCK.upper()}-y.auth_private"):
        with pytest.raises(BadKeyFile) as caught:
            parse_key("nothing", Path("/keys") / name)
        assert DUCK not in str(caught.value).lower()
        assert "duckduck..." in str(caught.value).lower()


@pytest.mark.parametrize("text", GOOD)
def test_a_good_file_is_read(text: str) -> None:
    key = parse_key(text, PATH)
    assert key.address == DUCK
    assert key.private == bytes.fromhex("0842108421") * 6 + bytes.fromhex("0842")
    assert "CEIQ" not in repr(key)
    assert "x84" not in repr(key)


@pytest.mark.parametrize(("text", "complaint"), BAD)
def test_a_bad_file_is_an_error_without_its_text(text: str, complaint: str) -> None:
    with pytest.raises(BadKeyFile) as caught:
        parse_key(text, PATH)
    assert str(caught.value).startswith(f"{PATH}: {complaint}")
    assert "BBBB" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_is_read_but_for_files_that_are_no_keys(tmp_path: Path, path: Path) -> None:
    (tmp_path / "b.auth_private").write_text(LINE)
    (tmp_path / "c.auth_private").write_text("nothing")
    (tmp_path / "d.auth_private").mkdir()
    (tmp_path / "e.auth_private").write_bytes(b"\xff" * (MAX_FILE_BYTES + 1))
    (tmp_path / "f.auth").write_text("another kind of file")
    os.mkfifo(tmp_path / "g.auth_private")
    (tmp_path / "h\n[error] \udc80.auth_private").write_text("nothing")
    keys, complaints = load_directory(tmp_path)
    assert list(keys) == [DUCK]
    assert keys[DUCK].path.name == "a.auth_private"
    said = [(Path(each.partition(":")[0]).name, each.partition(": ")[2]) for each in complaints]
    assert [name for name, _ in said[:-1]] == [f"{letter}.auth_private" for letter in "bcdeg"]
    assert said[0][1] == "a.auth_private is for the same address; remove one of them"
    assert said[2][1].startswith("not a file")
    assert said[3][1].startswith("longer than 4096 bytes")
    assert said[4][1].startswith("not a file")
    assert "h\\n[error] " in complaints[-1]
    assert "\n" not in complaints[-1]


class Play:
    """The keys of a directory and a control connection."""

    def __init__(self, path: Path) -> None:
        self.ring = Keyring(path.parent)
        self.installed = InstalledKeys(self.ring)
        self.control = staged()

    def install(self) -> list[Any]:
        """Give tor the keys; return a list that gets the outcome."""
        outcome: list[object] = []
        Deferred.fromCoroutine(self.installed.install(self.control)).addBoth(outcome.append)
        return outcome

    @property
    def commands(self) -> list[str]:
        return [command.split("_")[-1].split()[0] for command in self.control.commands]


ADD = f"ONION_CLIENT_AUTH_ADD {DUCK} x25519:CEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEI="


def test_what_tor_refuses_is_one_line_and_names_no_address(
    path: Path, log_lines: list[str]
) -> None:
    play = Play(path)
    play.control.answers[ADD] = ControlError(512, f"bad {DUCK}")
    assert play.install() == [None]
    (line,) = log_lines
    assert line.endswith("a.auth_private: tor does not take this key (512 bad ...)")


@pytest.mark.parametrize("lost", [False, True])
def test_a_tor_that_does_not_answer_fails_the_installing(path: Path, lost: bool) -> None:
    play = Play(path)
    play.control.answers[ADD] = ControlError(0, "no answer in time")
    if lost:
        play.control.lose()
    (failure,) = play.install()
    assert failure.check(ControlLost if lost else ControlError)


def test_a_file_that_comes_back_is_not_withdrawn(path: Path) -> None:
    play = Play(path)
    path.unlink()
    play.ring.reload()
    path.write_text(LINE)
    play.ring.reload()
    play.install()
    assert play.commands == ["ADD"]


def test_a_key_that_is_withdrawn_meanwhile_does_not_come_back(path: Path) -> None:
    play = Play(path)
    play.control.answers[ADD] = answer = Deferred()
    first = play.install()
    path.unlink()
    play.ring.reload()
    second = play.install()
    answer.callback("")
    assert first == second == [None]
    assert play.commands == ["ADD", "REMOVE"]


def test_bad_files_are_one_line_each_up_to_a_bound_and_the_others_count(
    path: Path, log_lines: list[str]
) -> None:
    for number in range(MOST_COMPLAINTS + 5):
        path.with_name(f"{number}.auth_private").write_text("nothing")
    assert len(Keyring(path.parent)) == 1
    assert len(log_lines) == MOST_COMPLAINTS + 1
    assert "0.auth_private" in log_lines[0]
    assert log_lines[-1].endswith("and 5 more files of that kind")


@pytest.mark.parametrize("mode", [0o722, 0o720, 0o702])
def test_a_directory_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    with pytest.raises(PermissionError, match="others may write to it: chmod go-w") as caught:
        Keyring(path.parent)
    assert caught.value.filename == str(path.parent)
    path.parent.chmod(0o755)
    keyring = Keyring(path.parent)
    path.parent.chmod(mode)
    with pytest.raises(OSError, match="others may write to it"):
        keyring.reload()
    assert len(keyring) == 1


def test_files_and_directories_of_others_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.chmod(0o620)
    keys, (complaint,) = load_directory(path.parent)
    assert "a.auth_private: others may write to it" in complaint
    assert not keys
    monkeypatch.setattr(files, "trusted_users", lambda: {0x7FFFFFFE})
    with pytest.raises(OSError, match=f"it belongs to {files.name_of_user(os.geteuid())}"):
        load_directory(path.parent)
