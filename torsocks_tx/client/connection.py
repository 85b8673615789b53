"""The request that a stream makes of a SOCKS server, from its first byte to its outcome.

It knows what may be sent when, who stands by until the outcome, and when to doubt an answer. The
connection is its owner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from torsocks_tx.errors import Refused
from torsocks_tx.relay.transports import Deadline
from torsocks_tx.socks.client import Initiator
from torsocks_tx.socks.messages import Reply
from torsocks_tx.socks.outcomes import DOUBT_TIMEOUT, Doubted, Failed, Opened, Step
from torsocks_tx.socks.server import Send


class Opening(Protocol):
    """Stands by a stream until it is open, and has the last word on why it is not."""

    def opened(self) -> None:
        """The stream is open."""

    def refused(self, reason: Refused) -> Deferred[Refused]:
        """Fire with what the client is to hear; never fails. Cancelled if nobody will hear."""

    def over(self) -> None:
        """The stream was given up before it was open."""


class Owner(Protocol):
    """The stream that a conversation is led for."""

    def speak(self, data: bytes) -> None:
        """Send these bytes of the conversation."""

    def granted(self, reply: Reply, rest: bytes) -> None:
        """The stream is open; ``rest`` came behind the reply."""

    def hang_up(self) -> None:
        """The answer is no: the connection is of no more use."""

    def refuse(self, reason: Refused) -> None:
        """Tell the receiver why; follows ``hang_up``."""


class Conversation:
    """Leads one request to its outcome.

    ``early_data``: payload may follow the request before its answer. ``opening`` stands by.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        owner: Owner,
        initiator: Initiator,
        *,
        early_data: bool = False,
        opening: Opening | None = None,
    ) -> None:
        self._owner = owner
        self._initiator = initiator
        self._early_data = early_data
        self._opening = opening
        self._deadline = Deadline(clock)
        self._explanation: Deferred[None] | None = None

    @property
    def may_pass(self) -> bool:
        """Whether payload may be sent now."""
        return self._early_data and self._initiator.requested

    def begin(self) -> None:
        """Say the first bytes."""
        self._owner.speak(self._initiator.start())

    def receive(self, data: bytes) -> None:
        """Take what the server says."""
        self._follow(self._initiator.receive(data))

    def eof(self) -> None:
        """The server says no more."""
        self._follow(self._initiator.eof())

    def give_up(self) -> None:
        """Nobody wants to know any more."""
        self._deadline.stop()
        explanation, self._explanation = self._explanation, None
        if explanation is not None:
            explanation.cancel()
        opening = self._take_opening()
        if opening is not None:
            opening.over()

    def _follow(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Send(data):
                    self._owner.speak(data)
                case Doubted():
                    self._deadline.start(DOUBT_TIMEOUT, self._settle)
                case Opened(reply, rest):
                    self._granted(reply, rest)
                case Failed(reason):
                    self._refused(reason)

    def _settle(self) -> None:
        self._follow(self._initiator.settle())

    def _granted(self, reply: Reply, rest: bytes) -> None:
        self._deadline.stop()
        opening = self._take_opening()
        if opening is not None:
            opening.opened()
        self._owner.granted(reply, rest)

    def _refused(self, reason: Refused) -> None:
        """The server said no; whoever stands by may know why."""
        self._deadline.stop()
        self._owner.hang_up()
        opening = self._take_opening()
        if opening is None:
            self._owner.refuse(reason)
            return
        explaining = opening.refused(reason).addErrback(self._unexplained, reason)
        self._explanation = explaining.addCallback(self._told)

    def _unexplained(self, failure: Failure, reason: Refused) -> Refused | None:
        if failure.check(CancelledError):
            return None  # the stream was given up meanwhile
        self._log.failure("a fault while explaining a refusal", failure)
        return reason

    def _told(self, reason: Refused | None) -> None:
        if reason is not None:
            self._owner.refuse(reason)

    def _take_opening(self) -> Opening | None:
        opening, self._opening = self._opening, None
        return opening
