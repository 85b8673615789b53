"""What a tor of our own is told, and what it says when it will not have it: pure texts.

Its SocksPorts are unix sockets without ExtendedErrors, one for each set of flags that listeners ask
for; everything else is tor's default or the user's choice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from torsocks_tx.backends.tor.paths import quote_path
from torsocks_tx.backends.tor.socks_ports import TRAFFIC_FLAGS, parse_flags
from torsocks_tx.backends.tor.watchdog_process import CANNOT_EXECUTE

CONTROL_SOCKET = "control"

_OURS = {
    "datadirectory": "give the data directory instead",
    "controlsocket": "use ControlPort for one of your own",
    "cookieauthentication": "the control connection needs it",
    "cookieauthfile": "the control connection needs it where it is",
    "runasdaemon": "it runs under this program",
    "__owningcontrollerprocess": "it runs under this program",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OUTPUT = re.compile(r"\w+ +\d+ [\d:.]+ \[(?P<level>\w+)\] (?P<text>.*)")
_SAYS_NOTHING = re.compile(r"Reading config failed--see warnings above|.*: Bug: ")
_TOLD = 2


class LaunchError(Exception):
    """Tor did not start; the text holds what it said."""


def policy_sets(policies: Iterable[Iterable[str]]) -> list[frozenset[str]]:
    """Return the distinct sets of flags, the empty one first.

    A ``ValueError`` says which flags cannot be those of a SocksPort of ours.
    """
    sets = [frozenset[str](), *(parse_flags(policy, strict=True) for policy in policies)]
    for flags in sets:
        if strange := flags - TRAFFIC_FLAGS:
            raise ValueError(f"{' '.join(sorted(strange))} is not a flag for tor's own SocksPort")
        if flags >= {"NoIPv4Traffic", "NoIPv6Traffic", "NoOnionTraffic"}:
            raise ValueError(f"{' '.join(sorted(flags))} together leave nothing to connect to")
    return list(dict.fromkeys(sets))


def socket_of(directory: Path, number: int) -> Path:
    """Return where the SocksPort for the policy set of this number is."""
    return directory / f"socks{number}"


def torrc_lines(
    directory: Path, policies: Sequence[frozenset[str]], options: Iterable[tuple[str, str]]
) -> list[str]:
    """Return the torrc, but for what ``TorDaemon`` adds; ``directory`` is for the sockets.

    A ``ValueError`` says which of the user's options cannot be.
    """
    # Not ControlSocket: it ends its path at the first blank, however it is quoted.
    control = f"ControlPort unix:{quote_path(directory / CONTROL_SOCKET)}"
    lines = ["Log notice stdout", control, "CookieAuthentication 1"]
    for number, flags in enumerate(policies):
        words = [f"SocksPort unix:{quote_path(socket_of(directory, number))}", *sorted(flags)]
        if flags >= {"NoIPv4Traffic", "NoIPv6Traffic"}:
            words.append("NoDNSRequest")  # tor refuses the two without it
        lines.append(" ".join(words))
    return [*lines, *(_option(name, value) for name, value in options)]


def complaint(ending: int | str, output: Collection[str] = ()) -> str:
    """Say in one line how tor ended, and by its output why."""
    matches = [match for line in output if (match := _OUTPUT.match(line))]
    said = [
        match["text"].strip()
        for match in matches
        if match["level"] in ("warn", "err") and not _SAYS_NOTHING.match(match["text"])
    ]
    if ending == CANNOT_EXECUTE:
        said = list(output)
    how = f"status {ending}" if isinstance(ending, int) else ending
    words = "; ".join(dict.fromkeys(said[-_TOLD:]))
    return f"tor has ended ({how})" + (f": {words}" if words else "")


def _option(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of an option of tor")
    reason = _OURS.get(name.lower())
    if reason is not None:
        raise ValueError(f"tor's option {name} cannot be given: {reason}")
    if any(character in value for character in "\r\n\0") or value.endswith("\\"):
        raise ValueError(f"the value of tor's option {name} must be one whole line")
    return f"{name} {value}"
