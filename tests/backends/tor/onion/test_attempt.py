"""Attempts from their beginning to their end, over a control connection in history."""

from __future__ import annotations

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
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.history import INTRODUCTION_DOUBT, UNDECRYPTABLE_MEMORY
from torsocks_tx.backends.tor.onion.observer import Following, OnionAttempt, OnionObserver
from torsocks_tx.backends.tor.onion.queries import ANSWER_TIMEOUT
from torsocks_tx.errors import (
    ConnectionRefused,
    DescriptorInvalid,
    DescriptorNotFound,
    GeneralFailure,
    HostUnreachable,
    IntroductionFailed,
    IntroductionTimedOut,
    InvalidOnionAddress,
    MissingClientAuth,
    NotAllowed,
    Refused,
    RendezvousFailed,
    TimedOut,
    WrongClientAuth,
)
from torsocks_tx.limits import RENDEZVOUS_TIMEOUT

OLDER = "GETINFO circuit-status"


class Play:
    """A observer that sees, and attempts on one address."""

    def __init__(self, address: str = ADDRESS, **options: Any) -> None:
        self.address = address
        self.clock = TurnClock()
        self.control = staged()
        self.observer = OnionObserver(self.clock, **options)
        self.follow(self.control)
        self.given_up: list[Refused] = []
        self.outcomes: list[object] = []
        self.attempt = self.begin()

    def follow(self, control: Any) -> None:
        self.observer.follow(control)

    def begin(self, token: str = "token") -> OnionAttempt:
        attempt = self.observer.attempt(self.address, token)
        attempt.watch(self.given_up.append)
        return attempt

    def refuse(self, reason: Refused, attempt: OnionAttempt | None = None) -> Deferred[Refused]:
        explaining = (attempt or self.attempt).refused(reason)
        explaining.addBoth(self.outcomes.append)
        self.clock.advance(0)
        return explaining

    def outcome(self, reason: Refused) -> Any:
        self.refuse(reason)
        (outcome,) = self.outcomes
        return outcome

    @property
    def commands(self) -> list[str]:
        return self.control.commands


ALL_404 = [requested(), failed("NOT_FOUND")] * 6


@rows("S-43")
def test_not_found() -> None:
    play = Play()
    play.control.send(*ALL_404)
    outcome = play.outcome(HostUnreachable())
    assert isinstance(outcome, DescriptorNotFound)
    assert str(outcome) == "6 directories answered: 6 NOT_FOUND"
    assert play.commands == ["GETINFO version"]


def test_embedders_hear_of_diagnoses() -> None:
    heard: list[object] = []
    play = Play(on_diagnosis=lambda address, diagnosis: heard.append((address, diagnosis.words)))
    play.control.send(*ALL_404)
    play.outcome(HostUnreachable())
    second = play.begin()
    play.control.send(acknowledged())
    play.clock.advance(RENDEZVOUS_TIMEOUT)
    second.over()
    assert heard == [
        (ADDRESS, "6 directories answered: 6 NOT_FOUND"),
        (ADDRESS, "introductions: 1 ACKNOWLEDGED; nobody came"),
    ]


@rows("S-44")
def test_invalid() -> None:
    play = Play()
    play.control.send(requested(), failed("BAD_DESC"))
    assert isinstance(play.outcome(HostUnreachable()), DescriptorInvalid)


@rows("S-43")
def test_events_that_come_after_the_answer() -> None:
    """They are read before the fence: tor's answer to a command comes behind them."""
    play = Play()
    fence = play.control.answers["GETINFO version"] = Deferred()
    play.refuse(HostUnreachable())
    assert play.outcomes == []
    play.control.send(*ALL_404)
    fence.callback("0.4.9.11")
    play.clock.advance(0)
    assert isinstance(play.outcomes[0], DescriptorNotFound)


def test_a_fence_that_never_comes() -> None:
    play = Play()
    play.control.answers["GETINFO version"] = Deferred()
    play.control.send(*ALL_404)
    plain = HostUnreachable()
    play.refuse(plain)
    play.clock.advance(ANSWER_TIMEOUT)
    play.clock.advance(0)
    assert play.outcomes == [plain]


@pytest.mark.parametrize("slow", [OLDER, VIEW])
def test_a_tor_that_hangs_costs_one_second_in_all(slow: str) -> None:
    play = Play()
    play.control.answers[slow] = Deferred()
    play.control.send(requested(), received())
    plain = GeneralFailure()
    play.refuse(plain)
    play.clock.advance(ANSWER_TIMEOUT)
    play.clock.advance(0)
    assert play.outcomes == [plain]


