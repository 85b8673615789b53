"""The running server of ``twistd torsocks``: a backend, its listeners, and an orderly end."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, NoReturn, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.server.listen import ListenError
from torsocks_tx.server.serving import Server

GARBAGE = (10_000, 20, 20)
"""When Python looks for garbage: less often than it would, since a connection is many objects."""

RELOAD_PAUSE = 0.1
"""Seconds between two times that everything is read again, for whoever sends many signals."""

_log = Logger()


def log_failure(reason: str) -> None:
    """Say in one line of the log why the server cannot start."""
    _log.critical("{reason}", reason=reason)


def give_up(reactor: Any, service: Service) -> None:
    """Stop the reactor, and then end the process with status 1: twistd itself says 0."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(leave)
    # Not if it is being stopped already.
    reactor.callLater(0, lambda: reactor.stop() if service.running else None)


class StartError(SystemExit, Exception):
    """The server cannot start; the text is the one line that a person reads.

    To twistd it is an ``Exception``: it removes its pidfile, and its parent exits with status 1. To
    Python it is a ``SystemExit``: status 1, and no traceback.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = 1


def open_ports(server: Server, fail: Callable[[str], None]) -> None:
    """Bind the listeners that are not bound yet; ``StartError`` if one cannot be."""
    try:
        server.open()
    except ListenError as error:
        abandon(server, fail, f"--listen {error}")


def abandon(server: Server, fail: Callable[[str], None], reason: str) -> NoReturn:
    """Tell why the server cannot start, leave no socket file behind, and raise ``StartError``."""
    fail(reason)
    server.close()
    raise StartError(reason) from None


class _Reloads(Enum):
    """Whether a reload is under way, and whether another has been asked for since it began."""

    NONE = auto()
    UNDER_WAY = auto()
    ONE_MORE = auto()


class ISignalled(Protocol):
    """A service that obeys the signals of its process."""

    running: Any

    def reload(self) -> Deferred[str]:
        """SIGHUP: fire with what has been done, or fail with the reason why nothing was."""

    def end_grace(self) -> None:
        """A second SIGINT or SIGTERM: end now what still waits for clients."""


class ProcessSignals:
    """The signals of this process, which reach all services that run in it.

    SIGHUP reloads. Once the reactor stops, SIGINT and SIGTERM end the grace: Twisted has no use for
    them any more. When the last service has stopped, the handlers of before are put back.
    """

    def __init__(self) -> None:
        self._services: dict[ISignalled, _Reloads] = {}
        self._previous: dict[int, Any] = {}
        self._reactors: set[Any] = set()
        self._reactor: Any = None

    def add(self, reactor: Any, service: ISignalled) -> None:
        """Let signals reach a service."""
        self._reactor = reactor
        self._services[service] = _Reloads.NONE
        self._take(signal.SIGHUP, self._reload_all)
        if reactor not in self._reactors:
            self._reactors.add(reactor)
            reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)

    def remove(self, service: ISignalled) -> None:
        """Let them reach it no more; harmless if they never did."""
        self._services.pop(service, None)
        if not self._services:
            while self._previous:
                number, handler = self._previous.popitem()
                signal.signal(number, handler or signal.SIG_DFL)

    def _take(self, number: int, call: Callable[[], None]) -> None:
        def handle(_number: int, _frame: Any) -> None:
            self._reactor.callFromThread(call)

        # Python has signals in its main thread only; the reactor may run in another.
        if number not in self._previous and threading.current_thread() is threading.main_thread():
            self._previous[number] = signal.signal(number, handle)

    def _shut_down(self) -> None:
        if self._services:
            self._take(signal.SIGINT, self._end_grace_of_all)
            self._take(signal.SIGTERM, self._end_grace_of_all)

    def _end_grace_of_all(self) -> None:
        for service in list(self._services):
            service.end_grace()

    def _reload_all(self) -> None:
        for service in list(self._services):
            if service.running:
                self._reload(service)

    def _reload(self, service: ISignalled) -> None:
        """Reload; of the signals that come meanwhile, one more time serves them all."""
        state = self._services.get(service)
        if state is _Reloads.NONE:
            self._services[service] = _Reloads.UNDER_WAY
            reloading = maybeDeferred(service.reload)
            reloading.addCallback(lambda text: _log.info("SIGHUP: {text}", text=text))
            reloading.addErrback(self._reload_failed)
            reloading.addCallback(self._reloaded, service)
        elif state is _Reloads.UNDER_WAY:
            self._services[service] = _Reloads.ONE_MORE

    def _reload_failed(self, failure: Failure) -> None:
        error = failure.value
        reason = error.strerror if isinstance(error, OSError) else failure.getErrorMessage()
        _log.error("SIGHUP: {reason}; what was read before stands", reason=reason)

    def _reloaded(self, _: object, service: ISignalled) -> None:
        state = self._services.get(service)
        if state is not None:
            self._services[service] = _Reloads.NONE
        if state is _Reloads.ONE_MORE:
            self._reactor.callLater(RELOAD_PAUSE, self._reload, service)


signals = ProcessSignals()
"""Those of this process."""


class TorsocksService(Service):
    """Starts the backend and the listeners, and stops them in order.

    ``check`` raises ``StartError`` if the user that serves cannot use what the options name.
    ``fail`` is told why the server cannot start. At the end the server is shut down first, and then
    the backend.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        server: Server,
        upstream: Any,
        *,
        grace: float,
        most: int,
        check: Callable[[], None] = lambda: None,
        fail: Callable[[str], None] = log_failure,
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._upstream = upstream
        self._grace = grace
        self._most = most
        self._check = check
        self._fail = fail
        self.started: Deferred[None] = Deferred()
        """Fires once the backend has started; never if it cannot."""

    def privilegedStartService(self) -> None:
        """Bind the listeners, while that is still allowed; ``StartError`` if one cannot be."""
        open_ports(self._server, self._fail)

    def startService(self) -> None:
        """Start the backend. Clients that come earlier wait for it."""
        super().startService()
        self.privilegedStartService()
        failures: list[Failure] = []
        try:
            self._check()
            starting = maybeDeferred(self._upstream.start)
            starting.addCallbacks(self.started.callback, failures.append)
            if failures:
                raise StartError(failures[0].getErrorMessage())
        except StartError as error:
            abandon(self._server, self._fail, str(error))
        starting.addCallback(lambda _: self._start_failed(*failures) if failures else None)
        # What is imported by now stays: nothing is gained by looking for garbage in it.
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        signals.add(self._reactor, self)
        self._reactor.callWhenRunning(self._say_running)

    def _start_failed(self, failure: Failure) -> None:
        if self.running:
            # Whatever stops a backend from starting is something that a person must fix.
            self._fail(failure.getErrorMessage())
            give_up(self._reactor, self)

    def _say_running(self) -> None:
        self._log.info("serving up to {most} clients at one time", most=self._most)

    def reload(self) -> Deferred[str]:
        """Have the backend read its files again."""
        reloading: Deferred[str] = self._upstream.reload()
        return reloading

    def end_grace(self) -> None:
        """Reset the streams that are still open."""
        self._server.abort_all()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop in order; fires when nothing is left."""
        super().stopService()
        try:
            yield self._server.shutdown(self._grace)
            yield self._upstream.stop()
        finally:
            signals.remove(self)
