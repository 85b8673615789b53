"""A tor whose control connection an application owns: used, never closed, never reconnected."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.authentication import ControlUnavailable
from torsocks_tx.backends.tor.control import Control, ControlLost
from torsocks_tx.backends.tor.discovery import PortFinder
from torsocks_tx.backends.tor.life import Life
from torsocks_tx.backends.tor.session import Session
from torsocks_tx.backends.tor.supply import Supply

_GONE = "tor is gone (the application's control connection is lost)"


class OwnedControlSupply(Supply):
    """Provides the SocksPort of the tor that an application controls by txtorcon.

    Args:
        reactor: makes the connections and tells the time.
        tor: txtorcon's ``Tor`` or ``TorControlProtocol``.
    """

    def __init__(self, reactor: Any, tor: Any) -> None:
        super().__init__(reactor)
        self._reactor = reactor
        self._protocol = getattr(tor, "protocol", tor)
        self._session: Session | None = None
        self._life = Life(reactor)

    def start(self) -> Deferred[None]:
        """Find the SocksPort and follow tor; fails with ``ControlUnavailable``."""
        self._readiness.started()
        return self._life.start(self._live(), self._readiness.down)

    def stop(self) -> Deferred[None]:
        """Listen no more; the application's connection goes on."""
        self._readiness.stopped()
        self._life.stop()
        session, self._session, self.control = self._session, None, None
        return succeed(None) if session is None else Deferred.fromCoroutine(session.end())

    async def _live(self) -> None:
        await self._authenticated()
        control = self.control = Control(self._protocol, self._reactor)
        self._session = Session(control, self._readiness, self._board, PortFinder(self._reactor))
        lost = control.when_lost()
        try:
            await self._session.begin()
            self._life.begun()
            await lost
        except ControlLost:
            pass
        self._session.detach()
        self.control = self._session = None
        self._readiness.down(_GONE)
        self._life.begun()

    async def _authenticated(self) -> None:
        """Wait until the protocol can be used, and leave its Deferred as it is to the others."""
        waiting: Deferred[None] = Deferred()

        def passed_on(result: object) -> object:
            if isinstance(result, Failure):
                why = result.getErrorMessage()
                waiting.errback(
                    ControlUnavailable(f"the application's control connection failed ({why})")
                )
            else:
                waiting.callback(None)
            return result

        self._protocol.post_bootstrap.addBoth(passed_on)
        await waiting
