"""ncat, socat, OpenBSD's nc, ssh: clients that half-close, and long-lived streams."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.interop.conftest import Served
from tests.support.clients import client
from tests.support.processes import start_program
from tests.support.recipes import recipe
from tests.support.rows import rows
from tests.support.running import run
from torsocks_tx.testing.tornet.servers import LOOPBACK

pytestmark = pytest.mark.network

REQUEST = b"GET / HTTP/1.0\r\n\r\n"

COMMANDS = [
    "ncat --proxy {address} --proxy-type socks5 web.test {web}",
    "ncat --proxy {address} --proxy-type socks5 --proxy-auth alice:secret web.test {web}",
    "ncat --proxy {address} --proxy-type socks4 203.0.113.9 {web}",
    "socat -t110 - SOCKS4A:127.0.0.1:web.test:{web},socksport={port}",
    "socat -t110 - SOCKS4A:127.0.0.1:web.test:{web},socksport={port},socksuser=alice",
    "nc.openbsd -N -X 5 -x {address} web.test {web}",
    "nc.openbsd -N -X 4 -x {address} 203.0.113.9 {web}",
]


@rows("S-03", "S-04", "S-05", "S-06", "S-13", "S-17")
@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=pytest.mark.clients(each.split()[0])) for each in COMMANDS]
)
async def test_a_client_that_half_closes_prints_the_answer(served: Served, command: str) -> None:
    text = command.format(address=served.address, port=served.port, web=served.web)
    name, *arguments = text.split()
    (await run(client(name), *arguments, stdin=REQUEST)).shows("origin")


@rows("S-03", "R-32")
@pytest.mark.clients("ncat")
async def test_ncat_with_a_server_that_sends_first(served: Served) -> None:
    words = f"--proxy {served.address} --proxy-type socks5 --recv-only web.test {served.banner}"
    ncat = start_program([client("ncat"), *words.split()])
    await ncat.line("220 this server speaks first")


class _Program(ProcessProtocol):
    def __init__(self, connection: Inetd) -> None:
        self._connection = connection

    def outReceived(self, data: bytes) -> None:
        self._connection.transport.write(data)

    def processEnded(self, reason: Any) -> None:
        self._connection.transport.loseConnection()


class Inetd(Protocol):
    """Serves one connection with one run of a command."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._program = _Program(self)

    def connectionMade(self) -> None:
        reactor.spawnProcess(self._program, self._command[0], self._command, os.environ)

    def dataReceived(self, data: bytes) -> None:
        self._program.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self._program.transport.signalProcess("HUP")


class Sshd:
    """An sshd with keys of its own, started anew for each connection."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = directory / "key"

    def command(self) -> str:
        """What socat runs for each connection."""
        settings = {
            "HostKey": self.directory / "host",
            "AuthorizedKeysFile": self.directory / "key.pub",
            "StrictModes": "no",
            "PermitRootLogin": "prohibit-password",
            "UsePAM": "no",
            "PidFile": "none",
        }
        options = " ".join(f"-o {name}={value}" for name, value in settings.items())
        return f"{client('sshd')} -i -e -f /dev/null {options}"


@pytest.fixture
def sshd(tmp_path: Path) -> Sshd:
    """Keys for an sshd. Its separation directory must exist, as its package makes it at boot.

    It stays: another run of the tests may need it.
    """
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return Sshd(tmp_path)


@rows("S-03")
@pytest.mark.clients("ssh", "ssh-keygen", "sshd", "ncat")
async def test_ssh_runs_a_command_through_the_proxy(served: Served, sshd: Sshd) -> None:
    for name in ("host", "key"):
        key = str(sshd.directory / name)
        made = await run(client("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key)
        assert made.status == 0, made.complaint
    command = sshd.command().split()
    factory = Factory.forProtocol(lambda: Inetd(command))
    factory.noisy = False
    port = reactor.listenTCP(0, factory, interface=LOOPBACK)
    settings = sshd.directory / "config"
    settings.write_text(recipe("ssh", address=served.address))
    try:
        ended = await run(
            client("ssh"), "-F", str(settings), "-i", str(sshd.key),
            "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={sshd.directory}/known",
            "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-p", str(port.getHost().port),
            f"{getpass.getuser()}@web.test", "seq 1 20000",
        )  # fmt: skip
    finally:
        await port.stopListening()
    assert ended.status == 0, ended.complaint
    assert ended.text.splitlines() == [str(number) for number in range(1, 20001)]
