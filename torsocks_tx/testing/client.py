"""A client of the private network: its SocksPorts, its streams, and what it knows of services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torsocks_tx.backends.tor.paths import quote_path
from torsocks_tx.testing.node import Node, checked_socket
from torsocks_tx.testing.onion import ClientKey, OnionService
from torsocks_tx.testing.ports import LOOPBACK
from torsocks_tx.testing.streams import LiveStream, StreamWatch, live_streams


class Client:
    """A tor that applications connect through.

    Attributes:
        node: its daemon: process id, control port, suspend and so on.
        socks_unix: the path of a SocksPort on a unix socket, without flags.
        socks_tcp: (host, port) of a SocksPort without flags.
        socks_extended: (host, port) of a SocksPort with ExtendedErrors.
    """

    def __init__(self, reactor: Any, node: Node, socks: ClientPorts) -> None:
        self.node = node
        self.socks_unix = socks.unix
        self.socks_tcp = (LOOPBACK, socks.tcp)
        self.socks_extended = (LOOPBACK, socks.extended)
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

    async def stream_circuits(self) -> list[LiveStream]:
        """Return the streams that exist now, with their circuits."""
        return await live_streams(await self.node.control())

    async def watch_streams(self) -> StreamWatch:
        """Record STREAM events from now on."""
        return await StreamWatch(self._reactor, await self.node.control()).open()

    async def authorize(self, service: OnionService, key: ClientKey) -> None:
        """Give this client the key with which a service lets it in; a NEWNYM takes it away."""
        address = service.address.removesuffix(".onion")
        control = await self.node.control()
        await control.command(f"ONION_CLIENT_AUTH_ADD {address} x25519:{key.private_base64}")


class ClientPorts:
    """Where one client listens for SOCKS."""

    def __init__(self, directory: Path, tcp: int, extended: int) -> None:
        self.unix = str(checked_socket(directory / "socks"))
        self.tcp = tcp
        self.extended = extended

    def torrc_values(self) -> tuple[str, ...]:
        """Return the values of the SocksPort lines."""
        return (
            f"unix:{quote_path(self.unix)}",
            f"{LOOPBACK}:{self.tcp}",
            f"{LOOPBACK}:{self.extended} ExtendedErrors",
        )
