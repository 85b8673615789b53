"""When an isolation key gets a fresh circuit: one count for all processes that serve a listener.

The counts are in memory that workers inherit. A lock on its file guards each change, and the kernel
takes that from a process that is killed. What such a process leaves half done gives a fresh circuit
where a used one was due, and never the other way round. While a process that was stopped has the
lock, each other one counts by itself, within the same rate, and its keys get other circuits. The
memory is as long as it was made: of more keys than it holds, those unused for longest are
forgotten, and get fresh circuits.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from torsocks_tx.errors import NoFreshCircuit

MOST_KEYS = 65_536
"""Places for keys, in sets by hash: a quarter as many fit, but for rare chance."""

MOST_RATE = 1_000_000
"""The highest rate: the time of each fresh circuit of the last minute is kept."""

CLOCKS_APART = 10.0
"""Seconds by which the clock may go back, or a worker be slow, and nothing is fresh for that."""

KEYS_ALONE = 4_096
"""Places for keys of a process that counts by itself."""

LOCK_TRIES = 10
"""How often a lock is asked for, every 0.1 ms: a worker has it for microseconds."""

_MINUTE = 60.0
_WORD = 8
# All is words of 64 bits, each written at once. Two random ones, the numbers given so far, and the
# fresh circuits so far; the times of those of the last minute; then the keys, in sets by hash.
_NUMBERS, _BEGUN, _TIMES = 2, 3, 4
_WAYS = 16  # keys in a set
_KEY = 5  # words of a key: its hash, the number of its circuit, when that began, streams, last use


class Epoch:
    """A number in all isolation keys of a backend: with the next one, every circuit is fresh.

    ``word``: the memory that holds it and nothing else, of this process alone by default.
    """

    def __init__(self, word: memoryview | None = None) -> None:
        self.word = memoryview(bytearray(_WORD)).cast("Q") if word is None else word

    def advance(self) -> None:
        """Begin the next epoch, in every process."""
        self.word[0] += 1


class _FileLock:
    """A lock between processes on a file, for one thread of each.

    ``with lock as locked``: False while another process has it for longer than it needs. After that
    nobody waits, until the lock is free again.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._tries = LOCK_TRIES

    def __enter__(self) -> bool:
        for left in reversed(range(self._tries)):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                if left:
                    time.sleep(0.0001)
            else:
                self._tries = LOCK_TRIES
                return True
        self._tries = 1
        return False

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class FreshCircuits:
    """Gives each isolation key its circuit, and a fresh one when that is due, within a rate.

    ``rate``: fresh circuits in a minute; one more is refused, for a used one is not what was asked.
    ``words``: ``size(rate, most)`` words of memory that processes share by ``lock``; by default
    memory of this one alone.
    """

    def __init__(
        self,
        rate: int,
        most: int = MOST_KEYS,
        words: memoryview | None = None,
        lock: _FileLock | None = None,
    ) -> None:
        if words is None:
            words = memoryview(bytearray(self.size(rate, most) * _WORD)).cast("Q")
        if not any(words[:_NUMBERS]):
            # A key that was forgotten meets no circuit of its past, nor of another process.
            words.cast("B")[: _NUMBERS * _WORD] = os.urandom(_NUMBERS * _WORD)
        self._words = words
        self._lock = nullcontext(True) if lock is None else lock
        self._rate = rate
        self._ways = min(_WAYS, most)
        self._sets = most // self._ways
        self._random = words[:_NUMBERS].tobytes()

    @staticmethod
    def size(rate: int, most: int = MOST_KEYS) -> int:
        """Return how many words of memory it needs."""
        return _TIMES + rate + most * _KEY

    def number(
        self, key: tuple[bytes, ...], every: float | None, after: int | None, now: float
    ) -> bytes:
        """Return what stands for the key's circuit. Raises ``NoFreshCircuit`` beyond the rate.

        ``every``: seconds, ``after``: streams, until a fresh one is due.
        """
        with self._lock as locked:
            return (self if locked else self._alone)._number(key, every, after, _microseconds(now))

    def count(self, now: float) -> None:
        """Count a fresh circuit of no key. Raises ``NoFreshCircuit`` beyond the rate."""
        with self._lock as locked:
            (self if locked else self._alone)._begin(_microseconds(now))

    def is_used_up(self, now: float) -> bool:
        """Whether a fresh circuit would be refused now."""
        return self._place(_microseconds(now)) is None

    @cached_property
    def _alone(self) -> FreshCircuits:
        return FreshCircuits(self._rate, KEYS_ALONE)

    def _number(
        self, key: tuple[bytes, ...], every: float | None, after: int | None, now_us: int
    ) -> bytes:
        words = self._words
        text = b"".join(len(part).to_bytes(4, "big") + part for part in key)
        digest = blake2b(text, digest_size=_WORD, key=self._random).digest()
        name = int.from_bytes(digest, "big") or 1
        at = self._find(name)
        number, began, streams = words[at + 1 : at + 4].tolist()
        is_due = (
            words[at] != name
            or (every is not None and not _is_within(now_us - began, every))
            or (after is not None and streams >= after)
        )
        if is_due:
            number, streams = self._begin(now_us), 0
            words[at] = 0  # a process may be killed between any two words
            words[at + 1] = number
            words[at + 2] = now_us
        words[at + 3] = streams + 1
        words[at + 4] = now_us + 1  # 0 is a place without a key
        words[at] = name
        return self._random + number.to_bytes(_WORD, "big")

    def _find(self, name: int) -> int:
        """Return where a key is, or where it is to be."""
        start = _TIMES + self._rate + name % self._sets * self._ways * _KEY
        end = start + self._ways * _KEY
        names = self._words[start:end:_KEY].tolist()
        if name in names:
            return start + names.index(name) * _KEY
        used = self._words[start + 4 : end : _KEY].tolist()
        return start + used.index(min(used)) * _KEY

    def _begin(self, now_us: int) -> int:
        """Count a fresh circuit, and return its number, which is never used again."""
        words, at = self._words, self._place(now_us)
        if at is None:
            raise NoFreshCircuit("more than FreshRate allows")
        words[at] = now_us
        words[_BEGUN] += 1
        words[_NUMBERS] += 1
        number: int = words[_NUMBERS]
        return number

    def _place(self, now_us: int) -> int | None:
        """Return where the time of the next fresh circuit goes; None while it is too early."""
        begun = self._words[_BEGUN]
        at: int = _TIMES + begun % self._rate  # the time that is there is ``rate`` circuits old
        is_early = begun >= self._rate and _is_within(now_us - self._words[at], _MINUTE)
        return None if is_early else at


