"""The configuration of the private network: loopback only, and fast consensus."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from torsocks_tx.testing.tornet import torrc

KNOWN = torrc.Authority("auth0", 1001, 1002, "A" * 40, "B" * 40)
GEOIP = Path("/x/geoip")
NETWORK = torrc.Network((KNOWN,), GEOIP, ipv6=True)
CONTROL = Path("/x/control")


def test_an_authority_is_trusted_by_both_its_identities() -> None:
    expected = f"DirAuthority auth0 orport=1001 no-v2 v3ident={'A' * 40} 127.0.0.1:1002 {'B' * 40}"
    assert KNOWN.line == expected
    assert expected in torrc.common(NETWORK, "exit0", CONTROL)


@pytest.mark.parametrize("ipv6", [True, False])
def test_every_socket_of_every_daemon_is_bound_to_loopback(ipv6: bool) -> None:
    network = torrc.Network((KNOWN,), GEOIP, ipv6)
    addresses = {"127.0.0.1", "[::1]"} if ipv6 else {"127.0.0.1"}
    where = "127.0.0.10"
    lines = (*torrc.common(network, "exit0", CONTROL, where), *torrc.relay(network, 1, where))
    for option in ("OutboundBindAddress", "OutboundBindAddressExit"):
        assert {line.split()[1] for line in lines if line.split()[0] == option} == addresses
    listening = [line.split()[1] for line in lines if line.startswith(("ORPort", "DirPort"))]
    assert listening == ["127.0.0.10:1"]
    assert [line for line in lines if line.startswith("Address ")] == ["Address 127.0.0.10"]


def test_an_interval_begins_when_the_authorities_start() -> None:
    assert "TestingV3AuthVotingStartOffset 3" in torrc.authority(1, 1_800_000_003.9)


def test_client_has_mapped_addresses_and_extra_lines() -> None:
    lines = torrc.client(["127.0.0.1:1", "unix:/x"], {"203.0.113.9": "127.0.0.1"}, ["Extra 1"])
    assert lines[:2] == ("SocksPort 127.0.0.1:1", "SocksPort unix:/x")
    assert lines[2] == "MapAddress 203.0.113.9 127.0.0.1"
    assert lines[-1] == "Extra 1"


def test_exits_are_in_the_countries_asked_for() -> None:
    policies = {"exit1": ["reject *:25"]}
    exits = torrc.make_exits({"bb": 2, "aa": 1}, policies)
    assert [(exit.name, exit.country, exit.address) for exit in exits.values()] == [
        ("exit0", "bb", "127.0.0.10"),
        ("exit1", "bb", "127.0.0.11"),
        ("exit2", "aa", "127.0.0.12"),
    ]
    assert {name: exit.policy for name, exit in exits.items() if exit.policy} == policies
    assert torrc.exit_policy(exits["exit1"].policy)[:2] == (
        "ExitPolicy reject *:25",
        "ExitPolicy accept *:*",
    )
    first = int(ip_address("127.0.0.10"))
    assert torrc.geoip_lines(exits.values()) == (
        f"{first},{first},BB",
        f"{first + 1},{first + 1},BB",
        f"{first + 2},{first + 2},AA",
    )
    plain = torrc.make_exits()
    assert {(exit.country, exit.address) for exit in plain.values()} == {("", "127.0.0.1")}
    assert torrc.geoip_lines(plain.values()) == ()


@pytest.mark.parametrize(
    ("countries", "complaint"),
    [
        *(({code: 1}, "two small letters") for code in ("AA", "a", "aaa", "??", "")),
        ({"aa": 1, "bb": 0}, "one exit or more"),
        ({"aa": 2}, "there is no exit2: the exits are exit0, exit1"),
    ],
)
def test_exits_that_cannot_be(countries: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        torrc.make_exits(countries, {"exit2": []})
