"""Attempts to reach an onion service, from their start to their end, over a fake connection."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.backends.tor.onion.staged import (
    ADDRESS,
    KEY,
    VIEW,
    abandoned,
    acknowledged,
    built,
    failed,
    joined,
    left,
    nacked,
    received,
    requested,
    silent,
    staged,
)
from tests.socks.test_onion_address import NOT_KEYS
from tests.support.clocks import TurnClock
from tests.support.rows import rows
from tests.support.tables import table
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.diagnosis import Finding
from torsocks_tx.backends.tor.onion.observer import OnionAttempt, OnionObserver
from torsocks_tx.backends.tor.onion.queries import ANSWER_TIMEOUT
from torsocks_tx.backends.tor.onion.tracker import INTRODUCTION_DOUBT, UNDECRYPTABLE_MEMORY
from torsocks_tx.errors import (
    ConnectionRefused,
    DescriptorNotFound,
    GeneralFailure,
    HostUnreachable,
    IntroductionTimedOut,
    NotAllowed,
    OnionRefused,
    SOCKSError,
    TimedOut,
)
from torsocks_tx.limits import RENDEZVOUS_TIMEOUT
from torsocks_tx.relay.timeouts import WORK

FENCE = "GETINFO version"
OLDER = "GETINFO circuit-status"
ALL_404 = [requested(), failed("NOT_FOUND")] * 6
FETCHED = [requested(), received()]


def code_of(reason: Any) -> int:
    """Return the code that the client gets; where nothing is proven, that is tor's own."""
    return int(reason.onion_code if isinstance(reason, OnionRefused) else reason.code)


class Play:
    """An observer that follows tor's events, and attempts on one address."""

    def __init__(self, address: str = ADDRESS, **options: Any) -> None:
        self.address = address
        self.clock = TurnClock()
        self.control = staged()
        self.observer = OnionObserver(self.clock, **options)
        self.observer.follow(self.control)
        self.given_up: list[SOCKSError] = []
        self.outcomes: list[object] = []
        self.attempt = self.begin()

    def begin(self, token: str = "token") -> OnionAttempt:
        attempt = self.observer.attempt(self.address, token)
        attempt.watch(self.given_up.append)
        return attempt

    def refuse(
        self, reason: SOCKSError, attempt: OnionAttempt | None = None
    ) -> Deferred[SOCKSError]:
        explaining = (attempt or self.attempt).refused(reason)
        explaining.addBoth(self.outcomes.append)
        self.clock.advance(0)
        return explaining

    def outcome(self, reason: SOCKSError, attempt: OnionAttempt | None = None) -> Any:
        self.refuse(reason, attempt)
        return self.outcomes[-1]

    def code(self, reason: SOCKSError, attempt: OnionAttempt | None = None) -> int:
        return code_of(self.outcome(reason, attempt))

    def hold_fence(self) -> Deferred[str]:
        """Let tor's answer to the fence wait for the test."""
        fence = self.control.answers[FENCE] = Deferred()
        return fence


OUTCOMES = table(

        ("no directory has it", ALL_404, HostUnreachable(), {}, 0xF0),
        ("unreadable", [requested(), failed("BAD_DESC")], HostUnreachable(), {}, 0xF1),
        ("tor has no key", FETCHED, GeneralFailure(), {}, 0xF4),
        ("tor has a wrong key", FETCHED, GeneralFailure(), {VIEW: KEY}, 0xF5),
        ("keys are not told", FETCHED, GeneralFailure(), {VIEW: ControlError(510, "no")}, 1),
        ("no fence", ALL_404, HostUnreachable(), {FENCE: ControlError(0, "late")}, 4),
        ("a refused fence", ALL_404, HostUnreachable(), {FENCE: ControlError(510, "no")}, 0xF0),
        ("the upload of a service of the same tor failed", [*FETCHED, failed("UNEXPECTED")],
         GeneralFailure(), {}, 0xF4),
        ("its own server refuses over a new circuit",
         [*FETCHED, built(), acknowledged(), joined()], GeneralFailure(), {}, 1),
        ("its own server refuses over an older circuit", FETCHED, GeneralFailure(),
         {OLDER: f"9 BUILT $A~r PURPOSE=GENERAL\n{joined().partition(' ')[2]}"}, 1),
        ("somebody else's circuit is open", FETCHED, GeneralFailure(),
         {OLDER: joined("somebody else's").partition(" ")[2]}, 0xF4),
        ("tor's F0 and events that prove it", ALL_404, DescriptorNotFound(), {}, 0xF0),
        ("tor's F0, which it also gives to streams that fail otherwise",
         [*FETCHED, acknowledged(), joined()], DescriptorNotFound(), {}, 4),
        ("tor's F7", FETCHED, IntroductionTimedOut(), {}, 0xF7),
        ("the port is closed", ALL_404, ConnectionRefused(), {}, 5),
        ("not allowed", ALL_404, NotAllowed(), {}, 2),
        ("tor gives up the rendezvous", [acknowledged()], TimedOut(), {}, 0xF3),

)  # fmt: skip


