"""The configuration of every daemon of the private Tor network, as lines of torrc. No I/O.

See tor(1) for the options. The network agrees on a consensus within seconds, and every socket of
every daemon is bound to loopback, so that the kernel refuses all other traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path

from torsocks_tx.backends.tor.events import quote_path

Lines = tuple[str, ...]

_VOTING_INTERVAL = 20
_FIRST_INTERVAL = 10
"""Seconds from the start to the first consensus.

The authorities vote 4 s before it, so that every relay has 6 s to start and to upload its
descriptor. A relay that comes too late waits for the next one, up to 20 s.
"""

_FIRST_VOTE_DELAY = 2
_VOTE_DELAY = 4
_PLACEHOLDER_IDENTITY = "1" * 40


EXIT_RELAY: Lines = (
    # Asking before there is a consensus only makes it wait longer and longer.
    f"TestingServerConsensusDownloadInitialDelay {_FIRST_INTERVAL}",
    "ExitRelay 1",
    "IPv6Exit 1",
    "ExitPolicyRejectPrivate 0",
    "ExitPolicy accept *:*",
    "ExitPolicy accept6 *6:*",
)
"""The further lines of a relay that is an exit to this machine."""

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
class Network:
    """The settings that all daemons of one network share."""

    authorities: Sequence[Authority]
    resolver_file: Path
    ipv6: bool

    def loopback_addresses(self) -> Lines:
        """The only addresses that a daemon may send from."""
        return ("127.0.0.1", "[::1]") if self.ipv6 else ("127.0.0.1",)


def common(network: Network, name: str, control_socket: Path) -> Lines:
    """Return the lines of every daemon."""
    return (
        "TestingTorNetwork 1",
        *(authority.line for authority in network.authorities),
        f"Nickname {name}",
        "Address 127.0.0.1",
        *(f"OutboundBindAddress {address}" for address in network.loopback_addresses()),
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
        "GeoIPFile /dev/null",
        "GeoIPv6File /dev/null",
        # On loopback tor learns that circuits take milliseconds, and then gives up slower ones.
        "LearnCircuitBuildTimeout 0",
        "CircuitBuildTimeout 10",
        # Vanguards need more stable relays than a network a minute old has.
        "VanguardsLiteEnabled 0",
        "Log notice stdout",
    )


def relay(network: Network, or_port: int) -> Lines:
    """Return the further lines of a relay; it connects to this machine only."""
    return (
        f"ORPort 127.0.0.1:{or_port}",
        "SocksPort 0",
        "ContactInfo nobody@example.org",
        *(f"OutboundBindAddressExit {address}" for address in network.loopback_addresses()),
        f"ServerDNSResolvConfFile {quote_path(network.resolver_file)}",
        "ServerDNSDetectHijacking 0",
        "ServerDNSTestAddresses",
        "ServerDNSAllowBrokenConfig 1",
    )


def voting_offset(now: float) -> int:
    """Return the offset for authorities that start now (Unix time).

    tor counts intervals from the epoch; the offset makes one of them begin now.
    """
    return floor(now) % _FIRST_INTERVAL


def authority(dir_port: int, voting_offset: int) -> Lines:
    """Return the further lines of a relay that is also an authority."""
    return (
        f"TestingV3AuthVotingStartOffset {voting_offset}",
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
