"""Streams through chosen exits: never another one, tries, mappings, races with a new tor."""

from __future__ import annotations

import gc
import sys
from types import FrameType
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.backends.ends import REQUEST, Receiver
from tests.backends.tor.exits.scripted import Play, choice_of, fingerprint, kinds, tor, waiting
from tests.support.names import ONION
from torsocks_tx.backends.tor.control import ControlError, ControlLost
from torsocks_tx.backends.tor.exits import session
from torsocks_tx.backends.tor.exits.circuits import Circuit
from torsocks_tx.backends.tor.exits.directory import AUTOMAPS, NO_EXIT, NO_GEOIP
from torsocks_tx.backends.tor.exits.streams import (
    CIRCUIT_SECONDS,
    LAST_CIRCUIT_SECONDS,
    LOOK_SECONDS,
    MOST_CIRCUITS,
    RESTARTS,
    TRIES,
)
from torsocks_tx.client.connection import Stream
from torsocks_tx.errors import (
    AddressTypeNotSupported,
    Busy,
    CommandNotSupported,
    ConnectionRefused,
    GeneralFailure,
    HostUnreachable,
    NoFreshCircuit,
    NoSuchExit,
    NotAllowed,
    SOCKSError,
    TimedOut,
    TorDown,
)
from torsocks_tx.policy.circuits import ExitChoice
from torsocks_tx.policy.fresh import FreshCircuits, Tries
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request

AA, BB = choice_of("aa"), choice_of("bb")
PACKAGE = session.__file__.rpartition("backends")[0]
CHOOSING = Isolation(Credentials(b"<torS0X>0", b"key"), exits=AA)


def names(play: Play) -> set[str]:
    return {name for _, name, _ in play.asked}


def test_streams_leave_by_exits_of_the_choice_each_key_by_its_own() -> None:
    play = Play()
    for number in range(60):
        assert play.outcome(BB, key=b"%d" % number) == "opened"
        play.open(BB, key=b"%d" % number)
        assert play.asked[-1] == play.asked[-2]
    assert names(play) == {"b0", "b1", "b2"}
    assert {(host, port) for host, _, port in play.asked} == {("web.test", 80)}
    only = ExitChoice(frozenset({"aa"}), frozenset({fingerprint("a4"), fingerprint("b1")}))
    for number in range(9):
        play.open(only, key=b"%d" % number)
    assert names(play) == {"a4", "b0", "b1", "b2"}


def test_a_mapping_serves_all_streams_to_its_host_and_costs_one_command() -> None:
    play = Play()
    play.open()
    before = len(play.control.commands)
    for _ in range(5):
        play.open()
    play.open(host="WEB.test.")
    assert len(play.control.commands) == before
    play.open(host="other.test")
    assert len(play.control.commands) == before + 1
    assert len(set(play.control.mapped.values())) == 2
    assert all(target.count(".") == 3 for target in play.control.mapped.values())


def test_a_stream_whose_mapping_is_there_takes_few_calls_more_than_any_other() -> None:
    play = Play()
    play.takes_others = True
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    found = []
    for isolation in (Isolation(Credentials(b"u", b"p")), CHOOSING, CHOOSING):
        receiver, calls = Receiver(), 0
        sys.setprofile(count)
        play.backend.open(REQUEST, isolation, receiver)
        play.turn()
        sys.setprofile(None)
        assert receiver.heard == ["opened"]
        found.append(calls)
    plain, _, mapped = found
    assert mapped - plain <= 20, "a tenth of all calls of a connection"


def test_a_mapping_is_taken_away_when_it_was_unused_for_a_minute() -> None:
    play = Play()
    play.codes = dict.fromkeys(play.control.relays)
    waiting, _ = play.open()
    other, _ = play.open(host="other.test")
    play.control.circuits = [line_for(play)]
    play.clock.advance(30)
    other.abort()
    for _ in range(6):
        play.clock.advance(9.9)
        play.turn()
    assert len(play.control.mapped) == 2
    play.clock.advance(0.7)
    assert [target.partition(".")[0] for target in play.control.mapped.values()] == ["web"]
    waiting.abort()
    play.clock.advance(60)
    assert play.control.mapped == {}
    assert play.clock.getDelayedCalls() == []


