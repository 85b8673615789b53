"""The command of the private network: its output, and that no process remains."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import asdict
from pathlib import Path

import pytest
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.clients import client
from tests.support.processes import Program, descendants, is_alive, process_ended, start_python
from torsocks_tx.testing.tornet import __main__ as tornet_command
from torsocks_tx.testing.tornet.__main__ import describe, main
from torsocks_tx.testing.tornet.torrc import make_exits

pytestmark = pytest.mark.network

MODULE = "torsocks_tx.testing.tornet"
UP_WITHIN = 120.0

STUB = """
import sys
from twisted.internet import reactor
from twisted.internet.task import deferLater
from torsocks_tx.testing.tornet import __main__ as tornet_command
from torsocks_tx.testing.tornet.node import NetworkError

class Stub:
    web = None

    def __init__(self, reactor, directory, clients, countries):
        self.start_takes = float(str(directory))

    async def start(self, progress):
        progress("starting")
        if self.start_takes < 0:
            raise NetworkError("it does not come up")
        await deferLater(reactor, self.start_takes, lambda: None)

    async def stop(self):
        await deferLater(reactor, 0.3, lambda: None)
        print("stopped", flush=True)

    def facts(self):
        return {"up": True}

tornet_command.PrivateNetwork = Stub
tornet_command.main(sys.argv[1:])
"""
AT_ONCE, NEVER, FAILS = "0", "1000", "-1"


def stub(start: str, *options: str) -> Program:
    """Start the command with a fake network that needs ``start`` seconds."""
    return start_python("-c", STUB, f"--directory={start}", "--json", *options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signal_ends_a_running_network(number: signal.Signals) -> None:
    program = stub(AT_ONCE)
    assert json.loads(await program.line()) == {"up": True, "onion": None}
    os.kill(program.pid, number)
    os.kill(program.pid, number)
    assert await program.line() == "stopped"
    assert await program.end() == 0
    assert program.errors == b"tornet: starting\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signal_ends_a_starting_network(number: signal.Signals) -> None:
    program = stub(NEVER)
    await program.complaint("tornet: starting\n")
    os.kill(program.pid, number)
    assert await program.line() == "stopped"
    assert await program.end() == 1
    assert program.errors.endswith(b"\ntornet: stopped before the network was up\n")


async def test_network_stops_after_its_time_and_with_standard_input() -> None:
    program = stub(AT_ONCE, "--run-for", "0.01")
    assert await program.line("stopped") == "stopped"
    assert await program.end() == 0
    program = stub(AT_ONCE, "--stop-with-stdin")
    await program.line("{")
    program.transport.write(b"not the end\n")
    assert is_alive(program.pid)
    output = Path(f"/proc/{program.pid}/fdinfo/1").read_text().split()
    flags = int(output[output.index("flags:") + 1], 8)
    assert not flags & os.O_NONBLOCK, "others may write to the same output"
    program.transport.closeStdin()
    assert await program.line() == "stopped"
    assert await program.end() == 0


async def test_network_that_does_not_start_is_one_line_of_error() -> None:
    program = stub(FAILS)
    assert await program.end() == 1
    assert program.errors == b"tornet: starting\ntornet: it does not come up\n"


def test_without_tor_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torsocks_tx.backends.tor.daemon._search_path", lambda: str(tmp_path))
    with pytest.raises(SystemExit, match="1"):
        main([])
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1
    assert errors.startswith("tornet: tor is not installed: install the package 'tor'")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--clients", "0"], "argument --clients: 0 is not a number from 1 to 20"),
        (["--countries", "aa"], "argument --countries: aa is not like de=3,fr=3"),
        (["--countries", "aa=0"], "argument --countries: aa=0 is not like de=3,fr=3"),
        (["--clients", "x"], "argument --clients: invalid _count value: 'x'"),
        (["--run-for", "-1"], "argument --run-for: -1 is not a number of seconds"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_invalid_option_is_a_usage_error(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert complaint in capsys.readouterr().err


def test_help_names_every_server_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    words = "web.test exit.test doc.test 203.0.113.9 2001:db8::9 /bytes/N /echo --json"
    assert [word for word in words.split() if word not in text] == []
    assert max(map(len, text.splitlines())) <= 90


def test_facts_are_described_for_a_person() -> None:
    client = {
        "name": "client0",
        "control": "unix:/x/control",
        "socks_unix": "/x/socks",
        "socks_tcp": ["127.0.0.1", 1],
        "socks_extended": ["127.0.0.1", 2],
    }
    text = describe(
        {
            "clients": [client],
            "origins": {"web": 3, "echo": 4, "banner": 5},
            "exits": [asdict(exit) for exit in make_exits({"aa": 1}).values()],
            "names": {"both.test": ["127.0.0.1", "::1"]},
            "onion": "a.onion",
        }
    )
    for words in (
        "127.0.0.1:1",
        "unix:/x/socks",
        "127.0.0.1:2 (ExtendedErrors)",
        "unix:/x/control",
        "exit0      in aa, 127.0.0.10",
        "both.test  127.0.0.1, ::1",
        "http://a.onion/",
        "curl -x socks5h://127.0.0.1:1 http://web.test:3/",
    ):
        assert words in text


async def nothing_is_left(pids: list[int], directory: Path) -> None:
    for pid in pids:
        await process_ended(pid)
    assert not directory.exists()


@pytest.mark.clients("curl")
@pytest.mark.slow
async def test_killed_network_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    """It starts in time, is used from another process, and is then killed by SIGKILL."""
    directory = tmp_path / "net"
    program = start_python(
        *("-m", MODULE, "--json", "--onion", "--clients", "2", "--countries", "aa=2,bb=2"),
        *("--directory", str(directory)),
    )
    facts = json.loads(await program.line(deadline=UP_WITHIN))
    pids = [*facts["pids"].values(), *descendants(program.pid)]
    assert set(facts["pids"].values()) < set(descendants(program.pid)), "and the watchdog"
    assert len(facts["clients"]) == 2
    for each in facts["clients"]:
        proxy = "socks5h://{}:{}".format(*each["socks_tcp"])
        url = f"http://{facts['onion']}/bytes/3"
        page = await getProcessOutputAndValue(client("curl"), ["-qsS", "-x", proxy, url], env=None)
        assert page == (b"xxx", b"", 0)
        seen = f"http://exit.test:{facts['origins']['web']}/"
        page = await getProcessOutputAndValue(client("curl"), ["-qsS", "-x", proxy, seen], env=None)
        [(exit, country)] = re.findall(rb"You came by exit(\d), in the country (\w+)", page[0])
        assert facts["exits"][int(exit)]["country"].encode() == country
    os.kill(facts["pids"]["exit0"], signal.SIGSTOP)
    os.kill(facts["pids"]["client1"], signal.SIGSTOP)
    os.kill(program.pid, signal.SIGKILL)
    await program.end()
    await nothing_is_left(pids, directory)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("moment", ["keys of the authorities made", "authorities and exits up"])
async def test_starting_network_that_is_ended_leaves_nothing(
    tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    directory = tmp_path / "net"
    program = start_python("-m", MODULE, "--directory", str(directory))
    await program.complaint(f"tornet: {moment}\n")
    pids = descendants(program.pid)
    assert len(pids) >= 1
    assert directory.exists()
    os.kill(program.pid, number)
    status = await program.end()
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 1)
    await nothing_is_left(pids, directory)
    assert tornet_command.NAME.encode() in program.errors
