"""``--check``: every fault of options and files is one line, and nothing is started or made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from twisted.application.service import ServiceMaker

from torsocks_tx.twistd import check, options
from torsocks_tx.twistd.check import Options

TOR = """#!/bin/sh
grep -q '^Bad ' || exit 0
echo 'Jan 01 00:00:00.000 [warn] Unknown option Bad.'
exit 1
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory with files, good ones and bad ones, and a tor that only judges options."""
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    (tmp_path / "tor").write_text(TOR)
    (tmp_path / "tor").chmod(0o755)
    (tmp_path / "users").write_text("alice:x\n\nbob:y:z\n")
    (tmp_path / "odd").write_text("alice:x\nqzjx\nalice:y\n")
    (tmp_path / "empty").write_text("\n")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (keys / "one.auth_private").write_text("x:descriptor:x25519:qzjx")
    return tmp_path


FAULTS: list[tuple[str, list[str]]] = [
    ("", []),
    ("--auth file:users --listen tcp:1080 --onion-timeout 3 --debug", []),
    ("--listen systemd:domain=INET:index=0 --workers 2", []),
    ("--tor-option|Good 1", []),
    (
        "--listen foo|--listen|tcp:1:interface=127.0.0.1 Nope|--workers 0|--idle-timeout x"
        "|--auth bogus|--listen tcp:1080|--listen tcp:1081|--listen unix:nowhere/x|--tor-option x",
        ["'foo'", "'Nope'", "--workers '0'", "--idle-timeout 'x'", "'bogus'", "--tor-option 'x'",
         "tcp:1080: others could", "tcp:1081: others could", "nowhere: there is none"],
    ),
    ("--auth file:odd --auth file:empty", ["line 2 is not", "line 3 is for a name", "no line"]),
    ("--auth file:none --onion-auth-dir none", ["none: No such file", "none': No such file"]),
    ("--onion-auth-dir keys", ["not valid"]),
    ("--onion-auth-dir open", ["open': "]),
    ("--onion-auth-dir users", ["users': Not a directory"]),
    ("--listen foo:1 --listen ssl:1", ["'foo:1': Unknown endpoint type", "'ssl:1': "]),
    ("--listen|tcp:1:interface=127.0.0.1 Name=a|--listen|tcp:2:interface=127.0.0.1 Name=a"
     "|--listen foo:1", ["Unknown endpoint type", "Name=a is the name of several"]),
    ("--tor-option|Bad 1|--tor-data-directory tor/x", ["Unknown option Bad", "there is none"]),
    ("--tors 2 --tor-data-directory tor/x", ["tor/x: ", "tor/x-2: "]),
    ("--new-isolation-secret new --status unix:nowhere/x", ["--status unix:nowhere/x"]),
    ("--new-isolation-secret new", []),
    ("--new-isolation-secret odd", ["'odd': File exists; choose another name"]),
    ("--new-isolation-secret none/x", ["none/x': the directory", ]),
    ("--isolation-secret-file odd", ["--isolation-secret-file"]),
    ("--tor-binary ./none", ["not an executable program"]),
    ("--bogus --workers 0", ["option --bogus not recognized"]),
    ("more|--workers 0", ["--workers '0'", "'more' belongs to no option"]),
    # What depends on a wrong choice is not complained of.
    ("--tor bogus --tor-password-file none", ["--tor 'bogus'"]),
    ("--tor unix:x --tor-password-file none", ["none': No such file"]),
    ("--tor-socks tcp:127.0.0.1:9 --rendezvous-timeout 3", ["control port"]),
    ("--listen|ssl:1:privateKey=none AllowPublic", ["none: No such file or directory"]),
    ("--listen|ssl:1:privateKey=odd AllowPublic", ["certificate or the key is not PEM"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "faults"), FAULTS, ids=[each[0] for each in FAULTS])
def test_every_fault_is_one_line(
    text: str,
    faults: list[str],
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(check, "SYSTEM_DIRECTORY", site / "system" / "tor")
    monkeypatch.chdir(site)  # Twisted's own paths are relative to where the process is
    monkeypatch.setenv("XDG_STATE_HOME", str(site))
    monkeypatch.setenv("PATH", f"{site}:{os.environ['PATH']}")
    words = text.split("|") if "|" in text else text.split()
    arguments = [
        part for word in words for part in (word.split(" ", 1) if word[:2] == "--" else [word])
    ]
    before = sorted(site.rglob("*"))
    check_word = "--ch" if "--debug" in text else "--check"  # its beginning will do
    asked = Options(str(site))
    with pytest.raises(SystemExit) as caught:
        asked.parseOptions([*arguments, check_word])
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == len(faults), lines
    for fault in faults:
        assert any(fault in line for line in lines), (fault, lines)
    assert all(line.startswith("torsocks-tx: ") for line in lines)
    assert caught.value.code == (1 if faults else 0)
    assert said.out.endswith("nor with what they name.\n") is not bool(faults)
    assert ("--check writes no file" in said.out) is ("secret new" in text)
    assert "qzjx" not in said.err
    assert sorted(site.rglob("*")) == before
    if not faults and "systemd" not in text and "secret" not in text:
        Options(str(site)).parseOptions(arguments)


def test_twistd_has_the_same_check(capsys: pytest.CaptureFixture[str]) -> None:
    maker = ServiceMaker("x", "torsocks_tx.twistd.tap", "", "torsocks")
    asked = maker.options()
    asked.parent = options.usage.Options()
    with pytest.raises(SystemExit):
        asked.parseOptions(["--check", "--workers", "0"])
    assert capsys.readouterr().err.startswith("twistd torsocks: --workers '0'")


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory that this user cannot look into; root could, so it is told the same."""
    directory = tmp_path / "closed"
    directory.mkdir()
    stat, access = Path.stat, os.access

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if directory in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    def cannot(path: Path, mode: int) -> bool:
        return directory not in (Path(path), *Path(path).parents) and access(path, mode)

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(os, "access", cannot)
    return directory


@pytest.mark.parametrize(
    "options",
    [
        "--backend direct --listen unix:{}/a/x",
        "--backend direct --status unix:{}/a/x",
        "--backend direct --new-isolation-secret {}/a/x",
        "--tor-binary /bin/true --tor-data-directory {}/a/x",
    ],
)
def test_directory_that_is_hidden_is_one_line(
    options: str, closed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Options().parseOptions(["--check", *options.format(closed).split()])
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot write there")
