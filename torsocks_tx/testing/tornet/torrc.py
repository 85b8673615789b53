"""The configuration of every daemon of the private Tor network, as lines of torrc. No I/O.

See tor(1) for the options. The network agrees on a consensus within seconds, and every socket of
every daemon is bound to loopback, so that the kernel refuses all other traffic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from torsocks_tx.backends.tor.events import quote_path

Lines = tuple[str, ...]

_LOOPBACK = "127.0.0.1"
_FIRST_EXIT_ADDRESS = IPv4Address("127.0.0.10")
_EXITS = 5
_COUNTRY = re.compile("[a-z][a-z]")
_VOTING_INTERVAL = 20
_FIRST_INTERVAL = 10
"""Seconds from the start to the first consensus.

The authorities vote 4 s before it, so that every relay has 6 s to start and to upload its
descriptor. A relay that comes too late waits for the next one, up to 20 s.
"""

_FIRST_VOTE_DELAY = 2
_VOTE_DELAY = 4
_PLACEHOLDER_IDENTITY = "1" * 40


NO_RESOLVER = Path("/dev/null")
"""The resolv.conf of relays that are no exits: they look nothing up."""

EXIT_RELAY: Lines = (
    # Asking before there is a consensus only makes it wait longer and longer.
    f"TestingServerConsensusDownloadInitialDelay {_FIRST_INTERVAL}",
    "ExitRelay 1",
    "IPv6Exit 1",
    "ExitPolicyRejectPrivate 0",
)
"""The further lines of a relay that is an exit to this machine, but for its policy."""

ONION_HOST: Lines = ("SocksPort 0",)
"""The further lines of the daemon that hosts the onion services."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The identity and ports of a directory authority."""

    name: str
    or_port: int
    dir_port: int
    v3_identity: str = _PLACEHOLDER_IDENTITY
    fingerprint: str = _PLACEHOLDER_IDENTITY

    @property
    def line(self) -> str:
        """The line by which a daemon trusts this authority."""
        return (
            f"DirAuthority {self.name} orport={self.or_port} no-v2 v3ident={self.v3_identity}"
            f" 127.0.0.1:{self.dir_port} {self.fingerprint}"
        )


@dataclass(frozen=True, slots=True)
class Exit:
    """A relay that connects to the servers.

    Attributes:
        name: such as ``exit0``.
        country: two small letters, as ``GETINFO ip-to-country`` gives it; "" without countries.
        address: where it listens; where there are countries, no other exit has the same.
        policy: its first rules (tor(1), ExitPolicy), before one that accepts everything.
        fingerprint: 40 hexadecimal digits; "" until the network is up.
    """

    name: str
    country: str = ""
    address: str = _LOOPBACK
    policy: Sequence[str] = ()
    fingerprint: str = ""


def make_exits(
    countries: Mapping[str, int] = {}, policies: Mapping[str, Sequence[str]] = {}
) -> dict[str, Exit]:
    """Return the exits by name: so many in each country, or a few at one address without countries.

    Raises:
        ValueError: a country is not two small letters, or has no exit; a policy is of no exit.
    """
    if not all(_COUNTRY.fullmatch(code) and count > 0 for code, count in countries.items()):
        raise ValueError("a country has a code of two small letters, and one exit or more")
    codes = [code for code, count in countries.items() for _ in range(count)] or [""] * _EXITS
    exits = {}
    for index, code in enumerate(codes):
        name, address = f"exit{index}", str(_FIRST_EXIT_ADDRESS + index) if code else _LOOPBACK
        exits[name] = Exit(name, code, address, policies.get(name, ()))
    if unknown := policies.keys() - exits.keys():
        raise ValueError(f"there is no {min(unknown)}: the exits are {', '.join(exits)}")
    return exits


def geoip_lines(exits: Iterable[Exit]) -> Lines:
    """Return the lines of tor's GeoIPFile: the country of each exit's address."""
    numbers = [(int(IPv4Address(exit.address)), exit) for exit in exits if exit.country]
    return tuple(f"{number},{number},{exit.country.upper()}" for number, exit in numbers)