def line_for(play: Play, *, token: str = "key") -> str:
    """A built circuit to every exit would be many: this is one to the last that was asked."""
    key = fingerprint(play.asked[-1][1])
    return f'7 BUILT ${"B" * 40}~g,${key}~x PURPOSE=GENERAL SOCKS_PASSWORD="{token}"'


@pytest.mark.parametrize("code", [1, 2])
def test_exits_that_refuse_are_followed_by_others_of_the_choice(code: int) -> None:
    play = Play()
    play.codes = dict.fromkeys(("a0", "a1", "a2", "a3"), code)
    heard = [play.open(key=b"%d" % number)[1].heard for number in range(20)]
    assert names(play) <= {f"a{number}" for number in range(6)}
    for (what,) in heard:
        assert what == "opened" or type(what) is NotAllowed
    play.codes = dict.fromkeys((f"a{number}" for number in range(6)), code)
    play.asked.clear()
    assert play.outcome() is NotAllowed
    assert len(play.asked) == len(names(play)) == TRIES


@pytest.mark.parametrize(("code", "kind"), [(4, HostUnreachable), (5, ConnectionRefused),
                                            (6, TimedOut)])  # fmt: skip
def test_what_an_exit_says_of_the_destination_is_the_answer(code: int, kind: type) -> None:
    play = Play()
    play.codes = dict.fromkeys(play.control.relays, code)
    assert play.outcome() is kind
    assert len(play.asked) == 1


def test_what_the_client_sends_early_goes_to_one_exit_and_only_once_that_is_open() -> None:
    play = Play()
    play.codes = dict.fromkeys(f"a{number}" for number in range(6))
    stream, receiver = play.open()
    stream.write(b"early ")
    stream.write(b"data")
    for count in range(2):
        assert [transport.take() for transport in play.transports] == [b""] * (count + 1)
        play.reply(play.transports[-1], 2 if count == 0 else 0)
        play.turn()
    assert [transport.take() for transport in play.transports] == [b"", b"early data"]
    assert receiver.heard == ["opened"]
    stream.write(b"more")
    assert play.transports[-1].take() == b"more"
    stream.transport.protocol.dataReceived(b"answer")
    stream.transport.lose()
    assert receiver.heard == ["opened", b"answer", ("lost", True)]


WHOLE = [
    ("web.test", Command.RESOLVE_PTR, AA, CommandNotSupported),
    ("2001:db8::1", Command.CONNECT, AA, AddressTypeNotSupported),
    ("a" * 60 + ".test.B.exit", Command.CONNECT, AA, GeneralFailure),
    ("a b.test", Command.CONNECT, AA, GeneralFailure),
    (".".join(["a" * 51] * 4) + ".ab", Command.CONNECT, AA, GeneralFailure),  # 210 bytes
    ("web.test", Command.CONNECT, choice_of("zz"), NoSuchExit),
    ("web.test", Command.CONNECT, ExitChoice(None, frozenset({"A" * 40})), NoSuchExit),
    ("web.test", Command.CONNECT, ExitChoice(None, frozenset({fingerprint("bad")})), NoSuchExit),
]


@pytest.mark.parametrize(("host", "command", "choice", "kind"), WHOLE)
def test_what_no_exit_can_do_is_refused_at_once(
    host: str, command: Command, choice: ExitChoice, kind: type[SOCKSError]
) -> None:
    play = Play()
    play.open()
    play.asked.clear()
    with pytest.raises(SOCKSError) as raised:
        play.open(choice, host, command=command)
    assert type(raised.value) is kind
    assert play.asked == []


def test_a_look_up_that_tor_would_answer_itself_is_refused(log_lines: list[str]) -> None:
    play = Play()
    play.control.answers["GETCONF AutomapHostsOnResolve"] = "AutomapHostsOnResolve=1"
    for number in range(2):
        assert play.outcome() == "opened"
        assert play.outcome(command=Command.RESOLVE) is CommandNotSupported
        assert len(play.asked) == number + 1
    assert log_lines.count(f"warn: {AUTOMAPS}") == 1


def test_the_longest_name_keeps_its_exit() -> None:
    play = Play()
    longest = ".".join(["a" * 51] * 4) + ".a"
    assert play.outcome(host=longest) == "opened"
    assert max(map(len, play.control.mapped.values())) == 255, "tor cuts off what is beyond"


