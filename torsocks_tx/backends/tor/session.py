"""One control connection from its beginning to its end, seen as the state of a provider.

Follows the bootstrap and the SocksPorts (CONF_CHANGED) of a tor that is not ours.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.bootstrap import BootstrapWatch, ProgressBoard
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.ports import NoSocksPort, PortFinder
from torsocks_tx.backends.tor.provider import Readiness

_EVENT = "CONF_CHANGED"
_OPTIONS = ("socksport", "disablenetwork")


class Session:
    """Keeps ``readiness`` true to what one control connection says."""

    _log = Logger()

    def __init__(
        self, control: Control, readiness: Readiness, board: ProgressBoard, finder: PortFinder
    ) -> None:
        self.control = control
        self._readiness: Readiness | None = readiness
        self._finder = finder
        self._watch = BootstrapWatch(control, board, self._settle)
        self._trouble: str | None = None  # unknown before the first search
        self._searches = 0

    async def begin(self) -> None:
        """Learn where tor stands, and follow it from then on; raises ``ControlLost`` only."""
        await self._watch.begin()
        try:
            await self.control.listen(_EVENT, self._changed)
        except ControlLost:
            raise
        except ControlError as error:
            self._log.debug("tor does not tell changes: {error}", error=error)
        await self._search()

    def detach(self) -> None:
        """Say nothing more about the state, whatever is still under way."""
        self._readiness = None

    async def end(self) -> None:
        """Leave a connection that goes on without us as it was."""
        self.detach()
        try:
            await self._watch.end()
            await self.control.unlisten(_EVENT, self._changed)
        except ControlError as error:
            self._log.debug("ending a session: {error}", error=error)

    def _changed(self, text: str) -> None:
        if any(option in text.lower() for option in _OPTIONS):
            searching = Deferred.fromCoroutine(self._search())
            searching.addErrback(self._lost_while_searching)

    async def _search(self) -> None:
        """Find the ports; of several searches at once the last one counts."""
        self._searches += 1
        mine = self._searches
        table, trouble = None, ""
        try:
            table = await self._finder.find(self.control)
        except NoSocksPort as error:
            trouble = str(error)
        except ControlLost:
            raise
        except (ControlError, ValueError) as error:
            trouble = f"tor does not tell its SocksPorts ({error})"
        if mine == self._searches and self._readiness is not None:
            self._readiness.ports = table or self._readiness.ports
            self._trouble = trouble
            self._settle()

    def _settle(self) -> None:
        """Tell the state that follows from what is known."""
        readiness = self._readiness
        if readiness is None:
            return
        if self._trouble:
            readiness.down(self._trouble)
        elif not self._watch.is_done or self._trouble is None:
            readiness.starting()
        else:
            readiness.ready()

    def _lost_while_searching(self, failure: Failure) -> None:
        failure.trap(ControlLost)
