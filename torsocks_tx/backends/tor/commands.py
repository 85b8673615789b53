"""Every command that is sent to tor's control port, and what is lost where it is refused.

A filter in front of the control port (onion-grater of Tails and Whonix) answers 510 to what it does
not admit, and an older tor to what it does not know. ``docs/control-port.md`` and its onion-grater
profile are made from these tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from twisted.logger import LogLevel

UNRECOGNIZED = 510
"""tor's code for a command that it does not know, and onion-grater's for one that it filters."""


@dataclass(frozen=True, slots=True)
class ControlCommand:
    """One command, or one event that is asked for.

    Args:
        form: the command, its fields in braces.
        when: when it is sent.
        why: what for.
        lost: what is missing where it is refused.
        pattern: for a filter, the regular expression of what stands behind the command's name.
        level: how the loss is logged.
    """

    form: str
    when: str
    why: str
    lost: str
    pattern: str = ""
    level: LogLevel = LogLevel.warn

    def loss(self, code: int) -> str:
        """Return the line of the log that says what is lost by a refusal."""
        return f"tor's control port refuses {self.name} ({code}): {self.lost}"

    @property
    def name(self) -> str:
        """The command without its fields, for a log."""
        return self.form.partition("{")[0].rstrip(" /")

    def line(self, **fields: str) -> str:
        """Return the line to send."""
        return self.form.format(**fields).rstrip()

    def key(self, **fields: str) -> str:
        """Return the key of a GETINFO."""
        return self.line(**fields).removeprefix("GETINFO ")

    def admits(self, line: str) -> bool:
        """Whether a line is this command."""
        word, _, rest = line.partition(" ")
        return word == self.word and re.fullmatch(self.arguments, rest) is not None

    @property
    def word(self) -> str:
        """The command's own name."""
        return self.form.partition(" ")[0]

    @property
    def arguments(self) -> str:
        """The regular expression of what stands behind it."""
        return self.pattern or self.form.partition(" ")[2]


_CONNECTING = "when a control connection is made"
_EXITS = "before the first stream to a chosen exit, and for each new consensus"
_NO_EXITS = "exits cannot be chosen, and clients who ask for one are refused"
_NO_COUNTRIES = "exits cannot be chosen by country, and the countries of circuits are not known"
_ONION = "at the first request for an onion service"
_ONION_OR_SHOWN = f"{_ONION}, and while somebody asks for the circuits"
_PLAIN = "failures of onion services keep tor's own reply codes"
_ADDRESS = r"[a-z2-7]{56}"

