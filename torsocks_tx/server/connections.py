"""How many clients there are at one time, over all listeners of one server.

A client that has closed and one that has only closed its sending side look the same, so the streams
of both linger for a while. When a server is full, the one that has lingered longest makes room.
"""

from __future__ import annotations

from typing import Protocol

from twisted.logger import Logger


class Member(Protocol):
    """A connection that is counted."""

    def reset(self) -> None:
        """Close with a reset."""


class Crowd:
    """Counts clients; ``most`` is how many there may be, None for any number."""

    _log = Logger()

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._members: set[Member] = set()
        self._lingering: dict[Member, None] = {}
        self._said_full = False

    def __len__(self) -> int:
        """How many there are."""
        return len(self._members)

    def has_room(self) -> bool:
        """Whether one more may come; room is made for it where that is possible."""
        if self._most is None or len(self) < self._most:
            return True
        if self._lingering:
            oldest = next(iter(self._lingering))
            self.leave(oldest)
            oldest.reset()
            return True
        if not self._said_full:
            self._said_full = True
            self._log.warn("{most} clients are connected: more are turned away", most=self._most)
        return False

    def join(self, member: Member) -> None:
        """Count one."""
        self._members.add(member)

    def linger(self, member: Member) -> None:
        """Note that one has closed its sending side."""
        if member in self._members:
            self._lingering[member] = None

    def leave(self, member: Member) -> None:
        """Count one no more; harmless a second time."""
        self._members.discard(member)
        self._lingering.pop(member, None)
        if not self._members:
            self._said_full = False
