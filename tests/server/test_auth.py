"""Authentication: checking user names and passwords, and delays for addresses that guess them."""

from __future__ import annotations

import asyncio
import hmac
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from twisted.cred.checkers import (
    AllowAnonymousAccess,
    FilePasswordDB,
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import (
    ICredentials,
    ISSHPrivateKey,
    IUsernameHashedPassword,
    IUsernamePassword,
)
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface import implementer

from tests.support.rows import rows
from tests.support.stage import CONNECT, LOGIN, REJECTED_4, Stage
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
        (b"", b"unnamed", None),
        (b"alice\0", b"secret", None),
        (b"\xff\xfe", b"\xff", None),
    ],
)
async def test_logins_with_a_password_file(
    checker: Any, tmp_path: Path, username: bytes, password: bytes, avatar: bytes | None
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("alice:secret\nbob:other\n")
    if checker is PasswordFile:
        passwords.write_text(passwords.read_text() + ":unnamed\n")
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
    path = tmp_path / "pass\udcff"
    with pytest.raises(ValueError, match=f"{path}: No such file or directory; make it, "):
        PasswordFile(str(path))
    path.touch()
    authenticator = CredAuthenticator([PasswordFile(path)])
    path.unlink()
    assert await authenticator(RIGHT) is None
    assert await authenticator(RIGHT) is None
    (told,) = log_lines
    assert told.startswith(f"error: cannot read the password file {tmp_path}/pass\\xff: ")
    assert told.endswith(": No such file or directory; nobody can log in")
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


@implementer(ICredentialsChecker)
class Answering:
    """A checker, a coroutine, that has one answer to every login, or refuses it."""

    def __init__(self, answer: Any = b"alice", *interfaces: Any) -> None:
        self.credentialInterfaces = interfaces or (IUsernamePassword,)
        self._answer = answer

    async def requestAvatarId(self, credentials: Any) -> Any:
        if self._answer is UnauthorizedLogin:
            raise UnauthorizedLogin
        return self._answer


REFUSING = Answering(UnauthorizedLogin)


async def test_a_checker_may_be_a_coroutine() -> None:
    for checkers, name in (([REFUSING], None), ([REFUSING, Answering()], b"alice")):
        assert await CredAuthenticator(checkers)(RIGHT) == name


NO_NAMES = [True, False, 1, 0, (), object(), b"", "", bytearray(b"alice"), {"alice": 1}]


@pytest.mark.parametrize("answer", [*NO_NAMES, None])
async def test_an_avatar_id_that_is_no_name_is_a_refusal(
    answer: object, log_lines: list[str]
) -> None:
    authenticator = CredAuthenticator([Answering(answer)])
    assert [await authenticator(RIGHT), await authenticator(WRONG)] == [None, None]
    assert log_lines == [
        f"warn: a checker answered a login with a value of the type {type(answer).__name__}, where"
        " a name is expected (and a name is not empty): such logins are refused"
    ]
    assert await CredAuthenticator([Answering(answer), Answering("b\xe9")])(RIGHT) == b"b\xc3\xa9"


@pytest.mark.parametrize(
    "checkers",
    [
        [AllowAnonymousAccess()],
        [Answering(b"alice", IUsernamePassword), AllowAnonymousAccess()],
        [Answering(b"alice", ISSHPrivateKey, ICredentials)],
        [Answering],
        [object()],
        ["file"],
        "file",
        Answering(),
        {"alice": "secret"},
        None,
    ],
)
def test_what_checks_no_passwords_is_refused_at_the_call(checkers: Any) -> None:
    with pytest.raises(TypeError, match=r"checkers must be a list, such as \[checker\]|each ch"):
        CredAuthenticator(checkers)


async def test_a_checker_may_take_either_interface_of_passwords() -> None:
    for interfaces in [(IUsernameHashedPassword,), (ISSHPrivateKey, IUsernamePassword)]:
        assert await CredAuthenticator([Answering(b"alice", *interfaces)])(RIGHT) == b"alice"


@pytest.mark.parametrize("stored", [0, 3, None, True, [1], "secret ", b""], ids=repr)
def test_only_text_and_bytes_are_passwords(stored: object) -> None:
    for sent in (b"", b"\0", b"\0\0\0", b"\1", b"secret"):
        right = stored == b"" == sent
        assert ConstantTimePassword(Credentials(b"a", sent)).checkPassword(stored) is right


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
        self.right = b"secret"
        self.guard = LoginGuard(self._authenticate, self.clock)

    def _authenticate(self, credentials: Credentials) -> Deferred[bytes | None]:
        self.asked.append(credentials)
        right = credentials.password == self.right
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


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
def test_an_address_waits_too_after_logins_that_made_the_authenticator_fail(
    kind: type[BaseException],
) -> None:
    clock, asked = Clock(), []

    def fail_for_the_wrong(credentials: Credentials) -> bytes:
        asked.append(credentials)
        raise kind("wrong password")

    guard = LoginGuard(fail_for_the_wrong, clock)
    for _ in range(10):
        guard.check(WRONG, HERE).addErrback(lambda failure: failure.trap(kind))
    assert len(asked) == 1
    clock.advance(0.25)
    assert len(asked) == 2


def test_a_client_that_leaves_while_it_is_checked_is_not_refused() -> None:
    asked: list[Credentials] = []

    def never(credentials: Credentials) -> Deferred[bytes | None]:
        asked.append(credentials)
        return Deferred()

    guard = LoginGuard(never, Clock())
    for number in (1, 2, 3):
        checking = guard.check(WRONG, HERE)
        assert len(asked) == number
        checking.cancel()
        checking.addErrback(lambda failure: failure.trap(CancelledError))


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


def test_credentials_that_become_known_elsewhere_wait_no_longer() -> None:
    guarded = Guarded()
    guarded.log_in(WRONG)
    guarded.log_in(WRONG)
    waiting = guarded.log_in(RIGHT)
    assert guarded.log_in(RIGHT, THERE) == [b"alice"]
    assert waiting == []
    guarded.clock.advance(0.25)
    assert waiting == [b"alice"]


def test_credentials_that_are_not_right_any_more_are_not_known() -> None:
    guarded = Guarded()
    assert guarded.log_in(RIGHT) == [b"alice"]
    guarded.right = b"changed"
    assert guarded.log_in(RIGHT) == [None]
    assert guarded.log_in(RIGHT) == []


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

    @pytest.mark.parametrize("answer", [*NO_NAMES, "alice"])
    @pytest.mark.parametrize(
        ("said", "refusal"),
        [
            (b"\5\1\2" + LOGIN + CONNECT, b"\5\2\1\1"),
            (b"\5\1\x97\1\0\2\0\x08USERNAME\0\1a\0\6PASSWD\0\1b" + CONNECT, b"\5\x97\1\1\0\0"),
            (
                b"CONNECT a.b:1 HTTP/1.1\r\nHost: a.b:1\r\n"
                b"Proxy-Authorization: Basic bWU6eW91\r\n\r\n",
                b"HTTP/1.1 407 ",
            ),
        ],
        ids=["RFC 1929", "extended", "HTTP"],
    )
    def test_an_answer_that_is_no_name_is_a_refusal(
        self, said: bytes, refusal: bytes, answer: object, log_lines: list[str]
    ) -> None:
        stage = self.ask(lambda: answer)
        assert stage.say(said).startswith(refusal)
        assert len(self.checked) == 1
        assert stage.backend.outbounds == []
        assert log_lines[0] == (
            "warn: the authenticator answered a login with a value of the type"
            f" {type(answer).__name__}, where a name in bytes, or None, is expected (and a name is"
            " not empty): such logins are refused"
        )

    @pytest.mark.parametrize("answer", [b"alice", None])
    def test_an_authenticator_may_be_a_coroutine_or_answer_at_once(
        self, answer: bytes | None
    ) -> None:
        async def check() -> bytes | None:
            return answer

        for way in (check, lambda: answer, lambda: succeed(answer)):
            said = self.ask(way).say(b"\5\1\2" + LOGIN)
            assert said == (b"\5\2\1\0" if answer else b"\5\2\1\1")

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