PROTOCOLINFO = ControlCommand(
    "PROTOCOLINFO 1",
    _CONNECTING,
    "how to authenticate, and tor's version",
    "it is assumed that no authentication is needed but a password that was given",
    level=LogLevel.info,
)
AUTHCHALLENGE = ControlCommand(
    "AUTHCHALLENGE SAFECOOKIE {nonce}",
    f"{_CONNECTING}, where there is a cookie",
    "tor proves that it knows its cookie",
    "nothing proves that it is tor who answers at the control port",
    "SAFECOOKIE [0-9a-f]{64}",
)
AUTHENTICATE = ControlCommand(
    "AUTHENTICATE {secret}",
    _CONNECTING,
    "this program proves that it may control tor",
    "whoever stands before tor must have authenticated",
    "([0-9a-f]{2})*",
    LogLevel.info,
)
TAKEOWNERSHIP = ControlCommand(
    "TAKEOWNERSHIP",
    "when a tor of our own was started",
    "tor ends when the control connection does",
    "such a tor is only ended by the watchdog process",
)
VERSION = ControlCommand(
    "GETINFO version",
    f"{_CONNECTING}, and when an onion service could not be reached",
    "whether it is C Tor, which takes a request in one piece; all events before the answer are"
    " here",
    "tor's version is taken from PROTOCOLINFO; where it is not told, requests take longer",
    level=LogLevel.info,
)
BOOTSTRAP_PHASE = ControlCommand(
    "GETINFO status/bootstrap-phase",
    f"{_CONNECTING}, and every 5 seconds until tor is bootstrapped",
    "whether clients have to wait",
    "tor counts as bootstrapped, and its progress is not known",
    level=LogLevel.info,
)
SOCKS_LISTENERS = ControlCommand(
    "GETINFO net/listeners/socks",
    f"{_CONNECTING} to a running tor, and when its configuration has changed",
    "where its SocksPorts are",
    "they are taken from its configuration, or else tor's default is tried: port 9050",
)
SOCKS_CONFIGURATION = ControlCommand(
    "GETCONF SocksPort __SocksPort",
    "along with it",
    "the flags of the SocksPorts",
    "flags that keep streams from being isolated are not warned of, and listeners that need tor's"
    " NoIPv4Traffic, NoIPv6Traffic or NoOnionTraffic are refused",
)
CIRCUITS = ControlCommand(
    "GETINFO circuit-status",
    "after an onion service could not be reached, while a chosen exit does not answer, and for"
    " whoever asks for the circuits",
    "whether a circuit to the service is open, or one to the exit",
    "circuits cannot be shown, exits that do not answer are left later, and some failures of onion"
    " services keep tor's own reply codes",
)
CLIENT_AUTH_ADD = ControlCommand(
    "ONION_CLIENT_AUTH_ADD {address} x25519:{key}",
    f"{_ONION}, for each key of `--onion-auth-dir`, and again after NEWNYM",
    "tor needs the key to reach the service",
    "tor does not get the client authorization keys of onion services",
    rf"{_ADDRESS} x25519:[A-Za-z0-9+/=]{{44}}",
)
CLIENT_AUTH_REMOVE = ControlCommand(
    "ONION_CLIENT_AUTH_REMOVE {address}",
    "when the file of a key is gone (SIGHUP)",
    "tor forgets the key",
    "client authorization keys whose files are gone stay in tor",
    _ADDRESS,
)
CLIENT_AUTH_VIEW = ControlCommand(
    "ONION_CLIENT_AUTH_VIEW {address}",
    "when the descriptor of an onion service cannot be decrypted",
    "whether tor has a key for it: F4 or F5",
    "onion services that want a client authorization key fail with tor's own reply code",
    _ADDRESS,
)
RELAYS = ControlCommand("GETINFO ns/all", _EXITS, "which exits there are", _NO_EXITS)
RELAY = ControlCommand(
    "GETINFO ns/id/{fingerprint}",
    "for each relay of the circuits, for whoever asks for them",
    "its address",
    "the countries of circuits are not known",
    "ns/id/[0-9A-F]{40}",
    LogLevel.info,
)
HAS_COUNTRIES = ControlCommand(
    "GETINFO ip-to-country/ipv4-available",
    f"{_EXITS}, and at the start if listeners choose exits by country",
    "whether tor has a GeoIPFile",
    _NO_COUNTRIES,
)
COUNTRIES = ControlCommand(
    "GETINFO ip-to-country/{addresses}",
    _EXITS,
    "the countries of relays, a hundred in one command",
    _NO_COUNTRIES,
    r"ip-to-country/[0-9a-f.:]+( ip-to-country/[0-9a-f.:]+)*",
)
AUTOMAP = ControlCommand(
    "GETCONF AutomapHostsOnResolve",
    _EXITS,
    "whether tor answers look-ups at an exit with an address of its own",
    "such addresses are taken for those of the destination",
    level=LogLevel.info,
)
MAP_ADDRESS = ControlCommand(
    "MAPADDRESS {pairs}",
    "for each destination at a chosen exit, and when it is not needed any more",
    "tor goes to the destination by that exit: `RANDOM.invalid=web.test.FINGERPRINT.exit`",
    _NO_EXITS,
    r"[0-9a-f]{32}\.invalid=\S+( [0-9a-f]{32}\.invalid=\S+)*",
)

COMMANDS = [each for each in list(globals().values()) if isinstance(each, ControlCommand)]
"""All of the above."""

_EVENTS = (
    ControlCommand(
        "SETEVENTS STATUS_CLIENT",
        f"{_CONNECTING}, and with chosen exits",
        "each step of tor's start, and that there is a new consensus",
        "tor's start is looked at every 5 seconds, and new exits are seen two hours later",
        level=LogLevel.info,
    ),
    ControlCommand(
        "SETEVENTS CONF_CHANGED",
        f"{_CONNECTING} to a running tor",
        "tor's SocksPorts have changed",
        "changes of tor's SocksPorts are only seen while none can be used",
        level=LogLevel.info,
    ),
    ControlCommand("SETEVENTS HS_DESC", _ONION, "which directories had its descriptor", _PLAIN),
    ControlCommand("SETEVENTS CIRC", _ONION_OR_SHOWN, "which circuits there are", _PLAIN),
    ControlCommand("SETEVENTS CIRC_MINOR", _ONION_OR_SHOWN, "what became of introductions", _PLAIN),
    ControlCommand(
        "SETEVENTS SIGNAL",
        _ONION,
        "tor forgets client authorization keys at NEWNYM",
        "after a NEWNYM tor lacks client authorization keys until the next control connection",
        level=LogLevel.info,
    ),
)
EVENTS = {each.arguments: each for each in _EVENTS}
