"""What a tor of our own lives in: its two directories and the watchdog that outlives us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torsocks_tx.backends.tor.directories import (
    make_socket_directory,
    prepare_data_directory,
    remove_directory,
)
from torsocks_tx.backends.tor.watchdog import Watchdog


class Household:
    """Made by ``open`` and cleared away by ``close``, all but the data directory.

    ``data`` and ``sockets`` are directories; the latter goes also if we are killed.
    """

    def __init__(self, reactor: Any, data: Path, sockets: Path) -> None:
        self.data = data
        self.sockets = sockets
        self.watchdog = Watchdog(reactor)

    @classmethod
    def make(cls, reactor: Any, data_directory: str | Path) -> Household:
        """Prepare the directories; raises ``DirectoryError``."""
        return cls(reactor, prepare_data_directory(data_directory), make_socket_directory())

    async def open(self) -> None:
        """Start the watchdog."""
        await self.watchdog.start()
        self.watchdog.guard_directory(self.sockets)

    async def close(self) -> None:
        """Remove the sockets and end the watchdog; the daemon must be gone."""
        remove_directory(self.sockets)
        await self.watchdog.stop()