@rows("S-43")
@pytest.mark.parametrize(
    "proof", [ALL_404[:2], [requested(), received(), acknowledged(), joined()]]
)
def test_tors_own_f0_is_believed_only_if_the_events_say_so(proof: list[str]) -> None:
    """Behind a SocksPort with ExtendedErrors: it sticks to streams that end for other reasons."""
    play = Play()
    play.control.send(*proof)
    outcome = play.outcome(DescriptorNotFound())
    assert type(outcome) is (DescriptorNotFound if len(proof) == 2 else HostUnreachable)


def test_tors_other_codes_stand_where_nothing_was_seen() -> None:
    play = Play()
    play.control.send(requested(), received())
    theirs = IntroductionTimedOut()
    assert play.outcome(theirs) is theirs


def test_an_on_diagnosis_that_fails_costs_the_client_nothing(logged_failures: list[str]) -> None:
    def fail(address: str, diagnosis: object) -> None:
        raise ZeroDivisionError

    play = Play(on_diagnosis=fail)
    play.control.send(*ALL_404)
    assert isinstance(play.outcome(HostUnreachable()), DescriptorNotFound)
    play.begin()
    play.control.send(acknowledged())
    play.clock.advance(RENDEZVOUS_TIMEOUT)
    assert len(play.given_up) == 1
    assert len(logged_failures) == 2
    logged_failures.clear()


def test_a_fault_of_ours_costs_the_reason_alone(logged_failures: list[str]) -> None:
    play = Play()
    play.control.answers["GETINFO version"] = ZeroDivisionError()
    plain = HostUnreachable()
    assert play.outcome(plain) is plain
    assert len(logged_failures) == 1
    logged_failures.clear()


@rows("S-44")
def test_a_stream_that_joins_a_fetch_under_way() -> None:
    play = Play()
    play.control.send(requested(), failed("BAD_DESC"), requested())
    second = play.begin("other")
    play.control.send(failed("NOT_FOUND"))
    play.refuse(HostUnreachable(), second)
    assert isinstance(play.outcomes[0], DescriptorInvalid)


def test_a_failed_upload_of_a_service_of_the_same_tor_is_no_answer() -> None:
    play = Play()
    play.control.send(requested(), received(), failed("UNEXPECTED"))
    assert isinstance(play.outcome(GeneralFailure()), MissingClientAuth)


def test_tor_says_no_to_the_fence() -> None:
    play = Play()
    play.control.answers["GETINFO version"] = ControlError(551, "no")
    play.control.send(*ALL_404)
    plain = HostUnreachable()
    assert play.outcome(plain) is plain


@rows("S-41")
@pytest.mark.parametrize("plain", [ConnectionRefused(), NotAllowed()])
def test_answers_that_say_it_themselves(plain: Refused) -> None:
    play = Play()
    play.control.send(*ALL_404)
    assert play.outcome(plain) is plain
    assert play.commands == []


@rows("S-47")
def test_missing_key() -> None:
    play = Play()
    play.control.send(requested())
    fence = play.control.answers["GETINFO version"] = Deferred()
    play.refuse(GeneralFailure())
    play.control.send(received())
    fence.callback("")
    assert isinstance(play.outcomes[0], MissingClientAuth)
    assert play.commands == ["GETINFO version", OLDER, VIEW]


@rows("S-48")
def test_wrong_key() -> None:
    play = Play()
    play.control.answers[VIEW] = KEY
    play.control.send(requested(), received())
    assert isinstance(play.outcome(GeneralFailure()), WrongClientAuth)


def test_a_tor_that_does_not_tell_its_keys() -> None:
    play = Play()
    play.control.answers[VIEW] = ControlError(510, "Unrecognized command")
    play.control.send(requested(), received())
    plain = GeneralFailure()
    assert play.outcome(plain) is plain


@rows("S-41")
def test_its_own_server_refuses_over_a_new_circuit() -> None:
    play = Play()
    play.control.send(requested(), received(), built(), acknowledged(), joined())
    plain = GeneralFailure()
    assert play.outcome(plain) is plain


@rows("S-41")
@pytest.mark.parametrize("token", ["token", "somebody else's"])
def test_its_own_server_refuses_over_an_older_circuit(token: str) -> None:
    """Meanwhile another stream had the descriptor fetched; only our own circuit matters."""
    play = Play()
    play.control.answers[OLDER] = "\n".join(
        ["9 BUILT $A~r PURPOSE=GENERAL", joined(token).partition(" ")[2]]
    )
    play.control.send(requested(), received())
    plain = GeneralFailure()
    outcome = play.outcome(plain)
    assert (outcome is plain) == (token == "token")