@rows("S-41", "S-43", "S-44", "S-46", "S-47", "S-48")
@pytest.mark.parametrize(("events", "plain", "answers", "code"), OUTCOMES)
def test_the_reason_follows_from_events_and_tors_answers(
    events: list[str], plain: SOCKSError, answers: dict[str, Any], code: int
) -> None:
    play = Play()
    play.control.answers.update(answers)
    play.control.send(*events)
    assert play.code(plain) == code
    if code == code_of(plain) != 0xF0:
        assert play.outcomes == [plain]
    if isinstance(plain, ConnectionRefused | NotAllowed):
        assert play.control.commands == []


def test_embedders_get_each_diagnosis_in_words() -> None:
    heard: list[object] = []
    play = Play(on_diagnosis=lambda address, diagnosis: heard.append((address, diagnosis.words)))
    play.control.send(*ALL_404)
    assert play.outcome(HostUnreachable()).detail == "6 directories answered: 6 NOT_FOUND"
    second = play.begin()
    play.control.send(acknowledged())
    play.clock.advance(RENDEZVOUS_TIMEOUT)
    second.over()
    assert heard == [
        (ADDRESS, "6 directories answered: 6 NOT_FOUND"),
        (ADDRESS, "introductions: 1 ACKNOWLEDGED; nobody came"),
    ]


@rows("S-43", "S-47")
@pytest.mark.parametrize(
    ("early", "late", "plain", "code", "commands"),
    [
        ([], ALL_404, HostUnreachable(), 0xF0, [FENCE]),
        ([requested()], [received()], GeneralFailure(), 0xF4, [FENCE, OLDER, VIEW]),
    ],
)
def test_events_behind_the_refusal_are_read_before_the_fence(
    early: list[str], late: list[str], plain: SOCKSError, code: int, commands: list[str]
) -> None:
    play = Play()
    play.control.send(*early)
    fence = play.hold_fence()
    play.refuse(plain)
    assert play.outcomes == []
    play.control.send(*late)
    fence.callback("0.4.9.11")
    play.clock.advance(0)
    assert [code_of(outcome) for outcome in play.outcomes] == [code]
    assert play.control.commands == commands


@pytest.mark.parametrize("slow", [FENCE, OLDER, VIEW])
def test_a_tor_that_hangs_costs_one_second_in_all(slow: str) -> None:
    play = Play()
    play.control.answers[slow] = Deferred()
    play.control.send(*FETCHED)
    plain = GeneralFailure()
    play.refuse(plain)
    play.clock.advance(ANSWER_TIMEOUT)
    play.clock.advance(0)
    assert play.outcomes == [plain]


def test_a_failing_on_diagnosis_changes_nothing_for_the_client(logged_failures: list[str]) -> None:
    def fail(address: str, diagnosis: object) -> None:
        raise ZeroDivisionError

    play = Play(on_diagnosis=fail)
    play.control.send(*ALL_404)
    assert play.code(HostUnreachable()) == 0xF0
    play.begin()
    play.control.send(acknowledged())
    play.clock.advance(RENDEZVOUS_TIMEOUT)
    assert len(play.given_up) == 1
    assert len(logged_failures) == 2
    logged_failures.clear()


@rows("S-44")
def test_a_stream_that_joins_a_fetch_under_way_shares_its_outcome() -> None:
    play = Play()
    play.control.send(requested(), failed("BAD_DESC"), requested())
    second = play.begin("other")
    play.control.send(failed("NOT_FOUND"))
    assert play.code(HostUnreachable(), second) == 0xF1


@rows("S-47")
@pytest.mark.parametrize("is_reached", [False, True])
def test_tor_that_asked_every_directory_for_what_it_cannot_decrypt_keeps_the_reason(
    is_reached: bool,
) -> None:
    """The seventh attempt gets 04 and no event; the reason is still the same."""
    play = Play()
    play.control.send(*FETCHED)
    assert play.code(GeneralFailure()) == 0xF4
    if is_reached:
        play.begin().opened()
    assert play.code(HostUnreachable(), play.begin()) == (4 if is_reached else 0xF4)
    play.clock.advance(UNDECRYPTABLE_MEMORY + 1)
    assert play.code(HostUnreachable(), play.begin()) == 4


