"""The service of ``twistd torsocks``: its start, its signals, and its orderly end."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.events import printable
from torsocks_tx.backends.tor.provider import Progress, ProviderState, TorProvider, state_of
from torsocks_tx.server.listen import ListenError
from torsocks_tx.server.serving import Server
from torsocks_tx.status.pages import StatusServer
from torsocks_tx.status.registry import Registry
from torsocks_tx.status.report import Monitor
from torsocks_tx.twistd.standing import Report, Stage, Standing
from torsocks_tx.twistd.supervisor import Supervisor
from torsocks_tx.twistd.upstream import Upstream

GARBAGE = (2_000, 5, 400)
"""When Python looks for garbage: less often than it would, since a connection is many objects, and
not through so many of them at once that a turn of the reactor gets long: 12,000 take 2 to 9 ms."""

RELOAD_PAUSE = 0.1
"""Seconds between two times that everything is read again, for whoever sends many signals."""

_log = Logger()


def log_failure(reason: str) -> None:
    """Say in one line of the log why the server cannot start."""
    _log.critical("{reason}", reason=printable(reason))


def stop(reactor: Any) -> None:
    """Stop the reactor, unless it is being stopped already."""
    with suppress(ReactorNotRunning):
        reactor.stop()


def _leave() -> None:
    """End the process with status 1."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class StartError(SystemExit, Exception):
    """The server cannot start; the text is the one line that a person reads.

    To twistd it is an ``Exception``: it removes its pidfile, and its parent exits with status 1. To
    Python it is a ``SystemExit``: status 1, and no traceback.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = 1


class ProcessSignals:
    """The signals of this process, which reach all services that run in it.

    SIGHUP reloads, SIGUSR2 gives fresh circuits to all. Once the reactor stops, SIGINT and SIGTERM
    end the grace: Twisted has no use for them any more. When the last service has stopped, the
    handlers of before are put back.
    """

    def __init__(self) -> None:
        self._services: list[TorsocksService] = []
        self._previous: dict[int, Any] = {}
        self._reactor: Any = None
        self._is_asked = False
        self._is_reloading = False

    def add(self, reactor: Any, service: TorsocksService) -> None:
        """Let signals reach a service."""
        self._reactor = reactor
        self._services.append(service)
        self._take(signal.SIGHUP, lambda: Deferred.fromCoroutine(self._reload_all()))
        self._take(signal.SIGUSR2, self._renew_all)
        reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)

    def remove(self, service: TorsocksService) -> None:
        """Let them reach it no more; harmless if they never did."""
        if service in self._services:
            self._services.remove(service)
        if not self._services:
            while self._previous:
                number, (handler, ours) = self._previous.popitem()
                if signal.getsignal(number) is ours:  # else the application has its own by now
                    signal.signal(number, handler or signal.SIG_DFL)

    def _take(self, number: int, call: Callable[[], object]) -> None:
        def handle(_number: int, _frame: Any) -> None:
            self._reactor.callFromThread(call)

        # Python has signals in its main thread only; the reactor may run in another.
        if number not in self._previous and threading.current_thread() is threading.main_thread():
            self._previous[number] = signal.signal(number, handle), handle

    def _shut_down(self) -> None:
        if self._services:
            self._take(signal.SIGINT, self._end_grace_of_all)
            self._take(signal.SIGTERM, self._end_grace_of_all)

    def _end_grace_of_all(self) -> None:
        for service in list(self._services):
            service.end_grace()

    def _renew_all(self) -> None:
        for service in list(self._services):  # also those that stop: clients may still come
            _log.info("SIGUSR2: {text}", text=service.new_identity())

    async def _reload_all(self) -> None:
        """Reload; of the signals that come meanwhile, one more time serves them all."""
        self._is_asked = True
        if self._is_reloading:
            return
        self._is_reloading = True
        try:
            while self._is_asked:
                self._is_asked = False
                for service in list(self._services):
                    if service.running:
                        await self._reload(service)
                if self._is_asked:
                    await deferLater(self._reactor, RELOAD_PAUSE, lambda: None)
        finally:
            self._is_reloading = False

    async def _reload(self, service: TorsocksService) -> None:
        try:
            _log.info("SIGHUP: {text}", text=await service.reload())
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            _log.error("SIGHUP: {reason}; what was read before stands", reason=reason)


signals = ProcessSignals()
"""Those of this process."""


class OwnProcess:
    """Serves clients in this process, by a backend that starts and stops with it."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        server: Server,
        upstream: Upstream,
        registry: Registry,
        *,
        grace: float,
        most: int,
    ) -> None:
        self._reactor = reactor
        self.server = server
        self._upstream = upstream
        self._registry = registry
        self._grace = grace
        self._most = most

    @property
    def providers(self) -> Sequence[TorProvider]:
        """The tors behind it, if there are any."""
        return self._upstream.providers

    def monitor(self) -> Monitor:
        """What knows how this server is."""
        return Monitor(self._reactor, self._registry, self._upstream.tors)

    async def start(self) -> None:
        """Start the backend. Clients that come earlier wait for it."""
        # What is imported by now stays: nothing is gained by looking for garbage in it.
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        text = "serving up to {most} clients at one time"
        self._reactor.callWhenRunning(self._log.info, text, most=self._most)
        await self._upstream.start()

    async def reload(self) -> str:
        """Have the backend read its files again; return what it says of that."""
        return await self._upstream.reload()

    def new_identity(self) -> str:
        """Give fresh circuits to all from now on; return what to say about it."""
        return self._upstream.new_identity()

    async def drain(self, limit: float) -> None:
        """Take no more clients; return when the last has gone, or reset those left at the limit."""
        await self.server.close()
        if busy := self.server.count():
            text = "replaced: open connections have {limit:g} s to end ({busy} now)"
            self._log.info(text, limit=limit, busy=busy)
        ending = self._reactor.callLater(limit, self.server.abort_all)
        await self.server.when_empty()
        if ending.active():
            ending.cancel()

    def end_grace(self) -> None:
        """Reset the streams that are still open."""
        self.server.abort_all()

    async def stop(self) -> None:
        """Let clients end, and then stop the backend."""
        await self.server.shutdown(self._grace)
        await self._upstream.stop()


