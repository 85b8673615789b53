"""What becomes of a request that was made of a SOCKS server: the last steps of an ``Initiator``."""

from __future__ import annotations

from dataclasses import dataclass, field

from torsocks_tx.errors import Refused
from torsocks_tx.handshake import Send
from torsocks_tx.messages import NO_PAIRS, KeyValues, Reply


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
