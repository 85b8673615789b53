"""Authentication: checking user names and passwords, and delays for addresses that guess them."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from twisted.cred.checkers import FilePasswordDB, InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from tests.support.peers import named
from tests.support.rows import rows
from tests.support.stage import Stage
from torsocks_tx.server import auth
from torsocks_tx.server.auth import (
    FORGOTTEN_AFTER,
    LONGEST_DELAY,
    MOST_ACCEPTED,
    MOST_ADDRESSES,
    MOST_WAITING,
    ConstantTimePassword,
    CredAuthenticator,
    LoginGuard,
    PasswordFile,
    PasswordTable,
)
from torsocks_tx.socks.messages import Credentials

RIGHT, WRONG = Credentials(b"alice", b"secret"), Credentials(b"alice", b"guess")
HERE, THERE = b"\x7f\0\0\x01", b"\xc0\0\2\1"


@rows("R-07")
@pytest.mark.parametrize("checker", [FilePasswordDB, PasswordFile])
@pytest.mark.parametrize(
    ("username", "password", "avatar"),
    [
        (b"alice", b"secret", b"alice"),
        (b"alice", b"Secret", None),
        (b"alice", b"", None),
        (b"", b"", None),
        (b"nobody", b"secret", None),
        (b"nobody", b"", None),
        (b"alice\0", b"secret", None),
        (b"\xff\xfe", b"\xff", None),
    ],
)
async def test_logins_with_a_password_file(
    checker: Any, tmp_path: Path, username: bytes, password: bytes, avatar: bytes | None
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("alice:secret\nbob:other\n")
    authenticator = CredAuthenticator([checker(str(passwords))])
    assert await authenticator(Credentials(username, password)) == avatar


@pytest.mark.parametrize(
    ("line", "username", "password"),
    [
        (b"alice:se:cret", b"alice", b"se:cret"),
        (b"alice::", b"alice", b":"),
        (b"alice:secret\r", b"alice", b"secret"),
        (b"alice:two words ", b"alice", b"two words "),
        (b"\xc3\xa9:\xff", b"\xc3\xa9", b"\xff"),
        (b"alice:", b"alice", b""),
    ],
)
async def test_a_line_of_a_password_file_holds_a_name_and_any_password(
    tmp_path: Path, line: bytes, username: bytes, password: bytes
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_bytes(b"\nno colon\n" + line + b"\n" + username + b":second line\n")
    authenticator = CredAuthenticator([PasswordFile(str(passwords))])
    assert await authenticator(Credentials(username, password)) == username
    for wrong in (password + b"x", password[:-1] or b"x", b"second line"):
        assert await authenticator(Credentials(username, wrong)) is None


async def test_a_password_file_is_read_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    reads: list[bytes] = []
    parse = auth._parse_passwords
    monkeypatch.setattr(auth, "_parse_passwords", lambda data: reads.append(data) or parse(data))
    path = tmp_path / "passwords"
    authenticator = CredAuthenticator([PasswordFile(str(path))])
    assert await authenticator(RIGHT) is None
    assert await authenticator(RIGHT) is None
    assert log_lines == [
        f"error: cannot read the password file {path}: No such file or directory; nobody can log in"
    ]
    path.write_text("alice:secret\n")
    assert [await authenticator(RIGHT) for _ in range(5)] == [b"alice"] * 5
    assert len(reads) == 1
    path.write_text("alice:guess\n")
    os.utime(path, (1, 1))
    assert await authenticator(RIGHT) is None
    assert await authenticator(WRONG) == b"alice"
    assert len(reads) == 2
    path.unlink()
    assert await authenticator(WRONG) is None
    assert len(log_lines) == 2


async def test_checkers_are_asked_in_turn() -> None:
    first = InMemoryUsernamePasswordDatabaseDontUse(alice=b"1")
    second = PasswordTable({b"bob": b"2"})
    authenticator = CredAuthenticator([first, second])
    assert await authenticator(Credentials(b"bob", b"2")) == b"bob"
    assert await authenticator(Credentials(b"bob", b"1")) is None


def test_passwords_are_compared_in_constant_time_also_for_unknown_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert ConstantTimePassword(Credentials(b"a", b"b")).checkPassword("b")
    assert not ConstantTimePassword(Credentials(b"a", b"b")).checkPassword(b"c")
    table = PasswordTable({b"alice": b"secret"})
    for name in (b"alice", b"nobody"):
        failed = table.requestAvatarId(ConstantTimePassword(Credentials(name, b"guess")))
        failed.addErrback(lambda _: None)
    assert compared == [(b"b", b"b"), (b"c", b"b"), (b"secret", b"guess"), (b"", b"guess")]


class Guarded:
    """A guard, with a clock and an authenticator that lists the logins it checks."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[Credentials] = []
        self.guard = LoginGuard(self._authenticate, self.clock)

    def _authenticate(self, credentials: Credentials) -> Deferred[bytes | None]:
        self.asked.append(credentials)
        right = credentials.password == b"secret"
        return succeed(credentials.username if right else None)

    def log_in(self, credentials: Credentials, client: bytes | None = HERE) -> list[bytes | None]:
        """Begin a login; return the list that its answer will be put into."""
        answers: list[bytes | None] = []
        self.guard.check(credentials, client).addCallback(answers.append)
        return answers


