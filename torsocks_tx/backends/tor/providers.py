"""Where a SocksPort of tor comes from: an endpoint, a running tor, or an application's own tor.

A tor of our own is in :mod:`torsocks_tx.backends.tor.launched`. What is learned over a control
connection is the same for all: see :class:`Session`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.authentication import ControlRefused, ControlUnavailable, connect
from torsocks_tx.backends.tor.commands import BOOTSTRAP_PHASE
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost, unless_refused
from torsocks_tx.backends.tor.ports import NoSocksPort, SocksPort, find_ports
from torsocks_tx.backends.tor.provider import ProviderState, TorProvider, parse_progress
from torsocks_tx.backends.tor.waiting import RetryDelay, retry_delay
from torsocks_tx.limits import check_arguments

BOOTSTRAP_EVENT = "STATUS_CLIENT"
CONFIGURATION_EVENT = "CONF_CHANGED"
PORT_OPTIONS = ("socksport", "disablenetwork")
DONE = 100
LOOK_AGAIN = 5.0
"""Seconds after which a tor that cannot be used is looked at again, whatever events there are."""


class Session:
    """One control connection that a provider follows; it sets the state of the provider.

    It follows tor's bootstrap and, where it ``finds_ports``, its SocksPorts.
    """

    def __init__(self, control: Control, provider: TorProvider, *, finds_ports: bool) -> None:
        self._control = control
        self._provider = provider
        self._finds_ports = finds_ports
        self._is_over = False
        self._is_bootstrapped = False
        self._trouble = None if finds_ports else ""  # None: not known yet
        self._searches = 0
        self._looking: IDelayedCall | None = None

    async def follow(self, on_begun: Callable[[], None]) -> None:
        """Follow tor until the connection is lost; ``on_begun``: its state is known by then."""
        lost = self._control.when_lost()
        self._provider.control = self._control
        self._provider.sessions += 1
        try:
            await self._listen(BOOTSTRAP_EVENT, self._progressed)
            await self._ask_phase()
            if self._finds_ports:
                await self._listen(CONFIGURATION_EVENT, self._changed)
                await self._search()
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

    async def _listen(self, event: str, callback: Callable[[str], None]) -> None:
        """Listen, unless the control port refuses that: then ``_look_again`` has to do."""
        await unless_refused(self._control.listen(event, callback))

    async def _ask_phase(self) -> None:
        """Take over how far tor is; where it does not tell, it counts as bootstrapped."""
        phase = await unless_refused(self._control.get_info(BOOTSTRAP_PHASE.key())) or ""
        if parse_progress(phase) is None:
            self._is_bootstrapped = True
        self._progressed(phase)

    async def _look_again(self) -> None:
        """Ask for what an event should have told: filters may refuse or suppress events."""
        self._looking = None
        if not self._is_bootstrapped:
            await self._ask_phase()
        if self._trouble:
            await self._search()
        if not self._is_over:
            self._settle()

    def _changed(self, text: str) -> None:
        if any(option in text.lower() for option in PORT_OPTIONS):
            self._begin(self._search)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        Deferred.fromCoroutine(work()).addErrback(lambda failure: failure.trap(ControlLost))

    async def _search(self) -> None:
        """Find the ports; of several searches at once the last one counts."""
        self._searches += 1
        mine = self._searches
        ports: Sequence[SocksPort] = ()
        trouble = ""
        try:
            ports = await find_ports(self._control)
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
            clock = self._control.clock
            self._looking = clock.callLater(LOOK_AGAIN, self._begin, self._look_again)


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
        self._delays = delays or retry_delay

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
                log=self.log,
            )
        except ControlUnavailable as error:
            self._not_connected(error)
            return False
        self._note_proof(control)
        try:
            await Session(control, self, finds_ports=True).follow(self._begun)
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
        if not control.is_proven and control.peer_host is not None:
            self.log.once(
                f"nothing proves that it is tor who answers at {self._name}: better give its"
                " ControlSocket, or set CookieAuthentication 1 in its torrc"
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
        control = Control(self._protocol, self._reactor, log=self.log)
        session = Session(control, self, finds_ports=True)
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
