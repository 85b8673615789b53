"""The one place where things are counted: connections, streams, how they ended, bytes.

Each listener has one block of whole numbers. Blocks are memory of this process, or memory that it
was lent by another: what a process had counted is then still there after it was killed. A
``Snapshot`` is their numbers at one time.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from torsocks_tx.errors import OnionRefused, SOCKSError
from torsocks_tx.http.answers import meaning_of
from torsocks_tx.limits import check_arguments
from torsocks_tx.socks.constants import AddressType, Version
from torsocks_tx.socks.messages import Request
from torsocks_tx.socks.replies import ONION, PLAIN

PROTOCOLS = ("socks4", "socks4a", "socks5", "http", "none")
"""How clients asked; "none": they left, or were refused, before a request was begun."""

OUTCOMES = {
    "open": "The connection was made.",
    "resolved": "A name, or an address, was looked up.",
    "left": "The client left before there was an answer.",
    **{f"{kind.code:02X}": kind.sentence for kind in PLAIN},
    **{f"{kind.onion_code:02X}": kind.sentence for kind in ONION},
    "http_4xx": "A rule, or the destination, refused a client that asked by HTTP.",
    "http_5xx": "The connection could not be made for a client that asked by HTTP.",
}
"""How requests ended, with the meaning in words."""

BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Bounds of the histogram of the seconds from a request to its open stream; one more has no end."""

CONNECTIONS, STREAMS, LINGERING = range(3)
GAUGES = 3
FROM_CLIENTS, TO_CLIENTS, EARLY_DATA = range(GAUGES, GAUGES + 3)
_PROTOCOL = EARLY_DATA + 1
_OUTCOME = _PROTOCOL + len(PROTOCOLS)
_CLEARNET = _OUTCOME + len(OUTCOMES)
_SECONDS = len(BUCKETS) + 2  # with what has no bound, and the sum in microseconds
_ONION = _CLEARNET + _SECONDS
SLOTS = _ONION + _SECONDS
"""How many numbers a listener has. The first ``GAUGES`` go up and down, the others only up."""

_WIDTH = 8
_OUTCOME_SLOTS = {code: _OUTCOME + i for i, code in enumerate(OUTCOMES)}
_PROTOCOL_SLOTS = {name: _PROTOCOL + i for i, name in enumerate(PROTOCOLS)}
_VERSION_SLOTS = {
    Version.SOCKS4: _PROTOCOL_SLOTS["socks4"],
    Version.SOCKS5: _PROTOCOL_SLOTS["socks5"],
    Version.HTTP: _PROTOCOL_SLOTS["http"],
}


def outcome_of(reason: SOCKSError, version: Version) -> str:
    """Return the outcome of a request that was refused.

    The reason counts, not what the client can be told: an onion service has the codes F0 to F7 for
    every client, and SOCKS4 those of SOCKS5.
    """
    if isinstance(reason, OnionRefused):
        return f"{reason.onion_code:02X}"
    if version is Version.HTTP:
        return f"http_{meaning_of(reason).status // 100}xx"
    return f"{reason.code:02X}"


class ListenerCounts:
    """Counts for one listener, in ``slots``; a factory is given it."""

    __slots__ = ("meter", "slots")

    def __init__(self, slots: memoryview) -> None:
        self.slots = slots
        self.meter = slots[FROM_CLIENTS : TO_CLIENTS + 1]
        """The bytes from clients, and those to clients."""

    def connected(self) -> None:
        """Count a client's connection."""
        self.slots[CONNECTIONS] += 1

    def disconnected(self, *, asked: bool) -> None:
        """Count its end; ``asked``: a request of it was begun."""
        self.slots[CONNECTIONS] -= 1
        if not asked:
            self.slots[_PROTOCOL_SLOTS["none"]] += 1

    def request(self, request: Request) -> None:
        """Count a request that is begun."""
        slot = _VERSION_SLOTS[request.version]
        if request.version is Version.SOCKS4 and request.address.type is AddressType.HOSTNAME:
            slot = _PROTOCOL_SLOTS["socks4a"]
        self.slots[slot] += 1

    def opened(self, seconds: float, early_data: int, *, onion: bool) -> None:
        """Count a stream that is open, so many seconds after its request."""
        slots = self.slots
        slots[STREAMS] += 1
        slots[_OUTCOME] += 1
        if early_data:
            slots[EARLY_DATA] += early_data
        start = _ONION if onion else _CLEARNET
        slots[start + bisect_left(BUCKETS, seconds)] += 1
        slots[start + _SECONDS - 1] += int(seconds * 1_000_000)

    def ended(self, outcome: str) -> None:
        """Count a request that ended without a stream."""
        self.slots[_OUTCOME_SLOTS[outcome]] += 1

    def lingers(self) -> None:
        """Count an open stream whose client will send no more."""
        self.slots[LINGERING] += 1

    def closed(self, *, lingered: bool) -> None:
        """Count an open stream no more."""
        self.slots[STREAMS] -= 1
        if lingered:
            self.slots[LINGERING] -= 1


