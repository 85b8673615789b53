"""What comes of a request: the steps of an ``Initiator``."""

from __future__ import annotations

from dataclasses import dataclass, field

from torsocks_tx.errors import Refused
from torsocks_tx.socks.messages import NO_PAIRS, KeyValues, Reply
from torsocks_tx.socks.server import Send

DOUBT_TIMEOUT = 0.5
"""Seconds after which a stream that the server doubts, but does not close, is taken to work."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The request was granted; ``rest`` is what the far end has sent behind the reply.

    ``pairs`` is what the server said by method X'97'.
    """

    reply: Reply
    rest: bytes = field(repr=False)
    pairs: KeyValues = NO_PAIRS


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was refused, or the server broke the protocol (then a ``ProxyBroken``).

    ``code`` is the reply code, and ``status`` the status that answered credentials or pairs, where
    the refusal came with one.
    """

    reason: Refused
    code: int | None = None
    status: int | None = None
    pairs: KeyValues = NO_PAIRS


@dataclass(frozen=True, slots=True)
class Doubted:
    """The server said X'F0', which C Tor also says of streams that work.

    It remembers the first directory that had no descriptor, and forgets that another one had it. A
    stream that failed is closed at once: wait a moment. ``eof`` then gives ``Failed``, data or
    ``settle`` gives ``Opened``.
    """


Step = Send | Opened | Failed | Doubted
