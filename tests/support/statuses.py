"""What ``/status.json`` says of a server that has something of everything."""

from __future__ import annotations

from typing import Any


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