def test_an_onion_service_has_no_exit_to_choose() -> None:
    play = Play()
    request = Request(Version.SOCKS5, Command.CONNECT, Address.of(ONION, 80))
    stream = play.backend.open(request, CHOOSING, Receiver())
    assert isinstance(stream, Stream)
    stream.abort()
    assert play.control.mapped == {}


def test_a_tor_without_geoip_serves_exits_by_fingerprint_and_says_what_countries_want(
    log_lines: list[str],
) -> None:
    play = Play()
    play.control.countries = None
    for _ in range(3):
        assert play.outcome() is NoSuchExit
    assert [line for line in log_lines if "geoip" in line] == [f"warn: {NO_GEOIP}"]
    assert play.outcome(ExitChoice(fingerprints=frozenset({fingerprint("b1")}))) == "opened"


def test_clients_that_ask_for_no_exit_silence_no_other_line(log_lines: list[str]) -> None:
    play = Play()
    play.open()
    log_lines.clear()
    for _ in range(3):
        with pytest.raises(NoSuchExit):
            play.open(choice_of("zz"))
    play.backend._refusal_for(Failure(OSError()))
    no_exit, unreachable = log_lines
    assert no_exit == f"warn: {NO_EXIT}"
    assert "SocksPort cannot be reached" in unreachable


def test_exits_are_read_once_and_again_after_a_new_consensus() -> None:
    play = Play()
    for _ in range(3):
        play.open()
    assert play.control.commands.count("GETINFO ns/all") == 1
    for name in ("a0", "a1", "a2", "a3", "a4"):
        address, flags, bandwidth = play.control.relays[name]
        play.control.relays[name] = address, f"BadExit {flags}", bandwidth
    (noted,) = play.control.listeners["STATUS_CLIENT"]
    noted("NOTICE CONSENSUS_ARRIVED")
    play.asked.clear()
    for number in range(9):
        play.open(key=b"%d" % number)
    assert names(play) == {"a5"}
    assert play.control.commands.count("GETINFO ns/all") == 2


def test_a_consensus_that_comes_while_exits_are_read_is_read_too() -> None:
    play = Play()
    play.control.answers["GETINFO ns/all"] = slow = Deferred()
    _, receiver = play.open()
    play.control.listeners["STATUS_CLIENT"][0]("NOTICE CONSENSUS_ARRIVED")
    play.control.answers["GETINFO ns/all"] = ""
    slow.callback("")
    play.turn()
    assert play.control.commands.count("GETINFO ns/all") == 2
    assert receiver.heard == ["opened"]


# A tor that is gone, or another one.


def test_a_stream_that_opens_by_a_lost_control_connection_begins_again() -> None:
    play, receiver = waiting()
    old = set(play.control.mapped)
    after = tor()
    after.mapped = dict(play.control.mapped)  # the same tor: only the connection was lost
    play.lose(after)
    play.codes = {}
    play.reply(play.transports[0], 0)
    assert receiver.heard == [], "it may be another tor, which has sent it anywhere"
    assert "abortConnection" in play.transports[0].asked
    play.turn()
    assert receiver.heard == ["opened"]
    assert not old & set(after.mapped), "and no old mapping stays behind"
    assert [host for host, *_ in play.asked] == ["web.test"] * 2


@pytest.mark.parametrize("is_stopped", [False, True])
def test_what_was_mapped_over_a_lost_connection_is_taken_away_over_the_next(
    is_stopped: bool,
) -> None:
    play = Play()
    play.open()
    after = tor()
    after.mapped = dict(play.control.mapped)
    play.lose(None)
    play.clock.advance(90)
    play.lose(after)
    assert len(after.mapped) == 1
    if is_stopped:
        play.backend.stop()
    play.clock.advance(60)
    assert after.mapped == {}
    assert play.clock.getDelayedCalls() == []


def test_streams_through_exits_are_counted_also_by_their_fresh_circuits() -> None:
    play = Play()
    play.open()
    play.backend.new_identity()
    play.open()
    play.control.circuits = [line_for(play, token=token) for token in play.tokens]
    shown: list[Circuit] = []
    play.backend.circuits().addCallback(shown.extend)
    play.turn()
    assert play.tokens[0] != play.tokens[1]
    assert shown[1].streams == 1


