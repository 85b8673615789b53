"""A filter before a control port, which answers as onion-grater of Tails and Whonix does."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from tests.support.processes import ROOT

OPEN = '250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor="0.4.9.11"\r\n250 OK'


def page_profile() -> Callable[[str], bool]:
    """Return what the onion-grater profile of ``docs/control-port.md`` admits."""
    page = (ROOT / "docs" / "control-port.md").read_text(encoding="utf-8")
    commands, _, events = page.partition("  commands:\n")[2].partition("  events:\n")
    patterns: dict[str, list[str]] = {}
    for word, pattern in re.findall(r"^    (\w+):$|^      - '(.*)'$", commands, re.MULTILINE):
        patterns |= {word: []} if word else {}
        patterns[word or list(patterns)[-1]] += [pattern] if pattern else []
    names = re.findall(r"^    (\w+):$", events.partition("```")[0], re.MULTILINE)
    patterns["SETEVENTS"] = [*names]

    def admits(line: str) -> bool:
        word, _, rest = line.partition(" ")
        return any(re.match(f"{pattern}$", rest) for pattern in patterns.get(word, []))

    return admits


class _ToTor(Protocol):
    """The connection to tor: what it says goes to the client as it is."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def dataReceived(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client.transport.loseConnection()


class _Client(LineOnlyReceiver):
    """The connection of a client, whose lines are looked at one by one."""

    MAX_LENGTH = 10 * 1024
    factory: ControlFilter
    _tor: Any = None

    def connectionMade(self) -> None:
        self.transport.pauseProducing()
        connecting = self.factory.tor.connect(Factory.forProtocol(lambda: _ToTor(self)))
        connecting.addCallbacks(self._connected, lambda _: self.transport.loseConnection())

    def _connected(self, tor: Protocol) -> None:
        self._tor = tor.transport
        self.transport.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._tor is not None:
            self._tor.abortConnection()

    def lineReceived(self, line: bytes) -> None:
        passes, text = self.factory.judge(line.decode("ascii"))
        to = self._tor if passes else self.transport
        to.write(text.encode("ascii") + b"\r\n")


class ControlFilter(ServerFactory):
    """Listens at ``endpoint``, and lets to ``tor`` what ``admits`` lets pass.

    ``suppressed``: events that seem to be admitted, and never come. ``cookie``: the filter
    authenticates by this, and tells its clients that nobody needs to. ``commands``: what they sent.
    """

    protocol = _Client
    noisy = False

    def __init__(
        self,
        path: Path,
        tor: IStreamClientEndpoint,
        admits: Callable[[str], bool],
        *,
        suppressed: Container[str] = (),
        cookie: Path | None = None,
    ) -> None:
        self.endpoint = UNIXClientEndpoint(reactor, str(path))
        self.tor = tor
        self.commands: list[str] = []
        self._path = str(path)
        self._admits = admits
        self._suppressed = suppressed
        self._cookie = cookie

    async def listen(self) -> Any:
        """Return the port, listening."""
        return await UNIXServerEndpoint(reactor, self._path).listen(self)

    def judge(self, line: str) -> tuple[bool, str]:
        """Return whether tor is told something, and what it or the client is told."""
        self.commands.append(line)
        word, _, rest = line.partition(" ")
        if self._cookie is not None and word == "PROTOCOLINFO":
            return False, OPEN
        if self._cookie is not None and word == "AUTHENTICATE":
            return True, f"AUTHENTICATE {self._cookie.read_bytes().hex()}"
        if word == "SETEVENTS":
            names = rest.split()
            if all(self._admits(f"SETEVENTS {name}") for name in names):
                kept = [name for name in names if name not in self._suppressed]
                return True, " ".join(["SETEVENTS", *kept])
        elif self._admits(line):
            return True, line
        return False, "510 Command filtered"
