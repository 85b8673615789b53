"""Every way to authenticate to a control port, and every way in which connecting fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from tests.backends.tor.fake_tor import COOKIE, FakeTor, listen_at
from tests.backends.tor.real_tor import NO_NETWORK, UNREACHABLE, RealTor
from torsocks_tx.backends.tor import control_protocol, files
from torsocks_tx.backends.tor.authentication import ControlRefused, ControlUnavailable, connect
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.control_protocol import MOST_BYTES
from torsocks_tx.backends.tor.daemon import find_tor

COMMANDS = ["PROTOCOLINFO 1", "AUTHENTICATE", "GETINFO version"]
NOBODY = 65534


def hashed(password: str) -> str:
    """A torrc line that asks for this password."""
    command = [find_tor(), "--quiet", "--hash-password", password]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return f"HashedControlPassword {output.split()[-1]}"


def sentence_of(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


async def refusal(tor: FakeTor | RealTor, match: str, **options: Any) -> None:
    """Connect, and be refused for this reason."""
    with pytest.raises(ControlRefused, match=match):
        await connect(reactor, tor.endpoint, **options)


async def works(control: Control) -> bool:
    version = await control.get_info("version")
    control.close()
    await control.when_lost()
    return version.startswith("0.")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run without root's permission to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_connecting_takes_three_commands(fake_tor: FakeTor) -> None:
    control = await connect(reactor, fake_tor.endpoint)
    assert fake_tor.commands == COMMANDS
    control.close()


@pytest.mark.network
async def test_a_real_tor_is_authenticated_by_cookie_before_password(real_tor: RealTor) -> None:
    await real_tor.start((*NO_NETWORK, "CookieAuthentication 1", hashed("right")))
    assert await works(await connect(reactor, real_tor.endpoint, password="wrong"))
    real_tor.cookie.unlink()
    assert await works(await connect(reactor, real_tor.endpoint, password="right"))
    await refusal(real_tor, "does not accept the password", password="wrong")
    with pytest.raises(ControlRefused, match="No such file") as caught:
        await connect(reactor, real_tor.endpoint)
    assert str(real_tor.cookie) in sentence_of(caught.value)
    real_tor.cookie.write_bytes(b"x" * 31)
    await refusal(real_tor, "is not 32 bytes")
    real_tor.cookie.write_bytes(b"x" * 32)
    await refusal(real_tor, "does not know the cookie that it names")


@pytest.mark.network
async def test_a_real_tor_is_authenticated_by_password(real_tor: RealTor) -> None:
    await real_tor.start((*NO_NETWORK, hashed('with "quotes" and \\')))
    assert await works(await connect(reactor, real_tor.endpoint, password='with "quotes" and \\'))
    await refusal(real_tor, "does not accept the password: give the one", password="wrong")
    await refusal(real_tor, "wants a password")


@pytest.mark.network
async def test_a_real_tor_may_need_no_authentication(real_tor: RealTor) -> None:
    await real_tor.start(NO_NETWORK)
    assert await works(await connect(reactor, real_tor.endpoint))
    await refusal(real_tor, "does not ask for the password", password="not asked for")


def sent(fake: FakeTor) -> list[str]:
    return [command.partition(" ")[0] for command in fake.commands]


async def test_a_tor_that_knows_its_cookie_is_proven(fake_tor: FakeTor, cookie: Path) -> None:
    fake_tor.offer("COOKIE,SAFECOOKIE", cookie)
    control = await connect(reactor, fake_tor.endpoint, proof=True)
    assert control.is_proven
    assert not any(COOKIE.hex() in command.lower() for command in fake_tor.commands)
    control.close()


UNPROVEN = "does not prove any more that it is tor"
TRUSTS_NOBODY = [
    ("COOKIE", True, {}, "cannot be authenticated to: it offers COOKIE, and a cookie is never"),
    ("NULL,COOKIE", True, {"proof": True}, UNPROVEN),
    ("COOKIE,HASHEDPASSWORD", True, {}, "wants a password"),
    ("NULL,SAFECOOKIE", True, {"password": "p"}, "does not know the cookie that it names"),
    ("NULL", False, {"password": "p"}, "does not ask for the password"),
    ("NULL", False, {"password": "p", "proof": True}, UNPROVEN),
    ("HASHEDPASSWORD", False, {"password": "p", "proof": True}, UNPROVEN),
    ("COOKIE", False, {"password": "p", "proof": True}, UNPROVEN),
    ("NULL,SAFECOOKIE", False, {"password": "p", "proof": True}, UNPROVEN),
]


@pytest.mark.parametrize(("methods", "names_cookie", "options", "reason"), TRUSTS_NOBODY)
async def test_no_secret_is_sent_to_whoever_may_not_be_tor(
    fake_tor: FakeTor,
    cookie: Path,
    methods: str,
    names_cookie: bool,
    options: dict[str, Any],
    reason: str,
) -> None:
    fake_tor.offer(methods, cookie if names_cookie else None, known=bytes(32))
    await refusal(fake_tor, f"^tor's control port {reason}", **options)
    challenged = names_cookie and "SAFECOOKIE" in methods
    assert sent(fake_tor) == ["PROTOCOLINFO", *["AUTHCHALLENGE"] * challenged]


CHALLENGE_ANSWERS = ["250 AUTHCHALLENGE", "250 AUTHCHALLENGE SERVERHASH=x SERVERNONCE=00", '250 "']


@pytest.mark.parametrize("words", CHALLENGE_ANSWERS)
async def test_an_answer_without_proof_is_refused(
    fake_tor: FakeTor, cookie: Path, words: str
) -> None:
    fake_tor.offer("SAFECOOKIE", cookie)
    fake_tor.intercepted["AUTHCHALLENGE"] = lambda: words
    await refusal(fake_tor, "does not speak tor's control protocol")
    assert sent(fake_tor) == ["PROTOCOLINFO", "AUTHCHALLENGE"]


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(COOKIE[1:]), "is not 32 bytes"),
        (lambda path: path.write_bytes(COOKIE + b"\n"), "is not 32 bytes"),
        (_directory, "not a file"),
        (_pipe, "not a file"),
        (lambda path: path.chmod(0o622), "others may write to it"),
        (lambda path: path.unlink(), "No such file"),
    ],
    ids=["short", "long", "directory", "pipe", "mode", "missing"],
)
async def test_a_file_that_is_no_cookie_of_tors_is_refused(
    fake_tor: FakeTor, cookie: Path, change: Callable[[Path], None], reason: str
) -> None:
    change(cookie)
    fake_tor.offer("SAFECOOKIE", cookie)
    await refusal(fake_tor, reason)
    assert sent(fake_tor) == ["PROTOCOLINFO"]


async def test_a_cookie_that_belongs_to_another_user_is_refused(
    short_directory: Path, cookie: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer that names a file may have written it: on a TCP port only its owner is proof."""
    monkeypatch.setattr(files, "trusted_users", lambda: {0x7FFFFFFE})
    fake = FakeTor(short_directory)
    fake.offer("SAFECOOKIE", cookie)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(fake)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    with pytest.raises(ControlRefused, match=f"it belongs to {files.name_of_user(os.geteuid())}"):
        await connect(reactor, endpoint)
    await port.stopListening()
    await fake.listen()
    control = await connect(reactor, fake.endpoint)  # here the owner of the socket is tor's user
    control.close()
    await fake.stop()


