"""What a transport does to the bytes of one stream, without I/O. ``channel`` has the plumbing."""

from __future__ import annotations

from torsocks_tx.errors import Refused, Temporary


class Codec:
    """What a transport does to the bytes of one stream. This one changes nothing.

    ``ready``: whether the handshake is finished; nothing is encoded before. A codec that raises a
    ``Refused`` ends the connection; during the handshake that is also the answer to the parent.
    """

    ready = True

    def start(self) -> bytes:
        """The bytes to send first; none where the far end begins."""
        return b""

    def ended(self) -> Refused:
        """What it means that the far end closes during the handshake."""
        return Temporary("the far end closed during the handshake")

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes from the far end: payload for the parent, and what to answer at once."""
        return data, b""

    def encode(self, data: bytes) -> bytes:
        """Turn payload into what is sent to the far end."""
        return data
