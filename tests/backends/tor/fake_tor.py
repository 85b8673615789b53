"""A fake control port: commands are recorded, and answers come from tables."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.events import quote_path

BOOTSTRAPPED = 'NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"'
STARTING = (
    'NOTICE BOOTSTRAP PROGRESS=45 TAG=requesting_descriptors SUMMARY="Asking for descriptors"'
)
COOKIE = bytes(range(32))
SERVER_NONCE = bytes(32)
EVENTS = "CIRC CIRC_MINOR STREAM HS_DESC SIGNAL STATUS_CLIENT CONF_CHANGED"


async def listen_at(path: str, protocol: Callable[[], Protocol] = Protocol) -> Any:
    """Listen at a unix socket, by default for connections that are only held; return the port."""
    factory = Factory.forProtocol(protocol)  # type: ignore[arg-type]
    factory.noisy = False
    return await UNIXServerEndpoint(reactor, path).listen(factory)


class FakeControl(LineOnlyReceiver):
    """One control connection."""

    factory: FakeTor

    def connectionMade(self) -> None:
        self.factory.connections.append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.remove(self)

    def lineReceived(self, line: bytes) -> None:
        text = line.decode()
        self.factory.commands.append(text)
        answer = self.factory.answer(text)
        if answer is not None:
            self.send(answer)

    def send(self, text: str) -> None:
        self.transport.write("".join(f"{line}\r\n" for line in text.split("\n")).encode())


class FakeTor(ServerFactory):
    """The tables: ``info`` and ``conf`` by key, ``answers`` by the whole command.

    ``intercepted``: functions that answer commands with a start.
    """

    protocol = FakeControl
    noisy = False

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "control")
        self.socks = str(directory / "socks")
        self.endpoint = UNIXClientEndpoint(reactor, self.path)
        self._port: Any = None
        self.connections: list[FakeControl] = []
        self.commands: list[str] = []
        self.known = COOKIE
        self.intercepted: dict[str, Callable[[], str | None]] = {}
        self.answers: dict[str, str | None] = {
            "PROTOCOLINFO 1": "250-PROTOCOLINFO 1\n250-AUTH METHODS=NULL\n250 OK"
        }
        self.info = {
            "version": "0.4.9.11",
            "events/names": EVENTS,
            "signal/names": "RELOAD NEWNYM",
            "status/bootstrap-phase": BOOTSTRAPPED,
            "net/listeners/socks": f'"unix:{self.socks}"',
        }
        self.conf: dict[str, list[str]] = {
            "SocksPort": [f"unix:{self.socks}"],
            "__SocksPort": [],
            "AutomapHostsOnResolve": ["0"],
        }

    def answer(self, command: str) -> str | None:
        for start, function in self.intercepted.items():
            if command.startswith(start):
                return function()
        if command in self.answers:
            return self.answers[command]
        word, _, rest = command.partition(" ")
        if word == "AUTHCHALLENGE":
            return self._prove(rest.split()[1])
        if word == "GETINFO":
            return self._get_info(rest)
        if word == "GETCONF":
            return self._get_conf(rest.split())
        return "250 OK"

    def offer(self, methods: str, cookie: Path | None = None, known: bytes = COOKIE) -> None:
        """Ask for one of these methods from now on; ``known``: the cookie that it knows."""
        words = f"METHODS={methods}" + (f" COOKIEFILE={quote_path(cookie)}" if cookie else "")
        self.answers["PROTOCOLINFO 1"] = f"250-PROTOCOLINFO 1\n250-AUTH {words}\n250 OK"
        self.known = known

    def _prove(self, nonce: str) -> str:
        both = self.known + bytes.fromhex(nonce) + SERVER_NONCE
        key = b"Tor safe cookie authentication server-to-controller hash"
        proof = hmac.digest(key, both, "sha256").hex().upper()
        return f"250 AUTHCHALLENGE SERVERHASH={proof} SERVERNONCE={SERVER_NONCE.hex()}"

    def event(self, text: str) -> None:
        """Send one event on every connection."""
        for connection in tuple(self.connections):
            connection.send(f"650 {text}")

    def change(self, option: str) -> None:
        """Send an event that says that this option was changed."""
        for connection in self.connections:
            connection.send(f"650-CONF_CHANGED\n650-{option}\n650 OK")

    def drop(self) -> None:
        """Lose every connection."""
        for connection in tuple(self.connections):
            transport: Any = connection.transport
            transport.abortConnection()

    async def listen(self) -> None:
        """Listen, for the first time or again."""
        self.commands.clear()
        self._port = await UNIXServerEndpoint(reactor, self.path).listen(self)

    async def stop(self) -> None:
        """Stop, as a tor that was killed."""
        self.drop()
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()

    def _get_info(self, key: str) -> str:
        if key not in self.info:
            return f'552 Unrecognized key "{key}"'
        return f"250-{key}={self.info[key]}\n250 OK"

    def _get_conf(self, keys: list[str]) -> str:
        lines = [f"{key}={value}" for key in keys for value in self.conf[key]]
        lines += [key for key in keys if not self.conf[key]]
        return "\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])