def test_a_name_that_a_new_tor_does_not_know_is_no_answer() -> None:
    play, receiver = waiting()
    play.lose(tor())
    play.codes = {}
    play.reply(play.transports[0], 4)
    play.turn()
    assert receiver.heard == ["opened"]


def test_a_tor_that_is_started_again_and_again_is_given_up() -> None:
    play, receiver = waiting()
    for _ in range(RESTARTS + 1):
        play.lose(tor())
        play.reply(play.transports[-1], 1)
        play.turn()
    assert kinds(receiver.heard) == [GeneralFailure]
    assert len(play.transports) == RESTARTS + 1


def test_without_a_control_connection_no_exit_is_chosen() -> None:
    play = Play()
    play.lose(None)
    with pytest.raises(TorDown, match="control port"):
        play.open()
    assert play.asked == []


LOST, BAD = ControlLost(), ControlError(512, "bad")


@pytest.mark.parametrize(("error", "kind"), [(LOST, TorDown), (BAD, GeneralFailure)])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_mapping_that_cannot_be_made_refuses_the_stream(
    error: Exception, kind: type[SOCKSError], is_late: bool
) -> None:
    play = Play()
    play.open()
    original = play.control.command

    async def command(line: str) -> str:
        if line.startswith("MAPADDRESS"):
            if is_late:
                await deferLater(play.clock, 0.0)
            raise error
        return str(await original(line))

    play.control.command = command
    for _ in range(2):
        assert play.outcome(host="other.test") is kind


def test_what_was_mapped_goes_when_the_backend_stops() -> None:
    play = Play()
    for number in range(500):
        play.open(host=f"h{number}.test")
    assert len(play.control.mapped) == 500
    assert play.backend.stop().called
    assert play.control.mapped == {}
    assert play.control.listeners["STATUS_CLIENT"] == []


def test_mappings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MOST_MAPPINGS", 3)
    play = Play()
    for number in range(9):
        assert play.outcome(host=f"h{number}.test") == "opened"
        assert len(play.control.mapped) <= 3, "the one unused for longest goes"
    play.codes = dict.fromkeys(play.control.relays)
    held = [play.open(host=f"k{number}.test")[0] for number in range(3)]
    with pytest.raises(Busy):
        play.open(host="one.more.test")
    for stream in held:
        stream.abort()
    play.codes = {}
    assert play.outcome(host="one.more.test") == "opened"


# An exit to which there is no circuit.


def test_an_exit_without_a_circuit_is_left_and_this_key_tries_it_last() -> None:
    play, receiver = waiting()
    dead = play.asked[0][1]
    play.control.circuits = [line_for(play, token="another")]
    play.codes = {dead: None}
    play.turn(CIRCUIT_SECONDS)
    assert receiver.heard == ["opened"]
    assert "abortConnection" in play.transports[0].asked
    assert play.asked[1][1] != dead
    play.open()
    assert play.asked[2][1] == play.asked[1][1]


def test_the_last_exit_of_the_choice_has_more_time_for_a_circuit() -> None:
    play, receiver = waiting()
    tries = 0
    while receiver.heard == []:
        before = len(play.asked)
        play.turn(CIRCUIT_SECONDS)
        tries += len(play.asked) == before
    assert kinds(receiver.heard) == [NotAllowed]
    assert tries == LAST_CIRCUIT_SECONDS / CIRCUIT_SECONDS


def test_a_slow_destination_is_waited_for_where_there_is_a_circuit() -> None:
    play, receiver = waiting()
    play.control.circuits = [line_for(play)]
    for _ in range(4):
        play.turn(CIRCUIT_SECONDS)
    assert (receiver.heard, len(play.asked)) == ([], 1)
    play.reply(play.transports[0], 6)
    assert kinds(receiver.heard) == [TimedOut]


