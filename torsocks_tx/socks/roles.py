"""What a SOCKS port of each role takes: tor's, and a pluggable transport's. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torsocks_tx.socks import pt_args, socks4, userpass
from torsocks_tx.socks.constants import Command, Role
from torsocks_tx.socks.messages import Credentials


@dataclass(frozen=True, slots=True)
class RoleRules:
    """What differs from role to role before a request is carried out.

    ``check_format`` raises ProtocolError for RFC 1929 credentials that mean nothing on this port;
    ``longest_socks4`` is how many bytes a SOCKS4 request may have: its user id may be arguments.
    """

    commands: frozenset[Command]
    check_format: Callable[[Credentials], object]
    longest_socks4: int


RULES = {
    Role.TOR: RoleRules(
        commands=frozenset({Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR}),
        check_format=userpass.check_format,
        longest_socks4=socks4.MAX_REQUEST,
    ),
    Role.PT: RoleRules(
        commands=frozenset({Command.CONNECT}),
        check_format=pt_args.parse_credentials,
        longest_socks4=socks4.MAX_REQUEST + pt_args.MAX_TEXT,
    ),
}