@dataclass(frozen=True, slots=True)
class Network:
    """The settings that all daemons of one network share."""

    authorities: Sequence[Authority]
    geoip_file: Path
    ipv6: bool

    def loopback_addresses(self) -> Lines:
        """The only addresses that a daemon may send from."""
        return ("127.0.0.1", "[::1]") if self.ipv6 else ("127.0.0.1",)


def common(network: Network, name: str, control_socket: Path, address: str = _LOOPBACK) -> Lines:
    """Return the lines of every daemon."""
    return (
        "TestingTorNetwork 1",
        *(authority.line for authority in network.authorities),
        f"Nickname {name}",
        f"Address {address}",
        *(f"OutboundBindAddress {source}" for source in network.loopback_addresses()),
        f"ControlPort unix:{quote_path(control_socket)}",
        "CookieAuthentication 1",
        "AssumeReachable 1",
        # Less, and a daemon is up while it cannot use a relay that it knows too little of.
        "PathsNeededToBuildCircuits 0.95",
        "V3AuthNIntervalsValid 2",
        f"V3AuthVotingInterval {_VOTING_INTERVAL}",
        f"V3AuthVoteDelay {_VOTE_DELAY}",
        f"V3AuthDistDelay {_VOTE_DELAY}",
        f"TestingV3AuthInitialVotingInterval {_FIRST_INTERVAL}",
        f"TestingV3AuthInitialVoteDelay {_FIRST_VOTE_DELAY}",
        f"TestingV3AuthInitialDistDelay {_FIRST_VOTE_DELAY}",
        "ShutdownWaitLength 0",
        "NumCPUs 1",
        f"GeoIPFile {quote_path(network.geoip_file)}",
        "GeoIPv6File /dev/null",
        # On loopback tor learns that circuits take milliseconds, and then gives up slower ones.
        "LearnCircuitBuildTimeout 0",
        "CircuitBuildTimeout 10",
        # Vanguards need more stable relays than a network a minute old has.
        "VanguardsLiteEnabled 0",
        "Log notice stdout",
    )


def relay(
    network: Network, or_port: int, address: str = _LOOPBACK, resolver_file: Path = NO_RESOLVER
) -> Lines:
    """Return the further lines of a relay; it connects to this machine only."""
    return (
        f"ORPort {address}:{or_port}",
        "SocksPort 0",
        "ContactInfo nobody@example.org",
        *(f"OutboundBindAddressExit {source}" for source in network.loopback_addresses()),
        f"ServerDNSResolvConfFile {quote_path(resolver_file)}",
        "ServerDNSDetectHijacking 0",
        "ServerDNSTestAddresses",
        "ServerDNSAllowBrokenConfig 1",
    )


def exit_policy(rules: Iterable[str]) -> Lines:
    """Return the policy of an exit: these rules first, then everything is accepted."""
    return tuple(f"ExitPolicy {rule}" for rule in (*rules, "accept *:*", "accept6 *6:*"))


def authority(dir_port: int, start: float) -> Lines:
    """Return the further lines of a relay that is also an authority, started at this Unix time."""
    return (
        # tor counts intervals from the epoch: one of them is to begin now.
        f"TestingV3AuthVotingStartOffset {int(start) % _FIRST_INTERVAL}",
        f"DirPort 127.0.0.1:{dir_port}",
        "AuthoritativeDirectory 1",
        "V3AuthoritativeDirectory 1",
        "AuthDirMaxServersPerAddr 0",
        "TestingDirAuthVoteExit *",
        "TestingDirAuthVoteHSDir *",
        "TestingDirAuthVoteGuard *",
        "TestingMinExitFlagThreshold 0",
        "ExitRelay 0",
    )


def client(
    socks_ports: Iterable[str], mapped_addresses: Mapping[str, str], extra: Iterable[str] = ()
) -> Lines:
    """Return the further lines of a client: its SocksPorts and mapped addresses."""
    return (
        *(f"SocksPort {port}" for port in socks_ports),
        *(f"MapAddress {address} {target}" for address, target in mapped_addresses.items()),
        # One circuit per stream, so that a stream's circuit id says what it shares.
        "ConfluxEnabled 0",
        *extra,
    )
