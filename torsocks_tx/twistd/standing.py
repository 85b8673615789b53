"""How the server stands, told to whoever started it: to systemd, and to a person at a terminal.

systemd hears of it by the socket of sd_notify(3). A person gets one line that moves and then a
summary; until then, of the log only warnings. A file gets the log; so does systemd's journal, with
priorities, and without times: it has its own.
"""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TextIO
from urllib.parse import quote

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

from torsocks_tx.server.listen import Listener, describe
from twisted import logger


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


_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
"""Those of syslog(3), which sd-daemon(3) has in front of a line."""

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_BAR = 20
_ERASE = "\r\x1b[K"


@implementer(ILogObserver)
class Terminal:
    """Shows a person how the server stands, and the log.

    ``summary``: what to do once it is ready. ``everything``: show the whole log from the beginning.
    """

    def __init__(
        self, stream: TextIO, summary: Callable[[], str], *, everything: bool = False
    ) -> None:
        self._stream = stream
        self._summary = summary
        self._shows_all = everything
        self._has_been_ready = False
        self._moving = ""

    def __call__(self, event: LogEvent) -> None:
        """Show a line of the log, above the line that moves."""
        if self._shows_all or event["log_level"] >= LogLevel.warn:
            self._write(logger.formatEventAsClassicLogText(event) or "")

    def report(self, standing: Standing) -> None:
        """Show how the server stands."""
        self._moving = ""
        if standing.stage is Stage.READY and not self._has_been_ready:
            self._has_been_ready = self._shows_all = True
            self._write(f"{standing.text}\n{self._summary()}\n")
        elif standing.stage is Stage.STARTING and not self._has_been_ready:
            done = "#" * ((standing.percent or 0) * _BAR // 100)
            self._moving = f"[{done:-<{_BAR}}] {standing.text}"
            self._write("")
        else:
            self._shows_all |= standing.stage is Stage.STOPPING
            self._write("")

    def _write(self, text: str) -> None:
        """Write whole lines where the moving line is, and that line below them."""
        with suppress(OSError):  # the terminal has gone
            columns = os.get_terminal_size(self._stream.fileno()).columns or 80
            self._stream.write(f"{_ERASE}{text}{self._moving[: columns - 1]}")
            self._stream.flush()


def _journal_line(event: LogEvent) -> str | None:
    text = logger.eventAsText(event, includeTimestamp=False)
    priority = _PRIORITIES[event.get("log_level", LogLevel.info)]
    return "".join(f"<{priority}>{line}\n" for line in text.splitlines()) or None


def is_terminal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a person looks at this stream, in a terminal where a line can be written again."""
    return stream.isatty() and environment.get("TERM", "dumb") != "dumb"


def log_observer(stream: TextIO, environment: Mapping[str, str]) -> ILogObserver:
    """Return what writes the log to a file, a pipe, or the journal."""
    status = os.fstat(stream.fileno())
    if environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        return logger.FileLogObserver(stream, _journal_line)
    return logger.textFileLogObserver(stream)


def summary(
    listeners: Sequence[Listener],
    ports: Sequence[IListeningPort],
    page: str,
    *,
    has_users: bool,
    status: IListeningPort | None = None,
) -> str:
    """Return where clients connect, and a command that does; ``page`` is what that fetches.

    ``status``: where the status page is.
    """
    lines = []
    for listener, port in zip(listeners, ports, strict=True):
        http = "HTTP CONNECT, " if listener.policy.http_connect else ""
        lines.append(f"  {http}SOCKS4, SOCKS4a and SOCKS5 at {describe(port.getHost())}")
    commands = [
        _command(port, page, has_users=has_users)
        for listener, port in zip(listeners, ports, strict=True)
        if listener.policy.proxy_protocol is None
    ]
    lines += [f"Try it:  {command}" for command in commands[:1]]
    if status is not None:
        address = status.getHost()
        is_file = isinstance(address, UNIXAddress)
        place = describe(address) if is_file else f"http://{_reachable(address)}/"
        lines.append(f"Status:  {place}")
    return "\n".join([*lines, "Ctrl-C stops it."])


def _command(port: IListeningPort, page: str, *, has_users: bool) -> str:
    """Return how curl fetches the page by way of this port."""
    address = port.getHost()
    if isinstance(address, UNIXAddress):
        place = f"localhost{quote(address.name or b'')}"
    else:
        place = _reachable(address)
    login = ["-U", "NAME:PASSWORD"] if has_users else []
    return shlex.join(["curl", *login, "-x", f"socks5h://{place}", page])


def _reachable(address: IAddress) -> str:
    """Return an address at which this machine connects to a port."""
    host, _, number = describe(address).rpartition(":")
    return f"{_LOOPBACK.get(host, host)}:{number}"