class TorsocksService(Service):
    """Opens the listeners, and starts and stops what serves their clients.

    ``check`` raises an exception if the user that serves cannot use what the options name. ``fail``
    is told why the server cannot start. Each of ``reports`` is told how it stands. ``status`` shows
    how it is. ``drain_delay``: seconds for which new clients are still served when it stops.
    """

    def __init__(
        self,
        reactor: Any,
        serving: OwnProcess | Supervisor,
        *,
        check: Callable[[], None] = lambda: None,
        fail: Callable[[str], None] = log_failure,
        reports: Sequence[Report] = (),
        status: StatusServer | None = None,
        drain_delay: float = 0,
    ) -> None:
        self._reactor = reactor
        self._serving = serving
        self._check = check
        self._fail = fail
        self._reports = reports
        self._drain_delay = drain_delay
        self._draining: Deferred[None] = succeed(None)
        self._standing = Standing(Stage.STARTING, "starting")
        self._status = status
        self.started: Deferred[None] = Deferred()
        """Fires once clients are served; never if they cannot be."""

    @property
    def ports(self) -> Sequence[IListeningPort]:
        """Where it listens, in the order of its listeners."""
        return self._serving.server.ports

    @property
    def status_port(self) -> IListeningPort | None:
        """Where it shows how it is, if it does."""
        port: IListeningPort | None = None if self._status is None else self._status.port
        return port

    @property
    def providers(self) -> Sequence[TorProvider]:
        """The tors that this process has started or found, if there are any."""
        return self._serving.providers

    @property
    def _state(self) -> ProviderState:
        """The state of tor; without one clients can be served always."""
        return state_of(self.providers) if self.providers else ProviderState.READY

    def privilegedStartService(self) -> None:
        """Bind the listeners, while that is still allowed; ``StartError`` if one cannot be."""
        option = "listen"
        try:
            self._serving.server.open()
            if self._status is not None:
                option = "status"
                self._status.open()
        except ListenError as error:
            self._abandon(f"--{option} {error}")

    def startService(self) -> None:
        """Start, once; ``StartError`` if that fails at once."""
        if self.started.called:
            raise RuntimeError("this service has been started before: make another")
        super().startService()
        self.privilegedStartService()
        for provider in self.providers:
            provider.on_progress(self._progressed)
            provider.on_change(self._changed)
        self._tell(self._standing)
        failures: list[Failure] = []
        starting = Deferred.fromCoroutine(self._start()).addErrback(failures.append)
        if failures:
            self._abandon(failures[0].getErrorMessage())
        starting.addCallback(lambda _: self._start_failed(*failures) if failures else None)
        signals.add(self._reactor, self)

    async def _start(self) -> None:
        self._check()
        await self._serving.start()
        if self._status is not None:
            self._status.monitor.serving()
        self.started.callback(None)
        text = self._standing.text if self.providers else "serving"
        self._reactor.callWhenRunning(self._changed, text)

    def _progressed(self, progress: Progress) -> None:
        if self._state is ProviderState.STARTING:
            self._settle(Standing(Stage.STARTING, f"tor: {progress}", progress.percent))

    def _changed(self, text: str) -> None:
        """Tell what has become of tor; the server is not ready before it has started itself."""
        state = self._state
        if state is ProviderState.DOWN:
            self._settle(Standing(Stage.DOWN, text))
        elif state is ProviderState.READY and self.started.called:
            self._settle(Standing(Stage.READY, text))
        elif text != self._standing.text:
            self._settle(Standing(Stage.STARTING, text))

    def _settle(self, standing: Standing) -> None:
        """Keep how the server stands, and tell it."""
        if standing != self._standing and self.running:
            self._standing = standing
            self._tell(standing)

    def _tell(self, standing: Standing) -> None:
        for report in self._reports:
            report(standing)

    def _abandon(self, reason: str) -> NoReturn:
        self._fail(reason)
        # No socket file stays behind.
        self._serving.server.close()
        if self._status is not None:
            Deferred.fromCoroutine(self._status.close())
        raise StartError(reason) from None

    def _start_failed(self, failure: Failure) -> None:
        """Stop the reactor, and then end with status 1: twistd itself says 0."""
        if self.running:
            # Whatever stops a backend from starting is something that a person must fix.
            self._fail(failure.getErrorMessage())
            atexit.register(_leave)
            self._reactor.callLater(0, lambda: stop(self._reactor) if self.running else None)

    async def reload(self) -> str:
        """Read files again: return what has been done, or raise the reason why nothing was."""
        self._tell(Standing(Stage.RELOADING, "reading files again"))
        try:
            return await self._serving.reload()
        finally:
            if self.running:
                self._tell(self._standing)

    def new_identity(self) -> str:
        """Give fresh circuits to all from now on; return what to say about it."""
        return self._serving.new_identity()

    def end_grace(self) -> None:
        """Take no more clients, and reset the streams that are still open."""
        self._draining.cancel()
        self._serving.end_grace()

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when nothing is left."""
        super().stopService()
        self._tell(Standing(Stage.STOPPING, "stopping"))
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._status is not None:
            self._status.monitor.begin_stopping()
        try:
            if self._drain_delay and self.started.called:
                _log.info(
                    "stopping: clients may come for {delay:g} s more", delay=self._drain_delay
                )
                self._draining = deferLater(self._reactor, self._drain_delay, lambda: None)
                with suppress(CancelledError):
                    await self._draining
            await self._serving.stop()
        finally:
            signals.remove(self)
            if self._status is not None:
                await self._status.close()