ENDLESS = {
    "an event": ("650+HS_DESC_CONTENT\r\n", "x" * 1000 + "\r\n"),
    "an answer": ("250+version=\r\n", "x" * 1000 + "\r\n"),
    "a line": ("650 ", "x" * 1000),
    "nonsense": ("", "x" * 1000 + "\r\n"),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_endless_lines_and_answers_end_the_connection(
    fake_tor: FakeTor, kind: str, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    monkeypatch.setattr(control_protocol, "MOST_ANSWER_BYTES", MOST_BYTES)  # takes less time
    control = await connect(reactor, fake_tor.endpoint)
    fake_tor.answers["GETINFO version"] = None
    asking = Deferred.fromCoroutine(control.command("GETINFO version"))
    start, more = ENDLESS[kind]
    (connection,) = fake_tor.connections
    transport: Any = connection.transport
    transport.write((start + more * (MOST_BYTES // 1000 + 100)).encode())
    with pytest.raises(ControlLost):
        await asking
    why = {"a line": "a line has no end", "nonsense": "a line is no control reply"}
    expected = why.get(kind, "an event or an answer has no end")
    assert log_lines == [f"warn: tor's control connection is dropped: {expected}"]


@pytest.mark.parametrize("is_hidden", [False, True])
async def test_a_cookie_that_we_may_not_read_is_an_error_with_a_remedy(
    fake_tor: FakeTor, short_directory: Path, is_hidden: bool
) -> None:
    directory = short_directory / "tor"
    directory.mkdir()
    cookie = directory / "cookie"
    cookie.write_bytes(COOKIE)
    group = "debian-tor"
    with suppress(KeyError):  # also where the group has no name
        group = group if is_hidden else cookie.group()
    cookie.chmod(0)
    directory.chmod(0 if is_hidden else 0o755)
    short_directory.chmod(0o755)
    fake_tor.offer("COOKIE,SAFECOOKIE", cookie)
    connecting = Deferred.fromCoroutine(connect(reactor, fake_tor.endpoint, password="unused"))
    with as_nobody(), pytest.raises(ControlRefused) as caught:
        await connecting
    directory.chmod(0o755)
    assert sentence_of(caught.value) == (
        f"tor's authentication cookie {cookie} cannot be read (Permission denied): join the group"
        f" {group}, or set HashedControlPassword in tor's torrc and give the password"
    )


class Speaker(Protocol):
    """Sends some bytes and reads."""

    def __init__(self, words: bytes) -> None:
        self.words = words

    def connectionMade(self) -> None:
        self.transport.write(self.words)


NOT_CONTROL = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x05\xff\r\n",
    b"\xff\xfe\r\n",
    b"abc\r\n",
    b"250\r\n",
    b"250 OK\r\n",
    b"250-AUTH nothing\r\n250 OK\r\n",
    b"250-AUTH METHODS=COOKIE\r\n250 OK\r\n",
    b"999 What\r\n",
    b"451 Later\r\n",
    b"650 CIRC\r\n250-A\r\n251 B\r\n",
    b"514 Authentication required\r\n",
]


@pytest.mark.parametrize("words", NOT_CONTROL)
async def test_a_peer_that_is_no_control_port_is_refused(
    short_directory: Path, words: bytes
) -> None:
    path = str(short_directory / "peer")
    port = await listen_at(path, lambda: Speaker(words))
    endpoint = UNIXClientEndpoint(reactor, path)
    with pytest.raises(ControlRefused, match=r"the thing (does not speak tor|cannot|answered)"):
        await connect(reactor, endpoint, name="the thing")
    await port.stopListening()


@pytest.mark.network
async def test_tors_own_socks_port_is_refused(real_tor: RealTor) -> None:
    socks = str(real_tor.directory / "socks")
    await real_tor.start(("SocksPort unix:" + socks, *UNREACHABLE))
    with pytest.raises(ControlRefused, match="does not speak tor's control protocol"):
        await connect(reactor, UNIXClientEndpoint(reactor, socks))


@pytest.mark.parametrize("command", ["PROTOCOLINFO", "GETINFO version"])
async def test_a_peer_that_does_not_answer_is_given_up(fake_tor: FakeTor, command: str) -> None:
    asked: Deferred[None] = Deferred()
    fake_tor.intercepted[command] = lambda: asked.callback(None)
    clock = Clock()
    connecting = Deferred.fromCoroutine(connect(clock, fake_tor.endpoint))
    await asked
    clock.advance(10)
    with pytest.raises(ControlUnavailable, match="did not answer within 10 s"):
        await connecting
    assert clock.getDelayedCalls() == []


async def test_a_connection_lost_during_authentication_is_an_error(fake_tor: FakeTor) -> None:
    fake_tor.intercepted["AUTHENTICATE"] = fake_tor.drop
    with pytest.raises(ControlUnavailable, match="closed the connection before it was made"):
        await connect(reactor, fake_tor.endpoint)


async def test_an_error_after_authentication_is_passed_on(fake_tor: FakeTor) -> None:
    fake_tor.answers["GETINFO version"] = "551 Broken"
    await refusal(fake_tor, "answered with an error: 551 Broken")


async def test_an_unreachable_port_is_an_error_with_a_remedy(short_directory: Path) -> None:
    with pytest.raises(ControlUnavailable, match=r"\(No such file or directory\): tor must run"):
        await connect(reactor, UNIXClientEndpoint(reactor, str(short_directory / "none")))
    with socket() as closed:  # it does not listen, and nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        endpoint = TCP4ClientEndpoint(reactor, *closed.getsockname())
        with pytest.raises(ControlUnavailable, match=r"X cannot be .*\(Connection refused\)"):
            await connect(reactor, endpoint, name="X")


async def test_connecting_can_be_cancelled(fake_tor: FakeTor) -> None:
    fake_tor.answers["AUTHENTICATE"] = None
    clock = Clock()
    connecting = Deferred.fromCoroutine(connect(clock, fake_tor.endpoint))
    connecting.cancel()
    with pytest.raises(CancelledError):
        await connecting
    assert clock.getDelayedCalls() == []


async def test_an_answer_that_txtorcon_does_not_know_is_an_error(fake_tor: FakeTor) -> None:
    """Tor may have no room for one more key (451); the connection stays usable."""
    add = "ONION_CLIENT_AUTH_ADD x x25519:y"
    fake_tor.answers[add] = "451 We have reached authorized client capacity"
    control = await connect(reactor, fake_tor.endpoint)
    with pytest.raises(ControlError, match="capacity"):
        await control.command(add)
    assert await works(control)
