"""The status page in tests: what ``/status.json`` says, and visits to it in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransportWithDisconnection

from tests.support.http import Answer, read_answer
from torsocks_tx.status.pages import StatusServer


class Visit:
    """A connection to a status page, from 127.77.66.55."""

    def __init__(self, status: StatusServer) -> None:
        peer = IPv4Address("TCP", "127.77.66.55", 1)
        self.transport = StringTransportWithDisconnection(peerAddress=peer)
        self.transport.protocol = status.site.buildProtocol(peer)
        self.transport.protocol.makeConnection(self.transport)

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self.transport.connected

    def send(
        self,
        path: str,
        method: str = "GET",
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Ask for a page."""
        body = "" if form is None else urlencode(form)
        kind = {"content-type": "application/x-www-form-urlencoded", "content-length": len(body)}
        sent = {"host": "127.0.0.1:9", **(headers or {}), **(kind if form is not None else {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        data = f"{method} {path} HTTP/1.0\r\n{lines}\r\n{body}"
        self.transport.protocol.dataReceived(data.encode("latin-1"))

    def ask(self, path: str, method: str = "GET", **more: Any) -> Answer:
        """Ask for a page; return the answer, which is there at once."""
        self.send(path, method, **more)
        return read_answer(self.take(), method)[0]

    def take(self) -> bytes:
        """Return what has been sent here since the last time."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def leave(self) -> None:
        """Lose the connection."""
        self.transport.loseConnection()


def hop(number: int, country: str = "de") -> dict[str, Any]:
    """Return a relay."""
    return {"nickname": f"relay{number}", "fingerprint": f"{number:040X}", "country": country}


def circuit(
    number: int, streams: int | None = 0, purpose: str = "GENERAL", country: str = "nl"
) -> dict[str, Any]:
    """Return a circuit by the exit of this number."""
    path = [hop(1), hop(2, "??"), hop(number, country)]
    return {"purpose": purpose, "age": 61 + number, "streams": streams, "path": path}


def status(**changes: Any) -> dict[str, Any]:
    """Return what is said, with some of it changed."""
    histogram = {"count": 4, "sum": 2.5, "buckets": [[0.5, 1], [1.0, 2], [5.0, 4]]}
    tor = {
        "name": "tor", "state": "ready", "bootstrap": {"percent": 100, "summary": "Done"},
        "version": "0.4.9.3", "reconnects": 1,
        "circuits": [circuit(3), circuit(4, 2), circuit(5, 1, "HS_CLIENT_REND")],
    }  # fmt: skip
    listener = {
        "name": "a", "endpoint": "tcp:1080:interface=127.0.0.1", "flags": ["ExtendedErrors"],
        "connections": 3, "streams": 2, "lingering": 1,
        "connections_total": {"socks5": 8, "http": 1},
        "outcomes": {"open": 7, "F2": 1, "04": 0},
    }  # fmt: skip
    return {
        "version": "1.2.3", "uptime": 700, "workers": 1, "worker_restarts": 0, "state": "ready",
        "tors": [tor], "listeners": [listener],
        "outcomes": [
            {"code": "F2", "meaning": "Not at its introduction points.", "count": 1},
            {"code": "04", "meaning": "Not reached.", "count": 0},
            {"code": "open", "meaning": "Opened.", "count": 1999},
        ],
        "bytes": {"from_clients": 1_234, "to_clients": 5_600_000}, "early_data_bytes": 12,
        "open_seconds": {"clearnet": histogram, "onion": {**histogram, "count": 0}},
        "rates": {
            "interval": 1, "streams": [0, 4, 1, 2, 3], "bytes_from_clients": [0, 9, 10, 10, 10],
            "bytes_to_clients": [0, 0, 2000, 3000, 1000],
        },
        "descriptors": {"open": 20, "limit": 1024},
        **changes,
    }  # fmt: skip
