"""What a client of a SOCKS server gets in place of a connection."""

from __future__ import annotations

from twisted.internet.error import ConnectError

from torsocks_tx.errors import Refused, Retry
from torsocks_tx.socks.messages import NO_PAIRS, KeyValues


class SOCKSError(ConnectError):
    """A SOCKS server was reached, and the connection or the look-up failed.

    Attributes:
        reason: a ``Refused`` of ``errors`` or ``proxyerrors``; its class is the meaning.
        code: the REP byte of the reply (SOCKS4: its second byte), None if there was no reply.
        status: the STATUS byte that answered credentials or pairs with a refusal, else None.
        pairs: what the server said by method X'97'.
    """

    def __init__(
        self,
        reason: Refused,
        code: int | None = None,
        status: int | None = None,
        pairs: KeyValues = NO_PAIRS,
    ) -> None:
        super().__init__()
        self.reason = reason
        self.code = code
        self.status = status
        self.pairs = pairs

    @property
    def sentence(self) -> str:
        """What happened, in a sentence for a person."""
        return self.reason.sentence

    @property
    def retry(self) -> Retry:
        """Whether to try again at once, later, or never."""
        return self.reason.retry

    def __str__(self) -> str:
        if self.code is not None:
            return f"{self.sentence} (reply {self.code:02X})"
        if self.status is not None:
            return f"{self.sentence} (status {self.status:02X})"
        return self.sentence