class Snapshot(NamedTuple):
    """The ``numbers`` of one listener, or of several together, at one time."""

    numbers: tuple[int, ...]

    @property
    def protocols(self) -> dict[str, int]:
        """Connections by protocol since the start."""
        return {name: self.numbers[slot] for name, slot in _PROTOCOL_SLOTS.items()}

    @property
    def outcomes(self) -> dict[str, int]:
        """Requests by their outcome since the start."""
        return {code: self.numbers[slot] for code, slot in _OUTCOME_SLOTS.items()}

    @property
    def open_seconds(self) -> dict[str, dict[str, Any]]:
        """How long it took to open streams: how many took at most so long, and seconds of all."""
        found = {}
        for name, start in (("clearnet", _CLEARNET), ("onion", _ONION)):
            *each, microseconds = self.numbers[start : start + _SECONDS]
            *counts, every = accumulate(each)
            buckets = list(map(list, zip(BUCKETS, counts, strict=True)))
            found[name] = {"count": every, "sum": microseconds / 1_000_000, "buckets": buckets}
        return found


def add_up(blocks: Iterable[Sequence[int]]) -> Snapshot:
    """Return the sums of several blocks of numbers."""
    return Snapshot(tuple(map(sum, zip((0,) * SLOTS, *blocks, strict=True))))


class ListenerInfo(NamedTuple):
    """What is shown of a listener: its name, its endpoint and its flags as they were written."""

    name: str
    endpoint: str
    flags: tuple[str, ...]


class LentMemory:
    """Blocks for the listeners of another process, which inherits the ``descriptor``."""

    def __init__(self, listeners: int) -> None:
        if sys.platform == "linux":
            self.descriptor = os.memfd_create("torsocks-counts")
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        try:
            os.ftruncate(self.descriptor, max(listeners, 1) * SLOTS * _WIDTH)
            self.slots = map_memory(os.dup(self.descriptor))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptor, once the other process has it; the memory stays."""
        os.close(self.descriptor)


def map_memory(descriptor: int) -> memoryview:
    """Return the numbers of lent memory, and close its descriptor."""
    try:
        return memoryview(mmap.mmap(descriptor, 0)).cast("q")
    finally:
        os.close(descriptor)


def _block(memory: memoryview, number: int) -> memoryview:
    """Return the block of a listener within the memory of all."""
    return memory[number * SLOTS : (number + 1) * SLOTS]


class Registry:
    """Counts for each listener, and adds up what other processes count for the same listeners.

    ``memory``: what this process was lent, for its listeners in their order. ``worker_restarts``:
    workers that were started in the place of others that had ended.
    """

    def __init__(self, memory: memoryview | None = None) -> None:
        check_arguments(memoryview, None, memory=memory)
        self.listeners: list[ListenerInfo] = []
        self.worker_restarts = 0
        self._memory = memory
        self._blocks: list[memoryview] = []
        self._lent: list[LentMemory] = []

    def add(self, name: str, endpoint: str = "", flags: Sequence[str] = ()) -> ListenerCounts:
        """Add a listener; what is returned is for its factory.

        A name that another one has gets a number.
        """
        check_arguments(str, name=name)
        number = len(self.listeners)
        if any(info.name == name for info in self.listeners):
            name = f"{name} ({number + 1})"
        if self._memory is None:
            block = memoryview(bytearray(SLOTS * _WIDTH)).cast("q")
        else:
            block = _block(self._memory, number)
        self._blocks.append(block)
        self.listeners.append(ListenerInfo(name, endpoint, tuple(flags)))
        return ListenerCounts(block)

    def lend(self) -> LentMemory:
        """Return memory for a process that serves the same listeners."""
        lent = LentMemory(len(self.listeners))
        self._lent.append(lent)
        return lent

    def take_back(self, lent: LentMemory) -> None:
        """Keep what a process had counted that is gone; what was open there is not any more."""
        self._lent.remove(lent)
        for number, block in enumerate(self._blocks):
            theirs = _block(lent.slots, number)
            for slot in range(GAUGES, SLOTS):
                block[slot] += theirs[slot]
            theirs.release()
        lent.slots.release()  # now, and not when garbage is collected: it has a descriptor

    def snapshots(self) -> list[Snapshot]:
        """Return the numbers of each listener."""
        return [
            add_up([block, *(_block(lent.slots, number) for lent in self._lent)])
            for number, block in enumerate(self._blocks)
        ]

    def snapshot(self) -> Snapshot:
        """Return the numbers of all listeners together."""
        return add_up(each.numbers for each in self.snapshots())