@rows("S-45")
def test_an_introduction_that_another_stream_made_counts() -> None:
    play = Play()
    other = play.begin("other")
    play.control.send(*FETCHED, built("other"), nacked("other"))
    other.over()
    play.clock.advance(60)
    play.control.send(*FETCHED)
    assert play.code(HostUnreachable()) == 0xF2


@rows("S-50")
def test_introduction_points_that_were_all_silent_a_moment_ago_are_f7_again() -> None:
    play = Play()
    play.control.send(*FETCHED, built(), silent(), *FETCHED)
    assert play.code(HostUnreachable()) == 0xF7
    again = play.begin()
    play.control.send(*FETCHED)
    assert play.code(HostUnreachable(), again) == 0xF7


def test_what_tor_may_have_seen_before_us_is_not_guessed() -> None:
    play = Play()
    play.control.send(*FETCHED)
    assert play.code(HostUnreachable()) == 4
    play.clock.advance(INTRODUCTION_DOUBT)
    later = play.begin()
    play.control.send(*FETCHED)
    assert play.code(HostUnreachable(), later) == 0xF2


POW = acknowledged(more=" HS_POW=v1,300")
NO_DEADLINES = table(
    ("introductions are refused", [*FETCHED, built(), nacked()]),
    ("the service comes", [acknowledged(), joined()]),
    ("the service comes before the acknowledgement", [joined(), acknowledged()]),
    ("the circuit is another stream's", [acknowledged("somebody else's")]),
    ("the service wants proof of work", [POW]),
    ("the service wants proof of work in the end", [acknowledged(), POW]),
)


@rows("S-46")
class TestRendezvous:
    @pytest.mark.parametrize("seconds", [RENDEZVOUS_TIMEOUT, 3.0])
    def test_is_given_up_after_its_time(self, seconds: float) -> None:
        play = Play(rendezvous_timeout=seconds)
        play.control.send(left(), *FETCHED, built(), acknowledged())
        play.clock.advance(seconds - 0.1)
        play.control.send(acknowledged())  # the first one counts
        assert play.given_up == []
        play.clock.advance(0.1)
        (reason,) = play.given_up
        assert code_of(reason) == 0xF3
        assert reason.detail == "introductions: 2 ACKNOWLEDGED; nobody came"
        assert play.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("events", NO_DEADLINES)
    def test_is_not_given_up(self, events: list[str]) -> None:
        play = Play()
        play.control.send(*events)
        assert play.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("end", ["opened", "over", "refused"])
    def test_is_not_given_up_after_the_end(self, end: str) -> None:
        play = Play()
        play.control.send(acknowledged())
        if end == "refused":
            play.refuse(TimedOut())
        else:
            getattr(play.attempt, end)()
        play.clock.advance(RENDEZVOUS_TIMEOUT)
        assert play.given_up == []
        play.control.send(acknowledged())
        assert play.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("late", [joined(), "", None], ids=["it came", "nothing", "silence"])
    def test_is_not_given_up_before_late_events_are_read(self, late: str | None) -> None:
        play = Play()
        play.control.send(acknowledged())
        fence = play.hold_fence()
        play.clock.advance(RENDEZVOUS_TIMEOUT)
        assert play.given_up == []
        if late is None:
            play.clock.advance(ANSWER_TIMEOUT)
            del play.control.answers[FENCE]
            play.clock.advance(RENDEZVOUS_TIMEOUT)  # once more from the beginning
        else:
            play.control.send(*filter(None, [late]))
            fence.callback("0.4.9.11")
        assert len(play.given_up) == (0 if late else 1)

    def test_is_not_given_up_if_events_may_have_been_lost(self) -> None:
        play = Play()
        play.control.send(acknowledged())
        play.control.lose()
        play.clock.advance(RENDEZVOUS_TIMEOUT)
        assert play.given_up == []

    @pytest.mark.parametrize(
        ("events", "given_up"),
        [
            ([acknowledged()], 1),
            ([acknowledged(), joined()], 0),
            ([acknowledged(), abandoned()], 0),
            ([POW], 0),
        ],
        ids=["waiting", "joined", "abandoned", "proof-of-work"],
    )
    def test_circuit_that_waits_is_used_by_the_next_stream(
        self, events: list[str], given_up: int
    ) -> None:
        """Tor uses the rendezvous circuit that waits, and introduces nobody for it."""
        play = Play()
        play.control.send(*events)
        play.attempt.over()
        play.clock.advance(10)
        play.begin()
        play.clock.advance(RENDEZVOUS_TIMEOUT)
        assert len(play.given_up) == given_up

    def test_deadline_is_each_streams_own(self) -> None:
        play = Play()
        play.control.send(acknowledged())
        play.clock.advance(30)
        play.begin()
        play.clock.advance(15)
        assert len(play.given_up) == 1
        play.clock.advance(30)
        assert len(play.given_up) == 2