@dataclass(frozen=True, slots=True)
class Tries:
    """What it costs to try exits: one that is left in vain counts as a circuit of ``fresh``.

    Tor builds one circuit after the other to an exit that refuses. ``fresh`` is None where nothing
    is counted. ``is_counted``: the circuit of the stream's key is counted already.
    """

    fresh: FreshCircuits | None = None
    is_counted: bool = False

    def are_left(self, now: float) -> bool:
        """Whether one more can be counted."""
        return self.fresh is None or not self.fresh.is_used_up(now)

    def count(self, now: float) -> None:
        """Count one. Raises ``NoFreshCircuit`` if none is left."""
        if self.fresh is not None:
            self.fresh.count(now)

    def check(self, is_good: bool | None, now: float) -> None:
        """Raise ``NoFreshCircuit`` for a stream that may end in tries which nothing is left for.

        ``is_good``: whether the last stream of its key went well; None: it is the first one.
        """
        if not (self.is_counted if is_good is None else is_good) and not self.are_left(now):
            raise NoFreshCircuit("exits were tried in vain as often as FreshRate allows")


FREE = Tries()


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)


def _is_within(age_us: int, seconds: float) -> bool:
    return -_microseconds(CLOCKS_APART) <= age_us < _microseconds(seconds)


class CircuitCounts:
    """The counts of all listeners, and the epoch, in memory that processes share.

    ``rates``: the ``FreshRate`` of each listener. ``descriptor``: that of the process which made
    the memory, for one that has inherited it.
    """

    def __init__(self, rates: Sequence[int], descriptor: int | None = None) -> None:
        sizes = [FreshCircuits.size(rate) for rate in rates]
        length = (1 + sum(sizes)) * _WORD
        if descriptor is None:
            descriptor = os.memfd_create("circuits")
            weakref.finalize(self, os.close, descriptor)
            os.ftruncate(descriptor, length)
        self.descriptor = descriptor
        words = memoryview(mmap.mmap(descriptor, length)).cast("Q")
        lock = _FileLock(descriptor)
        self.epoch = Epoch(words[:1])
        self.listeners: list[FreshCircuits] = []
        start = 1
        for rate, size in zip(rates, sizes, strict=True):
            part = words[start : start + size]
            self.listeners.append(FreshCircuits(rate, words=part, lock=lock))
            start += size
