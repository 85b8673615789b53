"""What a tor of our own is told, and what is made of what it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from torsocks_tx.backends.tor.daemon import find_tor
from torsocks_tx.backends.tor.launched import complaint, policy_sets, torrc_lines

NONE = frozenset[str]()
HOME = Path("/run/x")

BAD_OPTIONS = [
    ("DataDirectory", "/x", "DataDirectory cannot be given: give the data directory"),
    ("controlsocket", "/x", "controlsocket cannot be given"),
    ("RunAsDaemon", "1", "RunAsDaemon cannot be given: it runs under this program"),
    ("Two Words", "1", "'Two Words' is not the name"),
    ("", "1", "is not the name"),
    ("Nickname\n", "1", "is not the name"),
    ("%include", "/x", "is not the name"),
    ("Nickname", "a\nControlPort 1", "must be one whole line"),
    ("Nickname", "a\0", "must be one whole line"),
    ("Nickname", "a\\", "must be one whole line"),
]

OUTPUTS = [
    (1, [], "tor has ended (status 1)"),
    ("SIGKILL", [], "tor has ended (SIGKILL)"),
    (
        1,
        [
            "Nov 23 01:05:49.922 [notice] Read configuration file",
            "Nov 23 01:05:49.922 [warn] Failed to parse/validate config: Unknown option 'Foo'.",
            "Nov 23 01:05:49.922 [err] Reading config failed--see warnings above.",
        ],
        "tor has ended (status 1): Failed to parse/validate config: Unknown option 'Foo'.",
    ),
    (
        1,
        [
            "Nov  3 01:05:49 [warn] Earlier.",
            "Nov  3 01:05:49 [warn] Too few items to Bridge line.",
            "Nov  3 01:05:49 [warn] Bridge line did not parse.",
            "not a line of the log",
        ],
        "tor has ended (status 1): Too few items to Bridge line.; Bridge line did not parse.",
    ),
    (
        1,
        [
            "Nov 23 01:06:25.000 [err] No, it's still there.  Exiting.",
            "Nov 23 01:06:25.000 [err] set_options(): Bug: Acting on config options left us",
        ],
        "tor has ended (status 1): No, it's still there.  Exiting.",
    ),
    (127, ["/x/tor: Exec format error"], "tor has ended (status 127): /x/tor: Exec format error"),
]


def test_policy_sets_are_distinct_and_begin_with_none() -> None:
    assert policy_sets([]) == [NONE]
    assert policy_sets(
        [("NoIPv6Traffic",), ("noipv6traffic",), (), ("OnionTrafficOnly",), ("PreferIPv6",)]
    ) == [
        NONE,
        {"NoIPv6Traffic"},
        {"NoDNSRequest", "NoIPv4Traffic", "NoIPv6Traffic"},
        {"PreferIPv6"},
    ]


def test_policies_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="has no flag 'NoSuch'"):
        policy_sets([("NoSuch",)])
    with pytest.raises(ValueError, match="ExtendedErrors is not a flag for tor's own SocksPort"):
        policy_sets([("ExtendedErrors",)])
    with pytest.raises(ValueError, match="leave nothing to connect to"):
        policy_sets([("NoIPv4Traffic", "NoIPv6Traffic", "NoOnionTraffic")])


def test_the_torrc() -> None:
    policies = policy_sets([("NoIPv6Traffic",), ("NoIPv4Traffic", "NoIPv6Traffic")])
    assert torrc_lines(HOME, policies, [("Nickname", "me"), ("SocksPort", "9050")]) == [
        "Log notice stdout",
        'ControlPort unix:"/run/x/control"',
        "CookieAuthentication 1",
        'SocksPort unix:"/run/x/socks0"',
        'SocksPort unix:"/run/x/socks1" NoIPv6Traffic',
        'SocksPort unix:"/run/x/socks2" NoIPv4Traffic NoIPv6Traffic NoDNSRequest',
        "Nickname me",
        "SocksPort 9050",
    ]


@pytest.mark.parametrize(("name", "value", "message"), BAD_OPTIONS)
def test_options_that_cannot_be_given(name: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torrc_lines(HOME, [NONE], [(name, value)])


@pytest.mark.parametrize(("ending", "output", "sentence"), OUTPUTS)
def test_why_tor_has_ended(ending: int | str, output: list[str], sentence: str) -> None:
    assert complaint(ending, output) == sentence


@pytest.mark.network
def test_tor_accepts_it(short_directory: Path) -> None:
    policies = policy_sets(
        [("NoIPv6Traffic",), ("OnionTrafficOnly",), ("NoIPv4Traffic", "NoIPv6Traffic")]
    )
    torrc = short_directory / "torrc"
    lines = torrc_lines(short_directory, policies, [("DisableNetwork", "1")])
    torrc.write_text("\n".join([*lines, f"DataDirectory {short_directory}/data", ""]))
    command = [find_tor(), "--defaults-torrc", "/dev/null", "-f", str(torrc), "--verify-config"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Configuration was valid" in done.stdout, done.stdout
