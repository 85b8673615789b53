"""Requests that ask for circuits, from the bytes of a client to what the backend gets."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from twisted.internet.defer import succeed
from zope.interface import implementer

from tests.support.stage import Stage, come, key_of
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.interfaces import IExitBackend
from torsocks_tx.policy.circuits import ExitChoice
from torsocks_tx.policy.listener import parse_flags
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks.extended import build_request
from torsocks_tx.socks.messages import Credentials, KeyValues

CONNECT = b"\5\1\0\3\x08web.test\0\x50"
GERMAN = ExitChoice(frozenset({"de"}))
FRENCH = ExitChoice(frozenset({"fr"}))


@implementer(IExitBackend)
class ExitBackend(MemoryBackend):
    """A backend in memory that is given choices of exits."""


def staged(flags: str = "ClientParameters", **options: Any) -> Stage:
    policy, _ = parse_flags(flags.split())
    return Stage(ExitBackend(), policy=policy, **options)


def socks5(name: bytes, password: bytes = b"x") -> bytes:
    login = bytes([1, len(name)]) + name + bytes([len(password)]) + password
    return b"\5\1\2" + login + CONNECT


def socks4(name: bytes) -> bytes:
    return b"\4\1\0\x50\0\0\0\1" + name + b"\0web.test\0"


def http(name: bytes, password: bytes = b"x") -> bytes:
    token = b64encode(name + b":" + password)
    return (b"CONNECT web.test:80 HTTP/1.1\r\nHost: web.test\r\n"
            b"Proxy-Authorization: Basic " + token + b"\r\n\r\n")  # fmt: skip


ALL = pytest.mark.parametrize("ask", [socks5, socks4, http])


def isolation_of(said: bytes, flags: str = "ClientParameters", stage: Stage | None = None) -> Any:
    stage = stage or staged(flags)
    stage.say(said)
    (outbound,) = stage.backend.outbounds
    return outbound.isolation


@ALL
def test_a_user_name_chooses_exits(ask: Any) -> None:
    assert isolation_of(ask(b"a-country-de-session-b")).exits == GERMAN
    assert isolation_of(ask(b"a")).exits is None
    assert isolation_of(ask(b"a-session-b")).exits is None
    assert isolation_of(ask(b"a-session-b"), "ClientParameters ExitCountry=fr").exits == FRENCH
    assert isolation_of(ask(b"a-country-de"), "ExitCountry=fr").exits == FRENCH
    assert isolation_of(ask(b"a-country-de"), "RotateAfter=2").exits is None


REFUSALS = {socks5: b"\5\2\1\1", socks4: b"\0\x5b\0\0\0\0\0\0"}


@pytest.mark.parametrize("name", [b"a-cuontry-de", b"a-country", b"a-country-deu"])
@ALL
def test_a_user_name_that_is_not_understood_is_refused(ask: Any, name: bytes) -> None:
    stage = staged()
    answer = stage.say(ask(name))
    assert stage.backend.outbounds == []
    assert stage.closes
    if ask is http:
        assert answer.startswith(b"HTTP/1.1 407 ")
        assert b"\r\nProxy-Authenticate: Basic " in answer
        assert answer.rpartition(b"\r\n\r\n")[2].startswith((b"A ", b"The keys"))
        assert b"cuontry" not in answer
    else:
        assert answer == REFUSALS[ask]


NAME = b64encode(b"a-country-de:x")
BASIC = b"Proxy-Authorization: Basic "
UNREADABLE = [
    BASIC + b64encode(b"a-country-de"),
    BASIC + NAME[:-1] + b"!",
    b"Proxy-Authorization: Basic\t" + NAME,
    BASIC + b64encode(b"a:x") + b"\r\n" + BASIC + NAME,
]


@pytest.mark.parametrize("header", UNREADABLE)
def test_a_login_by_http_that_cannot_be_read_is_refused_where_it_may_hold_parameters(
    header: bytes,
) -> None:
    said = b"CONNECT web.test:80 HTTP/1.1\r\nHost: web.test\r\n" + header + b"\r\n\r\n"
    stage = staged()
    assert stage.say(said).startswith(b"HTTP/1.1 407 ")
    assert stage.backend.outbounds == []
    assert isolation_of(said, "RotateAfter=2").exits is None


def test_names_of_tors_own_are_not_read() -> None:
    assert isolation_of(http(b"tor-iso")).exits is None
    assert isolation_of(socks5(b"<torS0X>0")).exits is None


@pytest.mark.parametrize("ask", [socks5, http])
def test_the_name_alone_is_authenticated(ask: Any) -> None:
    asked: list[Credentials] = []

    def authenticate(credentials: Credentials) -> Any:
        asked.append(credentials)
        return succeed(credentials.username)

    stage = staged(authenticator=authenticate)
    stage.say(ask(b"alice-country-de", b"secret"))
    assert asked == [Credentials(b"alice", b"secret")]
    (outbound,) = stage.backend.outbounds
    assert outbound.isolation.exits == GERMAN
    assert outbound.request.avatar == b"alice"


@ALL
def test_the_order_and_the_spelling_of_wishes_do_not_count(ask: Any) -> None:
    """But the name, the session and the choice do."""
    stage = staged()
    names = (b"a-country-de-session-s", b"a-sessid-s-cc-DE", b"a-country-de-session-t",
             b"b-country-de-session-s", b"a-session-s", b"a-country-de")  # fmt: skip
    keys = [key_of(stage.server, ask(name)) for name in names]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5


def extended(pairs: dict[str, bytes]) -> bytes:
    return b"\5\1\x97" + build_request(KeyValues.of(pairs)) + CONNECT


def test_keys_of_extended_authentication_choose_exits() -> None:
    pairs = {"X-torsocks.country": b"de", "ISOLATION": b"s"}
    assert isolation_of(extended(pairs)).exits == GERMAN
    for flags, keys in (("", pairs), ("ClientParameters", {"X-torsocks.session": b"a"})):
        stage = staged(flags)
        answer = stage.say(extended(keys))
        assert answer[:4] == b"\5\x97\1\2"
        assert b"UNSUPPORTED" in answer
        assert next(iter(keys)).encode() in answer
        assert stage.backend.outbounds == []


def test_what_no_listener_of_this_backend_can_do_is_refused_when_it_is_made() -> None:
    for flags in ("ExitCountry=de", f"ExitNode={'A' * 40}", "ClientParameters"):
        with pytest.raises(ValueError, match="only a TorBackend"):
            SOCKSFactory(MemoryBackend(), policy=parse_flags([flags])[0])
    SOCKSFactory(MemoryBackend(), policy=parse_flags(["RotateAfter=1"])[0])


def test_fresh_circuits_beyond_the_rate_are_refused_and_told_of_once(log_lines: list[str]) -> None:
    stage = staged("RotateAfter=1 FreshRate=2")
    answers = [come(stage.server, b"\5\1\0" + CONNECT).take() for _ in range(4)]
    assert answers == [b"\5\0"] * 2 + [b"\5\0\5\1\0\1" + bytes(6)] * 2
    tokens = {each.isolation.credentials.password for each in stage.backend.outbounds}
    assert len(tokens) == 2
    text = "warn: fresh circuits were refused (1): more than FreshRate allows"
    assert [line for line in log_lines if "fresh" in line] == [text]
