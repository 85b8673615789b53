"""When events are followed, over which connection, and that it is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.backends.tor.onion.staged import ADDRESS, failed, requested, staged
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.client_auth import Keyring
from torsocks_tx.backends.tor.onion.observer import (
    FOLLOW_TIMEOUT,
    RETRY_SECONDS,
    Following,
    OnionObserver,
)

FILE = f"{'duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad'}:descriptor:x25519:{'A' * 52}"


def test_nothing_is_followed_before_there_is_a_connection() -> None:
    observer = OnionObserver(Clock())
    assert observer.is_ready(None)
    assert not observer.is_ready(staged())
    assert not observer.attempt(ADDRESS, "t")._attempt_log.complete


def test_one_subscription_however_many_wait() -> None:
    observer, control = OnionObserver(Clock()), staged()
    control.listening = agreed = Deferred()
    settled: list[object] = []
    for _ in range(3):
        observer.follow(control).addBoth(settled.append)
    assert observer.following is Following.STARTING
    assert settled == []
    control.listening = None
    agreed.callback(None)
    assert settled == [None] * 3
    assert {event: len(found) for event, found in control.listeners.items()} == {
        "HS_DESC": 1,
        "CIRC": 1,
        "CIRC_MINOR": 1,
        "SIGNAL": 1,
    }
    assert observer.is_ready(control)
    observer.follow(control)
    assert len(control.listeners["CIRC"]) == 1


def test_a_tor_that_does_not_tell(log_lines: list[str]) -> None:
    observer, control = OnionObserver(Clock()), staged()
    control.listening = ControlError(552, "Unrecognized event")
    settled: list[object] = []
    observer.follow(control).addBoth(settled.append)
    assert settled == [None]
    assert observer.following is Following.NO
    (line,) = log_lines
    assert "keep tor's own codes" in line
    assert observer.is_ready(control)


def test_a_connection_that_is_lost_while_it_is_asked() -> None:
    observer, control = OnionObserver(Clock()), staged()
    control.listening = Deferred()
    settled: list[object] = []
    observer.follow(control).addBoth(settled.append)
    control.lose()
    assert settled == [None]
    assert observer.following is Following.NO


def test_a_late_agreement_on_an_old_connection_opens_no_eyes() -> None:
    observer, old, new = OnionObserver(Clock()), staged(), staged()
    old.listening = agreed = Deferred()
    observer.follow(old)
    new.listening = Deferred()
    observer.follow(new)
    old.listening = None
    agreed.callback(None)
    assert observer.following is Following.STARTING


def test_a_tor_that_hangs_keeps_nobody_waiting_for_long() -> None:
    clock, control = Clock(), staged()
    observer = OnionObserver(clock)
    control.listening = agreed = Deferred()
    settled: list[object] = []
    observer.follow(control).addBoth(settled.append)
    clock.advance(FOLLOW_TIMEOUT)
    assert settled == [None]
    assert not observer.attempt(ADDRESS, "t")._attempt_log.complete
    control.listening = None
    agreed.callback(None)
    assert observer.following is Following.YES
    assert clock.getDelayedCalls() == []


def test_a_tor_that_did_not_tell_is_asked_again_later(log_lines: list[str]) -> None:
    clock, control = Clock(), staged()
    observer = OnionObserver(clock)
    control.listening = ControlError(0, "tor did not answer in time")
    observer.follow(control)
    assert observer.is_ready(control)
    control.listening = None
    clock.advance(RETRY_SECONDS)
    assert not observer.is_ready(control)
    observer.follow(control)
    assert observer.following is Following.YES
    assert len(log_lines) == 1


def test_detaching_in_the_middle_of_opening_leaves_nothing() -> None:
    observer, control = OnionObserver(Clock()), staged()
    control.listening = agreed = Deferred()
    observer.follow(control)
    observer.detach()
    control.listening = None
    agreed.callback(None)
    assert not any(control.listeners.values())
    assert observer.following is Following.NO


def test_a_late_failure_of_an_old_connection_blinds_nobody() -> None:
    observer, old, new = OnionObserver(Clock()), staged(), staged()
    old.listening = refused = Deferred()
    observer.follow(old)
    observer.follow(new)
    refused.errback(ControlError(552, "no"))
    assert observer.following is Following.YES
    assert not any(old.listeners.values())
    log = observer.attempt(ADDRESS, "t")._attempt_log
    new.send(requested())
    assert log.fetches == 1


def test_detaching_leaves_the_connection_as_it_was() -> None:
    observer, control = OnionObserver(Clock()), staged()
    observer.follow(control)
    log = observer.attempt(ADDRESS, "t")._attempt_log
    observer.detach()
    assert not any(control.listeners.values())
    assert not log.complete
    observer.detach()
    observer.follow(control)
    assert observer.following is Following.YES


def test_events_of_a_connection_that_was_left_count_no_more() -> None:
    observer, old, new = OnionObserver(Clock()), staged(), staged()
    observer.follow(old)
    observer.follow(new)
    log = observer.attempt(ADDRESS, "t")._attempt_log
    old.lose()
    assert log.complete
    new.send(requested(), failed("NOT_FOUND"))
    assert log.fetches == 1


class TestKeys:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        (tmp_path / "duck.auth_private").write_text(FILE)
        return tmp_path

    def test_given_when_followed_and_after_newnym_and_reload(self, directory: Path) -> None:
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

    def test_reload_without_tor_and_without_keys(self, directory: Path) -> None:
        done: list[object] = []
        for observer in (
            OnionObserver(Clock()),
            OnionObserver(Clock(), keyring=Keyring(directory)),
        ):
            observer.reload_keys().addBoth(done.append)
        assert done == [None, None]

    def test_reload_while_events_are_being_asked_for(self, directory: Path) -> None:
        observer, control = OnionObserver(Clock(), keyring=Keyring(directory)), staged()
        control.listening = Deferred()
        observer.follow(control)
        observer.reload_keys()
        assert control.commands[0].startswith("ONION_CLIENT_AUTH_ADD")

    def test_keys_that_tor_does_not_answer_to_cost_no_sight(self, directory: Path) -> None:
        observer, control = OnionObserver(Clock(), keyring=Keyring(directory)), staged()
        for line in Keyring(directory)._keys.values():
            control.answers[line.add_command] = ControlError(0, "tor did not answer in time")
        observer.follow(control)
        assert observer.following is Following.YES

    def test_a_directory_that_is_gone(self, directory: Path) -> None:
        observer = OnionObserver(Clock(), keyring=Keyring(directory))
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        done: list[object] = []
        observer.reload_keys().addErrback(lambda failure: done.append(failure.type))
        assert done == [FileNotFoundError]
