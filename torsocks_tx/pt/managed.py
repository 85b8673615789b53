"""The program that tor starts: the managed-transport protocol, client's side (pt-spec, section 3).

::

    run({"veil": veil})        # all of a transport's main program; never returns

It says VERSION, PROXY, CMETHOD for each transport that the parent asked for, and CMETHODS DONE;
then it serves until the parent ends it: by SIGTERM, or by closing standard input where it said that
it would. Nothing else may be printed to standard output: what is printed by accident becomes a LOG
line. Lines for the log are dropped while the parent does not read; other lines wait.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO

from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHalfCloseableProtocol, IListeningPort, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEvent,
    globalLogBeginner,
    globalLogPublisher,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.backends.tor.files import make_private_directory
from torsocks_tx.limits import check_arguments
from torsocks_tx.pt import spec
from torsocks_tx.pt.channel import kind_and_place
from torsocks_tx.pt.transport import Dialer, Setting, Transport, TransportFactory
from torsocks_tx.server.connections import ConnectionLimiter, raise_descriptor_limit

DEBUG_LOG = "debug.log"
"""The file of ``run(debug=True)`` in the state directory."""

FLUSH_TIMEOUT = 2.0
"""Seconds that a parent may take to read the last spec."""

_LOOPBACK = "127.0.0.1"
_TWISTED_NAMESPACES = ("twisted", "log_legacy")
_SEVERITIES = {
    LogLevel.info: "info",
    LogLevel.warn: "warning",
    LogLevel.error: "error",
    LogLevel.critical: "error",
}


class State(Enum):
    """Whether the parent reads our standard output."""

    READING = auto()
    STALLED = auto()
    GONE = auto()


@implementer(IHalfCloseableProtocol, IPushProducer)
class Parent(Protocol):
    """The parent, at the other end of our standard input and output."""

    transport: Any = None

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._state = State.READING
        self.input_closed: Deferred[None] = Deferred()
        self._over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Learn from now on when the parent does not read."""
        self.transport.registerProducer(self, True)

    def say(self, text: str) -> None:
        """Write a line, unless the parent is gone."""
        if self._state is not State.GONE:
            self.transport.write(spec.line(text))

    def say_log(self, severity: str, message: str) -> None:
        """Write a line for the parent's log; drop it while the parent does not read."""
        if self._state is State.READING:
            self.say(spec.log(severity, message))

    async def flush(self) -> None:
        """Close standard output; return when all is written, or after ``FLUSH_TIMEOUT``."""
        if self._state is State.GONE:
            return
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        try:
            await self._over.addTimeout(FLUSH_TIMEOUT, self._reactor)
        except TimeoutError:
            self._state = State.GONE

    # IPushProducer: standard output is full, or has room again.

    def pauseProducing(self) -> None:
        """Drop lines for the log: the parent does not read."""
        self._state = State.STALLED

    def resumeProducing(self) -> None:
        """Write lines for the log again."""
        if self._state is State.STALLED:
            self._state = State.READING

    def stopProducing(self) -> None:
        """Write nothing more: the parent has closed our standard output."""
        self._state = State.GONE

    # IHalfCloseableProtocol.

    writeConnectionLost = stopProducing

    def readConnectionLost(self) -> None:
        """Take that the parent closed our standard input."""
        if not self.input_closed.called:
            self.input_closed.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take that everything is written."""
        self._state = State.GONE
        if not self._over.called:
            self._over.callback(None)


def take_standard_io(reactor: Any) -> Parent:
    """Return the parent; standard input and output are its own from then on."""
    parent = Parent(reactor)
    standard_io: Any = StandardIO  # typed as on another system
    stdin, stdout = _own(sys.stdin, os.O_RDONLY), _own(sys.stdout, os.O_WRONLY)
    standard_io(parent, stdin=stdin, stdout=stdout, reactor=reactor)
    return parent


def _own(stream: TextIO | None, mode: int) -> int:
    """Return a copy of a stream's descriptor, or one of /dev/null where there is no stream."""
    # Python sets closed ones to None; their numbers may have gone to other files since.
    return os.open(os.devnull, mode) if stream is None else os.dup(stream.fileno())


@implementer(ILogObserver)
class ParentLog:
    """Turns log events above debug into LOG lines, which tor repeats in its own log.

    The text of an exception may hold addresses: only its kind and place are named, also where
    Twisted's old ``log.err`` made a traceback the text.
    """

    def __init__(self, parent: Parent) -> None:
        self._parent = parent

    def __call__(self, event: LogEvent) -> None:
        """Write an event."""
        level = event.get("log_level") or LogLevel.info
        # Twisted itself says at this level when factories start and when the reactor ends.
        noise = event.get("log_namespace", "").startswith(_TWISTED_NAMESPACES)
        if level not in _SEVERITIES or (noise and level is LogLevel.info):
            return
        text, failure = _text_and_failure(event)
        if failure is not None:
            text = f"{text or 'Unhandled error'} ({kind_and_place(failure)})"
        if text:
            self._parent.say_log(_SEVERITIES[level], text)


def _text_and_failure(event: LogEvent) -> tuple[str, Failure | None]:
    """Return the text of an event, and its failure if it has one."""
    old = event.get("failure")
    if isinstance(old, Failure) and "log_failure" not in event:
        return str(event.get("why") or ""), old
    return formatEvent(event), event.get("log_failure")


