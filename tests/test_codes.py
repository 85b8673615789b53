"""The numbers, and that one without a name survives."""

from __future__ import annotations

import pytest

from tests.rows import rows
from torsocks_tx.codes import AddressType, Command, Method, OnionReply, Reply4, Reply5, named


@rows("S-21")
def test_the_replies_of_each_source() -> None:
    assert sorted(Reply5) == list(range(9))
    assert sorted(OnionReply) == list(range(0xF0, 0xF8))
    assert sorted(Reply4) == [0x5A, 0x5B]


@pytest.mark.parametrize("kind", [Command, Method, AddressType, Reply5, OnionReply])
def test_named(kind: type[Command]) -> None:
    known = {int(member) for member in kind}
    for number in range(256):
        found = named(kind, number)
        assert found == number
        assert isinstance(found, kind) is (number in known)