def test_the_delay_doubles_with_each_refused_login_of_an_address() -> None:
    guarded = Guarded()
    assert guarded.log_in(WRONG) == [None]
    for delay in (0.25, 0.5, 1, 2, 4, 4, 4):
        answers = guarded.log_in(WRONG)
        guarded.clock.advance(delay * 0.99)
        assert answers == []
        guarded.clock.advance(delay * 0.02)
        assert answers == [None]


def test_guesses_of_one_address_are_checked_one_at_a_time(log_lines: list[str]) -> None:
    guarded = Guarded()
    for _ in range(3577):
        answers = guarded.log_in(WRONG)
    assert len(guarded.asked) == 1
    assert answers == []
    guarded.clock.pump([0.05] * 20 * 100)
    assert 2 + 93 / LONGEST_DELAY < len(guarded.asked) < 5 + 100 / LONGEST_DELAY
    # One line a minute, with a number but without an address.
    refused_at_once = 3577 - 1 - MOST_WAITING
    assert log_lines[0] == "warn: logins are refused: 1 since the last such line"
    assert len(log_lines) == 2
    number = int(log_lines[1].split()[4])
    assert refused_at_once < number < refused_at_once + 60


def test_another_address_does_not_wait() -> None:
    guarded = Guarded()
    for _ in range(50):
        guarded.log_in(WRONG)
    assert guarded.log_in(RIGHT, THERE) == [b"alice"]
    assert guarded.log_in(WRONG, None) == [None]


def test_known_credentials_do_not_wait_and_guesses_still_do() -> None:
    guarded = Guarded()
    assert guarded.log_in(RIGHT, THERE) == [b"alice"]
    for _ in range(50):
        guarded.log_in(WRONG)
        assert guarded.log_in(RIGHT) == [b"alice"]
    assert guarded.asked.count(WRONG) == 1
    assert guarded.log_in(Credentials(b"alices", b"ecret")) == []


def test_right_credentials_wait_only_the_first_time() -> None:
    guarded = Guarded()
    guarded.log_in(WRONG)
    first, second = guarded.log_in(RIGHT), guarded.log_in(RIGHT)
    assert first == second == []
    guarded.clock.advance(0.25)
    assert first == second == [b"alice"]
    assert guarded.log_in(RIGHT) == [b"alice"]


def test_the_delay_of_an_address_starts_again_after_a_while() -> None:
    guarded = Guarded()
    for _ in range(8):
        guarded.log_in(WRONG)
        guarded.clock.advance(LONGEST_DELAY)
    guarded.clock.advance(FORGOTTEN_AFTER + 1)
    assert guarded.log_in(WRONG) == [None]
    answers = guarded.log_in(WRONG)
    guarded.clock.advance(0.25)
    assert answers == [None]


def test_a_client_that_leaves_while_it_waits_is_not_checked() -> None:
    guarded = Guarded()
    guarded.log_in(WRONG)
    waiting = [guarded.guard.check(WRONG, HERE) for _ in range(MOST_WAITING)]
    one_more = guarded.guard.check(RIGHT, HERE)
    for one in [*waiting, one_more]:
        one.addErrback(lambda _: None)
        one.cancel()
    assert guarded.clock.getDelayedCalls() == []
    answers = guarded.log_in(RIGHT)
    guarded.clock.advance(0.25)
    assert answers == [b"alice"]
    assert guarded.asked == [WRONG, RIGHT]


def test_remembered_addresses_and_logins_are_bounded() -> None:
    guarded = Guarded()
    for number in range(MOST_ADDRESSES + 10):
        guarded.log_in(WRONG, number.to_bytes(4, "big"))
        guarded.log_in(Credentials(b"%d" % number, b"secret"), THERE)
    assert len(guarded.guard._addresses) == MOST_ADDRESSES
    assert len(guarded.guard._accepted) == MOST_ACCEPTED


