"""What ``--help`` prints, and the options that it names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from twisted.python import usage

from torsocks_tx.limits import RENDEZVOUS_TIMEOUT, Limits
from torsocks_tx.server.listen import DEFAULT

_LIMITS = Limits()

HELP = f"""
A SOCKS4, SOCKS4a and SOCKS5 server in front of Tor, with HTTP CONNECT on the
same port. Without options it launches a tor of its own and listens at
127.0.0.1:1080.

Where clients connect:
  --listen 'ENDPOINT [FLAG ...]'  [default: {DEFAULT}]
      An endpoint of Twisted and the listener's flags, in one argument; may be
      given more than once. tcp:PORT:interface=127.0.0.1 serves this machine,
      unix:PATH its user, or with :mode=660 a group; systemd:domain=UNIX:index=0
      is a socket that systemd holds: those that it passes are the default. The
      flag ProxyProtocol takes the address of each client from the PROXY header
      of a balancer.
  --auth KIND:ARGUMENT
      Ask clients for a name and a password: file:PATH is a file with lines of
      name:password. May be given more than once.

Which tor:
  --tor launch|private|ENDPOINT
      launch: a tor of the server's own, the default. private: a private Tor
      network on this machine, for trials. Else the control port of a running
      tor: unix:/run/tor/control or tcp:127.0.0.1:9051. Given more than once,
      these tors are a pool: each client keeps to one of them.
  --tors N  [default: 1]
      Launch N tors as a pool. Their data directories, and so their entry
      guards, are apart: tor, tor-2, tor-3 and so on.
  --tor-socks ENDPOINT
      The SocksPort of a running tor whose control port is out of reach:
      unix:/run/tor/socks or tcp:127.0.0.1:9050.
  --tor-password-file FILE
      File with the password of the control port, if it has one.
  --tor-binary PATH
      The tor to launch, if not the one in PATH.
  --tor-data-directory DIRECTORY
      Where the launched tor keeps its state, its entry guards above all: if not
      given, torsocks_tx/tor in $XDG_STATE_HOME or ~/.local/state, and for root
      /var/lib/torsocks_tx/tor.
  --tor-option 'NAME VALUE'
      A line for the launched tor's torrc, such as 'ExitNodes {{de}}'; may be
      given more than once.
  --optimistic-data
      Send what a client sends early together with its request. This is done
      anyway for tors known to be C Tor; Arti closes such connections.
  --backend tor|direct  [default: tor]
      direct: no Tor at all; internal addresses are refused.
  --allow-internal
      With --backend direct: connect to loopback and private addresses, too.

Onion services:
  --onion-auth-dir DIRECTORY
      Client authorization keys: .auth_private files as for ClientOnionAuthDir
      of tor, read again at SIGHUP. They let in every user of that tor.
  --onion-timeout SECONDS  [default: {_LIMITS.onion_timeout:g}]
      Longest wait until an onion service is connected. tor gives most of them
      up sooner, but a proof of work may take minutes.
  --rendezvous-timeout SECONDS  [default: {RENDEZVOUS_TIMEOUT:g}]
      Longest wait for an onion service that has been told where to meet; then
      clients hear F3.

Time limits:
  --handshake-timeout SECONDS  [default: {_LIMITS.handshake_timeout:g}]
      Longest wait for the whole request of a client.
  --connect-timeout SECONDS  [default: {_LIMITS.connect_timeout:g}]
      Longest wait until a connection is made or a name is looked up.
  --idle-timeout SECONDS  [default: 0]
      Longest time for which an open stream may carry nothing; 0: for ever.
  --linger-timeout SECONDS  [default: {_LIMITS.linger_timeout:g}]
      Longest silence of a destination whose client has stopped sending.
  --linger-limit SECONDS  [default: {_LIMITS.linger_limit:g}]
      Longest life of a stream whose client has stopped sending.

