"""A pool of tors: which one a key has, what moves when one goes, and who waits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tests.backends.ends import Receiver
from tests.backends.tor.exits.scripted import Play, choice_of, tor
from tests.support.names import ONION
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.control import QUIET_SECONDS
from torsocks_tx.backends.tor.pool import TorPool
from torsocks_tx.backends.tor.provider import NotStarted, ProviderState, state_of
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.errors import InvalidOnionAddress, TorDown
from torsocks_tx.interfaces import IExitBackend
from torsocks_tx.policy.circuits import ExitChoice
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request
from torsocks_tx.status.registry import Registry
from torsocks_tx.status.report import Monitor

READY, KEYS = ProviderState.READY, 10_000


class Pool:
    """A pool of tors in memory, called ``tor0`` and on."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.plays = {f"tor{number}": Play(clock=self.clock) for number in range(count)}
        for play in self.plays.values():
            play.takes_others = True
        tors = {name: play.backend for name, play in self.plays.items()}
        self.pool = TorPool(self.clock, tors)
        self._names = {backend: name for name, backend in tors.items()}
        self.turn = self.plays["tor0"].turn  # they have one clock

    def all_keys(self) -> list[str]:
        """Return the tor of each key, for 10,000 keys."""
        found = []
        for number in range(KEYS):
            backend = self.pool.choose(b"%d" % number, READY)
            assert backend is not None
            found.append(self._names[backend])
        return found

    def key_of(self, name: str) -> bytes:
        """Return a key that belongs to this tor while all are ready."""
        keys = (b"key %d" % number for number in range(1000))
        chosen = {self._names[self.pool.choose(key, *ProviderState)]: key for key in keys}  # type: ignore[index]
        return chosen[name]

    def open(
        self, key: bytes, host: str = "web.test", *, exits: ExitChoice | None = None
    ) -> tuple[Any, Receiver]:
        receiver = Receiver()
        request = Request(Version.SOCKS5, Command.CONNECT, Address.of(host, 80))
        isolation = Isolation(Credentials(b"<torS0X>0", key), exits=exits)
        stream = self.pool.open(request, isolation, receiver)
        assert receiver.heard == [], "nothing is called from inside open"
        self.turn()
        return stream, receiver

    def state(self, state: str, *names: str) -> None:
        """Have these tors (by default all) become ``ready``, ``down`` or ``starting``."""
        for name in names or self.plays:
            provider = self.plays[name].provider
            if state == "down":
                provider.mark_down("it was killed")
            else:
                {"ready": provider.mark_ready, "starting": provider.mark_starting}[state]()
        self.turn()

    def where(self, stream: Any) -> list[str]:
        """Return the tors that count a stream as theirs."""
        return [name for name, play in self.plays.items() if stream in play.backend.exits.tokens]


@pytest.mark.parametrize("count", range(2, 9))
def test_when_a_tor_dies_only_its_keys_move_to_all_others_and_return(count: int) -> None:
    pool = Pool(count)
    before = pool.all_keys()
    share = KEYS / count
    assert all(abs(found - share) <= 0.01 * KEYS for found in Counter(before).values())
    victim = f"tor{count - 1}"
    pool.state("down", victim)
    after = pool.all_keys()
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(moved) == before.count(victim)
    assert victim not in after
    gained = Counter(moved)
    assert len(gained) == count - 1
    fair = len(moved) / (count - 1)
    assert all(abs(found - fair) <= 0.01 * KEYS for found in gained.values())
    pool.state("ready", victim)
    assert count > 4 or pool.all_keys() == before


def test_servers_with_tors_of_the_same_names_agree_whatever_their_order() -> None:
    clock, names = Clock(), ["unix:/a", "tcp:127.0.0.1:9051", "unix:/b"]
    one, other = (
        TorPool(clock, {name: Play(clock=clock).backend for name in order})
        for order in (names, names[::-1])
    )
    for number in range(200):
        chosen = [pool.choose(b"%d" % number, READY) for pool in (one, other)]
        found = [[*pool.tors.values()].index(each) for pool, each in zip((one, other), chosen)]  # type: ignore[arg-type]  # noqa: B905
        assert found[0] == 2 - found[1]


@pytest.mark.parametrize("exits", [None, choice_of("aa")], ids=["any exit", "chosen exit"])
@pytest.mark.parametrize("host", ["web.test", ONION])
def test_each_stream_of_a_key_goes_to_its_tor_also_after_it_has_waited(
    host: str, exits: ExitChoice | None
) -> None:
    pool = Pool(3)
    key = pool.key_of("tor1")
    for _ in range(5):
        stream, receiver = pool.open(key, host, exits=exits)
        assert (receiver.heard, pool.where(stream)) == (["opened"], ["tor1"])
    pool.state("starting")
    waiting = [pool.open(key, host, exits=exits) for _ in range(3)]
    abandoned, _ = pool.open(key, host, exits=exits)
    abandoned.abort()
    assert [receiver.heard for _, receiver in waiting] == [[], [], []]
    pool.state("down", "tor1")
    assert [receiver.heard for _, receiver in waiting] == [[], [], []]
    pool.state("ready", "tor2")
    assert {(*receiver.heard, *pool.where(stream)) for stream, receiver in waiting} == {
        ("opened", "tor2")
    }
    assert pool.where(abandoned) == []
    pool.state("ready", "tor0", "tor1")
    stream, receiver = pool.open(key, host, exits=exits)
    assert (receiver.heard, pool.where(stream)) == (["opened"], ["tor1"])