@rows("S-47")
def test_when_tor_has_asked_every_directory_for_what_it_cannot_decrypt() -> None:
    """The seventh attempt gets 04 and no event; the reason is still the same."""
    play = Play()
    play.control.send(requested(), received())
    assert isinstance(play.outcome(GeneralFailure()), MissingClientAuth)
    again = play.begin()
    play.refuse(HostUnreachable(), again)
    assert isinstance(play.outcomes[1], MissingClientAuth)
    play.clock.advance(UNDECRYPTABLE_MEMORY + 1)
    play.refuse(HostUnreachable(), play.begin())
    assert isinstance(play.outcomes[2], HostUnreachable)


def test_a_service_that_was_reached_is_not_locked_any_more() -> None:
    play = Play()
    play.control.send(requested(), received())
    play.outcome(GeneralFailure())
    play.begin().opened()
    plain = HostUnreachable()
    play.refuse(plain, play.begin())
    assert play.outcomes[1] is plain


@rows("S-45")
def test_an_introduction_that_another_stream_made() -> None:
    play = Play()
    other = play.begin("other")
    play.control.send(requested(), received(), built("other"), nacked("other"))
    other.over()
    play.clock.advance(60)
    play.control.send(requested(), received())
    assert isinstance(play.outcome(HostUnreachable()), IntroductionFailed)


@rows("S-50")
def test_introduction_points_that_were_all_silent_a_moment_ago() -> None:
    play = Play()
    play.control.send(requested(), received(), built(), silent(), requested(), received())
    assert isinstance(play.outcome(HostUnreachable()), IntroductionTimedOut)
    again = play.begin()
    play.control.send(requested(), received())
    play.refuse(HostUnreachable(), again)
    assert isinstance(play.outcomes[1], IntroductionTimedOut)


def test_what_tor_may_have_seen_before_us_is_not_guessed() -> None:
    play = Play()
    play.control.send(requested(), received())
    plain = HostUnreachable()
    assert play.outcome(plain) is plain
    play.clock.advance(INTRODUCTION_DOUBT)
    later = play.begin()
    play.control.send(requested(), received())
    play.refuse(HostUnreachable(), later)
    assert isinstance(play.outcomes[1], IntroductionFailed)


@rows("S-46")
class TestRendezvous:
    def test_given_up_after_its_time(self) -> None:
        play = Play()
        play.control.send(requested(), received(), built(), acknowledged())
        play.clock.advance(RENDEZVOUS_TIMEOUT - 0.1)
        play.control.send(acknowledged())  # the first one counts
        assert play.given_up == []
        play.clock.advance(0.1)
        (reason,) = play.given_up
        assert isinstance(reason, RendezvousFailed)
        assert str(reason) == "introductions: 2 ACKNOWLEDGED; nobody came"
        assert play.clock.getDelayedCalls() == []

    def test_the_time_is_an_option(self) -> None:
        play = Play(rendezvous_timeout=3.0)
        play.control.send(acknowledged())
        play.clock.advance(3)
        assert play.given_up

    def test_not_before_an_acknowledgement(self) -> None:
        play = Play()
        play.control.send(requested(), received(), built(), nacked())
        assert play.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("order", [(acknowledged(), joined()), (joined(), acknowledged())])
    def test_not_if_the_service_comes(self, order: tuple[str, ...]) -> None:
        play = Play()
        play.control.send(*order)
        assert play.clock.getDelayedCalls() == []

    def test_not_for_the_circuits_of_others(self) -> None:
        play = Play()
        play.control.send(acknowledged("somebody else's"))
        assert play.clock.getDelayedCalls() == []

    def test_not_for_services_that_want_proof_of_work(self) -> None:
        play = Play()
        play.control.send(acknowledged(more=" HS_POW=v1,300"))
        assert play.clock.getDelayedCalls() == []
        late = Play()
        late.control.send(acknowledged(), acknowledged(more=" HS_POW=v1,300"))
        assert late.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("end", ["opened", "over", "refused"])
    def test_not_after_the_end(self, end: str) -> None:
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
    def test_tor_is_asked_before_because_we_may_have_stood_still(self, late: str | None) -> None:
        play = Play()
        play.control.send(acknowledged())
        fence = play.control.answers["GETINFO version"] = Deferred()
        play.clock.advance(RENDEZVOUS_TIMEOUT)
        assert play.given_up == []
        if late is None:
            play.clock.advance(ANSWER_TIMEOUT)
            del play.control.answers["GETINFO version"]
            play.clock.advance(RENDEZVOUS_TIMEOUT)  # once more from the beginning
        else:
            play.control.send(*filter(None, [late]))
            fence.callback("0.4.9.11")
        assert len(play.given_up) == (0 if late else 1)

    def test_not_if_events_may_have_been_lost(self) -> None:
        play = Play()
        play.control.send(acknowledged())
        play.control.lose()
        play.clock.advance(RENDEZVOUS_TIMEOUT)
        assert play.given_up == []

    def test_the_next_stream_of_a_client_that_tries_again(self) -> None:
        """Tor uses the rendezvous circuit that waits, and introduces nobody for it."""
        play = Play()
        play.control.send(acknowledged())
        play.attempt.over()
        play.clock.advance(10)
        play.begin()
        play.clock.advance(RENDEZVOUS_TIMEOUT)
        assert len(play.given_up) == 1

    @pytest.mark.parametrize("end", [joined(), abandoned()])
    def test_but_not_if_that_circuit_has_ended(self, end: str) -> None:
        play = Play()
        play.control.send(acknowledged(), end)
        play.attempt.over()
        play.begin()
        assert play.clock.getDelayedCalls() == []

    def test_an_older_circuit_that_ends_changes_nothing(self) -> None:
        play = Play()
        play.control.send(left(), acknowledged())
        play.clock.advance(RENDEZVOUS_TIMEOUT)
        assert len(play.given_up) == 1

    def test_a_second_stream_that_pays_with_work_is_not_cut_either(self) -> None:
        play = Play()
        play.control.send(acknowledged(more=" HS_POW=v1,300"))
        play.begin()
        assert play.clock.getDelayedCalls() == []

    def test_a_second_stream_waits_its_own_time(self) -> None:
        play = Play()
        play.control.send(acknowledged())
        play.clock.advance(30)
        play.begin()
        play.clock.advance(15)
        assert len(play.given_up) == 1
        play.clock.advance(30)
        assert len(play.given_up) == 2

    def test_when_tor_gives_up_first(self) -> None:
        play = Play()
        play.control.send(acknowledged())
        assert isinstance(play.outcome(TimedOut()), RendezvousFailed)


