"""Commands to tor whose answer serves everybody who asked before they were sent.

A thousand streams that fail at once need one answer, not a thousand commands in a row.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.control import ControlLost
from torsocks_tx.backends.tor.waiters import Waiters

Ask = Callable[[str], Deferred[str]]


class _Line:
    """Who waits for the answer to one command: those for the one under way, and for the next."""

    def __init__(self) -> None:
        self.current: Waiters[str] = Waiters()
        self.next: Waiters[str] | None = None


class Questions:
    """Sends each command at most once at a time; ``ask`` sends one and fires with its answer.

    An answer is at least as new as the question: a command that is under way already is not
    waited for, but the one after it.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._lines: dict[str, _Line] = {}

    def answer_to(self, command: str) -> Deferred[str]:
        """Fire with tor's answer; fail as ``ask`` does. Can be cancelled."""
        line = self._lines.get(command)
        if line is None:
            line = self._lines[command] = _Line()
            waiting = line.current.wait()
            self._send(command, line)
            return waiting
        if line.next is None:
            line.next = Waiters()
        return line.next.wait()

    def _send(self, command: str, line: _Line) -> None:
        asked = self._ask(command)
        asked.addCallbacks(line.current.fire, lambda failure: _fail(line.current, failure))
        asked.addBoth(lambda _: self._go_on(command, line))

    def _go_on(self, command: str, line: _Line) -> None:
        if line.next is None:
            del self._lines[command]
            return
        line.current, line.next = line.next, None
        self._send(command, line)


def _fail(waiters: Waiters[str], failure: Failure) -> None:
    error = failure.value
    waiters.fail(lambda: error if isinstance(error, Exception) else ControlLost())
