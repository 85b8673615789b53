"""How far tor's bootstrap is: told to callbacks, logged, and followed over a control connection.

Reads ``GETINFO status/bootstrap-phase`` and STATUS_CLIENT events (control-spec 4.1.10).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.logger import Logger

from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.events import EventError, parse_event
from torsocks_tx.backends.tor.paths import printable

DONE = 100
_EVENT = "STATUS_CLIENT"
_ACTION = "BOOTSTRAP"


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of the bootstrap, in tor's own words; ``warning``: why it is stuck, if it is."""

    percent: int
    tag: str
    summary: str
    warning: str = ""

    def __str__(self) -> str:
        stuck = f": {self.warning}" if self.warning else ""
        return printable(f"bootstrapped {self.percent}% ({self.summary or self.tag}){stuck}")


ProgressCallback = Callable[[Progress], None]


def parse_progress(text: str) -> Progress | None:
    """Read a bootstrap phase, with or without an event around it; None if it is something else."""
    try:
        event = parse_event(text)
        percent = int(event.keywords.get("PROGRESS", ""))
    except (EventError, ValueError):
        return None
    if _ACTION not in event.positional[1:2]:
        return None
    words = event.keywords
    stuck = words.get("WARNING", "") if words.get("RECOMMENDATION") == "warn" else ""
    return Progress(percent, words.get("TAG", ""), words.get("SUMMARY", ""), stuck)


class ProgressBoard:
    """Logs each step once and tells it to all who asked."""

    _log = Logger()

    def __init__(self) -> None:
        self._callbacks: list[ProgressCallback] = []
        self._last: Progress | None = None

    def add(self, callback: ProgressCallback) -> None:
        """Have this called with each step from now on."""
        self._callbacks.append(callback)

    def tell(self, progress: Progress) -> None:
        """Log and pass on a step, unless it is the same as the last."""
        if progress == self._last:
            return
        self._last = progress
        log = self._log.warn if progress.warning else self._log.info
        log("tor: {progress}", progress=progress)
        for callback in tuple(self._callbacks):
            try:
                callback(progress)
            except Exception:
                self._log.failure("a callback for tor's bootstrap failed")


class BootstrapWatch:
    """Follows the bootstrap of one tor over its control connection.

    ``on_step`` is called after each step; ``is_done`` says whether tor has enough to make circuits.
    """

    _log = Logger()

    def __init__(self, control: Control, board: ProgressBoard, on_step: Callable[[], None]) -> None:
        self._control = control
        self._board = board
        self._on_step = on_step
        self._percent = 0

    @property
    def is_done(self) -> bool:
        """Whether tor says 100 %."""
        return self._percent >= DONE

    async def begin(self) -> None:
        """Ask for the events and for the phase now; only ``ControlLost`` comes out of this.

        A control port behind a filter that forbids the question counts as bootstrapped.
        """
        try:
            await self._control.listen(_EVENT, self._heard)
            phase = await self._control.get_info("status/bootstrap-phase")
        except ControlLost:
            raise
        except ControlError as error:
            self._log.debug("tor does not tell its bootstrap: {error}", error=error)
            self._percent = DONE
        else:
            self._heard(phase)

    async def end(self) -> None:
        """Listen no more."""
        await self._control.unlisten(_EVENT, self._heard)

    def _heard(self, text: str) -> None:
        progress = parse_progress(text)
        if progress is not None:
            self._percent = progress.percent
            self._board.tell(progress)
            self._on_step()
