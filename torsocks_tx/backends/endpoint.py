"""A backend over any ``IStreamClientEndpoint``: a function chooses one for each request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutine
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.client.connection import Stream
from torsocks_tx.client.failures import destination_failed, log_fault
from torsocks_tx.errors import CommandNotSupported, Internal, SOCKSError
from torsocks_tx.interfaces import IBackend, IReceiver
from torsocks_tx.limits import check_arguments
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.messages import Address, Request

EndpointChooser = Callable[
    [Request, Isolation], "IStreamClientEndpoint | Awaitable[IStreamClientEndpoint]"
]
"""Returns the endpoint for ``request.address``; raises ``SOCKSError`` to refuse the request.

It may be a coroutine, or return a Deferred: both are cancelled when the client leaves.
"""


def run_if_coroutine(answer: Any) -> Any:
    """Return the Deferred of a coroutine, and any other answer as it is.

    ``maybeDeferred`` of Twisted 22.4 leaves coroutines as they are.
    """
    return Deferred.fromCoroutine(answer) if iscoroutine(answer) else answer


@implementer(IBackend)
class EndpointBackend:
    """Connects to the endpoint that ``choose`` gives; refuses look-ups, which endpoints cannot do.

    What ``choose`` or ``connect`` itself raises, other than ``SOCKSError``, is a fault: it is
    logged with its traceback. ``refusal_for`` says what a failed attempt means. A ``SOCKSError``
    stays as it is: clients hear whether the destination refused, or a ``SOCKSClientEndpoint``
    found its proxy dead.
    """

    uses_tor = False
    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        choose: EndpointChooser,
        *,
        refusal_for: Callable[[Failure], SOCKSError] = destination_failed,
    ) -> None:
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(Callable, choose=choose, refusal_for=refusal_for)
        self._reactor = reactor
        self._choose = choose
        self._refusal_for = refusal_for

    def open(self, request: Request, isolation: Isolation, receiver: IReceiver) -> Stream:
        """Begin a stream. ``choose`` is called in the reactor's next turn."""
        stream = Stream(self._reactor, receiver, half_close=True, refusal_for=self._refusal_for)
        # Never from inside ``open``: an endpoint may connect at once.
        next_turn = deferLater(self._reactor, 0.0, self._choose, request, isolation)
        choosing: Deferred[Any] = next_turn.addCallback(run_if_coroutine)
        choosing.addCallback(self._check_choice).addCallback(stream.connect)
        stream.prepare_by(choosing.addErrback(log_fault))
        return stream

    def _check_choice(self, chosen: Any) -> Any:
        if IStreamClientEndpoint.providedBy(chosen):
            return chosen
        text = "what should choose an endpoint has returned {kind}; the client is refused"
        self._log.error(text, kind=type(chosen).__name__)
        raise Internal("no endpoint")

    def resolve(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Refuse the look-up."""
        return fail(CommandNotSupported("this backend looks nothing up"))

    resolve_ptr = resolve
