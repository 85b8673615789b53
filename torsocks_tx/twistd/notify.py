"""How the server stands, told to whoever started it: systemd, by the socket of sd_notify(3).

A ``Report`` takes each ``Standing``; another one is in :mod:`.terminal`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall


class Stage(Enum):
    """What the server does now; DOWN: it runs, and refuses clients."""

    STARTING = auto()
    READY = auto()
    DOWN = auto()
    RELOADING = auto()
    STOPPING = auto()


@dataclass(frozen=True)
class Standing:
    """A stage, in words, and how much of tor's bootstrap is done; nothing in it is of a client."""

    stage: Stage
    text: str
    percent: int | None = None


Report = Callable[[Standing], object]


class SystemdNotifier:
    """Tells systemd (or another manager) how the server stands, and that the reactor turns.

    ``address``: NOTIFY_SOCKET. ``watchdog``: seconds without a sign of life after which the manager
    ends the server, or 0. What cannot be sent is lost: nothing waits for the manager.
    """

    def __init__(self, clock: IReactorTime, address: str, watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._has_been_ready = False
        if watchdog:
            beating = LoopingCall(self._beat)
            beating.clock = clock
            beating.start(watchdog / 3)

    def __call__(self, standing: Standing) -> None:
        """Tell it."""
        lines = [f"STATUS={standing.text}"]
        if standing.stage is Stage.STOPPING:
            lines.append("STOPPING=1")
        elif standing.stage is Stage.READY:
            self._has_been_ready = True
        if self._has_been_ready and standing.stage is Stage.RELOADING:
            lines += ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"]
        elif self._has_been_ready and standing.stage is not Stage.STOPPING:
            # Also the end of a reload, whether there is a tor by then or not.
            lines.append("READY=1")
        self._send(*lines)

    def _beat(self) -> None:
        lines = ["WATCHDOG=1"]
        if not self._has_been_ready:
            # tor may take long to start: that is no reason to end it, but a stuck reactor is.
            lines.append(f"EXTEND_TIMEOUT_USEC={self._watchdog * 1e6:.0f}")
        self._send(*lines)

    def _send(self, *lines: str) -> None:
        message = "\n".join(line.replace("\n", " ") for line in lines)
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            sending.sendto(message.encode("utf-8", "replace"), self._address)


def notifier_from(
    clock: IReactorTime, environment: MutableMapping[str, str]
) -> SystemdNotifier | None:
    """Return what tells the manager that started this process, or None if none asks.

    Its variables are taken away: tor, which we start, would tell it too.
    """
    address = environment.pop("NOTIFY_SOCKET", "")
    interval = environment.pop("WATCHDOG_USEC", "")
    is_ours = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not address.startswith(("/", "@")):
        return None
    watchdog = int(interval) / 1e6 if interval.isdecimal() and is_ours else 0.0
    return SystemdNotifier(clock, address, watchdog)
