"""The clients of the private network: their SocksPorts, streams and circuits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.events import parse_event
from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.client.endpoint import SOCKSClientEndpoint
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.messages import Credentials
from torsocks_tx.testing.tornet.node import NetworkError, Node, all_of
from torsocks_tx.testing.tornet.onion import ClientKey, OnionService
from torsocks_tx.testing.tornet.servers import LOOPBACK

WAIT_DEADLINE = 30.0
"""Seconds that :meth:`StreamWatch.wait_for` waits before it raises a ``TimeoutError``."""

REACH_DEADLINE = 90.0
"""Seconds for a client to reach each exit."""

SOCKS_SOCKET = "socks"
"""The file name of a SocksPort, in the directory of its client."""

_PAUSE = 0.2
_HOP = re.compile(r"\$[0-9A-F]{40}(?:[~=](\w+))?")


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One STREAM event (control-spec 4.1.2), or one line of GETINFO stream-status.

    Attributes:
        stream_id: tor's number of the stream.
        status: such as NEW, SENTCONNECT, SUCCEEDED, FAILED, CLOSED.
        circuit_id: tor's number of the circuit; 0 while it has none.
        target: ``host:port`` as tor has it at this moment: once it knows the address of a name,
            the address.
        requested: ``host:port`` as it was when the stream was new.
        socks_username, socks_password: the client's, if it gave some; in events only.
        reason: why the stream failed or closed, such as DONE; in events only.
        path: the names of the circuit's relays, first hop first; in ``stream_circuits`` only.
        purpose: of the circuit, such as GENERAL or HS_CLIENT_REND; in ``stream_circuits`` only.
    """

    stream_id: int
    status: str
    circuit_id: int
    target: str
    requested: str
    socks_username: str | None = None
    socks_password: str | None = None
    reason: str = ""
    path: tuple[str, ...] = ()
    purpose: str = ""

    @classmethod
    def parse(cls, text: str) -> StreamEvent:
        """Read the text of an event, without its name."""
        event = parse_event(text)
        number, status, circuit, target = event.positional[:4]
        username = event.keywords.get("SOCKS_USERNAME")
        password = event.keywords.get("SOCKS_PASSWORD")
        reason = event.keywords.get("REASON", "")
        return cls(int(number), status, int(circuit), target, target, username, password, reason)


class StreamWatch:
    """Records the STREAM events of one client, from the moment it was made until it is closed."""

    def __init__(self, reactor: Any, control: Control) -> None:
        self.events: list[StreamEvent] = []
        self._reactor = reactor
        self._control = control
        self._requested: dict[int, str] = {}
        self._news: Waiters[None] = Waiters()

    async def open(self) -> StreamWatch:
        """Start recording."""
        await self._control.listen("STREAM", self._note)
        return self

    async def close(self) -> None:
        """Stop recording; what was recorded stays."""
        await self._control.unlisten("STREAM", self._note)

    def circuits(self, requested: str, status: str = "SUCCEEDED") -> list[int]:
        """Return the circuits on which streams to this ``host:port`` came to this status."""
        return [event.circuit_id for event in self._matching(requested, status)]

    async def wait_for(self, status: str, requested: str, count: int = 1) -> list[StreamEvent]:
        """Wait until ``count`` streams to this ``host:port`` have come to this status."""
        waiting = Deferred.fromCoroutine(self._wait_for(status, requested, count))
        return await waiting.addTimeout(WAIT_DEADLINE, self._reactor)

    async def _wait_for(self, status: str, requested: str, count: int) -> list[StreamEvent]:
        while len(found := self._matching(requested, status)) < count:
            await self._news.wait()
        return found

    def _matching(self, requested: str, status: str) -> list[StreamEvent]:
        return [
            event
            for event in self.events
            if event.requested == requested and event.status == status
        ]

    def _note(self, text: str) -> None:
        event = StreamEvent.parse(text)
        requested = self._requested.setdefault(event.stream_id, event.target)
        self.events.append(replace(event, requested=requested))
        self._news.fire(None)


async def live_streams(control: Control) -> list[StreamEvent]:
    """Return the streams that exist now, with their circuits."""
    streams = (await control.get_info("stream-status")).splitlines()
    circuits: dict[int, dict[str, Any]] = {}
    for line in (await control.get_info("circuit-status")).splitlines():
        event = parse_event(line)
        hops = event.positional[2] if len(event.positional) > 2 else ""
        circuits[int(event.positional[0])] = {
            "path": tuple(_HOP.findall(hops)),
            "purpose": event.keywords.get("PURPOSE", ""),
        }
    found = [StreamEvent.parse(line) for line in streams if line]
    return [replace(stream, **circuits.get(stream.circuit_id, {})) for stream in found]


