"""Whether the addresses of onion services hold public keys: one is looked at in each turn.

That takes 2 ms, so that a client who asks for many would else take the server from the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from twisted.internet.defer import Deferred
from twisted.internet.task import Cooperator

from torsocks_tx.socks.onion_address import has_public_key


class KeyChecker:
    """Looks at the keys in addresses, one after the other, by steps of ``cooperator``."""

    def __init__(self, cooperator: Cooperator) -> None:
        self._cooperator = cooperator
        self._waiting: OrderedDict[Deferred[bool], str] = OrderedDict()

    def is_valid(self, address: str) -> Deferred[bool]:
        """Fire with whether a service can have this address (without ``.onion``)."""
        if not self._waiting:
            self._cooperator.cooperate(self._check_all())
        waiting: Deferred[bool] = Deferred(self._give_up)
        self._waiting[waiting] = f"{address}.onion"
        return waiting

    def _give_up(self, waiting: Deferred[bool]) -> None:
        self._waiting.pop(waiting, None)

    def _check_all(self) -> Iterator[None]:
        while self._waiting:
            waiting, host = self._waiting.popitem(last=False)
            waiting.callback(has_public_key(host))
            yield
