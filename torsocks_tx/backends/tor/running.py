"""A tor that runs already: reached by its control port, asked for its SocksPort, never changed.

When it goes, clients are refused at once; when it is back, so are we, by ourselves.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger

from torsocks_tx.backends.tor.authentication import (
    ControlRefused,
    ControlUnavailable,
    connect,
)
from torsocks_tx.backends.tor.backoff import RetryDelay, retry_delay
from torsocks_tx.backends.tor.control import Control, ControlLost
from torsocks_tx.backends.tor.discovery import PortFinder
from torsocks_tx.backends.tor.life import Life
from torsocks_tx.backends.tor.session import Session
from torsocks_tx.backends.tor.supply import Supply, SupplyState

_GONE = "tor is gone (the control connection is lost)"


class RunningSupply(Supply):
    """Provides the SocksPort of a running tor; a ``Supply``.

    Args:
        reactor: makes the connections and tells the time.
        control_endpoint: tor's ControlPort or ControlSocket.
        password: for a tor with HashedControlPassword.
        name: what messages call the control port.
        delays: how long to wait between tries.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        control_endpoint: IStreamClientEndpoint,
        *,
        password: str | None = None,
        name: str = "tor's control port",
        delays: RetryDelay | None = None,
    ) -> None:
        super().__init__(reactor)
        self._reactor = reactor
        self._endpoint = control_endpoint
        self._password = password
        self._name = name
        self._is_proven = False
        self._is_told = False
        self._delays = delays or retry_delay()
        self._finder = PortFinder(reactor)
        self._life = Life(reactor)

    def start(self) -> Deferred[None]:
        """Connect; if tor is not there now, go on trying.

        Fails with ``ControlRefused`` if the first try shows that somebody must mend something.
        """
        self._readiness.started()
        return self._life.start(self._live(), self._readiness.down)

    def stop(self) -> Deferred[None]:
        """Drop the control connection; tor goes on."""
        control = self.control
        self._readiness.stopped()
        self._life.stop()
        return succeed(None) if control is None else control.when_lost()

    async def _live(self) -> None:
        failures = 0
        while True:
            if await self._serve_once():
                failures = 0
            await deferLater(self._reactor, self._delays(failures))
            failures += 1

    async def _serve_once(self) -> bool:
        """Serve over one control connection until it is lost; return whether that was of use."""
        try:
            self.control = await connect(
                self._reactor,
                self._endpoint,
                password=self._password,
                proof=self._is_proven,
                name=self._name,
            )
        except ControlUnavailable as error:
            self._not_connected(error)
            return False
        self._note_proof(self.control)
        try:
            await self._follow(self.control)
        finally:
            self.control.close()
            self.control = None
        was_ready = self.state is SupplyState.READY
        self._readiness.down(_GONE)
        self._life.begun()
        return was_ready

    def _note_proof(self, control: Control) -> None:
        """From the first proof on insist on it; say where there is none."""
        self._is_proven = self._is_proven or control.is_proven
        if not control.is_proven and control.peer_host is not None and not self._is_told:
            self._is_told = True
            self._log.warn(
                "nothing proves that it is tor who answers at {name}: better give its"
                " ControlSocket, or set CookieAuthentication 1 in its torrc",
                name=self._name,
            )

    async def _follow(self, control: Control) -> None:
        session = Session(control, self._readiness, self._board, self._finder)
        lost = control.when_lost()
        try:
            await session.begin()
            self._life.begun()
            await lost
        except ControlLost:
            return
        finally:
            session.detach()

    def _not_connected(self, error: ControlUnavailable) -> None:
        """Tell the first failure, and any that somebody must mend; fail ``start`` by the latter."""
        must_mend = isinstance(error, ControlRefused)
        if must_mend or self.state is not SupplyState.DOWN:
            self._readiness.down(str(error))
        if must_mend and not self._life.has_begun:
            raise error
        self._life.begun()
