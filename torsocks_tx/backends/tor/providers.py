"""Where a SocksPort of tor comes from: an endpoint, a running tor, or an application's own tor.

A tor of our own is in :mod:`torsocks_tx.backends.tor.launched`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.authentication import ControlRefused, ControlUnavailable, connect
from torsocks_tx.backends.tor.commands import Losses
from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.ports import PortFinder, SocksPort
from torsocks_tx.backends.tor.provider import ProviderState, TorProvider
from torsocks_tx.backends.tor.session import Session
from torsocks_tx.backends.tor.waiting import RetryDelay, retry_delay
from torsocks_tx.limits import check_arguments


class FixedTorProvider(TorProvider):
    """Provides one endpoint: ready from start to stop, whether a tor is behind it or not.

    Args:
        endpoint: the SocksPort.
        pipelined: it is known to be C Tor's (others close when early data comes too early).
    """

    _no_such_port = (
        "whether this SocksPort has {flags} cannot be known without tor's control port: give that"
        " too"
    )

    def __init__(self, endpoint: IStreamClientEndpoint, *, pipelined: bool = False) -> None:
        check_arguments(IStreamClientEndpoint, endpoint=endpoint)
        check_arguments(bool, pipelined=pipelined)
        super().__init__()
        self._port = SocksPort(endpoint, pipelined)

    async def _run(self) -> None:
        self.use_ports([self._port])
        self.mark_ready("without tor's control port, the first request shows whether tor is there")


class RunningTorProvider(TorProvider):
    """Provides the SocksPort of a running tor; where that is not there now, it goes on trying.

    ``start`` fails with ``ControlRefused`` if its first try shows that somebody must fix something.

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
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(IStreamClientEndpoint, control_endpoint=control_endpoint)
        check_arguments(str, None, password=password)
        check_arguments(str, name=name)
        check_arguments(Callable, None, delays=delays)
        super().__init__(reactor)
        self._reactor = reactor
        self._endpoint = control_endpoint
        self._password = password
        self._name = name
        self._is_proven = False
        self._has_warned = False
        self._delays = delays or retry_delay()
        self._finder = PortFinder(reactor)
        self._losses = Losses()

    async def _run(self) -> None:
        failures = 0
        while True:
            if await self._serve_once():
                failures = 0
            self._begun()
            await deferLater(self._reactor, self._delays(failures))
            failures += 1

    async def _serve_once(self) -> bool:
        """Serve over one control connection until it is lost; return whether tor was ready."""
        try:
            control = await connect(
                self._reactor,
                self._endpoint,
                password=self._password,
                proof=self._is_proven,
                name=self._name,
                losses=self._losses,
            )
        except ControlUnavailable as error:
            self._not_connected(error)
            return False
        self._note_proof(control)
        try:
            await Session(control, self, self._finder).follow(self._begun)
        finally:
            await self._leaving
            control.close()
            await control.when_lost()
        was_ready = self.state is ProviderState.READY
        self.mark_down("tor is gone (the control connection is lost)")
        return was_ready

    def _note_proof(self, control: Control) -> None:
        """Require a proof from the first one on; warn once where a TCP port gives none."""
        self._is_proven = self._is_proven or control.is_proven
        if not control.is_proven and control.peer_host is not None and not self._has_warned:
            self._has_warned = True
            self._log.warn(
                "{label}nothing proves that it is tor who answers at {name}: better give its"
                " ControlSocket, or set CookieAuthentication 1 in its torrc",
                label=self._label,
                name=self._name,
            )

    def _not_connected(self, error: ControlUnavailable) -> None:
        """Log the first failure, and any that somebody must fix; fail ``start`` by the latter."""
        must_fix = isinstance(error, ControlRefused)
        if must_fix and not self._started.called:
            raise error
        if must_fix or self.state is not ProviderState.DOWN:
            self.mark_down(str(error))


class OwnedTorProvider(TorProvider):
    """Provides the SocksPort of the tor that an application controls by txtorcon.

    ``start`` fails with ``ControlUnavailable`` if the application's own connection has failed.

    Args:
        reactor: makes the connections and tells the time.
        tor: txtorcon's ``Tor`` or ``TorControlProtocol``.
    """

    def __init__(self, reactor: Any, tor: Any) -> None:
        super().__init__(reactor)
        self._reactor = reactor
        self._protocol = _protocol_of(tor)
        self._losses = Losses()

    def replace(self, tor: Any) -> Deferred[None]:
        """Use this one from now on, as ``start`` does."""
        self._protocol = _protocol_of(tor)
        self.stop()
        if self._running.called:
            return self.start()
        # Called by a callback of the one before, which ends in the reactor's next turn.
        self.mark_started()
        return Deferred.fromCoroutine(self._start_soon())

    async def _start_soon(self) -> None:
        await deferLater(self._reactor, 0)
        if self.state is not ProviderState.STOPPED:
            await self.start()

    async def _run(self) -> None:
        await self._authenticated()
        control = Control(self._protocol, self._reactor, losses=self._losses)
        session = Session(control, self, PortFinder(self._reactor))
        try:
            await session.follow(self._begun)
        finally:
            await session.end()
        lost = "the application's control connection to tor is lost"
        self.mark_down(lost, until="the backend's replace_tor is called")

    async def _authenticated(self) -> None:
        """Wait for ``post_bootstrap``, and leave its result to its other callbacks."""
        waiting: Deferred[None] = Deferred()

        def pass_on(result: object) -> object:
            if isinstance(result, Failure):
                why = result.getErrorMessage()
                waiting.errback(
                    ControlUnavailable(f"the application's control connection failed ({why})")
                )
            else:
                waiting.callback(None)
            return result

        self._protocol.post_bootstrap.addBoth(pass_on)
        await waiting


def _protocol_of(tor: Any) -> Any:
    # txtorcon installs the reactor when it is imported: only now is one surely chosen.
    from txtorcon import Tor, TorControlProtocol

    protocol = tor.protocol if isinstance(tor, Tor) else tor
    if not isinstance(protocol, TorControlProtocol):
        raise TypeError(
            "tor must be a txtorcon.Tor, as txtorcon.connect and txtorcon.launch give, or its"
            f" TorControlProtocol, not {type(tor).__name__}"
        )
    return protocol