class ManagedTransports:
    """Serves transports, by name, to one parent; at most ``most`` streams at one time.

    ``debug``: everything that is logged is written to ``DEBUG_LOG`` too.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        parent: Parent,
        transports: Mapping[str, Transport],
        *,
        debug: bool = False,
        most: int | None = None,
    ) -> None:
        self._reactor = reactor
        self._limiter = ConnectionLimiter(most, clock=reactor)
        self._debug = debug
        self._parent = parent
        self._transports = transports
        self._serving: list[tuple[IListeningPort, TransportFactory]] = []
        self._debug_log = ExitStack()

    async def start(self, environ: Mapping[str, str]) -> spec.Environment:
        """Listen, and say so to the parent. Raises ``Unusable``, whose line is to be said then."""
        spec.check_version(environ)
        self._parent.say("VERSION 1")
        wanted = spec.read_environment(environ)
        state_location = _make_state_location(wanted)
        if self._debug:
            self._open_debug_log(state_location)
        dialer = self._dialer(wanted)
        for name in dict.fromkeys(wanted.transports):
            # A parent asks for all the transports that it may need: some are of other programs.
            if name in self._transports:
                report = partial(self._report, name)
                await self._serve(name, Setting(dialer, state_location, report))
        self._parent.say("CMETHODS DONE")
        return wanted

    def _open_debug_log(self, directory: Path | None) -> None:
        if directory is None:
            self.log.warn("there is no debug log: TOR_PT_STATE_LOCATION is not set")
            return
        try:
            descriptor = os.open(
                directory / DEBUG_LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600
            )
        except OSError as error:
            self.log.warn("there is no debug log: {reason}", reason=error.strerror)
            return
        file = self._debug_log.enter_context(os.fdopen(descriptor, "w", encoding="utf-8"))
        observer = textFileLogObserver(file)
        globalLogPublisher.addObserver(observer)
        self._debug_log.callback(globalLogPublisher.removeObserver, observer)

    def _dialer(self, wanted: spec.Environment) -> Dialer:
        proxy = None
        if wanted.proxy is not None:
            proxy = spec.parse_proxy(wanted.proxy)
            self._parent.say("PROXY DONE")
        return Dialer(self._reactor, proxy=proxy, bind_v4=wanted.bind_v4, bind_v6=wanted.bind_v6)

    async def _serve(self, name: str, setting: Setting) -> None:
        transport = self._transports[name]
        shared: dict[str, Any] = {"limiter": self._limiter, "debugging": self._debug}
        factory = TransportFactory(self._reactor, transport, setting=setting, **shared)
        endpoint = TCP4ServerEndpoint(self._reactor, 0, interface=_LOOPBACK)
        try:
            port = await endpoint.listen(factory)
        except CannotListenError as error:
            self._parent.say(f"CMETHOD-ERROR {name} cannot listen: {error.socketError}")
            return
        self._serving.append((port, factory))
        self._parent.say(f"CMETHOD {name} socks5 {_LOOPBACK}:{port.getHost().port}")

    def _report(self, name: str, values: Mapping[str, str]) -> None:
        self._parent.say(spec.status(name, values))

    async def stop(self) -> None:
        """Stop listening, end every stream, and close the debug log."""
        while self._serving:
            port, factory = self._serving.pop()
            await maybeDeferred(port.stopListening)
            factory.abort_all()
        self._debug_log.close()


def _make_state_location(wanted: spec.Environment) -> Path | None:
    if wanted.state_location is None:
        return None
    path = Path(wanted.state_location)
    try:
        make_private_directory(path)
    except OSError as error:
        reason = f"ENV-ERROR cannot make TOR_PT_STATE_LOCATION: {error.strerror}"
        raise spec.Unusable(reason) from None
    return path


async def serve(reactor: Any, transports: Mapping[str, Transport], debug: bool) -> None:
    """Serve until the parent wants no more, or until a signal; SystemExit(1) for a failure."""
    parent = take_standard_io(reactor)
    globalLogBeginner.beginLoggingTo([ParentLog(parent)], redirectStandardIO=True)
    most = raise_descriptor_limit()
    managed = ManagedTransports(reactor, parent, transports, debug=debug, most=most)
    ending: Deferred[None] = Deferred()
    ended: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", _end, ending, ended)
    try:
        wanted = await managed.start(os.environ)
        if wanted.exit_on_stdin_close:
            parent.input_closed.addCallback(lambda _: _end(ending, ended))
        await ending
    except spec.Unusable as error:
        parent.say(str(error))
        raise SystemExit(1) from None
    except Exception:
        managed.log.failure("a fault of this program")
        raise SystemExit(1) from None
    finally:
        await managed.stop()
        await parent.flush()
        ended.callback(None)


def _end(ending: Deferred[None], ended: Deferred[None]) -> Deferred[None]:
    """Ask the program to end, once; fire when it has."""
    if not ending.called:
        ending.callback(None)
    return ended


def run(transports: Mapping[str, Transport], *, debug: bool = False) -> NoReturn:
    """Serve these transports, by name, to the tor that started this program; never return.

    ``debug`` writes everything that is logged, with the texts and tracebacks of exceptions, to
    ``debug.log`` in the state directory, anew at each start: it may hold addresses. Without that
    directory the parent's log says that there is no such file. Raises ValueError for a name that no
    transport may have.
    """
    check_arguments(Mapping, transports=transports)
    check_arguments(bool, debug=debug)
    for name, transport in transports.items():
        check_arguments(Callable, transport=transport)
        if not isinstance(name, str) or not spec.is_transport_name(name):
            raise ValueError(f"not a name of a transport: {name!r}")
    react(serve, (transports, debug))
