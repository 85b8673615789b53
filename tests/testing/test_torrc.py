"""The configuration of the private network: loopback only, and fast consensus."""

from __future__ import annotations

import pytest

from torsocks_tx.testing.tornet import torrc

KNOWN = torrc.Authority("auth0", 1001, 1002, "A" * 40, "B" * 40)
NETWORK = torrc.Network((KNOWN,), '"/x/resolv.conf"', ipv6=True)


def test_an_authority_is_trusted_by_both_its_identities() -> None:
    expected = f"DirAuthority auth0 orport=1001 no-v2 v3ident={'A' * 40} 127.0.0.1:1002 {'B' * 40}"
    assert KNOWN.line == expected
    assert expected in torrc.common(NETWORK, "exit0", "/x/control")


@pytest.mark.parametrize("ipv6", [True, False])
def test_every_socket_of_every_daemon_is_bound_to_loopback(ipv6: bool) -> None:
    network = torrc.Network((KNOWN,), "/x/resolv.conf", ipv6)
    addresses = {"127.0.0.1", "[::1]"} if ipv6 else {"127.0.0.1"}
    lines = (*torrc.common(network, "exit0", "/x/control"), *torrc.relay(network, 1))
    for option in ("OutboundBindAddress", "OutboundBindAddressExit"):
        assert {line.split()[1] for line in lines if line.split()[0] == option} == addresses
    listening = [line.split()[1] for line in lines if line.startswith(("ORPort", "DirPort"))]
    assert listening == ["127.0.0.1:1"]


@pytest.mark.parametrize(
    ("now", "offset"), [(1_800_000_000.0, 0), (1_800_000_003.9, 3), (1_800_000_009.0, 9)]
)
def test_an_interval_begins_when_the_authorities_start(now: float, offset: int) -> None:
    assert torrc.voting_offset(now) == offset
    assert f"TestingV3AuthVotingStartOffset {offset}" in torrc.authority(1, offset)


def test_client_has_mapped_addresses_and_extra_lines() -> None:
    lines = torrc.client(["127.0.0.1:1", "unix:/x"], {"203.0.113.9": "127.0.0.1"}, ["Extra 1"])
    assert lines[:2] == ("SocksPort 127.0.0.1:1", "SocksPort unix:/x")
    assert lines[2] == "MapAddress 203.0.113.9 127.0.0.1"
    assert lines[-1] == "Extra 1"


def test_circuit_build_timeout_is_fixed() -> None:
    assert "LearnCircuitBuildTimeout 0" in torrc.common(NETWORK, "exit0", "/x/control")
