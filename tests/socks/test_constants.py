"""The numbers, and that one without a name survives."""

from __future__ import annotations

import pytest

from tests.support.rows import rows
from torsocks_tx.socks.constants import (
    AddressType,
    Command,
    Method,
    OnionReply,
    Reply4,
    Reply5,
    Version,
    named,
)


def test_the_numbers() -> None:
    assert {v.name: int(v) for v in Version} == {"SOCKS4": 4, "SOCKS5": 5}
    assert {m.name: int(m) for m in Method} == {
        "NO_AUTH": 0x00,
        "GSSAPI": 0x01,
        "USERNAME_PASSWORD": 0x02,
        "EXTENDED": 0x97,
        "NONE_ACCEPTABLE": 0xFF,
    }
    assert {c.name: int(c) for c in Command} == {
        "CONNECT": 0x01,
        "BIND": 0x02,
        "UDP_ASSOCIATE": 0x03,
        "RESOLVE": 0xF0,
        "RESOLVE_PTR": 0xF1,
        "CONNECT_DIR": 0xF2,
    }
    assert {a.name: int(a) for a in AddressType} == {"IPV4": 1, "HOSTNAME": 3, "IPV6": 4}


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
