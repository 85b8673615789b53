"""The client's side of the managed-transport protocol (pt-spec, 3): a program that tor starts.

::

    run({"veil": veil})        # all of a transport's main program; never returns

VERSION, PROXY, CMETHOD for each transport that the parent asked for, CMETHODS DONE; then it serves
until the parent ends it: by SIGTERM, or by closing standard input where it said that it would.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import react
from twisted.logger import Logger

from torsocks_tx.pt import environment, lines, proxy_uri
from torsocks_tx.pt.dialing import Dialer
from torsocks_tx.pt.environment import Environment, Unusable
from torsocks_tx.pt.listener import TransportFactory
from torsocks_tx.pt.parent import Parent, log_to, take_standard_io
from torsocks_tx.pt.transport import Setting, Transport
from torsocks_tx.server.connections import ConnectionLimiter, raise_descriptor_limit

LOOPBACK = "127.0.0.1"


class ManagedTransports:
    """Serves transports, by name, to one parent; up to ``most`` streams at one time."""

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
        self._limiter = ConnectionLimiter(most)
        self._debug = debug
        self._parent = parent
        self._transports = transports
        self._serving: list[tuple[IListeningPort, TransportFactory]] = []

    async def start(self, environ: Mapping[str, str]) -> Environment:
        """Say all that the parent waits for. Raises ``Unusable``, whose line is said already."""
        try:
            return await self._start(environ)
        except Unusable as error:
            self._parent.say(error.line)
            raise

    async def _start(self, environ: Mapping[str, str]) -> Environment:
        environment.check_version(environ)
        self._parent.say(lines.VERSION)
        wanted = environment.read(environ)
        state_location = _make_state_location(wanted)
        dialer = self._dialer(wanted)
        for name in dict.fromkeys(wanted.transports):
            # A parent asks for all the transports that it may need: some are of other programs.
            if name in self._transports:
                report = partial(self._report, name)
                await self._serve(name, Setting(dialer, state_location, report))
        self._parent.say(lines.CMETHODS_DONE)
        return wanted

    def _dialer(self, wanted: Environment) -> Dialer:
        proxy = None
        if wanted.proxy is not None:
            proxy = proxy_uri.parse(wanted.proxy)
            self._parent.say(lines.PROXY_DONE)
        binds = {"bind_v4": wanted.bind_v4, "bind_v6": wanted.bind_v6}
        return Dialer(self._reactor, proxy=proxy, **binds)

    async def _serve(self, name: str, setting: Setting) -> None:
        transport = self._transports[name]
        shared: dict[str, Any] = {"limiter": self._limiter, "debugging": self._debug}
        factory = TransportFactory(self._reactor, transport, setting=setting, **shared)
        endpoint = TCP4ServerEndpoint(self._reactor, 0, interface=LOOPBACK)
        try:
            port = await endpoint.listen(factory)
        except CannotListenError as error:
            self._parent.say(lines.cmethod_error(name, f"cannot listen: {error.socketError}"))
            return
        self._serving.append((port, factory))
        self._parent.say(lines.cmethod(name, LOOPBACK, port.getHost().port))

    def _report(self, name: str, values: Mapping[str, str]) -> None:
        self._parent.say(lines.status(name, values))

    async def stop(self) -> None:
        """Take no more streams, and end those that there are."""
        while self._serving:
            port, factory = self._serving.pop()
            await maybeDeferred(port.stopListening)
            factory.close_all()


def _make_state_location(wanted: Environment) -> Path | None:
    if wanted.state_location is None:
        return None
    path = Path(wanted.state_location)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        line = lines.env_error(f"cannot make TOR_PT_STATE_LOCATION: {error.strerror}")
        raise Unusable(line) from None
    return path


async def serve(reactor: Any, transports: Mapping[str, Transport], debug: bool) -> None:
    """Serve until the parent wants no more, or until a signal; SystemExit(1) for a failure."""
    parent = take_standard_io(reactor)
    log_to(parent, debug=debug)
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
        await managed.stop()
    except Unusable:
        raise SystemExit(1) from None
    except Exception:
        managed.log.failure("a fault of this program")
        raise SystemExit(1) from None
    finally:
        await parent.flush()
        ended.callback(None)


def _end(ending: Deferred[None], ended: Deferred[None]) -> Deferred[None]:
    """Begin the end, once; what is returned fires when it is there."""
    if not ending.called:
        ending.callback(None)
    return ended


def run(transports: Mapping[str, Transport], *, debug: bool = False) -> NoReturn:
    """Be a pluggable transport: serve these, by name, to the tor that started this program.

    ``debug`` sends debug lines to its log too, where what they say is no secret any more.
    """
    for name in transports:
        if not environment.is_transport_name(name):
            raise ValueError(f"not a name of a transport: {name!r}")
    react(serve, (transports, debug))