@pytest.mark.parametrize("during_the_fence", [False, True])
def test_a_lost_connection_explains_nothing(during_the_fence: bool) -> None:
    play = Play()
    play.control.send(*ALL_404)
    fence = play.hold_fence()
    plain = HostUnreachable()
    if during_the_fence:
        play.refuse(plain)
    play.control.lose()
    if during_the_fence:
        fence.errback(ControlError(0, "lost"))
        play.clock.advance(0)
    else:
        play.refuse(plain)
    assert play.outcomes == [plain]


def test_a_lost_connection_is_made_good_for_later_attempts_alone() -> None:
    play = Play()
    play.control.send(*ALL_404)
    play.control.lose()
    without = play.begin()
    play.observer.follow(None)
    play.control = staged()
    play.observer.follow(play.control)
    second = play.begin()
    play.control.send(*ALL_404)
    assert [play.code(HostUnreachable(), each) for each in (play.attempt, without)] == [4, 4]
    assert play.code(HostUnreachable(), second) == 0xF0


def test_newnym_makes_tor_forget_refused_introductions() -> None:
    play = Play()
    play.control.send(nacked(), "SIGNAL NEWNYM", "SIGNAL CLEARDNSCACHE", 'SIGNAL "', "SIGNAL ")
    later = play.begin()
    play.control.send(*FETCHED)
    assert (
        play.outcome(HostUnreachable(), later).detail == "no introduction point in the descriptor"
    )


def test_cancelling_an_explanation_leaves_nothing() -> None:
    play = Play()
    play.hold_fence()
    explaining = play.refuse(HostUnreachable())
    explaining.cancel()
    (failure,) = play.outcomes
    assert failure.check(CancelledError)  # type: ignore[attr-defined]
    play.clock.advance(ANSWER_TIMEOUT)  # others may have asked the same
    assert play.clock.getDelayedCalls() == []
    play.control.send(*ALL_404)


@rows("S-49")
@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("host", NOT_KEYS)
@pytest.mark.parametrize("reason", [GeneralFailure(), HostUnreachable(), DescriptorNotFound()])
def test_an_address_that_no_service_can_have_is_f6(
    host: str, followed: bool, reason: SOCKSError
) -> None:
    heard: list[tuple[str, Finding]] = []
    address = host.removesuffix(".onion")
    play = Play(address, on_diagnosis=lambda *told: heard.append((told[0], told[1].finding)))
    if not followed:
        play.observer.follow(None)
        play.attempt = play.begin()
    assert play.code(reason) == 0xF6
    assert heard == [(address, Finding.INVALID_ADDRESS)]


def test_a_refusal_that_does_not_depend_on_the_address_stands() -> None:
    play = Play(NOT_KEYS[0].values[0].removesuffix(".onion"))  # type: ignore[union-attr]
    reason = NotAllowed()
    assert play.outcome(reason) is reason


def test_thousands_that_wait_for_one_service_are_told_in_several_turns() -> None:
    play = Play()
    for _ in range(1000):
        play.begin()
    play.clock.tick = WORK / 100
    play.control.send(acknowledged())
    waiting = [0, len(play.clock.getDelayedCalls())]
    while waiting[-1] <= 1000:
        assert play.clock.turn()
        waiting.append(len(play.clock.getDelayedCalls()))
    assert max(after - before for before, after in pairwise(waiting)) < 100


def test_one_that_is_over_twice_does_not_end_those_that_share_its_log() -> None:
    play = Play()
    play.begin()
    for _ in range(2):
        play.attempt.over()
    play.control.send(acknowledged())
    play.clock.advance(RENDEZVOUS_TIMEOUT)
    assert [code_of(reason) for reason in play.given_up] == [0xF3]


def test_one_key_is_checked_in_each_turn_of_the_reactor() -> None:
    play = Play()
    attempts = [play.begin() for _ in range(20)]
    for attempt in attempts:
        attempt.refused(GeneralFailure()).addBoth(play.outcomes.append)
    for turn in range(21):
        assert len(play.outcomes) == turn
        play.clock.turn()
    assert len(play.outcomes) == 20
    play.clock.turn()
    assert play.clock.getDelayedCalls() == []
    play.begin().refused(GeneralFailure()).addErrback(play.outcomes.append).cancel()
    assert play.clock.getDelayedCalls() == [], "a cancelled check is not waited for"
