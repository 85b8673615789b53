"""Clocks that show what happens in one turn of the reactor."""

from __future__ import annotations

from twisted.internet.task import Clock


class TurnClock(Clock):
    """A clock that makes turns as a reactor does: what is put off to the next one waits for it.

    ``tick``: seconds that pass whenever somebody looks at the clock.
    """

    def __init__(self, tick: float = 0.0) -> None:
        super().__init__()
        self.tick = tick

    def seconds(self) -> float:
        self.rightNow += self.tick
        return float(self.rightNow)

    def turn(self) -> bool:
        """Make one turn; tell whether anything was due."""
        due = [call for call in self.getDelayedCalls() if call.getTime() <= self.rightNow]
        for call in due:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        return bool(due)
