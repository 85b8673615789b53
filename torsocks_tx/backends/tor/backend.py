"""Streams and look-ups through tor's SocksPort, each with credentials that isolate it.

Host names are never looked up here: they go to tor as they came. When there is no tor, clients are
refused; nothing ever goes around it.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.exits.circuits import Circuit, onion_place
from torsocks_tx.backends.tor.exits.session import Exits
from torsocks_tx.backends.tor.exits.streams import ExitStream
from torsocks_tx.backends.tor.onion.observer import OnionAttempt, OnionObserver
from torsocks_tx.backends.tor.ports import SocksPort
from torsocks_tx.backends.tor.provider import NotStarted, TorProvider
from torsocks_tx.backends.tor.providers import OwnedTorProvider
from torsocks_tx.client.connection import LookUp, Stream
from torsocks_tx.errors import GeneralFailure, NoSuchExit, NoSuchPort, SOCKSError, TorDown
from torsocks_tx.interfaces import IBackend, IExitBackend, IReceiver
from torsocks_tx.limits import check_arguments
from torsocks_tx.policy.circuits import ExitChoice
from torsocks_tx.policy.fresh import Epoch
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.client import ClientHandshake
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request


@implementer(IExitBackend)
class TorBackend:
    """Carries everything through the tor that ``provider`` provides.

    ``optimistic_data``: send a client's early data along with the request. None: if tor is C Tor,
    which takes it; Arti closes the connection instead. ``onion_observer`` finds out why onion
    services could not be reached; by default one with its own defaults. ``epoch``: the one of
    ``new_identity``, which processes may share. ``exits``: what is known of exit relays.
    """

    uses_tor = True

    def __init__(
        self,
        reactor: IReactorTime,
        provider: TorProvider,
        *,
        optimistic_data: bool | None = None,
        onion_observer: OnionObserver | None = None,
        epoch: Epoch | None = None,
    ) -> None:
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(TorProvider, provider=provider)
        check_arguments(bool, None, optimistic_data=optimistic_data)
        check_arguments(OnionObserver, None, onion_observer=onion_observer)
        check_arguments(Epoch, None, epoch=epoch)
        self.provider = provider
        self.observer = onion_observer or OnionObserver(reactor)
        self.exits = Exits(reactor, provider)
        provider.at_stop(self.observer.detach)
        provider.at_stop(self.exits.close)
        self._clock = reactor
        self._optimistic_data = optimistic_data
        self.epoch = epoch or Epoch()
        self._onions: WeakKeyDictionary[Stream, str] = WeakKeyDictionary()

    @classmethod
    def from_tor(
        cls,
        reactor: Any,
        tor: Any,
        *,
        optimistic_data: bool | None = None,
        onion_observer: OnionObserver | None = None,
    ) -> TorBackend:
        """A backend over the application's own txtorcon ``Tor``, or over its control protocol.

        tor's SocksPort is found by asking tor; its configuration is not touched. When the control
        connection is lost, clients are refused: connect again, and call ``replace_tor``.
        """
        provider = OwnedTorProvider(reactor, tor)
        backend = cls(
            reactor, provider, optimistic_data=optimistic_data, onion_observer=onion_observer
        )
        provider.start().addErrback(backend._say_not_started)
        return backend

    def replace_tor(self, tor: Any) -> None:
        """Use another ``Tor`` of the application; only for a backend made by ``from_tor``."""
        if not isinstance(self.provider, OwnedTorProvider):
            raise TypeError("replace_tor is for a backend that TorBackend.from_tor has made")
        self.provider.replace(tor).addErrback(self._say_not_started)

    def stop(self) -> Deferred[None]:
        """Stop the provider: new streams are refused. Fires when nothing of it is left.

        An application's own tor, its control connection and the streams through it go on.
        """
        return self.provider.stop()

    def new_identity(self) -> None:
        """Give fresh circuits to every stream from now on; those that are open stay.

        Other users of the same tor keep their circuits, as with SIGNAL NEWNYM they would not.
        """
        self.epoch.advance()

    def circuits(self) -> Deferred[list[Circuit]]:
        """Fire with the circuits that tor has built, for a status page.

        They are followed for a minute, and nothing is logged. Errback ``TorDown`` where there is no
        control connection.
        """
        return Deferred.fromCoroutine(_read_circuits(self.exits, self._onions))

    def _say_not_started(self, failure: Failure) -> None:
        text = f"{failure.getErrorMessage()}; clients are refused"
        self.provider.log.say(text, LogLevel.error)

    def when_ready(self) -> Deferred[TorBackend]:
        """Fire with this backend once tor can be used; errback ``TorDown``. Can be cancelled."""
        return self.provider.when_ready().addCallback(lambda _: self)

    def open(
        self,
        request: Request,
        isolation: Isolation,
        receiver: IReceiver,
        when_ready: Callable[[], Deferred[TorBackend]] | None = None,
    ) -> Stream | ExitStream:
        """Begin a stream. While tor starts, the client waits.

        ``when_ready``: where a pool chooses, fires with the backend that carries a stream that has
        to wait.
        """
        when_ready = when_ready or self.when_ready
        credentials = isolation.credentials
        if epoch := self.epoch.word[0]:
            credentials = _renewed(credentials, epoch)
        upstream = Request(Version.SOCKS5, request.command, request.address.literal(), credentials)
        if isolation.exits is not None and not upstream.address.is_onion:
            return self._open_by_exit(upstream, isolation, isolation.exits, receiver, when_ready)
        onion = upstream.command is Command.CONNECT and upstream.address.is_onion
        if onion:
            self.observer.check_address(upstream.address.host)
        stream = Stream(self._clock, receiver, half_close=False, refusal_for=self._refusal_for)
        port = None if isolation.port_flags else self.provider.usable_port
        if port is not None and (not onion or self.observer.is_ready(self.provider.control)):
            self._connect(port, stream, upstream, onion)
        else:
            # In the next turn, for the receiver must hear nothing from inside ``open``.
            next_turn: Deferred[None] = deferLater(self._clock, 0.0)
            waiting = next_turn.addCallback(lambda _: when_ready())
            waiting.addCallback(
                lambda chosen: chosen._carry(stream, upstream, isolation.port_flags)
            )
            stream.prepare_by(waiting)
        return stream

    def _open_by_exit(
        self,
        upstream: Request,
        isolation: Isolation,
        choice: ExitChoice,
        receiver: IReceiver,
        when_ready: Callable[[], Deferred[TorBackend]],
    ) -> ExitStream:
        stream = ExitStream(
            self.exits,
            upstream,
            choice,
            isolation,
            receiver,
            self._refusal_for,
            lambda: when_ready().addCallback(lambda chosen: chosen.exits),
        )
        try:
            stream.begin()
        except NoSuchExit as error:
            self._say(error.detail)
            raise
        return stream

    def _carry(self, stream: Stream, upstream: Request, flags: frozenset[str]) -> Deferred[None]:
        """Connect a stream that has waited until tor is ready."""
        onion = upstream.command is Command.CONNECT and upstream.address.is_onion
        following = self.observer.follow(self.provider.control) if onion else succeed(None)
        finding = following.addCallback(lambda _: self.provider.port_for(flags))
        return finding.addCallback(self._connect, stream, upstream, onion)

    def _connect(self, port: SocksPort, stream: Stream, upstream: Request, onion: bool) -> None:
        if upstream.credentials is not None:
            self.exits.tokens[stream] = upstream.credentials.password
        early = port.pipelined if self._optimistic_data is None else self._optimistic_data
        handshake = ClientHandshake(upstream, pipelined=port.pipelined, verify_f0=True)
        explainer = self._attempt(port, stream, upstream) if onion else None
        stream.ask(handshake, early_data=early, explainer=explainer)
        stream.connect(port.endpoint)

    def _attempt(self, port: SocksPort, stream: Stream, upstream: Request) -> OnionAttempt | None:
        """Return the explainer of a failure of this stream to an onion service."""
        credentials = upstream.credentials
        if credentials is None:
            return None
        name = upstream.address.host.lower().split(".")[-2]
        self._onions[stream] = onion_place(name)
        isolates = "NoIsolateSOCKSAuth" not in port.flags
        token = credentials.password.decode("latin-1") if isolates else None
        attempt = self.observer.attempt(name, token)
        attempt.watch(stream.refuse)
        return attempt

    def _refusal_for(self, failure: Failure) -> SOCKSError:
        """Return what the client hears when the connection to tor's SocksPort cannot be made."""
        error = failure.value
        if isinstance(error, NoSuchExit | NoSuchPort | NotStarted):
            self._say(error.detail)
        if isinstance(error, SOCKSError):
            return error
        kind = type(error).__name__
        self._say(f"tor's SocksPort cannot be reached ({kind}): clients are refused until it can")
        return TorDown("tor's SocksPort cannot be reached")

    def _say(self, text: str) -> None:
        self.provider.log.rarely(text, self._clock.seconds())

    def resolve(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Have tor look up a name (or, with RESOLVE_PTR, the name of an address)."""
        return look_up(self, request, isolation)

    resolve_ptr = resolve


def look_up(backend: IBackend, request: Request, isolation: Isolation) -> Deferred[Address]:
    """Fire with what a request without a stream is answered; errback ``SOCKSError``."""
    asking = LookUp()
    try:
        asking.stream = backend.open(request, isolation, asking)
    except SOCKSError:
        return fail()
    return asking.answer.addCallback(_check_answer)


def _renewed(credentials: Credentials, epoch: int) -> Credentials:
    digest = hashlib.sha256(b"epoch %d " % epoch + credentials.password).hexdigest()
    return Credentials(credentials.username, digest.encode("ascii"))


async def _read_circuits(exits: Exits, onions: Mapping[Stream, str]) -> list[Circuit]:
    session = exits.session
    try:
        lines = await session.circuits.follow(_open_streams(exits, onions).keys())
        relays = {hop[0]: None for line in lines for hop in line.path}
        countries = await session.countries.of(relays)
    except ControlError:
        raise TorDown("tor does not tell its circuits") from None
    used = Counter(_open_streams(exits, onions).values())
    now = time.time()
    return [line.as_circuit(countries, used, now) for line in lines]


def _open_streams(exits: Exits, onions: Mapping[Stream, str]) -> dict[Any, tuple[str, str]]:
    """Return the token of each open stream, and its exit or onion service, if that is known."""
    found = {}
    for stream, token in list(exits.tokens.items()):
        place = onions.get(stream, "")
        if isinstance(stream, ExitStream):
            is_open = stream.exit is not None and stream.is_open
            place = stream.exit.fingerprint if stream.exit is not None else ""
        else:
            is_open = stream.transport is not None and stream.end is None
        if is_open:
            found[stream] = token.decode("latin-1"), place
    return found


def _check_answer(answer: Address) -> Address:
    """Return the answer; raise ``GeneralFailure`` if its name has blanks or control characters."""
    if not all("!" <= character <= "~" for character in answer.host):
        raise GeneralFailure("an answer with a name that cannot be one")
    return answer
