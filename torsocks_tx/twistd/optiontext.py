"""What ``twistd torsocks --help`` and ``--help-flags`` say: each option, its default, its text."""

from __future__ import annotations

from typing import Any

from torsocks_tx.limits import RENDEZVOUS_TIMEOUT, Limits
from torsocks_tx.policy.flags import FLAGS
from torsocks_tx.policy.listener import ListenerPolicy

DESCRIPTION = """A SOCKS4, SOCKS4a and SOCKS5 server in front of Tor. Without options it launches
a tor of its own and listens at 127.0.0.1:1080. A listener's flags follow its endpoint in the same
argument, as in --listen "tcp:9150:interface=127.0.0.1 ExtendedErrors IsolateDestAddr";
--help-flags lists them."""

SHUTDOWN_GRACE = 5.0

_LIMITS = Limits()

WITH_VALUE: tuple[tuple[str, Any], ...] = (
    ("tor", None),
    ("tor-socks", None),
    ("tor-password-file", None),
    ("tor-data-directory", None),
    ("tor-binary", None),
    ("onion-auth-dir", None),
    ("backend", "tor"),
    ("handshake-timeout", _LIMITS.handshake_timeout),
    ("connect-timeout", _LIMITS.connect_timeout),
    ("onion-timeout", _LIMITS.onion_timeout),
    ("rendezvous-timeout", RENDEZVOUS_TIMEOUT),
    ("idle-timeout", 0.0),
    ("linger-timeout", _LIMITS.linger_timeout),
    ("linger-limit", _LIMITS.linger_limit),
    ("shutdown-grace", SHUTDOWN_GRACE),
    ("early-data", _LIMITS.early_data),
    ("extended-bytes", _LIMITS.extended_bytes),
    ("extended-pairs", _LIMITS.extended_pairs),
    ("max-connections", None),
    ("max-per-client", None),
    ("workers", 1),
)
"""The options that take a value, with their defaults."""

FLAGS_WITHOUT_VALUE = ("allow-internal", "optimistic-data", "debug")

TEXTS = {
    "tor": "launch: a tor of our own (the default). private: a private Tor network on this machine,"
    " for trials. Else the control port of a running tor: unix:/run/tor/control,"
    " tcp:127.0.0.1:9051.",
    "tor-socks": "The SocksPort of a running tor whose control port is out of reach, such as"
    " tcp:127.0.0.1:9050.",
    "tor-password-file": "File with the password of the control port, if it has one.",
    "tor-data-directory": "Where the launched tor keeps its state, its entry guards above all"
    " [default: torsocks_tx/tor in $XDG_STATE_HOME or ~/.local/state; /var/lib/torsocks_tx/tor for"
    " root].",
    "tor-binary": "The tor to launch, if not the one in PATH.",
    "onion-auth-dir": "Directory of client authorization keys for onion services: .auth_private"
    " files as for tor's ClientOnionAuthDir, read again at SIGHUP. Every user of that tor gets in"
    " by them.",
    "backend": "tor, or direct: no Tor at all; internal addresses are refused.",
    "handshake-timeout": "Seconds for a client's whole request.",
    "connect-timeout": "Seconds until a connection is made or a name is looked up.",
    "onion-timeout": "The same for onion services; tor itself gives most of them up sooner.",
    "rendezvous-timeout": "Seconds that an onion service gets to come to the rendezvous once it was"
    " told (F3).",
    "idle-timeout": "Seconds that an open stream may carry nothing; 0: for ever.",
    "linger-timeout": "Seconds that the far end may be silent after the client closed its side.",
    "linger-limit": "Seconds that this may last in all.",
    "shutdown-grace": "Seconds that open streams get when the server stops.",
    "early-data": "Bytes taken from a client before its stream is open.",
    "extended-bytes": "Bytes of key and value pairs that a client may send by method X'97'.",
    "extended-pairs": "The same in pairs.",
    "max-connections": "Clients at one time [default: what the descriptor limit allows].",
    "max-per-client": "Clients at one time from one address (of IPv6: one /64 network) [default: a"
    " quarter of --max-connections; for 127.0.0.1 and ::1, which all programs here share, no bound"
    " of their own]. Not for unix sockets, nor behind haproxy:.",
    "workers": "Processes that serve together; listeners, and a tor of our own, are one for all.",
    "allow-internal": "With --backend direct: also reach loopback and private addresses.",
    "optimistic-data": "Send early data before tor's answer even where tor is not known to be C"
    " Tor (Arti closes on it).",
    "debug": "Log a line for each refused request (never its destination).",
}
"""What each option is for."""


def _default(field: str, isolation: bool) -> bool:
    policy = ListenerPolicy()
    return bool(getattr(policy.isolation if isolation else policy, field))


def _flag_lines() -> list[str]:
    lines = []
    for flag in FLAGS:
        on = "on " if _default(flag.field, flag.isolation) else "off"
        lines.append(f"  {flag.name:<24}{on}  {flag.purpose}")
    together = "NoIPv4Traffic, NoIPv6Traffic and NoDNSRequest together"
    lines.append(f"  {'OnionTrafficOnly':<24}off  {together}")
    lines.append(f"  {'SessionGroup=N':<24}     listeners with the same N may share circuits")
    return lines


FLAG_TEXT = "\n".join(
    [
        "Flags of a listener, their defaults, and what they are for. No in front turns one off.",
        "The names are those of tor(1) for its SocksPort; case does not matter.",
        "",
        *_flag_lines(),
    ]
)