def test_an_exit_to_which_tor_builds_circuit_after_circuit_refuses_the_stream() -> None:
    play, receiver = waiting()
    refusing = play.asked[0][1]
    play.control.circuits = [line_for(play)] * MOST_CIRCUITS
    play.control.circuits += [line_for(play, token="another")] * 9
    play.turn(LOOK_SECONDS)
    assert len(play.asked) == 1
    play.control.circuits *= 2
    play.codes = {refusing: None}
    play.turn(LOOK_SECONDS)
    assert receiver.heard == ["opened"]
    assert "abortConnection" in play.transports[0].asked
    play.open()
    assert play.asked[2][1] == play.asked[1][1] != refusing


class Refusing(Play):
    """Every exit refuses what tor believes it to take, circuit by circuit.

    A listener's ``rate`` bounds the tries; ``outcomes`` has what each stream heard.
    """

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.codes = dict.fromkeys(self.control.relays)
        self.fresh = FreshCircuits(rate)
        self.outcomes: list[Any] = []
        self.hosts = 0

    def ask(self, key: bytes, *, counted: bool = False) -> None:
        """Open a stream to one more address, and let its exits be tried."""
        self.hosts += 1
        host = f"h{self.hosts}.test"
        try:
            receiver = self.open(host=host, key=key, tries=Tries(self.fresh, counted))[1]
        except NoFreshCircuit as reason:
            self.outcomes.append(type(reason))
            return
        while not receiver.heard:
            line = line_for(self, token=key.decode())
            self.control.circuits = [line] * (MOST_CIRCUITS + 1)
            self.turn(LOOK_SECONDS)
        self.outcomes += [each if each == "opened" else type(each) for each in receiver.heard]


@pytest.mark.parametrize("key", [b"one", b"k%d"], ids=["one key", "ever new keys"])
def test_exits_that_are_tried_in_vain_count_as_fresh_circuits(key: bytes) -> None:
    play = Refusing(rate=6)
    refusing, play.codes = play.codes, {}
    play.ask(b"good")
    play.codes = refusing
    for number in range(50):
        play.ask(key % number if b"%" in key else key)
    assert set(play.outcomes[1:]) == {NotAllowed, NoFreshCircuit}
    assert len(play.asked) == 1 + 7, "of the seventh exit the circuits were built, and no more"
    play.codes = {}
    play.ask(b"good")
    assert play.outcomes[-1] == "opened", "keys whose streams were carried go on"
    play.ask(b"new")
    assert play.outcomes[-1] is NoFreshCircuit
    play.clock.advance(60)
    play.ask(key)
    assert play.outcomes[-1] == "opened"


def test_a_key_whose_circuit_was_counted_is_tried_however_little_is_left() -> None:
    play = Refusing(rate=1)
    play.codes = {}
    play.fresh.count(play.clock.seconds())
    play.ask(b"counted", counted=True)
    play.ask(b"new")
    assert play.outcomes == ["opened", NoFreshCircuit]


def test_clients_do_not_notice_one_exit_that_refuses() -> None:
    play = Refusing(rate=30)
    play.codes = {"a0": None}
    for number in range(400):
        play.ask(b"%d" % (number % 40))
    assert play.outcomes == ["opened"] * 400


@pytest.mark.parametrize("how", ["lost", "refused", "aborted"])
def test_a_stream_that_is_over_is_no_garbage(how: str) -> None:
    play = Play()
    play.open()
    play.codes = dict.fromkeys(play.control.relays, 2 if how == "refused" else 0)
    gc.disable()
    try:
        stream, receiver = play.open()
        if how == "aborted":
            stream.abort()
        for transport in play.transports:
            transport.lose()
            transport.protocol = None  # as Twisted's transports do
        del stream, receiver, transport
        play.transports.clear()
        assert len(play.backend.exits.tokens) == 0
    finally:
        gc.enable()


def test_a_stream_can_be_given_up_at_any_time_and_holds_nothing_then() -> None:
    for turns in range(8):
        play, receiver = Play(), Receiver()
        play.codes = dict.fromkeys(play.control.relays)
        stream = play.backend.open(REQUEST, CHOOSING, receiver)
        for _ in range(turns):
            play.clock.advance(0)
        stream.abort()
        play.turn(CIRCUIT_SECONDS)
        play.clock.advance(session.UNUSED_SECONDS)
        assert receiver.heard == []
        assert play.control.mapped == {}
        assert play.clock.getDelayedCalls() == []
