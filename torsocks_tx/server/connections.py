"""The connection limiter: bounds how many clients are connected to all listeners of a server.

It bounds all clients together and those of one address. When a bound is reached, the oldest client
without a request is reset to make room for a new one. If there is none, a client that has closed
its sending side is reset once its stream has carried nothing for a while: one that has closed
altogether looks the same. Requests for which a turn of the reactor has no time wait for the next.
"""

from __future__ import annotations

import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import Logger

from torsocks_tx.limits import check_arguments, check_limit
from torsocks_tx.relay.timeouts import turns_of
from torsocks_tx.socks.extended import Budget
from torsocks_tx.socks.wire import packed_ip

RESERVED = 96
"""Descriptors kept for listeners, logs, tor, pipes and the like."""

SHARE = 4
"""By default one address may have this fraction of all connections: a quarter."""

SILENCE = 5.0
"""Seconds without a byte before a client that has closed its sending side may be reset."""

WARNING_PAUSE = 60.0
"""Seconds between two warnings of one kind."""

SELECT_DESCRIPTORS = 1024
"""FD_SETSIZE: select(2) takes no descriptor from here on, whatever the limit of open files."""

ONIONS_AT_ONCE = 32
"""Onion services that one address may be on the way to at one time; further requests wait. tor
makes as many circuits at one time, and with 128 of one client others wait for half a minute."""

_IPV6_NETWORK = 8
_THIS_MACHINE = frozenset({packed_ip("127.0.0.1"), packed_ip("::1")[:_IPV6_NETWORK]})


def raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one; return how many clients that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = hard if hard != resource.RLIM_INFINITY else 1 << 20
    return max((most - RESERVED) // 2, 1)


def client_network(address: IAddress | None) -> bytes | None:
    """Return the bytes of an IPv4 address, or of the /64 network of an IPv6 one; else None.

    A client of IPv6 commonly has all addresses of a /64 network.
    """
    host = getattr(address, "host", None)
    try:
        packed = packed_ip(host) if isinstance(host, str) else None
    except ValueError:
        return None
    return packed if packed is None or len(packed) == 4 else packed[:_IPV6_NETWORK]


def allowed_connections(reactor: Any) -> int:
    """Return how many clients the descriptors of this process allow, with this reactor."""
    allowed = raise_descriptor_limit()
    if isinstance(reactor, SelectReactor):
        allowed = min(allowed, (SELECT_DESCRIPTORS - RESERVED) // 2)
    return allowed


class RareWarning:
    """A warning that is logged at most once a minute, with the ``count`` of events since then."""

    def __init__(
        self, log: Logger, text: str, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._text = text
        self._seconds = seconds
        self._count = 0
        self._last: float | None = None

    def note(self, **fields: object) -> None:
        """Count one event, and log it if there was no line within the last minute."""
        self._count += 1
        now = self._seconds()
        if self._last is None or now - self._last >= WARNING_PAUSE:
            self._log.warn(self._text, count=self._count, **fields)
            self._last, self._count = now, 0


class Connection(Protocol):
    """A client's connection, as the limiter sees it; ``network`` is its ``client_network``."""

    network: bytes | None

    @property
    def received(self) -> int:
        """How many bytes of its stream have come for the client."""

    def reset(self) -> None:
        """Close with a reset."""


class _Group:
    """Connections with one bound, and those that may be reset, the oldest first.

    ``reaching``: those on the way to an onion service. ``held``: those that wait for that.
    """

    __slots__ = ("client", "count", "held", "lingering", "most", "reaching", "unfinished")

    def __init__(self, most: int | None, client: bytes | None = None) -> None:
        self.most = most
        self.client = client
        self.count = 0
        self.unfinished: dict[Connection, None] = {}
        self.lingering: dict[Connection, tuple[float, int]] = {}
        self.reaching: set[Connection] = set()
        self.held: OrderedDict[Connection, Callable[[], None]] = OrderedDict()

    def find_dispensable(self, now: float) -> Connection | None:
        """Return the connection to reset, or None if all are in use."""
        for connection in self.unfinished:
            return connection
        while self.lingering:
            connection, (since, received) = next(iter(self.lingering.items()))
            if now - since < SILENCE:
                return None
            if connection.received == received:
                return connection
            # It still receives: its silence is counted from now.
            del self.lingering[connection]
            self.lingering[connection] = now, connection.received
        return None


class _WaitingRequests:
    """What begins each request that waits: ``clients`` take turns, the oldest of each first."""

    def __init__(self) -> None:
        self.clients: OrderedDict[bytes | None, OrderedDict[Connection, Callable[[], None]]]
        self.clients = OrderedDict()

    def add(self, connection: Connection, begin: Callable[[], None]) -> None:
        """Add the request of a connection."""
        self.clients.setdefault(connection.network, OrderedDict())[connection] = begin

    def remove(self, connection: Connection) -> None:
        """Remove the request of a connection, if it waits."""
        requests = self.clients.get(connection.network, OrderedDict())
        if requests.pop(connection, None) is not None and not requests:
            del self.clients[connection.network]

    def take(self) -> Callable[[], None]:
        """Remove the next request."""
        client, requests = self.clients.popitem(last=False)
        _, begin = requests.popitem(last=False)
        if requests:
            self.clients[client] = requests
        return begin


class ConnectionLimiter:
    """Bounds the number of clients: ``most`` in all, ``per_client`` from one address.

    ``most`` is None for any number; ``per_client`` is None for a quarter of ``most``. That default
    does not bound 127.0.0.1 and ::1, since all programs of a machine share them. Clients without an
    address, as on unix sockets, are bounded by ``most`` alone. ``pairs_budget`` bounds what
    all clients send by extended authentication. Every address but those two may also be on the way
    to ``ONIONS_AT_ONCE`` onion services only, and with a ``per_client`` these two as well.
    ``clock``: the reactor in which requests are begun.
    """

    _log = Logger()

    def __init__(
        self,
        most: int | None = None,
        per_client: int | None = None,
        clock: IReactorTime | None = None,
    ) -> None:
        check_arguments(IReactorTime, None, clock=clock)
        for name, bound in (("most", most), ("per_client", per_client)):
            if bound is not None:
                check_limit(name, bound)
        if clock is None:
            from twisted.internet import reactor

            clock = reactor
        self._exempt: frozenset[bytes | None] = _THIS_MACHINE if per_client is None else frozenset()
        if per_client is None and most is not None:
            per_client = max(most // SHARE, 1)
        self._per_client = per_client
        self._clock = clock
        self._all = _Group(most)
        self.pairs_budget = Budget()
        self._everyone = (self._all,)
        self._clients: dict[bytes | None, tuple[_Group, ...]] = {}
        self._groups: dict[Connection, tuple[_Group, ...]] = {}
        text = "{most} {whose} are connected: more are turned away"
        self._warning = RareWarning(self._log, text, clock.seconds)
        self._waiting = _WaitingRequests()
        self._turns = turns_of(clock)

    def __len__(self) -> int:
        """Return how many clients there are."""
        return self._all.count

    def has_room(self, client: bytes | None = None) -> bool:
        """Whether one more may come from this ``client_network``; resets another if needed."""
        for group in reversed(self._clients.get(client, self._everyone)):
            is_full = group.most is not None and group.count >= group.most
            if is_full and not self._make_room(group):
                whose = "clients" if group is self._all else "clients of one address"
                self._warning.note(most=group.most, whose=whose)
                return False
        return True

    def _make_room(self, group: _Group) -> bool:
        connection = group.find_dispensable(self._clock.seconds())
        if connection is None:
            return False
        self.leave(connection)
        connection.reset()
        return True

    def join(self, connection: Connection) -> None:
        """Count a connection, which has made no request yet."""
        client = connection.network
        groups = self._clients.get(client, self._everyone)
        if client is not None and client not in self._exempt and len(groups) == 1:
            groups = self._clients[client] = (self._all, _Group(self._per_client, client))
        self._groups[connection] = groups
        for group in groups:
            group.count += 1
            group.unfinished[connection] = None

    def recount(self, connection: Connection, client: bytes | None) -> bool:
        """Count a connection by another ``client_network``; False: there is no room for it."""
        self.leave(connection)
        if not self.has_room(client):
            return False
        connection.network = client
        self.join(connection)
        return True

    def serve(
        self, connection: Connection, begin: Callable[[], None], *, onion: bool = False
    ) -> bool:
        """Note that a connection has made its request; call ``begin`` now or in a later turn.

        ``onion``: the request is for an onion service. False: its address is on the way to so many
        that this one waits until one is ``reached``, or its client leaves.
        """
        for group in self._groups.get(connection, ()):
            group.unfinished.pop(connection, None)
            if onion and group.client is not None:
                if len(group.reaching) >= ONIONS_AT_ONCE:
                    group.held[connection] = begin
                    return False
                group.reaching.add(connection)
        if self._turns.has_time():
            begin()
        else:
            self._wait_for_turn(connection, begin)
        return True

    def reached(self, connection: Connection) -> None:
        """Note that an onion service is reached."""
        for group in self._groups.get(connection, ()):
            self._release(group, connection)

    def _release(self, group: _Group, connection: Connection) -> None:
        """Note that a connection is not on the way to an onion service: another may be."""
        group.held.pop(connection, None)
        if connection in group.reaching:
            group.reaching.remove(connection)
            if group.held:
                following, begin = group.held.popitem(last=False)
                group.reaching.add(following)
                self._wait_for_turn(following, begin)

    def _wait_for_turn(self, connection: Connection, begin: Callable[[], None]) -> None:
        self._waiting.add(connection, begin)
        self._turns.later(self._begin_next)

    def _begin_next(self) -> None:
        if self._waiting.clients:  # else its client has left
            self._waiting.take()()

    def linger(self, connection: Connection) -> None:
        """Note that a client has closed its sending side while its stream is open."""
        for group in self._groups.get(connection, ()):
            group.lingering.pop(connection, None)  # those that linger longest stay first
            group.lingering[connection] = self._clock.seconds(), connection.received

    def find_silent(self, seconds: float) -> list[Connection]:
        """Return the clients that closed their sending side and received nothing for so long."""
        found, now = [], self._clock.seconds()
        for connection, (since, received) in list(self._all.lingering.items()):
            if connection.received != received:
                self.linger(connection)
            elif now - since >= seconds:
                found.append(connection)
        return found

    def leave(self, connection: Connection) -> None:
        """Count a connection no more, nor serve it; a second call does nothing."""
        if self._waiting.clients:
            self._waiting.remove(connection)
        for group in self._groups.pop(connection, ()):
            group.count -= 1
            group.unfinished.pop(connection, None)
            group.lingering.pop(connection, None)
            if group.reaching:
                self._release(group, connection)
            if not group.count and group.client is not None:
                del self._clients[group.client]
