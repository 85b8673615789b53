"""The walk of one connection through the package: ``python -m bench.walk`` prints every call.

A real SOCKS5 CONNECT over loopback: a plain client, our server, and something that answers as C Tor
does. One byte goes each way, then tor's side closes. Only functions of the package are counted.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

import torsocks_tx
from torsocks_tx import FixedTorProvider, SOCKSFactory, TorBackend

PACKAGE = str(Path(torsocks_tx.__file__).parent)
REQUEST = b"\5\1\0\3\7web.org\0\x50"
GRANTED = b"\5\0\0\1" + bytes(6)


class _Tor(Protocol):
    """Answers as C Tor: for the credentials at once, for the request later; echoes, and closes."""

    transport: Any
    heard: bytes | None = b""

    def dataReceived(self, data: bytes) -> None:
        """Grant the request, or echo."""
        if self.heard is None:
            self.transport.write(data)
            self.transport.loseConnection()
            return
        self.heard += data
        if REQUEST in self.heard:
            self.heard = None
            self.transport.write(b"\1\0")
            reactor.callLater(0.01, self.transport.write, GRANTED)


class _Client(Protocol):
    """A client that sends greeting, request and one byte."""

    transport: Any
    factory: Any

    def connectionMade(self) -> None:
        """Send the greeting."""
        self.heard = b""
        self.transport.write(b"\5\1\0")

    def dataReceived(self, data: bytes) -> None:
        """Send the next message."""
        self.heard += data
        says = {b"\5\0": REQUEST, b"\5\0" + GRANTED: b"x"}
        self.transport.write(says.get(self.heard, b""))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give the bytes that were received to the factory."""
        self.factory.heard.callback(self.heard)


async def _connect(port: int) -> bytes:
    factory: Any = ClientFactory.forProtocol(_Client)
    factory.noisy, factory.heard = False, Deferred()
    reactor.connectTCP("127.0.0.1", port, factory)
    heard: bytes = await factory.heard
    return heard


async def walk() -> list[tuple[str, str]]:
    """Return every call of a connection in the package, in order: its module and function."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        name, caller = frame.f_code.co_filename, frame.f_back
        is_ours = caller is not None and caller.f_code.co_filename == __file__
        if event == "call" and name.startswith(PACKAGE) and not is_ours:
            calls.append((name[len(PACKAGE) + 1 : -3], frame.f_code.co_qualname))

    quiet: Any = Factory.forProtocol(_Tor)
    quiet.noisy = False
    tor: Any = reactor.listenTCP(0, quiet, interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", tor.getHost().port)
    provider = FixedTorProvider(endpoint, pipelined=True)
    await provider.start()
    factory: Any = SOCKSFactory(TorBackend(reactor, provider))
    server: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        port = server.getHost().port
        await _connect(port)
        await factory.when_empty()
        sys.setprofile(note)
        try:
            heard = await _connect(port)
            await factory.when_empty()
        finally:
            sys.setprofile(None)
        assert heard == b"\5\0" + GRANTED + b"x"
    finally:
        await server.stopListening()
        await tor.stopListening()
        await provider.stop()
    return calls


async def _main() -> None:
    calls = await walk()
    last = ""
    for module, function in calls:
        print(f"{module if module != last else '':<32} {function}")
        last = module
    changes = sum(one[0] != two[0] for one, two in pairwise(calls))
    modules = {module for module, _ in calls}
    print(f"{len(modules)} modules, {len(calls)} calls, {changes} from one module to another")


if __name__ == "__main__":
    task.react(lambda _: Deferred.fromCoroutine(_main()))
