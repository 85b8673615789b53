"""Streams through exits of a choice, which try one exit after the other.

tor gets a name that it maps to the destination at one exit, and builds the path as ever: its
guards, its isolation. An exit that refuses, or to which no circuit can be built, is followed by
another one of the choice. What the client sends early is kept until the stream is open, so that
no exit gets what another one may have sent on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.backends.tor.exits.circuits import CircuitLine
from torsocks_tx.backends.tor.exits.directory import AUTOMAPS, Candidates, Exit, ExitDirectory
from torsocks_tx.backends.tor.exits.session import Exits, ExitSession, Mapping, name_at_exit
from torsocks_tx.backends.tor.ports import SocksPort
from torsocks_tx.client.connection import State, Stream
from torsocks_tx.errors import CommandNotSupported, NotAllowed, SOCKSError
from torsocks_tx.interfaces import IExitOutbound, IReceiver
from torsocks_tx.policy.circuits import ExitChoice
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.relay.timeouts import Deadline
from torsocks_tx.socks.client import ClientHandshake, Opened
from torsocks_tx.socks.constants import AddressType, Command, Reply5
from torsocks_tx.socks.messages import Address, Credentials, Request

TRIES = 4
"""Exits that a stream tries."""

CIRCUIT_SECONDS = 15.0
"""Seconds after which it is seen whether there is a circuit to the exit; most take one or two."""

LAST_CIRCUIT_SECONDS = 60.0
"""The same for the last exit of the choice: tor may have to build a circuit to it once more."""

LOOK_SECONDS = 3.0
"""Seconds after which it is seen whether tor builds one circuit after the other to the exit."""

MOST_CIRCUITS = 8
"""Circuits of one key to one exit; a stream that still waits is then refused by this exit."""

RESTARTS = 3
"""How often a stream begins again because tor was started anew while it was opened."""

_RETRIED = (Reply5.GENERAL_FAILURE, Reply5.NOT_ALLOWED)


@dataclass(slots=True)
class _Try:
    """One exit that is tried: the mapping to it is ours until tor has answered."""

    session: ExitSession
    port: SocksPort
    exit: Exit
    mapping: Mapping
    began: float


@implementer(IExitOutbound, IReceiver)
class ExitStream:
    """One stream: the receiver of the ``Stream`` of each try, and the outbound of its own receiver.

    ``refusal_for``: what the client hears when tor cannot be reached. ``when_ready``: fires with
    the exits of the tor to use then. ``exit``: the exit in use. An exit that is left after a look
    at tor's circuits counts as a fresh one. Raises ``SOCKSError`` if no exit can carry it out.
    """

    def __init__(
        self,
        exits: Exits,
        request: Request,
        choice: ExitChoice,
        isolation: Isolation,
        receiver: IReceiver,
        refusal_for: Callable[[Failure], SOCKSError],
        when_ready: Callable[[], Deferred[Exits]],
    ) -> None:
        if request.command is Command.RESOLVE_PTR:
            raise CommandNotSupported("RESOLVE_PTR has no name that could be mapped to an exit")
        self.exit: Exit | None = None
        self._exits, self._request = exits, request
        self._host = name_at_exit(request.address)
        self._choice, self._receiver = choice, receiver
        self._credentials = request.credentials or Credentials(b"")
        self._flags, self._tries = isolation.port_flags, isolation.tries
        self._refusal_for, self._when_ready = refusal_for, when_ready
        self._deadline, self._now = Deadline(exits.clock), exits.clock.seconds
        self._chosen, self._restarts = Candidates([]), 0
        self._left: list[Exit] = []
        self._try: _Try | None = None
        self._stream: Stream | None = None
        self._state = State.CONNECTING
        self._early = b""
        self._pending: Deferred[Any] | None = None

    def begin(self) -> None:
        """Set out. Raises ``SOCKSError`` if it fails at once."""
        port = None if self._flags else self._exits.provider.usable_port
        session = None if port is None else self._exits.session
        directory = None if session is None else session.directory
        if port is None or session is None or directory is None:
            self._prepare()
        else:
            self._choose(session, port, directory)

    def _prepare(self) -> None:
        self._exits.tokens.pop(self, None)
        self._wait_for(Deferred.fromCoroutine(self._wait_for_tor()))

    def _wait_for(self, pending: Deferred[Any]) -> None:
        """Refuse the stream if this fails: tor is gone, or the choice is empty."""
        self._pending = pending
        pending.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError) and self._state is not State.OVER:
            self._refuse(self._refusal_for(failure))

    async def _wait_for_tor(self) -> None:
        # In the next turn, for the receiver must hear nothing from inside ``open``.
        await deferLater(self._exits.clock, 0.0)
        self._exits = await self._when_ready()
        session = self._exits.session
        directory = await session.when_read()
        self._choose(session, self._exits.provider.port_for(self._flags), directory)

    def _choose(self, session: ExitSession, port: SocksPort, directory: ExitDirectory) -> None:
        token = self._exits.tokens[self] = self._credentials.password
        chosen = self._chosen = directory.candidates(self._choice, token)
        self._left = chosen.exits[:TRIES]
        if directory.automaps and self._request.command is Command.RESOLVE:
            raise CommandNotSupported(AUTOMAPS)
        self._tries.check(chosen.is_good, self._now())
        self._try_next(session, port)

    def _try_next(self, session: ExitSession, port: SocksPort) -> None:
        self.exit = self._left.pop(0)
        mapping = session.mappings.take((self._host, self.exit.fingerprint))
        this = self._try = _Try(session, port, self.exit, mapping, self._now())
        if mapping.known.is_settled:
            self._dial(this)
        else:
            self._wait_for(mapping.known.wait().addCallback(lambda _: self._dial(this)))

    def _dial(self, this: _Try) -> None:
        self._pending = None  # leave no cycle
        address = Address(AddressType.HOSTNAME, this.mapping.alias, self._request.address.port)
        asked = Request(self._request.version, self._request.command, address, self._credentials)
        stream = self._stream = Stream(
            self._exits.clock, self, half_close=False, refusal_for=self._refusal_for
        )
        stream.ask(ClientHandshake(asked, pipelined=this.port.pipelined))
        self._deadline.start(LOOK_SECONDS, partial(self._look_for_circuit, this))
        stream.connect(this.port.endpoint)

    def _refuse(self, reason: SOCKSError) -> None:
        self.abort()
        self._receiver.refused(reason)

    def _end_try(self) -> None:
        """Give the mapping back: tor has answered, or is not asked any more."""
        self._deadline.stop()
        this, self._try = self._try, None
        if this is not None:
            this.session.mappings.give_back((self._host, this.exit.fingerprint), this.mapping)

    # An exit that does not answer, or to which there is no circuit.

    def _look_for_circuit(self, this: _Try) -> None:
        this.session.circuits.ask().addCallback(self._looked, this).addErrback(lambda _: None)

    def _looked(self, circuits: list[CircuitLine], this: _Try) -> None:
        """Leave an exit that is dead or refuses; a slow destination is waited for."""
        if self._try is not this or self._stream is None:
            return
        waited, token = self._now() - this.began, self._credentials.password
        delay = _next_look(circuits, this.exit, token, waited, is_last=not self._left)
        if delay is not None:
            self._deadline.start(delay, partial(self._look_for_circuit, this))
            return
        self._chosen.put_last(this.exit)
        self._stream.abort()
        self._go_on(this, in_vain=True)

    # What the stream of a try says: IReceiver.

    def opened(self) -> None:
        """The destination is reached, by the exit in use."""
        stream, this = self._stream, self._try
        if stream is None or this is None:
            return
        if not self._exits.is_current(this.session):
            # This may be another tor, which does not know the mapping.
            stream.abort()
            self._again(NotAllowed("tor was started again"))
            return
        self._end_try()
        self._state = State.OPEN
        self._chosen.is_good = self._chosen.is_good or self._tries.are_left(self._now())
        if self._early:
            stream.write(self._early)
            self._early = b""
        self._receiver.opened()

    def refused(self, reason: SOCKSError) -> None:
        """Tor says no."""
        this = self._try
        if this is None or not self._exits.is_current(this.session):
            self._again(reason)
        elif reason.reply in _RETRIED:
            self._go_on(this)
        else:
            self._refuse(reason)

    def _go_on(self, this: _Try, *, in_vain: bool = False) -> None:
        """Try the next exit of the choice."""
        self._end_try()
        self._stream = None
        refusal: SOCKSError = NotAllowed("none of the exits that were tried carries the stream")
        try:
            if in_vain:
                self._tries.count(self._now())
            if self._left:
                return self._try_next(this.session, this.port)
        except SOCKSError as reason:
            refusal = reason
        return self._refuse(refusal)

    def _again(self, reason: SOCKSError) -> None:
        """Begin again by whatever tor there is now, unless that was done too often."""
        self._end_try()
        self._stream = None
        self._restarts += 1
        if self._restarts > RESTARTS:
            self._refuse(reason)
        else:
            self._prepare()

    def data(self, data: bytes) -> None:
        """Bytes from the destination."""
        self._receiver.data(data)

    def eof(self) -> None:
        """The destination will send no more."""
        self._receiver.eof()

    def lost(self, clean: bool) -> None:
        """The stream is closed."""
        self._state, self._stream = State.OVER, None
        self._receiver.lost(clean)

    # What the client wants: IOutbound.

    @property
    def is_open(self) -> bool:
        """Whether the destination is reached, and the stream not over."""
        return self._state is State.OPEN

    @property
    def exit_text(self) -> str:
        """Return the fingerprint and the country of the exit in use, for the client."""
        return "" if self.exit is None else f"{self.exit.fingerprint} {self.exit.country}"

    @property
    def transport(self) -> Any:
        """The transport of the open stream."""
        stream = self._stream if self._state is State.OPEN else None
        return None if stream is None else stream.transport

    @property
    def outcome(self) -> Opened | None:
        """What tor has said, while the receiver is told that the stream is open."""
        return None if self._stream is None else self._stream.outcome

    def write(self, data: bytes) -> None:
        """Send, or keep until the stream is open."""
        if self._state is State.CONNECTING:
            self._early += data
        elif self._stream is not None:
            self._stream.write(data)

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause this producer while tor takes no more."""
        if self._stream is not None:
            self._stream.register_producer(producer)

    def unregister_producer(self) -> None:
        """Forget the producer."""
        if self._stream is not None:
            self._stream.unregister_producer()

    def lose_write(self) -> None:
        """Do nothing: tor would drop the answer with the rest of the stream."""

    def close(self) -> None:
        """Send what was written, then close."""
        if self._state is State.OPEN and self._stream is not None:
            self._stream.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Give up at once."""
        self._state = State.OVER
        self._early = b""
        self._end_try()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
        stream, self._stream = self._stream, None  # leave no cycle
        if stream is not None:
            stream.abort()

    def pauseProducing(self) -> None:
        """Read no more."""
        if self._stream is not None:
            self._stream.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        if self._stream is not None:
            self._stream.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the relay decides when to close."""


def _next_look(
    circuits: list[CircuitLine], leaving: Exit, token: bytes, waited: float, *, is_last: bool
) -> float | None:
    """Return the seconds until the next look; None: the exit is dead, or refuses the stream.

    An exit may refuse an address that its policy seems to allow: tor then builds one circuit after
    the other to it, without an end.
    """
    key = token.decode("latin-1")
    fitting = [line for line in circuits if line.leads_to(leaving.fingerprint, key)]
    left = (LAST_CIRCUIT_SECONDS if is_last else CIRCUIT_SECONDS) - waited
    if sum(line.token == key for line in fitting) > MOST_CIRCUITS or (left <= 0 and not fitting):
        return None
    return max(min(waited, left), 0.1) if left > 0 else CIRCUIT_SECONDS
