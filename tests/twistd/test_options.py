"""The command line: what it takes, what it says, and what every mistake is told."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest
from twisted.copyright import version

import torsocks_tx
from tests.twistd.conftest import options_of
from torsocks_tx.limits import Limits
from torsocks_tx.policy.listener import flag_help
from torsocks_tx.server.auth import CredAuthenticator
from torsocks_tx.socks.messages import Credentials
from torsocks_tx.twistd.help import OPTIONS
from torsocks_tx.twistd.options import Options
from torsocks_tx.twistd.tap import make_limits

ROOT = Path(__file__).resolve().parents[2]


def test_defaults() -> None:
    options = options_of()
    assert [listener.text for listener in options.listeners] == ["tcp:1080:interface=127.0.0.1"]
    assert options["backend"] == "tor"
    limits = make_limits(options, 1000)
    assert limits == Limits(max_connections=1000)


def test_values_arrive() -> None:
    options = options_of(
        "--handshake-timeout", "1.5", "--connect-timeout", "2", "--idle-timeout", "3",
        "--linger-timeout", "4", "--linger-limit", "5", "--early-data", "6",
        "--max-connections", "7", "--extended-bytes", "8", "--extended-pairs", "9",
        "--max-per-client", "3",
        "--listen", "unix:/run/x OnionTrafficOnly",
        "--listen", "tcp:0:interface=127.0.0.1",
        "--tor-option", "ExitNodes {de}", "--tor-option", "__Hidden 1",
    )  # fmt: skip
    assert make_limits(options, 1000) == Limits(
        handshake_timeout=1.5,
        connect_timeout=2,
        idle_timeout=3,
        linger_timeout=4,
        linger_limit=5,
        early_data=6,
        extended_bytes=8,
        extended_pairs=9,
        max_connections=7,
        max_per_client=3,
    )
    assert [listener.kind for listener in options.listeners] == ["unix", "tcp"]
    assert options["tor-option"] == [("ExitNodes", "{de}"), ("__Hidden", "1")]


def test_more_clients_than_descriptors_allow_are_not_promised() -> None:
    assert make_limits(options_of("--max-connections", "5000"), 100).max_connections == 100


def test_processes_divide_the_clients_among_them() -> None:
    limits = make_limits(options_of("--max-connections", "10", "--max-per-client", "4"), 100, 3)
    assert (limits.max_connections, limits.max_per_client) == (4, 2)


@pytest.mark.parametrize("path", ["x", "/base/x"])
def test_paths_are_relative_to_where_the_command_was_given(path: str) -> None:
    given = ("--tor-data-directory", path, "--tor-binary", f"./{path}", "--listen", f"unix:{path}")
    options = options_of(*given, directory="/base")
    assert options["tor-data-directory"] == "/base/x"
    assert os.path.normpath(options["tor-binary"]) in ("/base/x", "/base/base/x")
    assert options.listeners[0].endpoint == "unix:/base/x"
    assert options_of("--tor", f"unix:{path}", directory="/base")["tor"] == ["unix:/base/x"]
    for arguments in (["--auth", "file:x"], ["--onion-auth-dir", "x"]):
        with pytest.raises(SystemExit, match=r"/base/x\b.*uid"):
            options_of(*arguments, directory="/base")
    with pytest.raises(SystemExit, match="/base/x"):
        options_of("--tor", "unix:/x", "--tor-password-file", "x", directory="/base")


MISTAKES = [
    (
        ["--status", "tcp:9180"],
        ["--status tcp:9180", "others could reach this page", "only, or add"],
    ),
    (["--status", "tcp:9180 SafeSocks"], ["--status", "AllowPublic is the only flag"]),
    (["--status", "nonsense"], ["--status 'nonsense'", "begin with an endpoint"]),
    (["--status", "tcp:x:interface=127.0.0.1"], ["--status", "a part is missing"]),
    (["--tor-data-directory", "~no-such-user/x"], ["'~no-such-user/x': there is no such home"]),
    (["--onion-auth-dir", ""], ["--onion-auth-dir ''", "directory that uid"]),
    (["--onion-auth-dir", "/tmp"], ["--onion-auth-dir '/tmp'", "others may write to it"]),
    (["--onion-auth-dir", "/nowhere"], ["--onion-auth-dir '/nowhere'", "No such file"]),
    (
        ["--onion-auth-dir", "/", "--tor-socks", "tcp:127.0.0.1:9"],
        ["--onion-auth-dir", "use --tor"],
    ),
    (["--onion-auth-dir", "/", "--backend", "direct"], ["--onion-auth-dir", "has no tor"]),
    (["--rendezvous-timeout", "30", "--tor-socks", "tcp:127.0.0.1:9"], ["control port"]),
    (
        ["--rendezvous-timeout", "30", "--backend", "direct"],
        ["--rendezvous-timeout", "control port"],
    ),
    (["--rendezvous-timeout", "0"], ["--rendezvous-timeout '0'", "seconds"]),
    (["--listen", "foo"], ["--listen", "'foo'", "tcp:1080"]),
    (["--listen", "tcp:1080"], ["--listen", "tcp:1080", "interface=127.0.0.1", "--auth"]),
    (["--listen", "tcp:x:interface=127.0.0.1"], ["--listen", "tcp:x", "write it as"]),
    (["--listen", "tcp:"], ["--listen 'tcp:': a part is missing, unknown or wrong; write it as"]),
    (["--tor", "tcp:127.0.0.1"], ["--tor 'tcp:127.0.0.1': a part is missing, unknown or wrong"]),
    (["--listen", "bogus:x AllowPublic"], ["--listen", "bogus:x", "write it as"]),
    (["--listen", "systemd:domain=INET:index=0"], ["--listen", "systemd", "inherited socket"]),
    (["--listen", "tcp:1:interface=127.0.0.1 Nope"], ["--listen", "Nope"]),
    *(
        ([*given, "--listen", f"tcp:1:interface=127.0.0.1 {flag}"], ["tcp:1", "use --tor"])
        for given in (["--tor-socks", "tcp:127.0.0.1:9"], ["--backend", "direct"])
        for flag in ("ExitCountry=de", f"ExitNode={'A' * 40}", "ClientParameters")
    ),
    (["--listen", "unix:/a Name=x", "--listen", "unix:/b Name=x"], ["Name=x", "SessionGroup=N"]),
    (["--listen", "tcp:1:interface=127.0.0.1 RotateEvery=x"], ["RotateEvery=SECONDS"]),
    (["--tor", "nonsense"], ["--tor", "'nonsense'", "unix:/run/tor/control"]),
    (["--tor-socks", "tcp:x"], ["--tor-socks 'tcp:x'", "unix:/run/tor/socks"]),
    (["--tor-socks", "127.0.0.1:9050"], ["write it as", "tcp:127.0.0.1:9050"]),
    (["--tor-socks", "unix:/x", "--tor-socks", "unix:/y"], ["--tor-socks 'unix:/y'", "use --tor"]),
    (["--tor", "unix:/x", "--tor", "launch"], ["--tor 'launch'", "--tors N"]),
    (["--tor", "unix:/x", "--tor", "tcp:x"], ["--tor 'tcp:x'", "write it as"]),
    (["--tor", "unix:/x", "--tor", "unix:/x"], ["--tor 'unix:/x'", "once"]),
    (["--tor", "unix:/x", "--tors", "2"], ["--tors: ", "--tor launch"]),
    (["--backend", "direct", "--tors", "2"], ["--tors: ", "has no tor"]),
    (["--connect-timeout", "9" * 5000], ["--connect-timeout", "number of seconds"]),
    (
        ["--workers", "2", "--listen", "stdio: AllowPublic"],
        ["stdio:", "workers share plain sockets only"],
    ),
    (["--workers", "9" * 5000], ["--workers", "whole number"]),
    (["--tor", "launch", "--tor-socks", "tcp:127.0.0.1:1"], ["--tor-socks", "instead of --tor"]),
    (["--backend", "foo"], ["--backend", "'foo'", "choose tor or direct"]),
    (["--backend", "direct", "--tor", "launch"], ["--tor: ", "--backend direct"]),
    (["--backend", "direct", "--tor-option", "A b"], ["--tor-option: ", "--backend direct"]),
    (["--allow-internal"], ["--allow-internal", "--backend direct"]),
    (["--tor", "private", "--tor-binary", "/x"], ["--tor-binary: ", "--tor launch"]),
    (["--tor", "unix:/x", "--tor-option", "A b"], ["--tor-option: ", "--tor launch"]),
    (["--tor-password-file", "/x"], ["--tor-password-file: ", "--tor ENDPOINT"]),
    (["--tor", "unix:/x", "--tor-password-file", "/none"], ["--tor-password-file", "No such file"]),
    (["--tor-option", "Alone"], ["--tor-option", "'Alone'", "a name and a value"]),
    (["--tor-option", "A b\nC d"], ["--tor-option", "a name and a value"]),
    (["--idle-timeout", "x"], ["--idle-timeout", "'x'", "number of seconds"]),
    (["--connect-timeout", "-1"], ["--connect-timeout", "'-1'", "number of seconds"]),
    (["--connect-timeout", "nan"], ["--connect-timeout", "'nan'", "number of seconds"]),
    (["--extended-bytes", "-1"], ["--extended-bytes", "'-1'", "whole number"]),
    (["--extended-pairs", "x"], ["--extended-pairs", "'x'", "whole number"]),
    (["--early-data", "0"], ["--early-data", "'0'", "whole number"]),
    (["--max-connections", "1.5"], ["--max-connections", "'1.5'", "whole number"]),
    (["--auth", "file:/none"], ["--auth", "/none: No such file", "name:password", "for uid"]),
    (["--auth", "bogus"], ["bogus"]),
    (["--auth", "file"], ["'file'", "file:/path"]),
    (["--auth", "memory"], ["'memory'", "memory:name:password"]),
    (["--auth", "memory::secret"], ["memory:name:password"]),
    (["--auth", "unix"], ["'unix'", "in the clear", "file:/path"]),
    (["--bogus"], ["--bogus", "not recognized"]),
    (["--listen"], ["--listen requires argument"]),
    (["--listen", "tcp:0", "IsolateDestAddr"], ["'IsolateDestAddr'", "in one argument, in quotes"]),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_usage_error_names_option_value_and_fix(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options_of(*arguments)
    mistake, advice = str(caught.value).rsplit("\n", 1)
    for word in words:
        assert word in mistake
    assert "enforcement" not in mistake
    assert advice == "Try 'torsocks-tx --help'."


@pytest.mark.parametrize("arguments", [["--help-auth"], ["--help-auth-type", "file"]])
def test_every_kind_of_checker_that_is_listed_can_be_made(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options_of(*arguments)
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[0] == " "]
    assert listed == ["file:/path", "memory:name:password"]
    passwords = tmp_path / "passwords"
    passwords.touch()
    for kind in (f"file:{passwords}", "memory:name:password"):
        assert len(options_of("--auth", kind)["credCheckers"]) == 1


async def test_a_user_on_the_command_line_may_have_colons_in_the_password() -> None:
    options = options_of("--auth", "memory:alice:se:cret", "--auth", "memory:bob:x")
    authenticator = CredAuthenticator(options["credCheckers"])
    assert await authenticator(Credentials(b"alice", b"se:cret")) == b"alice"
    assert await authenticator(Credentials(b"bob", b"x")) == b"bob"
    assert await authenticator(Credentials(b"alice", b"se")) is None


def test_the_password_of_the_control_port(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("tr\u00fcgerisch \n")
    options = options_of("--tor", "tcp:127.0.0.1:9051", "--tor-password-file", str(password))
    assert options["tor-password"] == "tr\u00fcgerisch "


def test_help_is_by_topic_and_fits_a_terminal() -> None:
    text = str(Options())
    assert max(map(len, text.splitlines())) <= 80
    topics = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert topics[:2] == ["Where clients connect:", "Which tor:"]
    assert "--connect-timeout SECONDS  [default: 120]" in text


def test_help_names_every_option_once() -> None:
    options = Options()
    names = [option.name for option in OPTIONS]
    assert sorted(names) == sorted(option.rstrip("=") for option in options.longOpt)


def test_versions_are_ours_twisted_and_tors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tor = tmp_path / "tor"
    tor.write_text("#!/bin/sh\necho 'Tor version 0.4.9.\necho more'\n")
    for mode, said in ((0o755, f"Tor version 0.4.9 ({tor})"), (0o644, "no tor: ")):
        tor.chmod(mode)
        with pytest.raises(SystemExit):
            options_of("--tor-binary", str(tor), "--version")
        ours, theirs, last = capsys.readouterr().out.splitlines()
        assert ours == f"torsocks_tx {torsocks_tx.__version__}"
        assert theirs == f"Twisted {version}"
        assert last.startswith(said)
    assert torsocks_tx.__version__ == metadata.version("torsocks_tx")


@pytest.mark.parametrize(
    ("word", "said"),
    [("--help", "Where clients connect:"), ("--version", "Twisted"), ("--help-flags", flag_help())],
)
def test_help_that_is_printed_ends_the_program_well(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        options_of(word)
    assert caught.value.code == 0
    assert said in capsys.readouterr().out
