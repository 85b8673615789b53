"""One request being carried out: a stream to open and relay, or a name to look up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.errors import (
    HostUnreachable,
    Internal,
    NoFreshCircuit,
    ProxyBroken,
    SOCKSError,
    TimedOut,
    without_text,
)
from torsocks_tx.http.answers import Answers
from torsocks_tx.interfaces import IBackend, IExitOutbound
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.relay.relay import Relay
from torsocks_tx.relay.sockets import send, shut
from torsocks_tx.relay.timeouts import Deadline
from torsocks_tx.server.connections import RareWarning
from torsocks_tx.socks import replies
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.extended import REPLY_CODES
from torsocks_tx.socks.messages import Address, Request
from torsocks_tx.status.registry import ListenerCounts, outcome_of

_BROKEN = RareWarning(
    Logger(),
    "what should be a SOCKS server behind this one breaks the protocol, or closes without an answer"
    " ({count}): --tor-socks is for a SocksPort",
)
_TOO_FRESH = RareWarning(
    Logger(), "fresh circuits were refused ({count}): more than FreshRate allows"
)


class Client(Protocol):
    """The connection whose request is carried out."""

    transport: Any
    deadline: Deadline

    def finish(self, data: bytes) -> None:
        """Write these bytes, flush, close."""

    def reset(self) -> None:
        """Close with a reset."""

    def note(self, reason: str) -> None:
        """Write a debug line."""

    def onion_reached(self) -> None:
        """The stream to an onion service is open."""


class Stage(Enum):
    """How far a request is, as it is counted: OPEN and LINGERING are open streams."""

    BEGUN = auto()
    OPEN = auto()
    LINGERING = auto()
    OVER = auto()


def _without_used_pairs(request: Request) -> Request:
    """The request with the one key that its reply depends on: the others may be long."""
    return replace(request, credentials=None, pairs=request.pairs.of_kind(REPLY_CODES))


class RequestHandler:
    """Carries one request out and answers it; afterwards it is the client's end of the relay.

    ``answers``: those of a request by HTTP. ``counts``: where it is counted.
    """

    __slots__ = (
        "_answers",
        "_began",
        "_client",
        "_clock",
        "_counts",
        "_limits",
        "_look_up",
        "_reply_context",
        "_request",
        "_stage",
        "relay",
    )
    _log = Logger()

    def __init__(
        self,
        client: Client,
        request: Request,
        *,
        clock: IReactorTime,
        limits: Limits,
        reply_context: Callable[[Request], replies.ReplyContext],
        counts: ListenerCounts,
        answers: Answers | None = None,
    ) -> None:
        self._client = client
        self._request = request
        self._limits = limits
        self._reply_context = reply_context
        self._answers = answers
        self._counts = counts
        self._clock = clock
        self._began = clock.seconds()
        self._stage = Stage.BEGUN
        counts.request(request)
        meter = counts.meter
        self.relay = Relay(self, client.transport, clock, client.deadline, limits, meter)
        self._look_up: Deferred[Address] | None = None

    def begin(self, backend: IBackend, isolation: Isolation, rest: bytes) -> None:
        """Set out; ``rest`` is early data, which a look-up has no use for."""
        if self._request.command is Command.CONNECT:
            onion = self._request.address.is_onion
            timeout = self._limits.onion_timeout if onion else self._limits.connect_timeout
            outbound = backend.open(self._request, isolation, self.relay)
            by_name = self._request.version is not Version.HTTP and not self._request.extended
            if self._request.pairs.pairs and not by_name:  # a user name is short
                self._request = _without_used_pairs(self._request)
            self.relay.begin(outbound, rest, timeout)
            return
        literal = self._request.address.literal()
        if self._request.command is Command.RESOLVE and literal.is_ip:
            self._answer(literal)
        elif self._request.command is Command.RESOLVE:
            self._await(backend.resolve(self._request, isolation))
        else:
            self._await(backend.resolve_ptr(self._request, isolation))

    # The client's side.

    def client_eof(self) -> None:
        """The client will send no more. While there is no answer yet, it is gone."""
        if self.relay.is_open:
            if self._stage is Stage.OPEN:
                self._stage = Stage.LINGERING
                self._counts.lingers()
            self.relay.client_eof()
        else:
            self._client.note("the client closed before the reply")
            self.client_lost(clean=False)
            self._client.finish(b"")

    def client_lost(self, clean: bool) -> None:
        """The client's connection is gone: give up what is under way."""
        try:
            self.give_up(clean)
        finally:
            self._count_end("left")

    def give_up(self, clean: bool) -> None:
        """Give up what is under way."""
        self.relay.client_lost(clean)
        if self._look_up is not None:
            self._give_up_look_up()

    # What the relay says: RelayOwner.

    def relay_opened(self) -> None:
        """The far end is reached: tell the client."""
        onion = self._request.address.is_onion
        self._stage = Stage.OPEN
        self._counts.opened(self._clock.seconds() - self._began, self.relay.sent, onion=onion)
        if onion:
            self._client.onion_reached()
        http = self._answers
        if http is None:
            reply = replies.success(self._request)
        elif IExitOutbound.providedBy(self.relay.outbound):
            reply = http.connected_by(self.relay.outbound.exit_text)
        else:
            reply = http.connected
        self.send_reply(reply, final=False)
        # An idle stream is to cost little.
        del self._request, self._reply_context, self._began

    def relay_refused(self, reason: SOCKSError) -> None:
        """The answer is no: tell the client why, as far as it may know."""
        self._count_end(outcome_of(reason, self._request.version))
        self._client.note(f"{type(reason).__name__}: {reason.detail}")
        if isinstance(reason, ProxyBroken):
            _BROKEN.note()
        elif isinstance(reason, NoFreshCircuit):
            _TOO_FRESH.note()
        if self._answers is not None:
            reply = self._answers.refused(reason)
        else:
            reply = replies.failure(reason, self._reply_context(self._request))
        self.send_reply(reply, final=True)

    def send_reply(self, reply: bytes, *, final: bool) -> None:
        """Write the one reply; ``final``: the connection ends with it."""
        if final:
            self._client.finish(reply)
        else:
            send(self._client.transport, reply)

    def relay_over(self, clean: bool) -> None:
        """The far end is gone."""
        self._count_end("left")
        if clean:
            self._client.finish(b"")
        else:
            self._client.reset()

    def relay_remote_eof(self) -> None:
        """The far end will send no more: pass that on, and go on listening to the client."""
        shut(self._client.transport)

    def _count_end(self, outcome: str) -> None:
        """Count the end of the stream, or of a request that had this outcome instead."""
        stage, self._stage = self._stage, Stage.OVER
        if stage is Stage.BEGUN:
            self._counts.ended(outcome)
        elif stage is not Stage.OVER:
            self._counts.closed(lingered=stage is Stage.LINGERING)

    # Look-ups.

    def _await(self, look_up: Deferred[Address]) -> None:
        self._look_up = look_up
        self._client.deadline.start(self._limits.connect_timeout, self._timed_out)
        look_up.addCallbacks(self._answer, self._refuse)
        look_up.addErrback(self._fault)

    def _answer(self, answer: Address) -> None:
        self._look_up = None
        try:
            reply = replies.success(self._request, Address(answer.type, answer.host, 0))
        except ValueError:
            self.relay_refused(HostUnreachable("the answer does not fit the reply"))
        else:
            self._count_end("resolved")
            self.send_reply(reply, final=True)

    def _refuse(self, failure: Failure) -> None:
        if self._look_up is None:
            return
        self._look_up = None
        if isinstance(failure.value, SOCKSError):
            self.relay_refused(failure.value)
        else:
            self._fault(failure)

    def _fault(self, failure: Failure) -> None:
        text = "a fault while looking up; the client gets a general failure"
        self._log.failure(text, without_text(failure))
        self.relay_refused(Internal("fault"))

    def _timed_out(self) -> None:
        self._give_up_look_up()
        self.relay_refused(TimedOut("no answer within the connect deadline"))

    def _give_up_look_up(self) -> None:
        look_up, self._look_up = self._look_up, None
        if look_up is not None:
            look_up.cancel()
