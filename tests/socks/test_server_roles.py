"""What a port of each role takes before a request is carried out."""

from __future__ import annotations

import pytest

from tests.support.rows import rows
from torsocks_tx.errors import ProtocolError
from torsocks_tx.socks.constants import Command, Role
from torsocks_tx.socks.messages import Credentials
from torsocks_tx.socks.server import RULES

CONNECT, RESOLVE, RESOLVE_PTR = Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR
EXTENDED, ARGUMENTS, NEITHER = Credentials(b"<torS0X>9"), Credentials(b"k=v"), Credentials(b"hello")


def test_every_role_has_rules() -> None:
    assert set(RULES) == set(Role)


@rows("P-02")
@pytest.mark.parametrize(
    ("role", "commands", "taken", "refused", "longest"),
    [
        (Role.TOR, {CONNECT, RESOLVE, RESOLVE_PTR}, [ARGUMENTS, NEITHER], [EXTENDED], 512),
        (Role.PT, {CONNECT}, [ARGUMENTS, Credentials(b"", b"\0")], [EXTENDED, NEITHER], 1022),
    ],
)
def test_rules(
    role: Role,
    commands: set[Command],
    taken: list[Credentials],
    refused: list[Credentials],
    longest: int,
) -> None:
    rules = RULES[role]
    assert rules.commands == commands
    assert rules.longest_socks4 == longest
    for credentials in taken:
        rules.check_format(credentials)
    for credentials in refused:
        with pytest.raises(ProtocolError) as caught:
            rules.check_format(credentials)
        assert caught.value.answer == b"\1\1"
