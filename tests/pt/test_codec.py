"""The codec that changes nothing, on which others build."""

from __future__ import annotations

from torsocks_tx.errors import Temporary
from torsocks_tx.pt.codec import Codec


def test_it_changes_nothing() -> None:
    codec = Codec()
    assert codec.ready
    assert codec.start() == b""
    assert codec.decode(b"data") == (b"data", b"")
    assert codec.encode(b"data") == b"data"
    assert type(codec.ended()) is Temporary
