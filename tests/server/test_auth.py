"""Real authentication by ``twisted.cred``."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
import pytest_twisted
from twisted.cred.checkers import FilePasswordDB, InMemoryUsernamePasswordDatabaseDontUse

from tests.support.rows import rows
from torsocks_tx.server.auth import ConstantTimePassword, CredAuthenticator
from torsocks_tx.socks.messages import Credentials


@rows("R-07")
@pytest.mark.parametrize(
    ("username", "password", "avatar"),
    [
        (b"alice", b"secret", b"alice"),
        (b"alice", b"Secret", None),
        (b"alice", b"", None),
        (b"", b"", None),
        (b"nobody", b"secret", None),
        (b"alice\0", b"secret", None),
        (b"\xff\xfe", b"\xff", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_file_of_passwords(
    tmp_path: Path, username: bytes, password: bytes, avatar: bytes | None
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("alice:secret\nbob:other\n")
    authenticator = CredAuthenticator([FilePasswordDB(str(passwords))])
    assert await authenticator(Credentials(username, password)) == avatar


@pytest_twisted.ensureDeferred
async def test_checkers_are_asked_in_turn() -> None:
    first = InMemoryUsernamePasswordDatabaseDontUse(alice=b"1")
    second = InMemoryUsernamePasswordDatabaseDontUse(bob=b"2")
    authenticator = CredAuthenticator([first, second])
    assert await authenticator(Credentials(b"bob", b"2")) == b"bob"
    assert await authenticator(Credentials(b"bob", b"1")) is None


def test_passwords_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert ConstantTimePassword(Credentials(b"a", b"b")).checkPassword("b")
    assert not ConstantTimePassword(Credentials(b"a", b"b")).checkPassword(b"c")
    assert compared == [(b"b", b"b"), (b"c", b"b")]
