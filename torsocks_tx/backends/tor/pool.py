"""Several tors as one backend: each isolation key stays on one tor while that can be used.

Which one is decided by rendezvous hashing over the tors that are READY, by nothing but the key and
the names of the tors. So processes that have the same secret and the same names agree without a
word; when a tor goes, only its keys move, spread over the others, and they return when it is back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from torsocks_tx.backends.tor.backend import TorBackend, look_up
from torsocks_tx.backends.tor.control import TorLog
from torsocks_tx.backends.tor.events import printable
from torsocks_tx.backends.tor.exits.streams import ExitStream
from torsocks_tx.backends.tor.provider import ProviderState
from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.client.connection import Stream
from torsocks_tx.interfaces import IExitBackend, IReceiver
from torsocks_tx.limits import check_arguments
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.messages import Address, Request


@implementer(IExitBackend)
class TorPool:
    """Carries each stream by one of ``tors``, which are backends by the names of their tors.

    A name is to be the same in every process that serves the same clients, such as the address of
    the tor's control port. While no tor is READY, but one is STARTING, clients wait for the first
    that is READY.
    """

    uses_tor = True

    def __init__(self, reactor: IReactorTime, tors: Mapping[str, TorBackend]) -> None:
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(Mapping, tors=tors)
        if not tors:
            raise ValueError("tors must have a backend for each tor, and there is none")
        for name, backend in tors.items():
            check_arguments(str, name=name)
            check_arguments(TorBackend, tors=backend)
            backend.provider.log.label = f"{printable(name)}: "
        self.tors: Mapping[str, TorBackend] = MappingProxyType(dict(tors))
        self._seeds = [(each, hashlib.blake2b(name.encode("utf-8", "surrogateescape")).digest())
                       for name, each in self.tors.items()]  # fmt: skip
        self._waiting: Waiters[None] = Waiters(reactor)
        self._watched: set[TorBackend] = set()
        self._clock = reactor
        self._log = TorLog()

    def choose(self, token: bytes, *states: ProviderState) -> TorBackend | None:
        """Return the tor of a key, of those in one of these states; None if there is none.

        ``token`` is what the key has in place of a password.
        """
        best, highest = None, b""
        for backend, seed in self._seeds:
            if backend.provider.state in states:
                rank = hashlib.blake2b(token, key=seed, digest_size=8).digest()
                if rank >= highest:
                    best, highest = backend, rank
        return best

    def open(
        self, request: Request, isolation: Isolation, receiver: IReceiver
    ) -> Stream | ExitStream:
        """Begin a stream by the tor of its key; while none is READY, that is seen later."""
        token = isolation.credentials.password
        backend = self.choose(token, ProviderState.READY) or self._seeds[0][0]
        return backend.open(request, isolation, receiver, partial(self._when_ready, token))

    def _when_ready(self, token: bytes) -> Deferred[TorBackend]:
        """Fire with the tor of a key once there is one; errback ``TorDown``. Can be cancelled."""
        backend = self.choose(token, ProviderState.READY)
        if backend is not None:
            return succeed(backend)
        if self.choose(token, ProviderState.STARTING) is None:
            text = "no tor of the pool is ready: clients are refused until one is"
            self._log.rarely(text, self._clock.seconds())
            return self._seeds[0][0].when_ready()  # which fails, and says why
        for backend, _ in self._seeds:
            if backend.provider.state is ProviderState.STARTING and backend not in self._watched:
                self._watched.add(backend)
                backend.when_ready().addBoth(self._settled, backend)
        return self._waiting.wait().addCallback(lambda _: self._when_ready(token))

    def _settled(self, _: object, backend: TorBackend) -> None:
        self._watched.discard(backend)
        self._waiting.fire(None)

    def resolve(self, request: Request, isolation: Isolation) -> Deferred[Address]:
        """Have the tor of the key look up a name (or, with RESOLVE_PTR, that of an address)."""
        return look_up(self, request, isolation)

    resolve_ptr = resolve

    def new_identity(self) -> None:
        """Give fresh circuits to every stream from now on, as each ``TorBackend`` does."""
        for epoch in {backend.epoch for backend in self.tors.values()}:
            epoch.advance()

    def stop(self) -> Deferred[Any]:
        """Stop all providers: new streams are refused. Fires when nothing of them is left."""
        return DeferredList([backend.stop() for backend in self.tors.values()])
