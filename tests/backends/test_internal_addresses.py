"""Which addresses are public, also those with an IPv4 address inside."""

from __future__ import annotations

import pytest

from torsocks_tx.backends.direct import is_internal

INTERNAL = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254"),
    *("172.16.0.1", "192.168.1.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12:3456::1", "ff02::1"),
    *("2001:db8::1", "fec0::1", "::127.0.0.1", "100::1", "4000::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a00:1::"),
    # Other special blocks of IANA: anycast, documentation, segment routing, AS112.
    *("192.0.0.8", "192.0.0.9", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1"),
    *("198.51.100.1", "203.0.113.1", "100:0:0:1::1", "2001:1::1", "2001:2::1", "2001:3::1"),
    *("2001:4:112::1", "2001:10::1", "2001:20::1", "2001:30::1", "2620:4f:8000::1", "3fff::1"),
    *("5f00::1", "::ffff:0:808:808", "::808:808", "64:ff9b::c000:8"),
    # ISATAP.
    *("2606:2800::5efe:10.0.0.1", "2606:2800::200:5efe:127.0.0.1", "fe80::5efe:8.8.8.8"),
    # Teredo, with an internal server, and an internal client (inverted bits).
    *("2001:0:a00:1::", "2001:0:808:808:0:0:80ff:fffe"),
]
EXTERNAL = [
    *("8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"),
    *("::ffff:93.184.216.34", "64:ff9b::808:808", "2002:808:808::1"),
    *("2001:0:808:808:0:0:f7f7:f7f7", "2606:2800::5efe:8.8.8.8", "192.0.1.1", "2001:200::1"),
]


@pytest.mark.parametrize("host", INTERNAL)
def test_internal_address_is_recognised(host: str) -> None:
    assert is_internal(host)


@pytest.mark.parametrize("host", EXTERNAL)
def test_public_address_is_recognised(host: str) -> None:
    assert not is_internal(host)


def test_address_with_a_scope_is_recognised() -> None:
    assert is_internal("fe80::1%lo")