class Client:
    """A tor that applications connect through.

    Attributes:
        node: its daemon: process id, control port, suspend and so on.
        socks_unix: the path of a SocksPort on a unix socket, without flags.
        socks_tcp: (host, port) of a SocksPort without flags.
        socks_extended: (host, port) of a SocksPort with ExtendedErrors.
        has_own_lines: whether its configuration has lines of the caller.
    """

    def __init__(
        self, reactor: Any, node: Node, tcp: int, extended: int, *, has_own_lines: bool = False
    ) -> None:
        self.node = node
        self.has_own_lines = has_own_lines
        self.socks_unix = str(node.directory / SOCKS_SOCKET)
        self.socks_tcp = (LOOPBACK, tcp)
        self.socks_extended = (LOOPBACK, extended)
        self._reactor = reactor

    @property
    def name(self) -> str:
        """Its name, such as ``client0``."""
        return self.node.name

    @property
    def control_endpoint(self) -> str:
        """A Twisted endpoint string of its control port (cookie authentication)."""
        return self.node.control_endpoint

    def facts(self) -> dict[str, Any]:
        """Return where it listens, ready for JSON."""
        return {
            "name": self.name,
            "pid": self.node.pid,
            "control": self.control_endpoint,
            "socks_unix": self.socks_unix,
            "socks_tcp": list(self.socks_tcp),
            "socks_extended": list(self.socks_extended),
        }

    async def reach_exits(self, exits: Mapping[str, str], host: str, port: int) -> None:
        """Return once a stream to ``host`` has opened through each exit (fingerprints by name).

        Without exits: through any that tor picks. Raises ``NetworkError`` after ``REACH_DEADLINE``.
        """
        control = await self.node.control()
        # A mapping of tor's is the one way to name the exit of a stream (tor(1), MapAddress).
        aliases = {f"{name}.exit-check.invalid": key for name, key in exits.items()}
        mappings = [f"{alias}={host}.{key}.exit" for alias, key in aliases.items()]
        if mappings:
            await control.command(f"MAPADDRESS {' '.join(mappings)}")
        opening = Deferred.fromCoroutine(
            all_of(self._open(name, port) for name in aliases or [host])
        )
        try:
            await opening.addTimeout(REACH_DEADLINE, self._reactor)
        except TimeoutError:
            raise NetworkError(f"{self.name} does not reach every exit") from None
        if mappings:
            await control.command(f"MAPADDRESS {' '.join(f'{alias}={alias}' for alias in aliases)}")

    async def _open(self, host: str, port: int) -> None:
        # With these credentials the circuits are not shared with other streams.
        options = ClientOptions(credentials=Credentials(b"exit-check", host.encode("ascii")))
        proxy = UNIXClientEndpoint(self._reactor, self.socks_unix)
        endpoint = SOCKSClientEndpoint(self._reactor, proxy, host, port, options)
        while True:
            try:
                protocol: Any = await connectProtocol(endpoint, Protocol())
            except ConnectError:
                await deferLater(self._reactor, _PAUSE)
            else:
                protocol.transport.abortConnection()
                return

    async def close_circuits(self, name: str) -> None:
        """Close the circuits through a relay that has ended; others in them may not know yet."""
        control = await self.node.control()
        for line in (await control.get_info("circuit-status")).splitlines():
            if name in _HOP.findall(line):
                with suppress(ControlError):  # closed meanwhile
                    await control.command(f"CLOSECIRCUIT {line.partition(' ')[0]}")

    async def stream_circuits(self) -> list[StreamEvent]:
        """Return the streams that exist now, with their circuits."""
        return await live_streams(await self.node.control())

    async def watch_streams(self) -> StreamWatch:
        """Record STREAM events from now on."""
        return await StreamWatch(self._reactor, await self.node.control()).open()

    async def authorize(self, service: OnionService, key: ClientKey) -> None:
        """Give this client the key that a service asks for; a NEWNYM removes it."""
        address = service.address.removesuffix(".onion")
        control = await self.node.control()
        await control.command(f"ONION_CLIENT_AUTH_ADD {address} x25519:{key.private_base64}")
