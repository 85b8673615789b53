"""Files with client authorization keys, and giving them to tor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.backends.tor.onion.staged import staged
from torsocks_tx.backends.tor import files
from torsocks_tx.backends.tor.control import ControlError, ControlLost
from torsocks_tx.backends.tor.onion.client_auth import (
    MAX_FILE_BYTES,
    MOST_COMPLAINTS,
    BadKeyFile,
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
BAD = [
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
]


def test_no_log_line_has_a_whole_address() -> None:
    for name in (f"{DUCK}.auth_private", f"x-{DUCK.upper()}-y.auth_private"):
        with pytest.raises(BadKeyFile) as caught:
            parse_key("nothing", Path("/keys") / name)
        assert DUCK not in str(caught.value).lower()
        assert "duckduck..." in str(caught.value).lower()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.auth_private")
    _, complaints = load_directory(tmp_path)
    assert len(complaints) == 1
    assert "a.auth_private: not a file" in complaints[0]


def test_names_that_could_break_a_line(tmp_path: Path) -> None:
    (tmp_path / "a\n[error] b\udc80.auth_private").write_text("nothing")
    _, complaints = load_directory(tmp_path)
    (complaint,) = complaints
    assert "\n" not in complaint
    assert "a\\n[error] b" in complaint


@pytest.mark.parametrize("text", GOOD)
def test_good_files(text: str) -> None:
    key = parse_key(text, PATH)
    assert key.address == DUCK
    assert key.add_command == (
        f"ONION_CLIENT_AUTH_ADD {DUCK} x25519:CEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEI="
    )
    assert key.remove_command == f"ONION_CLIENT_AUTH_REMOVE {DUCK}"
    assert "CEIQ" not in repr(key)
    assert "x84" not in repr(key)


@pytest.mark.parametrize(("name", "text", "complaint"), BAD, ids=[case[0] for case in BAD])
def test_bad_files(name: str, text: str, complaint: str) -> None:
    with pytest.raises(BadKeyFile) as caught:
        parse_key(text, PATH)
    assert str(caught.value).startswith(f"{PATH}: {complaint}")
    assert "BBBB" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a.auth_private").write_text(LINE)
    (tmp_path / "b.auth_private").write_text(LINE)
    (tmp_path / "c.auth_private").write_text("nothing")
    (tmp_path / "d.auth_private").mkdir()
    (tmp_path / "e.auth_private").write_bytes(b"\xff" * (MAX_FILE_BYTES + 1))
    (tmp_path / "f.auth").write_text("another kind of file")
    keys, complaints = load_directory(tmp_path)
    assert list(keys) == [DUCK]
    assert keys[DUCK].path.name == "a.auth_private"
    said = [(Path(each.partition(":")[0]).name, each.partition(": ")[2]) for each in complaints]
    assert [name for name, _ in said] == [f"{letter}.auth_private" for letter in "bcde"]
    assert said[0][1] == "a.auth_private is for the same address; remove one of them"
    assert said[2][1].startswith("not a file")
    assert said[3][1].startswith("longer than 4096 bytes")


def run(working: Deferred[None]) -> list[object]:
    outcome: list[object] = []
    working.addBoth(outcome.append)
    return outcome


def install(ring: Keyring, control: Any) -> list[object]:
    return run(Deferred.fromCoroutine(ring.install(control)))


def test_a_bad_file_is_one_line_and_the_others_count(tmp_path: Path, log_lines: list[str]) -> None:
    (tmp_path / "a.auth_private").write_text(LINE)
    (tmp_path / "b.auth_private").write_text("nothing")
    ring = Keyring(tmp_path)
    assert len(ring) == 1
    assert len(log_lines) == 1
    assert "b.auth_private" in log_lines[0]


def test_what_tor_refuses_is_one_line_and_names_no_address(
    tmp_path: Path, log_lines: list[str]
) -> None:
    (tmp_path / "a.auth_private").write_text(LINE)
    ring, control = Keyring(tmp_path), staged()
    control.answers[parse_key(LINE, PATH).add_command] = ControlError(512, f"bad {DUCK}")
    assert install(ring, control) == [None]
    (line,) = log_lines
    assert line.endswith("a.auth_private: tor does not take this key (512 bad ...)")


def test_a_loss_is_for_the_caller(tmp_path: Path) -> None:
    (tmp_path / "a.auth_private").write_text(LINE)
    ring, control = Keyring(tmp_path), staged()
    control.lose()
    (failure,) = install(ring, control)
    assert failure.check(ControlLost)  # type: ignore[attr-defined]


def test_a_file_that_comes_back_is_not_withdrawn(tmp_path: Path) -> None:
    path = tmp_path / "a.auth_private"
    path.write_text(LINE)
    ring, control = Keyring(tmp_path), staged()
    path.unlink()
    ring.reload()
    path.write_text(LINE)
    ring.reload()
    install(ring, control)
    assert [command.split()[0] for command in control.commands] == ["ONION_CLIENT_AUTH_ADD"]


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Keyring(tmp_path / "none")


def test_a_key_that_is_withdrawn_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.auth_private"
    path.write_text(LINE)
    ring, control = Keyring(tmp_path), staged()
    add = parse_key(LINE, PATH).add_command
    control.answers[add] = answer = Deferred()
    first = install(ring, control)
    path.unlink()
    ring.reload()
    second = install(ring, control)
    answer.callback("")
    assert first == second == [None]
    assert [command.split()[0] for command in control.commands] == [
        "ONION_CLIENT_AUTH_ADD",
        "ONION_CLIENT_AUTH_REMOVE",
    ]


def test_a_silent_tor_is_not_told_the_next_key(tmp_path: Path) -> None:
    (tmp_path / "a.auth_private").write_text(LINE)
    ring, control = Keyring(tmp_path), staged()
    control.answers[parse_key(LINE, PATH).add_command] = ControlError(0, "no answer in time")
    (failure,) = install(ring, control)
    assert failure.check(ControlError)  # type: ignore[attr-defined]


def test_many_bad_files_are_not_as_many_lines(tmp_path: Path, log_lines: list[str]) -> None:
    for number in range(MOST_COMPLAINTS + 5):
        (tmp_path / f"{number}.auth_private").write_text("nothing")
    Keyring(tmp_path)
    assert len(log_lines) == MOST_COMPLAINTS + 1
    assert log_lines[-1].endswith("and 5 more files of that kind")


@pytest.mark.parametrize("mode", [0o722, 0o720, 0o702])
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "duck.auth_private").write_text(LINE)
    tmp_path.chmod(mode)
    with pytest.raises(OSError, match="others may write to it: chmod go-w"):
        Keyring(tmp_path)
    tmp_path.chmod(0o755)
    keyring = Keyring(tmp_path)
    tmp_path.chmod(mode)
    with pytest.raises(OSError, match="others may write to it"):
        keyring.reload()
    assert len(keyring) == 1


def test_files_and_directories_of_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "duck.auth_private").write_text(LINE)
    (tmp_path / "duck.auth_private").chmod(0o620)
    keys, (complaint,) = load_directory(tmp_path)
    assert "duck.auth_private: others may write to it" in complaint
    assert not keys
    monkeypatch.setattr(files, "trusted_users", lambda: {0x7FFFFFFE})
    with pytest.raises(OSError, match=f"it belongs to {tmp_path.owner()}"):
        load_directory(tmp_path)
