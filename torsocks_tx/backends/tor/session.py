"""One control connection that a provider of tor follows: how far tor is, and its SocksPorts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from torsocks_tx.backends.tor.commands import BOOTSTRAP_PHASE
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.ports import NoSocksPort, PortFinder, SocksPort
from torsocks_tx.backends.tor.provider import TorProvider, parse_progress

BOOTSTRAP_EVENT = "STATUS_CLIENT"
CONFIGURATION_EVENT = "CONF_CHANGED"
PORT_OPTIONS = ("socksport", "disablenetwork")
DONE = 100
LOOK_AGAIN = 5.0
"""Seconds after which a tor that cannot be used is looked at again, whatever events there are."""


class Session:
    """One control connection that a provider follows; it sets the state of the provider.

    It follows tor's bootstrap and, where there is a ``finder``, its SocksPorts (CONF_CHANGED).
    """

    def __init__(
        self, control: Control, provider: TorProvider, finder: PortFinder | None = None
    ) -> None:
        self._control = control
        self._provider = provider
        self._finder = finder
        self._is_over = False
        self._is_bootstrapped = False
        self._trouble = "" if finder is None else None  # None: not known yet
        self._searches = 0
        self._looking: IDelayedCall | None = None

    async def follow(self, on_begun: Callable[[], None]) -> None:
        """Follow tor until the connection is lost; ``on_begun``: its state is known by then."""
        lost = self._control.when_lost()
        self._provider.control = self._control
        self._provider.sessions += 1
        try:
            await self._follow_bootstrap()
            if self._finder is not None:
                await self._follow_ports(self._finder)
            self._settle()
            on_begun()
            await lost
        except ControlLost:
            return
        finally:
            self._is_over = True  # whatever is still under way sets no state any more
            if self._looking is not None:
                self._looking.cancel()
            self._provider.control = None

    async def end(self) -> None:
        """Have tor send no more events for us; the connection goes on."""
        await self._control.unlisten(BOOTSTRAP_EVENT, self._progressed)
        await self._control.unlisten(CONFIGURATION_EVENT, self._changed)

    async def _follow_bootstrap(self) -> None:
        await self._listen(BOOTSTRAP_EVENT, self._progressed)
        await self._ask_phase()

    async def _ask_phase(self) -> None:
        """Take over how far tor is; where it does not tell, it counts as bootstrapped."""
        try:
            phase = await self._control.get_info(BOOTSTRAP_PHASE.key())
        except ControlLost:
            raise
        except ControlError:
            phase = ""
        if parse_progress(phase) is None:
            self._is_bootstrapped = True
        self._progressed(phase)

    async def _follow_ports(self, finder: PortFinder) -> None:
        await self._listen(CONFIGURATION_EVENT, self._changed)
        await self._search(finder)

    async def _listen(self, event: str, callback: Callable[[str], None]) -> None:
        """Listen, unless the control port refuses that: then ``_look_again`` has to do."""
        try:
            await self._control.listen(event, callback)
        except ControlLost:
            raise
        except ControlError:
            return

    async def _look_again(self) -> None:
        """Ask for what an event should have told: filters may refuse or suppress events."""
        self._looking = None
        if not self._is_bootstrapped:
            await self._ask_phase()
        if self._trouble and self._finder is not None:
            await self._search(self._finder)
        if not self._is_over:
            self._settle()

    def _changed(self, text: str) -> None:
        if self._finder is not None and any(option in text.lower() for option in PORT_OPTIONS):
            searching = Deferred.fromCoroutine(self._search(self._finder))
            searching.addErrback(lambda failure: failure.trap(ControlLost))

    async def _search(self, finder: PortFinder) -> None:
        """Find the ports; of several searches at once the last one counts."""
        self._searches += 1
        mine = self._searches
        ports: Sequence[SocksPort] = ()
        trouble = ""
        try:
            ports = await finder.find(self._control)
        except NoSocksPort as error:
            trouble = str(error)
        except ControlLost:
            raise
        except (ControlError, ValueError) as error:
            trouble = f"tor does not tell its SocksPorts ({error})"
        if mine == self._searches and not self._is_over:
            if ports:
                self._provider.use_ports(ports)
            self._trouble = trouble
            self._settle()

    def _progressed(self, text: str) -> None:
        progress = parse_progress(text)
        if progress is not None and not self._is_over:
            self._is_bootstrapped = progress.percent >= DONE
            self._provider.note_progress(progress)
            self._settle()

    def _settle(self) -> None:
        """Set the state that follows from what is known."""
        if self._trouble:
            self._provider.mark_down(self._trouble)
        elif self._is_bootstrapped and self._trouble is not None:
            self._provider.mark_ready()
            return
        else:
            self._provider.mark_starting()
        if self._looking is None and not self._is_over:
            self._looking = self._control.clock.callLater(LOOK_AGAIN, self._look)

    def _look(self) -> None:
        looking = Deferred.fromCoroutine(self._look_again())
        looking.addErrback(lambda failure: failure.trap(ControlLost))
