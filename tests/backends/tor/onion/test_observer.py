"""When tor's events are followed, over which connection, and that it is left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.backends.tor.onion.staged import ADDRESS, requested, staged
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.client_auth import Keyring
from torsocks_tx.backends.tor.onion.observer import FOLLOW_TIMEOUT, RETRY_SECONDS, OnionObserver
from torsocks_tx.backends.tor.onion.tracker import AttemptLog

FILE = f"{'duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad'}:descriptor:x25519:{'A' * 52}"


@pytest.fixture
def control() -> Any:
    return staged()


class Play:
    """An observer that was asked to follow ``control``, which may not have agreed yet."""

    def __init__(self, control: Any, listening: Any = None) -> None:
        self.clock = Clock()
        self.observer = OnionObserver(self.clock)
        self.settled: list[object] = []
        self.follow(control, listening)

    def follow(self, control: Any, listening: Any = None) -> None:
        """Follow; ``listening``: how the subscription ends."""
        self.control, control.listening = control, listening
        self.observer.follow(control).addBoth(self.settled.append)

    @property
    def is_following(self) -> bool:
        return self.observer.is_following

    def attempt(self) -> AttemptLog:
        return self.observer.attempt(ADDRESS, "t").log


def agree(control: Any) -> None:
    """Let tor agree to send events."""
    agreed, control.listening = control.listening, None
    agreed.callback(None)


def test_nothing_is_followed_before_there_is_a_connection() -> None:
    observer = OnionObserver(Clock())
    assert observer.is_ready(None)
    assert not observer.is_ready(staged())
    assert not observer.attempt(ADDRESS, "t").log.complete


def test_events_are_subscribed_to_once_however_many_wait(control: Any) -> None:
    play = Play(control, Deferred())
    for _ in range(2):
        play.observer.follow(control).addBoth(play.settled.append)
    assert not play.is_following
    assert play.settled == []
    agree(control)
    assert play.settled == [None] * 3
    assert play.observer.is_ready(control)
    play.observer.follow(control)
    listeners = {event: len(found) for event, found in control.listeners.items()}
    assert listeners == dict.fromkeys(("HS_DESC", "CIRC", "CIRC_MINOR", "SIGNAL"), 1)


@pytest.mark.parametrize(
    "error", [ControlError(552, "Unrecognized event"), ControlError(0, "tor did not answer")]
)
def test_a_tor_that_sends_no_events_is_asked_again_later(
    control: Any, log_lines: list[str], error: ControlError
) -> None:
    play = Play(control, error)
    assert play.settled == [None]
    assert not play.is_following
    assert len(log_lines) == (not error.code), "a refusal is logged by the connection"
    assert all("keep tor's own reply codes" in line for line in log_lines)
    assert play.observer.is_ready(control)
    play.clock.advance(RETRY_SECONDS)
    assert not play.observer.is_ready(control)
    play.follow(control)
    assert play.is_following
    assert len(log_lines) == (not error.code)


def test_a_fault_of_ours_is_logged_and_following_is_tried_again_later(
    control: Any, logged_failures: list[str]
) -> None:
    play = Play(control, ZeroDivisionError())
    assert play.settled == [None]
    assert len(logged_failures) == 1
    logged_failures.clear()
    play.clock.advance(RETRY_SECONDS)
    play.follow(control)
    assert play.is_following


def test_a_connection_lost_before_tor_agrees_settles_the_waiting(control: Any) -> None:
    play = Play(control, Deferred())
    control.lose()
    assert play.settled == [None]
    assert not play.is_following


def test_a_tor_that_hangs_keeps_nobody_waiting_for_long(control: Any) -> None:
    play = Play(control, Deferred())
    play.clock.advance(FOLLOW_TIMEOUT)
    assert play.settled == [None]
    assert not play.attempt().complete
    agree(control)
    assert play.is_following
    assert play.clock.getDelayedCalls() == []


def test_detaching_before_tor_agrees_leaves_no_listeners(control: Any) -> None:
    play = Play(control, Deferred())
    play.observer.detach()
    agree(control)
    assert not any(control.listeners.values())
    assert not play.is_following


@pytest.mark.parametrize("agrees", [True, False])
def test_what_an_old_connection_comes_to_changes_nothing(control: Any, agrees: bool) -> None:
    play, new = Play(control, Deferred()), staged()
    play.follow(new, Deferred())
    if agrees:
        agree(control)
    else:
        control.listening.errback(ControlError(552, "no"))
    assert not play.is_following
    assert not any(control.listeners.values())
    agree(new)
    log = play.attempt()
    control.lose()
    new.send(requested())
    assert (log.complete, log.fetches) == (True, 1)


def test_detaching_leaves_the_connection_as_it_was(control: Any) -> None:
    play = Play(control)
    log = play.attempt()
    play.observer.detach()
    assert not any(control.listeners.values())
    assert not log.complete
    play.observer.detach()
    play.follow(control)
    assert play.is_following


class TestKeys:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        (tmp_path / "duck.auth_private").write_text(FILE)
        return tmp_path

    def test_are_given_when_followed_and_after_newnym_and_reload(self, directory: Path) -> None:
        observer, control = OnionObserver(Clock(), keyring=Keyring(directory)), staged()
        observer.follow(control)
        (add,) = control.commands
        assert add.startswith("ONION_CLIENT_AUTH_ADD duckduckgo")
        control.send("SIGNAL NEWNYM")
        assert control.commands == [add] * 2
        (directory / "duck.auth_private").unlink()
        done: list[object] = []
        observer.reload_keys().addBoth(done.append)
        assert done == [None]
        assert control.commands[2:] == [add.replace("_ADD", "_REMOVE").rpartition(" ")[0]]
        again = staged()
        (directory / "duck.auth_private").write_text(FILE)
        observer.reload_keys()
        observer.follow(again)
        assert again.commands == [add]

    def test_are_reloaded_without_tor_and_without_a_keyring(self, directory: Path) -> None:
        done: list[object] = []
        for keyring in (None, Keyring(directory)):
            OnionObserver(Clock(), keyring=keyring).reload_keys().addBoth(done.append)
        assert done == [None, None]

    def test_are_reloaded_before_tor_agrees(self, directory: Path) -> None:
        observer, control = OnionObserver(Clock(), keyring=Keyring(directory)), staged()
        control.listening = Deferred()
        observer.follow(control)
        observer.reload_keys()
        assert control.commands[0].startswith("ONION_CLIENT_AUTH_ADD")

    def test_that_tor_does_not_answer_to_do_not_end_the_following(self, directory: Path) -> None:
        observer, control = OnionObserver(Clock(), keyring=Keyring(directory)), staged()
        observer.follow(control)
        (add,) = control.commands
        observer, control = OnionObserver(Clock(), keyring=Keyring(directory)), staged()
        control.answers[add] = ControlError(0, "tor did not answer in time")
        observer.follow(control)
        assert observer.is_following

    def test_cannot_be_reloaded_from_a_directory_that_is_gone(self, directory: Path) -> None:
        observer = OnionObserver(Clock(), keyring=Keyring(directory))
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        done: list[object] = []
        observer.reload_keys().addErrback(lambda failure: done.append(failure.type))
        assert done == [FileNotFoundError]
