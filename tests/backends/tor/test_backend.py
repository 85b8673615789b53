"""Attempts on onion services that the tor backend begins and ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.backends.ends import FakeEndpoint, Receiver
from tests.backends.tor.onion.staged import staged
from tests.support.names import ONION
from tests.support.rows import rows
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.launched import LaunchedTorProvider
from torsocks_tx.backends.tor.onion.diagnosis import Finding
from torsocks_tx.backends.tor.onion.observer import OnionObserver
from torsocks_tx.backends.tor.ports import SocksPort
from torsocks_tx.backends.tor.provider import NotStarted
from torsocks_tx.backends.tor.providers import FixedTorProvider, RunningTorProvider
from torsocks_tx.errors import InvalidOnionAddress
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request

NAME = ONION.removesuffix(".onion")
ISOLATION = Isolation(Credentials(b"<torS0X>0", b"token"))


class Play:
    """A backend over a tor whose SocksPort has these flags."""

    def __init__(self, *flags: str, control: Any = None) -> None:
        self.endpoint, self.receiver = FakeEndpoint(), Receiver()
        self.provider = FixedTorProvider(self.endpoint)  # type: ignore[arg-type]
        self.provider._port = SocksPort(self.endpoint, True, frozenset(flags))  # type: ignore[arg-type]
        self.provider.control = control
        self.provider.start()
        self.clock = Clock()
        self.backend = TorBackend(self.clock, self.provider)

    def open(self, host: str, command: Command = Command.CONNECT) -> Any:
        request = Request(Version.SOCKS5, command, Address.of(host, 80))
        return self.backend.open(request, ISOLATION, self.receiver)

    @property
    def attempts(self) -> dict[str, list[Any]]:
        live = self.backend.observer.tracker._live
        return {address: list(place) for address, place in live.items()}


@pytest.mark.parametrize("host", [ONION, ONION.upper(), f"www.a.{ONION}"])
def test_an_attempt_is_on_the_address(host: str) -> None:
    play = Play()
    stream = play.open(host)
    (log,) = play.attempts[NAME]
    assert log.token == "token"
    assert not log.complete
    stream.abort()
    assert play.attempts == {}


def test_an_attempt_has_no_token_where_tor_does_not_isolate() -> None:
    play = Play("NoIsolateSOCKSAuth")
    play.open(ONION)
    (log,) = play.attempts[NAME]
    assert log.token is None


@pytest.mark.parametrize(
    ("host", "command"),
    [("example.com", Command.CONNECT), ("192.0.2.1", Command.CONNECT), (ONION, Command.RESOLVE)],
)
def test_other_requests_begin_no_attempt(host: str, command: Command) -> None:
    play = Play()
    play.open(host, command)
    assert play.attempts == {}
    assert play.endpoint.protocol is not None


@rows("S-49")
def test_an_address_that_is_not_valid_never_reaches_tor() -> None:
    play, heard = Play(), []
    play.backend.observer = OnionObserver(play.clock, on_diagnosis=lambda *told: heard.append(told))
    with pytest.raises(InvalidOnionAddress):
        play.open("x" * 56 + ".onion")
    ((address, diagnosis),) = heard
    assert (address, diagnosis.finding) == ("x" * 56, Finding.INVALID_ADDRESS)
    assert play.receiver.heard == []
    assert play.endpoint.protocol is None
    assert play.attempts == {}


def test_the_first_attempt_waits_until_tor_agrees_to_send_events() -> None:
    control = staged()
    control.listening = agreed = Deferred()
    play = Play(control=control)
    first, second = play.open(ONION), play.open(ONION)
    play.clock.advance(0)
    assert play.endpoint.protocol is None
    second.abort()
    control.listening = None
    agreed.callback(None)
    assert play.endpoint.protocol is not None
    (log,) = play.attempts[NAME]
    assert log.complete
    first.abort()
    assert play.attempts == {}


def test_a_provider_that_was_never_started_is_said_once_and_no_client_waits(
    log_lines: list[str],
) -> None:
    clock = Clock()
    backend = TorBackend(clock, FixedTorProvider(FakeEndpoint()))
    receivers = [Receiver(), Receiver()]
    for receiver in receivers:
        request = Request(Version.SOCKS5, Command.CONNECT, Address.of("example.com", 80))
        backend.open(request, ISOLATION, receiver)
        assert receiver.heard == [], "nothing is called from inside open"
    clock.advance(0)
    for receiver in receivers:
        (reason,) = receiver.heard
        assert (type(reason), reason.code) == (NotStarted, 1)
    text = "clients are refused: the provider of tor was never started (call its start())"
    assert log_lines == [f"warn: {text}"]


ENDPOINT = FakeEndpoint()
WRONG = [
    (lambda: TorBackend(Clock(), ENDPOINT), "provider must be a TorProvider, .* not FakeEndpoint"),
    (lambda: TorBackend(None, FixedTorProvider(ENDPOINT)), "reactor must be a reactor, not None"),
    (
        lambda: TorBackend(Clock(), FixedTorProvider(ENDPOINT), onion_observer=print),
        "onion_observer must be of the class OnionObserver, not builtin",
    ),
    (
        lambda: OnionObserver(Clock(), keyring="/keys"),
        "keyring must be of the class Keyring, not str",
    ),
    (lambda: OnionObserver(Clock(), on_diagnosis="x"), "on_diagnosis must be a function, not str"),
    (
        lambda: LaunchedTorProvider(Clock(), ENDPOINT),
        "data_directory must be text or a path, not Fake",
    ),
    (lambda: FixedTorProvider("127.0.0.1:9050"), "endpoint must be a client endpoint, .* not str"),
    (
        lambda: RunningTorProvider(Clock(), None),
        "control_endpoint must be a client endpoint, .* not NoneType",
    ),
    (
        lambda: TorBackend(Clock(), FixedTorProvider(ENDPOINT)).replace_tor(None),
        "a backend that TorBackend.from_tor has made",
    ),
]


@pytest.mark.parametrize(
    ("call", "wanted"), WRONG, ids=lambda each: each if isinstance(each, str) else ""
)
def test_wrong_arguments_are_refused_at_the_call(call: Callable[[], object], wanted: str) -> None:
    with pytest.raises(TypeError, match=wanted):
        call()
