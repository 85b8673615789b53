"""txtorcon's protocol of tor's control port, with bounds on what is read.

Importing txtorcon installs Twisted's reactor, so this module is imported when a control port is
connected to, and not before.
"""

from __future__ import annotations

import re
from typing import Any

from txtorcon.torcontrolprotocol import Event, TorControlProtocol

from torsocks_tx.backends.tor.control import TorLog

MOST_BYTES = 2**20
"""The length of a line from tor, and of a whole event; tor's own limit for commands is the same."""

MOST_ANSWER_BYTES = 16 * MOST_BYTES
"""The length of an answer: a list of 1,000 circuits takes half a MiB."""

_TEMPORARY = re.compile(rb"4\d\d ")


class _EveryEvent(dict[str, Event]):
    """Knows whatever event it is asked for: tor refuses those that it does not have."""

    def __missing__(self, name: str) -> Event:
        event = self[name] = Event(name)
        return event


class ControlProtocol(TorControlProtocol):  # type: ignore[misc]
    """txtorcon's protocol; drops the connection at an endless or unreadable line or answer."""

    command: Any
    MAX_LENGTH = MOST_BYTES  # of a line; txtorcon 22 has 16 KiB

    def __init__(self, log: TorLog) -> None:
        super().__init__()
        self._log = log
        self.on_disconnect = None  # deprecated; txtorcon 26 would warn about it at each loss
        self.is_nonsense = False

    def introduce(self, version: str) -> None:
        """Take tor's version: the protocol can be used now."""
        self.version = version
        self.valid_events = _EveryEvent()
        self.post_bootstrap.callback(self)

    def connectionMade(self) -> None:
        """Send nothing yet: txtorcon's own authentication trusts whoever answers."""

    def lineReceived(self, line: bytes) -> None:
        """Take a line of an event or an answer."""
        if _TEMPORARY.match(line) and self.command is not None and self.code is None:
            line = b"5" + line[1:]  # such as 451, no room: txtorcon knows no such answers
        command = self.command
        is_event = self.code == 650 or (self.code is None and line.startswith(b"650"))
        if is_event and command is not None:
            # txtorcon would give the lines of an event to whoever takes the lines of an answer.
            self.command = (*command[:2], None)
        try:
            super().lineReceived(line)
        except Exception:
            self._drop("a line is no control reply")
        finally:
            if is_event and command is not None:
                self.command = command
        most = MOST_BYTES if self.code == 650 else MOST_ANSWER_BYTES
        if len(self.response) > most:
            self._drop("an event or an answer has no end")

    def lineLengthExceeded(self, line: bytes) -> None:
        """Drop a connection whose line has no end."""
        self._drop("a line has no end")

    def _drop(self, why: str) -> None:
        # Once; and who has just connected is told by an error.
        if self.post_bootstrap.called and not self.is_nonsense:
            self._log.say(f"tor's control connection is dropped: {why}")
        self.is_nonsense = True
        self.transport.abortConnection()