Size limits:
  --max-connections N
      Clients at one time. If not given, what the limit of open files allows.
  --max-per-client N
      Clients at one time from one address (of IPv6: one /64 network). If not
      given, a quarter of all, from any address but 127.0.0.1 and ::1, which
      all programs of this machine share. If given, N from these two as well.
      Clients of unix sockets are not counted by address. One address that is
      counted may also be on the way to 32 onion services at one time (in each
      worker); its further requests for them wait.
  --early-data BYTES  [default: {_LIMITS.early_data}]
      Most that is taken from a client before its stream is open.
  --extended-bytes BYTES  [default: {_LIMITS.extended_bytes}]
      Largest message of key-value pairs by extended authentication (X'97'); a
      larger one is refused at its header.
  --extended-pairs N  [default: {_LIMITS.extended_pairs}]
      Most key-value pairs in such a message.

The server itself:
  --status 'ENDPOINT [AllowPublic]'
      Show how the server is, by HTTP: / for people, /status.json for programs,
      /metrics for Prometheus, /health for balancers. Such as
      tcp:9180:interface=127.0.0.1 or unix:/run/torsocks/status; whoever can
      connect there sees it, and no destination, client or user is in it.
  --isolation-secret-file FILE
      File with the secret behind isolation: servers with the same file, tors
      and names of listeners (Name=) give a client the same circuits. Its owner
      alone may read it.
  --new-isolation-secret FILE
      Write such a file, which must not be there yet.
  --workers N  [default: 1]
      Processes that serve together; listeners, isolation and a launched tor are
      one for all. Endpoints may be tcp, tcp6, unix and systemd.
  --shutdown-grace SECONDS  [default: 5]
      Time for open streams to end when the server stops; then they are reset.
  --drain-delay SECONDS  [default: 0]
      Time for which new clients are served after the order to stop, so that a
      balancer can see it first; then open streams get their grace.
  --drain-limit SECONDS  [default: 3600]
      With --workers: time for the open streams of an old worker when SIGHUP has
      put a new one in its place; then they are reset.
  --debug
      Log a line for each refused request, never with its destination.
  --check
      Tell every fault of the options and of the files that they name, each in a
      line, and start and write nothing; the status is then 1, or 0 if there is
      none.

Help:
  --help
      Print this.
  --help-flags
      List the flags of --listen.
  --help-auth
      List what --auth takes.
  --help-auth-type KIND
      The same.
  --version
      Print the versions of this server, Twisted and tor.
"""
"""What --help prints, and what ``OPTIONS`` is made of."""

_ENTRY = re.compile(r"^  --([a-z-]+)(?: (\S.*?))?(?:  \[default: (.+)\])?\n((?:      .+\n)+)", re.M)
_WHOLE = (r"[0-9]{1,9}", int, "write a whole number above 0, such as 1000")
_NUMBERS: dict[str, tuple[str, type, str]] = {
    "N": _WHOLE,
    "BYTES": _WHOLE,
    "SECONDS": (r"[0-9]{1,9}(\.[0-9]{1,9})?", float, "write a number of seconds, such as 30"),
}
"""Values that are numbers: how they are written, their type, and what to write instead."""

_MAY_BE_ZERO = ("idle-timeout", "shutdown-grace", "drain-delay", "drain-limit")


@dataclass(frozen=True)
class Option:
    """One option: ``value`` is what the help calls its value, "" if it takes none."""

    name: str
    value: str
    default: str
    text: str

    def read(self, text: str) -> Any:
        """Return what the text stands for; raises ``UsageError``."""
        if self.value not in _NUMBERS:
            return text
        pattern, kind, fix = _NUMBERS[self.value]
        if re.fullmatch(pattern, text) and (kind(text) > 0 or self.name in _MAY_BE_ZERO):
            return kind(text)
        raise usage.UsageError(f"--{self.name} {text!r}: {fix}")


def parse_help(text: str) -> list[Option]:
    """Return the options that are described in the help or a part of it."""
    return [
        Option(name, value, default, " ".join(lines.split()))
        for name, value, default, lines in _ENTRY.findall(text)
    ]


OPTIONS = parse_help(HELP)
