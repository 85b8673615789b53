"""What is printed: to a person at a terminal, to a file, and to systemd's journal."""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import Logger, LogPublisher
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from tests.backends.tor.fake_tor import BOOTSTRAPPED, FakeTor
from tests.support.processes import ROOT, Program
from tests.support.running import run
from tests.twistd.conftest import LOOPBACK
from torsocks_tx.server.listen import parse_listener
from torsocks_tx.twistd.standing import (
    Stage,
    Standing,
    Terminal,
    is_terminal,
    log_observer,
    summary,
)

PAGE = "https://example.com/"


class OnTerminal(Program):
    """``python -m torsocks_tx`` on a terminal of its own; ``output`` is all that it wrote there."""

    def __init__(self, *options: str, directory: Path) -> None:
        super().__init__()
        self.output = ""
        words = [sys.executable, "-m", "torsocks_tx", *options]  # no warnings of old versions
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        reactor.spawnProcess(self, words[0], words, environment, str(directory), usePTY=True)

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode()
        self.wake()

    @property
    def screen(self) -> list[str]:
        """The lines that a person sees now."""
        return [line.rsplit("\r\x1b[K", 1)[-1] for line in self.output.split("\r\n")]

    async def shows(self, line: str) -> None:
        """Wait until a line is there that begins so."""
        await self.until(lambda: any(each.startswith(line) for each in self.screen))


async def test_a_terminal_shows_a_line_that_moves_and_then_what_to_do(
    tor: FakeTor, tmp_path: Path
) -> None:
    shown = OnTerminal("--tor", f"unix:{tor.path}", "--listen", LOOPBACK, directory=tmp_path)
    await shown.shows("[#########-----------] tor: bootstrapped 45% (Asking for descriptors)")
    tor.event('STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=80 TAG=x SUMMARY="Nearly there"')
    await shown.shows("[################----] tor: bootstrapped 80% (Nearly there)")
    assert len(shown.screen) == 1
    assert "\n" not in shown.output
    tor.event(f"STATUS_CLIENT {BOOTSTRAPPED}")
    await shown.until(lambda: "Ctrl-C stops it.\r\n" in shown.output)
    ready, place, command, *rest = shown.screen
    assert ready == "tor is ready"
    assert rest == ["Ctrl-C stops it.", ""]
    port = re.fullmatch(r"  HTTP CONNECT, .* SOCKS5 at (127\.0\.0\.1:\d+)", place)[1]  # type: ignore[index]
    page = "https://check.torproject.org/api/ip"
    assert command == f"Try it:  curl -x socks5h://{port} {page}"
    await tor.stop()
    await shown.until(lambda: "clients are refused until tor is back" in shown.output)
    shown.transport.write(b"\x03")
    assert await shown.end() == 0


@pytest.mark.clients("curl")
async def test_the_command_that_is_shown_works(tmp_path: Path) -> None:
    root = Resource()
    root.putChild(b"page", Data(b"it works", "text/plain"))
    port = reactor.listenTCP(0, Site(root), interface="127.0.0.1")
    options = ("--backend", "direct", "--allow-internal", "--listen", f"'unix:{tmp_path}/a b'")
    shown = OnTerminal(*options, directory=tmp_path)
    await shown.shows("Ctrl-C stops it.")
    assert "NO TOR" in shown.output
    assert "clients at one time" not in shown.output
    line = next(line for line in shown.screen if line.startswith("Try it:  "))
    command = shlex.split(line.partition(":")[2])
    assert command.pop() == PAGE
    ended = await run(*command, "-sS", f"http://127.0.0.1:{port.getHost().port}/page")
    assert (ended.text, ended.status) == ("it works", 0)
    shown.transport.signalProcess("TERM")
    assert await shown.end() == 0
    await port.stopListening()


PLACES = [
    ("tcp:1", IPv4Address("TCP", "0.0.0.0", 1), "socks5h://127.0.0.1:1", "http://127.0.0.1:1/"),
    ("tcp6:1", IPv6Address("TCP", "::", 1), "'socks5h://[::1]:1'", "http://[::1]:1/"),
    ("unix:/x", UNIXAddress("/x"), "socks5h://localhost/x", "unix:/x"),
]


@pytest.mark.parametrize(
    ("text", "address", "proxy", "page"), PLACES, ids=[each[0] for each in PLACES]
)
def test_the_command_names_an_address_where_one_can_connect(
    text: str, address: object, proxy: str, page: str
) -> None:
    port: Any = SimpleNamespace(getHost=lambda: address)
    proxied = "ProxyProtocol=127.0.0.1"
    listeners = [parse_listener(f"{text} NoHTTPConnect"), parse_listener(f"{text} {proxied}")]
    shown = summary(listeners, [port, port], PAGE, has_users=True, status=port)
    assert f"Status:  {page}\n" in shown
    assert f"Try it:  curl -U NAME:PASSWORD -x {proxy} {PAGE}" in shown
    assert "  SOCKS4, SOCKS4a and SOCKS5 at" in shown
    assert "Try" not in summary(listeners[1:], [port], PAGE, has_users=False)


def test_until_it_is_ready_a_terminal_shows_of_the_log_what_is_wrong() -> None:
    class Screen(io.StringIO):
        def fileno(self) -> int:
            return slave

    master, slave = os.openpty()
    for everything in (False, True):
        screen = Screen()
        terminal = Terminal(screen, lambda: "curl", everything=everything)
        publisher = LogPublisher(terminal)
        log = Logger(namespace="here", observer=publisher)
        terminal.report(Standing(Stage.STARTING, "tor: " + 100 * "x", 50))
        log.info("listens")
        log.warn("odd")
        assert ("listens" in screen.getvalue()) is everything
        assert "[here#warn] odd\n[##########----------] tor: xxx" in screen.getvalue()
        assert len(screen.getvalue().rsplit("\n")[-1]) < 80
        terminal.report(Standing(Stage.READY, "tor is ready"))
        log.info("more")
        assert screen.getvalue().count("curl") == 1
        terminal.report(Standing(Stage.READY, "tor is back"))
        assert screen.getvalue().count("curl") == 1
        assert "[here#info] more\n" in screen.getvalue()
    os.close(master)
    terminal.report(Standing(Stage.STOPPING, "the terminal has gone"))
    os.close(slave)


def test_the_journal_gets_priorities_and_no_times(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    with here, there, there.makefile("w") as stream:
        status = os.fstat(stream.fileno())
        place = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        for environment in (place, {}, {"JOURNAL_STREAM": "1:2"}):
            log = Logger(namespace="here", observer=log_observer(stream, environment))
            log.info("first\nsecond")
            log.critical("third")
            stream.flush()
            said = here.recv(1000).decode()
            if environment is place:
                assert said == "<6>[here#info] first\n<6>second\n<2>[here#critical] third\n"
            else:
                assert re.match(r"\d{4}-\d\d-\d\dT[\d:+]+ \[here#info\] first\n", said)


@pytest.mark.parametrize(("term", "is_one"), [("xterm", True), ("dumb", False), (None, False)])
def test_a_terminal_that_cannot_move_a_line_gets_the_log(term: str | None, is_one: bool) -> None:
    stream: Any = SimpleNamespace(isatty=lambda: True)
    environment = {} if term is None else {"TERM": term}
    assert is_terminal(stream, environment) is is_one
    assert not is_terminal(io.StringIO(), environment)
