"""Where a SocksPort of tor comes from: an endpoint, a running tor, or an application's own tor.

A tor of our own is in :mod:`torsocks_tx.backends.tor.launched`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.authentication import ControlRefused, ControlUnavailable, connect
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.ports import NoSocksPort, PortFinder, parse_flags
from torsocks_tx.backends.tor.provider import (
    BootstrapWatch,
    NoSuchPort,
    Progress,
    ProviderState,
    SocksPort,
    TorProvider,
)
from torsocks_tx.backends.tor.waiting import RetryDelay, SupervisedTask, retry_delay


class FixedTorProvider(TorProvider):
    """Provides one endpoint: ready from start to stop, whether a tor is behind it or not.

    Args:
        endpoint: the SocksPort.
        pipelined: it is known to be C Tor's (others close when early data comes too early).
    """

    def __init__(self, endpoint: IStreamClientEndpoint, *, pipelined: bool = False) -> None:
        super().__init__()
        self._port = SocksPort(endpoint, pipelined)

    def start(self) -> Deferred[None]:
        """See ``TorProvider``."""
        self.mark_started()
        self.use_ports(self._only_port)
        self.mark_ready("without tor's control port, the first request shows whether tor is there")
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """See ``TorProvider``."""
        self.mark_stopped()
        return succeed(None)

    def _only_port(self, flags: Iterable[str]) -> SocksPort:
        wanted = parse_flags(flags, strict=True)
        if wanted:
            raise NoSuchPort(
                f"whether this SocksPort has {' '.join(sorted(wanted))} cannot be known without"
                " tor's control port: give that too"
            )
        return self._port


CONFIGURATION_EVENT = "CONF_CHANGED"
PORT_OPTIONS = ("socksport", "disablenetwork")


class Session:
    """One control connection to a tor that is not ours; sets the state of ``provider`` by it.

    Follows the bootstrap and the SocksPorts (CONF_CHANGED).
    """

    _log = Logger()

    def __init__(self, control: Control, provider: TorProvider, finder: PortFinder) -> None:
        self.control = control
        self._provider: TorProvider | None = provider
        self._finder = finder
        self._watch = BootstrapWatch(control, self._progressed)
        self._trouble: str | None = None  # unknown before the first search
        self._searches = 0

    async def follow(self, on_begun: Callable[[], None]) -> None:
        """Follow tor until the connection is lost; ``on_begun``: its state is known by then."""
        lost = self.control.when_lost()
        try:
            await self._watch.begin()
            await self._listen()
            await self._search()
            on_begun()
            await lost
        except ControlLost:
            return
        finally:
            self._provider = None  # whatever is still under way sets no state any more

    async def end(self) -> None:
        """Stop following; the connection goes on without our listeners."""
        self._provider = None
        try:
            await self._watch.end()
            await self.control.unlisten(CONFIGURATION_EVENT, self._changed)
        except ControlError as error:
            self._log.debug("ending a session: {error}", error=error)

    async def _listen(self) -> None:
        try:
            await self.control.listen(CONFIGURATION_EVENT, self._changed)
        except ControlLost:
            raise
        except ControlError as error:
            self._log.debug("changes of tor's configuration are not followed: {error}", error=error)

    def _changed(self, text: str) -> None:
        if any(option in text.lower() for option in PORT_OPTIONS):
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
        if mine == self._searches and self._provider is not None:
            if table is not None:
                self._provider.use_ports(table.port_for)
            self._trouble = trouble
            self._settle()

    def _progressed(self, progress: Progress) -> None:
        if self._provider is not None:
            self._provider.note_progress(progress)
            self._settle()

    def _settle(self) -> None:
        """Set the state that follows from what is known."""
        provider = self._provider
        if provider is None:
            return
        if self._trouble:
            provider.mark_down(self._trouble)
        elif not self._watch.is_done or self._trouble is None:
            provider.mark_starting()
        else:
            provider.mark_ready()

    def _lost_while_searching(self, failure: Failure) -> None:
        failure.trap(ControlLost)


class RunningTorProvider(TorProvider):
    """Provides the SocksPort of a running tor; a ``TorProvider``.

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
        self._has_warned = False
        self._delays = delays or retry_delay()
        self._finder = PortFinder(reactor)
        self._task = SupervisedTask(reactor)

    def start(self) -> Deferred[None]:
        """Connect; if tor is not there now, go on trying.

        Fails with ``ControlRefused`` if the first try shows that somebody must fix something.
        """
        self.mark_started()
        return self._task.start(self._keep_following(), self.mark_down)

    def stop(self) -> Deferred[None]:
        """Drop the control connection; tor goes on."""
        control = self.control
        self.mark_stopped()
        self._task.stop()
        return succeed(None) if control is None else control.when_lost()

    async def _keep_following(self) -> None:
        failures = 0
        while True:
            if await self._serve_once():
                failures = 0
            await deferLater(self._reactor, self._delays(failures))
            failures += 1

    async def _serve_once(self) -> bool:
        """Serve over one control connection until it is lost; return whether tor was ready."""
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
            await Session(self.control, self, self._finder).follow(self._task.begun)
        finally:
            self.control.close()
            self.control = None
        was_ready = self.state is ProviderState.READY
        self.mark_down("tor is gone (the control connection is lost)")
        self._task.begun()
        return was_ready

    def _note_proof(self, control: Control) -> None:
        """Require a proof from the first one on; warn once where a TCP port gives none."""
        self._is_proven = self._is_proven or control.is_proven
        if not control.is_proven and control.peer_host is not None and not self._has_warned:
            self._has_warned = True
            self._log.warn(
                "nothing proves that it is tor who answers at {name}: better give its"
                " ControlSocket, or set CookieAuthentication 1 in its torrc",
                name=self._name,
            )

    def _not_connected(self, error: ControlUnavailable) -> None:
        """Log the first failure, and any that somebody must fix; fail ``start`` by the latter."""
        must_fix = isinstance(error, ControlRefused)
        if must_fix or self.state is not ProviderState.DOWN:
            self.mark_down(str(error))
        if must_fix and not self._task.has_begun:
            raise error
        self._task.begun()


class OwnedTorProvider(TorProvider):
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
        self._task = SupervisedTask(reactor)

    def start(self) -> Deferred[None]:
        """Find the SocksPort and follow tor; fails with ``ControlUnavailable``."""
        self.mark_started()
        return self._task.start(self._keep_following(), self.mark_down)

    def stop(self) -> Deferred[None]:
        """Listen no more; the application's connection goes on."""
        self.mark_stopped()
        self._task.stop()
        session, self._session, self.control = self._session, None, None
        return succeed(None) if session is None else Deferred.fromCoroutine(session.end())

    async def _keep_following(self) -> None:
        await self._authenticated()
        control = self.control = Control(self._protocol, self._reactor)
        self._session = Session(control, self, PortFinder(self._reactor))
        await self._session.follow(self._task.begun)
        self.control = self._session = None
        self.mark_down("tor is gone (the application's control connection is lost)")
        self._task.begun()

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
