"""One connection to a SOCKS server: the conversation, and behind it the application's protocol.

The application's protocol gets the real transport. What comes in passes through here, so that it
works over any endpoint, wrapped ones too.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from torsocks_tx.client.failures import SOCKSError
from torsocks_tx.errors import TimedOut
from torsocks_tx.relay.transports import Deadline, abort, prepare
from torsocks_tx.socks.client import Initiator
from torsocks_tx.socks.constants import Reply5
from torsocks_tx.socks.messages import Reply
from torsocks_tx.socks.offers import ClientOptions
from torsocks_tx.socks.outcomes import DOUBT_TIMEOUT, Doubted, Failed, Opened, Step
from torsocks_tx.socks.server import Send


class State(Enum):
    """How far a tunnel is. LENT: the application has it, but the server has not answered yet."""

    CONNECTING = auto()
    SPEAKING = auto()
    LENT = auto()
    OPEN = auto()
    CLOSING = auto()
    OVER = auto()


class Tunnel(Protocol):
    """Speaks with a SOCKS server, then hands everything on to ``inner``, if there is one."""

    transport: Any = None

    def __init__(self, clock: IReactorTime, initiator: Initiator, options: ClientOptions) -> None:
        self.inner: Any = None
        self._initiator = initiator
        self._options = options
        self._deadline = Deadline(clock)
        self._state = State.CONNECTING
        self._reason: Failure | None = None
        self._connecting: Deferred[Any] | None = None
        self._done: Deferred[Opened] = Deferred(self._cancelled)

    def begin(self, proxy: IStreamClientEndpoint, factory: Factory) -> Deferred[Opened]:
        """Connect and speak. Fires once ``inner`` is connected; errback ``SOCKSError``.

        What the endpoint itself fails with is passed on.
        """
        self._deadline.start(self._options.timeout, self._timed_out)
        self._connecting = proxy.connect(factory)
        self._connecting.addErrback(self._connect_failed)
        return self._done

    def carry(self, inner: Any) -> None:
        """Be for this protocol: half-closeable if it is."""
        self.inner = inner
        if IHalfCloseableProtocol.providedBy(inner):
            alsoProvides(self, IHalfCloseableProtocol)

    # Ends without a tunnel.

    def _connect_failed(self, failure: Failure) -> None:
        if self._state is State.CONNECTING:
            self._state = State.OVER
            self._deadline.stop()
            self._done.errback(failure)

    def _cancelled(self, _: Deferred[Opened]) -> None:
        self._give_up()

    def _timed_out(self) -> None:
        late = TimedOut("the SOCKS server did not answer in time")
        self._follow(self._initiator.give_up(late))

    def _fail(self, error: SOCKSError) -> None:
        if self._state is State.LENT:
            self._reason = Failure(error)
            self._give_up()
            return
        self._state = State.OVER
        # Before anything else: whatever a transport does, nobody waits for ever.
        self._done.errback(error)
        self._give_up()

    def _give_up(self) -> None:
        """Close; an application that has the connection already is to hear of it."""
        handed_over = self._state in (State.LENT, State.OPEN)
        self._state = State.CLOSING if handed_over else State.OVER
        self._deadline.stop()
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        if self.transport is not None:
            abort(self.transport)

    # The conversation.

    def connectionMade(self) -> None:
        """Make the request."""
        self._connecting = None
        if self._state is not State.CONNECTING:
            abort(self.transport)
            return
        prepare(self.transport)
        self._state = State.SPEAKING
        self._follow([Send(self._initiator.start())])

    def _follow(self, steps: list[Step]) -> None:
        for step in steps:
            match step:
                case Send(data):
                    self.transport.write(data)
                case Opened():
                    self._opened(step)
                case Doubted():
                    self._deadline.start(DOUBT_TIMEOUT, self._settle)
                case Failed(reason, code, status, pairs):
                    self._fail(SOCKSError(reason, code, status, pairs))
        # Only now: a server may have said so much that there is more than one step.
        waiting = self._state is State.SPEAKING and self._initiator.requested
        if waiting and self._options.optimistic and self.inner is not None:
            self._state = State.LENT
            self.inner.makeConnection(self.transport)
            self._finish(Opened(Reply(Reply5.SUCCEEDED), b"", self._initiator.pairs))

    def _finish(self, opened: Opened) -> None:
        """Fire, unless that was cancelled as the application was connected, or is done."""
        if not self._done.called:
            self._done.callback(opened)

    def _settle(self) -> None:
        self._follow(self._initiator.settle())

    def _opened(self, opened: Opened) -> None:
        self._deadline.stop()
        lent = self._state is State.LENT
        self._state = State.OPEN
        installed = _installed(self.transport)
        if self.inner is None:
            self.transport.loseConnection()
        elif not lent:
            self.inner.makeConnection(self.transport)
        self._finish(opened)
        # Behind the callback: whoever waits for the protocol may set it up there.
        if opened.rest and self._state is State.OPEN and not _is_closing(self.transport):
            now = _installed(self.transport)
            receiver = self.inner if now is installed else now
            if receiver is not None:
                receiver.dataReceived(opened.rest)

    # IProtocol.

    def dataReceived(self, data: bytes) -> None:
        """Pass data on, or go on with the conversation."""
        if self._state is State.OPEN:
            if self.inner is not None:
                self.inner.dataReceived(data)
        elif self._state in (State.SPEAKING, State.LENT):
            self._follow(self._initiator.receive(data))

    def readConnectionLost(self) -> None:
        """The far end will send no more."""
        if self._state is State.OPEN:
            self.inner.readConnectionLost()
        elif self._state in (State.SPEAKING, State.LENT):
            self._follow(self._initiator.eof())

    def writeConnectionLost(self) -> None:
        """The sending side is shut down, as the application asked."""
        if self._state in (State.LENT, State.OPEN):
            self.inner.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        leaving = self._state is State.LENT and _is_closing(self.transport)
        if self._state in (State.SPEAKING, State.LENT) and not leaving:
            self._follow(self._initiator.eof())
        previous, self._state = self._state, State.OVER
        self._deadline.stop()
        if previous in (State.LENT, State.OPEN, State.CLOSING) and self.inner is not None:
            self.inner.connectionLost(self._reason or reason)


def _is_closing(transport: Any) -> bool:
    """Whether the application has closed it; for an abort, sockets have a mark of their own."""
    return any(getattr(transport, mark, False) for mark in ("disconnecting", "_aborting"))


def _installed(transport: Any) -> Any:
    """The protocol that a socket gives its data to: an application may put another in its place.

    None for wrappers: they have no such attribute of their own, and show that of what they wrap.
    """
    return getattr(transport, "__dict__", {}).get("protocol")


class TunnelFactory(Factory):
    """Puts a tunnel before the protocol of an application's factory."""

    noisy = False

    def __init__(self, tunnel: Tunnel, wrapped: Any, address: Any) -> None:
        self._tunnel = tunnel
        self._wrapped = wrapped
        self._address = address

    def doStart(self) -> None:
        """Start the application's factory."""
        self._wrapped.doStart()

    def doStop(self) -> None:
        """Stop the application's factory."""
        self._wrapped.doStop()

    def buildProtocol(self, addr: Any) -> Tunnel | None:
        """The tunnel, unless the application wants no connection."""
        inner = self._wrapped.buildProtocol(self._address)
        if inner is None:
            return None
        self._tunnel.carry(inner)
        return self._tunnel