class TestLoss:
    """What a lost control connection does to attempts: they keep tor's own answers."""

    def test_during_the_attempt(self) -> None:
        play = Play()
        play.control.send(*ALL_404)
        play.control.lose()
        plain = HostUnreachable()
        assert play.outcome(plain) is plain

    def test_during_the_fence(self) -> None:
        play = Play()
        play.control.send(*ALL_404)
        fence = play.control.answers["GETINFO version"] = Deferred()
        plain = HostUnreachable()
        play.refuse(plain)
        play.control.lose()
        fence.errback(ControlError(0, "lost"))
        play.clock.advance(0)
        assert play.outcomes == [plain]

    def test_a_new_connection_does_not_mend_what_was_missed(self) -> None:
        play = Play()
        play.control.send(*ALL_404)
        play.control.lose()
        control = staged()
        play.follow(control)
        plain = HostUnreachable()
        assert play.outcome(plain) is plain
        play.control = control
        second = play.begin()
        control.send(*ALL_404)
        play.refuse(HostUnreachable(), second)
        assert isinstance(play.outcomes[1], DescriptorNotFound)

    def test_without_a_control_connection(self) -> None:
        play = Play()
        play.follow(None)
        assert play.observer.following is Following.NO
        plain = HostUnreachable()
        play.refuse(plain, play.begin())
        assert play.outcomes == [plain]


def test_giving_up_an_explanation_leaves_nothing() -> None:
    play = Play()
    play.control.answers["GETINFO version"] = Deferred()
    explaining = play.refuse(HostUnreachable())
    explaining.cancel()
    (failure,) = play.outcomes
    assert failure.check(CancelledError)  # type: ignore[attr-defined]
    play.clock.advance(ANSWER_TIMEOUT)  # others may have asked the same
    assert play.clock.getDelayedCalls() == []
    play.control.send(*ALL_404)


def test_newnym_forgets_what_was_remembered() -> None:
    play = Play()
    play.control.send(nacked(), requested(), received(), "SIGNAL NEWNYM")
    play.attempt.over()
    play.attempt = play.begin()
    play.control.send("SIGNAL CLEARDNSCACHE", 'SIGNAL "', "SIGNAL ")
    plain = HostUnreachable()
    assert play.outcome(plain) is plain


@rows("S-49")
@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("host", NOT_KEYS)
@pytest.mark.parametrize("reason", [GeneralFailure(), HostUnreachable(), DescriptorNotFound()])
def test_no_service_can_have_this_address(host: str, followed: bool, reason: Refused) -> None:
    play = Play(host.removesuffix(".onion"))
    if not followed:
        play.follow(None)
        play.attempt = play.begin()
    assert isinstance(play.outcome(reason), InvalidOnionAddress)


def test_refusals_that_are_no_matter_of_the_address() -> None:
    play = Play(NOT_KEYS[0].values[0].removesuffix(".onion"))  # type: ignore[union-attr]
    reason = NotAllowed()
    assert play.outcome(reason) is reason


def test_one_key_is_looked_at_in_each_turn_of_the_reactor() -> None:
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
    assert not play.observer.keys._waiting, "nobody wants to know any more"