def test_a_stream_through_an_exit_begins_again_by_another_tor_when_its_own_is_gone() -> None:
    pool = Pool(2)
    play, key = pool.plays["tor0"], pool.key_of("tor0")
    play.codes = dict.fromkeys(play.control.relays)  # no answer
    stream, receiver = pool.open(key, exits=choice_of("aa"))
    assert pool.where(stream) == ["tor0"]
    play.lose()
    play.provider.mark_down("it was killed")
    play.reply(play.transports[-1], 1)
    pool.turn()
    assert (receiver.heard, pool.where(stream)) == (["opened"], ["tor1"])
    assert {name for _, name, _ in pool.plays["tor1"].asked} <= {f"a{n}" for n in range(6)}


def test_look_ups_and_addresses_that_are_none_go_by_the_key_as_well() -> None:
    pool = Pool(3)
    key = Isolation(Credentials(b"<torS0X>0", pool.key_of("tor2")))
    request = Request(Version.SOCKS5, Command.RESOLVE, Address.of("web.test", 0))
    answers: list[Any] = []
    for ask in (pool.pool.resolve, pool.pool.resolve_ptr):
        ask(request, key).addCallback(answers.append)
        pool.turn()
    assert [answer.host for answer in answers] == ["0.0.0.0", "0.0.0.0"]
    assert len(pool.plays["tor2"].backend.exits.tokens) == 2
    with pytest.raises(InvalidOnionAddress):
        pool.open(b"key", "x" * 56 + ".onion")


def test_clients_are_refused_at_once_while_all_tors_are_down(log_lines: list[str]) -> None:
    pool = Pool(2)
    pool.state("starting")
    _, waiting = pool.open(b"key")
    pool.state("down", "tor0")
    assert waiting.heard == []
    pool.state("down", "tor1")
    _, late = pool.open(b"key")
    for receiver in (waiting, late):
        (reason,) = receiver.heard
        assert type(reason) is TorDown
    pool.clock.advance(QUIET_SECONDS)
    pool.open(b"key")
    none = "warn: no tor of the pool is ready: clients are refused until one is"
    down = "it was killed; the pool does without it until tor is back"
    assert [line for line in log_lines if "the first request shows" not in line] == [
        f"warn: tor0: {down}", f"warn: tor1: {down}", none, none,
    ]  # fmt: skip
    pool.state("ready", "tor1")
    assert pool.open(b"key")[1].heard == ["opened"]
    assert log_lines[-1] == "info: tor1: tor is back"


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("ready", "ready", "ready"),
        ("down", "ready", "ready"),
        ("starting", "ready", "ready"),
        ("starting", "down", "starting"),
        ("down", "down", "down"),
    ],
)
def test_a_server_is_ready_while_one_of_its_tors_is(one: str, other: str, wanted: str) -> None:
    pool = Pool(2)
    pool.state(one, "tor0")
    pool.state(other, "tor1")
    monitor = Monitor(pool.clock, Registry(), pool.pool.tors)
    monitor.serving()
    assert monitor.state == wanted
    providers = [play.provider for play in pool.plays.values()]
    assert state_of(providers) is ProviderState[wanted.upper()]


def test_a_stop_ends_all_and_refuses_who_waits() -> None:
    pool = Pool(3)
    pool.state("starting")
    _, receiver = pool.open(b"key")
    cancelled: list[Any] = []
    ready = pool.pool._when_ready(b"key")
    ready.addErrback(lambda failure: cancelled.append(failure.check(CancelledError)))
    ready.cancel()
    assert cancelled == [CancelledError]
    pool.pool.stop()
    pool.turn()
    assert type(receiver.heard[0]) is TorDown
    assert pool.pool.choose(b"key", READY) is None


def test_a_pool_that_was_never_started_says_so() -> None:
    clock = Clock()
    backend = TorBackend(clock, FixedTorProvider(Play()))
    pool, receiver = TorPool(clock, {"tor": backend}), Receiver()
    verifyObject(IExitBackend, pool)
    request = Request(Version.SOCKS5, Command.CONNECT, Address.of("web.test", 80))
    pool.open(request, Isolation(Credentials(b"u", b"p")), receiver)
    clock.advance(0)
    assert type(receiver.heard[0]) is NotStarted


WRONG: list[tuple[Any, type[Exception], str]] = [
    ({}, ValueError, "tors must have a backend for each tor"),
    ([], TypeError, "tors must be"),
    ({"a": tor()}, TypeError, "tors must be of the class TorBackend, not ScriptedTor"),
    ({1: None}, TypeError, "name must be text, not int"),
]


@pytest.mark.parametrize(("tors", "kind", "wanted"), WRONG)
def test_wrong_arguments_are_refused(tors: Any, kind: type[Exception], wanted: str) -> None:
    with pytest.raises(kind, match=wanted):
        TorPool(Clock(), tors)
