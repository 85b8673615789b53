"""The running server of ``twistd torsocks``: a backend, its listeners, and an orderly end."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.fastpath import attach
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.twistd.binding import StartError
from torsocks_tx.twistd.listen import Listener

RUNNING = "clients at one time"
"""How the line ends that a server writes once it runs."""

GARBAGE = (10_000, 20, 20)
"""When Python looks for garbage: less often than it would, since a connection is many objects."""

RELOAD_PAUSE = 0.1
"""Seconds between two times that everything is read again, for whoever sends many signals."""


class Reloads(Enum):
    """Whether files are being read again, and whether that will not be enough."""

    NONE = auto()
    UNDER_WAY = auto()
    ONE_MORE = auto()


def exit_with_failure() -> None:
    """Make the process end with status 1 once everything else is done: twistd itself says 0."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(leave)


class TorsocksService(Service):
    """Starts the backend and the listeners, and stops them in order.

    ``bind`` listens for a listener, or raises ``StartError``. At the end: first no new clients,
    then a grace for those that are served, then a reset for the rest, then the backend.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        listeners: Sequence[tuple[Listener, SOCKSFactory]],
        upstream: Any,
        *,
        bind: Callable[[Listener, SOCKSFactory], IListeningPort],
        grace: float,
        most: int,
    ) -> None:
        self._reactor = reactor
        self._listeners = listeners
        self._upstream = upstream
        self._bind = bind
        self._grace = grace
        self._most = most
        self._ports: list[IListeningPort] = []
        self._starting: Deferred[Any] | None = None
        self._old_hangup: Any = None
        self._reloads = Reloads.NONE

    def privilegedStartService(self) -> None:
        """Bind the listeners, while that is still allowed; end the process if one cannot be."""
        for listener, factory in self._listeners:
            try:
                port = self._bind(listener, factory)
            except StartError as error:
                self._log.critical("{error}", error=error)
                raise SystemExit(1) from None
            attach(port)
            self._ports.append(port)

    def startService(self) -> None:
        """Start the backend. Clients that come earlier wait for it."""
        super().startService()
        self._reactor.callWhenRunning(self._say_running)
        # What is imported by now stays: nothing is gained by looking for garbage in it.
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        if not self._ports:
            self.privilegedStartService()
        self._old_hangup = signal.signal(signal.SIGHUP, self._hangup)
        self._starting = maybeDeferred(self._upstream.start)
        self._starting.addErrback(self._start_failed)

    def _say_running(self) -> None:
        self._log.info("serving up to {most} " + RUNNING, most=self._most)

    def _hangup(self, _number: int, _frame: Any) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        """Read again; of the signals that come meanwhile, one more time serves them all."""
        if self._reloads is Reloads.NONE:
            self._begin_to_reload()
        else:
            self._reloads = Reloads.ONE_MORE

    def _begin_to_reload(self) -> None:
        self._reloads = Reloads.UNDER_WAY
        reloading = maybeDeferred(self._upstream.reload)
        reloading.addCallback(lambda text: self._log.info("SIGHUP: {text}", text=text))
        reloading.addErrback(self._reload_failed)
        reloading.addCallback(self._reloaded)

    def _reloaded(self, _: object) -> None:
        before, self._reloads = self._reloads, Reloads.NONE
        if before is Reloads.ONE_MORE:
            self._reactor.callLater(RELOAD_PAUSE, self._reload)

    def _reload_failed(self, failure: Failure) -> None:
        error = failure.value
        reason = error.strerror if isinstance(error, OSError) else failure.getErrorMessage()
        self._log.error("SIGHUP: {reason}; what was read before stands", reason=reason)

    def _start_failed(self, failure: Failure) -> None:
        if not self.running:
            return
        # Whatever stops a backend from starting is something that a person must mend.
        self._log.critical("{error}", error=failure.getErrorMessage())
        exit_with_failure()
        self._reactor.callLater(0, self._reactor.stop)

    def _hurry_on_signals(self, factories: Sequence[SOCKSFactory]) -> None:
        """Let a second Ctrl-C or SIGTERM end the grace: Twisted has no use for it any more."""

        def hurry(_number: int, _frame: Any) -> None:
            for factory in factories:
                self._reactor.callFromThread(factory.close_all)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, hurry)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop in order; fires when nothing is left."""
        super().stopService()
        if self._old_hangup is not None:
            signal.signal(signal.SIGHUP, self._old_hangup)
        yield DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        self._ports.clear()
        factories = [factory for _, factory in self._listeners]
        for factory in factories:
            factory.close_unserved()
        self._hurry_on_signals(factories)
        busy = sum(len(factory.connections) for factory in factories)
        if busy:
            self._log.info(
                "stopping: {busy} connections have {grace:g} s to end", busy=busy, grace=self._grace
            )
        calls = [self._reactor.callLater(self._grace, factory.close_all) for factory in factories]
        yield DeferredList([factory.when_empty() for factory in factories])
        for call in calls:
            if call.active():
                call.cancel()
        # The far sides of clients that were reset are reset in the reactor's next turn. One that is
        # still open when it stops is closed with a FIN, and what was cut there looks complete.
        yield deferLater(self._reactor, 0, lambda: None)
        yield self._upstream.stop()