REJECTED_4 = bytes.fromhex("00 5B 0000 00000000")
LOGIN = b"\1\2me\3you"
CONNECT = named("example.com", 80)


class TestAuthentication:
    """A listener with an authenticator."""

    def ask(self, outcome: Any) -> Stage:
        def check(credentials: object) -> Any:
            self.checked.append(credentials)
            return outcome() if callable(outcome) else outcome

        self.checked: list[Any] = []
        return Stage(authenticator=check)

    @rows("R-11")
    def test_a_login_that_is_accepted_at_once(self) -> None:
        stage = self.ask(lambda: succeed(b"alice"))
        assert stage.say(b"\5\2\0\2" + LOGIN + CONNECT + b"early") == b"\5\2\1\0"
        [outbound] = stage.backend.outbounds
        assert outbound.request.avatar == b"alice"
        assert outbound.written == b"early"
        assert stage.transport.reading
        assert (self.checked[0].username, self.checked[0].password) == (b"me", b"you")

    def test_nothing_is_read_while_a_login_is_checked(self) -> None:
        answer: Deferred[bytes | None] = Deferred()
        stage = self.ask(answer)
        assert stage.say(b"\5\1\2" + LOGIN) == b"\5\2"
        assert not stage.transport.reading
        # A wrapped transport may deliver bytes all the same: they are kept.
        assert stage.say(CONNECT) == b""
        answer.callback(b"alice")
        assert stage.transport.take() == b"\1\0"
        assert stage.transport.reading
        assert len(stage.backend.outbounds) == 1

    @pytest.mark.parametrize("late", [False, True])
    def test_a_login_that_is_refused(self, late: bool) -> None:
        answer: Deferred[bytes | None] = Deferred()
        stage = self.ask(answer if late else lambda: succeed(None))
        answered = stage.say(b"\5\1\2" + LOGIN + CONNECT)
        if late:
            answer.callback(None)
            answered += stage.transport.take()
        assert answered == b"\5\2\1\1"
        assert stage.closes
        assert stage.transport.reading
        assert stage.backend.outbounds == []

    @pytest.mark.parametrize("late", [False, True])
    def test_an_authenticator_that_fails_refuses_the_login_and_is_logged(
        self, late: bool, logged_failures: list[LogEvent]
    ) -> None:
        def broken() -> NoReturn:
            raise RuntimeError("out of order")

        stage = self.ask(fail(RuntimeError("out of order")) if late else broken)
        assert stage.say(b"\5\1\2" + LOGIN + CONNECT) == b"\5\2\1\1"
        assert stage.closes
        assert [event["log_failure"].type for event in logged_failures] == [RuntimeError]
        logged_failures.clear()

    def test_a_slow_authenticator_is_cancelled_at_the_handshake_deadline(self) -> None:
        cancelled: list[object] = []
        answer: Deferred[bytes | None] = Deferred(cancelled.append)
        stage = self.ask(answer)
        stage.say(b"\5\1\2" + LOGIN)
        stage.clock.advance(30)
        assert stage.closes
        assert stage.transport.reading
        stage.transport.finish()
        assert len(cancelled) == 1
        assert stage.transport.take() == b""

    def test_a_login_accepted_after_the_deadline_opens_nothing(self) -> None:
        answer: Deferred[bytes | None] = Deferred()
        stage = self.ask(answer)
        stage.say(b"\5\1\2" + LOGIN + CONNECT)
        stage.clock.advance(30)
        answer.callback(b"alice")
        assert stage.transport.take() == b""
        assert stage.backend.outbounds == []

    def test_a_client_that_leaves_cancels_its_login(self) -> None:
        cancelled: list[object] = []
        stage = self.ask(Deferred(cancelled.append))
        stage.say(b"\5\1\2" + LOGIN)
        stage.transport.lose(clean=False)
        assert len(cancelled) == 1
        assert stage.clock.getDelayedCalls() == []

    @rows("R-07", "R-11")
    @pytest.mark.parametrize(
        ("said", "answer"), [(b"\5\1\0", b"\5\xff"), (b"\4\1\0\x50\xc0\0\2\1\0", REJECTED_4)]
    )
    def test_a_client_without_credentials_is_refused(self, said: bytes, answer: bytes) -> None:
        stage = self.ask(succeed(b"anyone"))
        assert stage.say(said) == answer
        assert stage.closes
        assert self.checked == []
