"""When events are followed, over which connection, and that it is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.backends.tor.onion.staged import ADDRESS, StagedControl, failed, requested
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.keyring import Keyring
from torsocks_tx.backends.tor.onion.witness import OnionWitness, Sight

FILE = f"{'duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad'}:descriptor:x25519:{'A' * 52}"


def test_nothing_is_followed_before_there_is_a_connection() -> None:
    witness = OnionWitness(Clock())
    assert witness.is_ready(None)
    assert not witness.is_ready(StagedControl())  # type: ignore[arg-type]
    assert not witness.attempt(ADDRESS, "t")._evidence.complete


def test_one_subscription_however_many_wait() -> None:
    witness, control = OnionWitness(Clock()), StagedControl()
    control.listening = agreed = Deferred()
    settled: list[object] = []
    for _ in range(3):
        witness.follow(control).addBoth(settled.append)  # type: ignore[arg-type]
    assert witness.sight is Sight.OPENING
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
    assert witness.is_ready(control)  # type: ignore[arg-type]
    witness.follow(control)  # type: ignore[arg-type]
    assert len(control.listeners["CIRC"]) == 1


def test_a_tor_that_does_not_tell(log_lines: list[str]) -> None:
    witness, control = OnionWitness(Clock()), StagedControl()
    control.listening = ControlError(552, "Unrecognized event")
    settled: list[object] = []
    witness.follow(control).addBoth(settled.append)  # type: ignore[arg-type]
    assert settled == [None]
    assert witness.sight is Sight.BLIND
    (line,) = log_lines
    assert "keep tor's own codes" in line
    assert witness.is_ready(control)  # type: ignore[arg-type]


def test_a_connection_that_is_lost_while_it_is_asked() -> None:
    witness, control = OnionWitness(Clock()), StagedControl()
    control.listening = Deferred()
    settled: list[object] = []
    witness.follow(control).addBoth(settled.append)  # type: ignore[arg-type]
    control.lose()
    assert settled == [None]
    assert witness.sight is Sight.BLIND


def test_a_late_agreement_on_an_old_connection_opens_no_eyes() -> None:
    witness, old, new = OnionWitness(Clock()), StagedControl(), StagedControl()
    old.listening = agreed = Deferred()
    witness.follow(old)  # type: ignore[arg-type]
    new.listening = Deferred()
    witness.follow(new)  # type: ignore[arg-type]
    old.listening = None
    agreed.callback(None)
    assert witness.sight is Sight.OPENING


def test_detaching_leaves_the_connection_as_it_was() -> None:
    witness, control = OnionWitness(Clock()), StagedControl()
    witness.follow(control)  # type: ignore[arg-type]
    evidence = witness.attempt(ADDRESS, "t")._evidence
    witness.detach()
    assert not any(control.listeners.values())
    assert not evidence.complete
    witness.detach()
    witness.follow(control)  # type: ignore[arg-type]
    assert witness.sight is Sight.SEEING


def test_events_of_a_connection_that_was_left_count_no_more() -> None:
    witness, old, new = OnionWitness(Clock()), StagedControl(), StagedControl()
    witness.follow(old)  # type: ignore[arg-type]
    witness.follow(new)  # type: ignore[arg-type]
    evidence = witness.attempt(ADDRESS, "t")._evidence
    old.lose()
    assert evidence.complete
    new.send(requested(), failed("NOT_FOUND"))
    assert evidence.fetches == 1


class TestKeys:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        (tmp_path / "duck.auth_private").write_text(FILE)
        return tmp_path

    def test_given_when_followed_and_after_newnym_and_reload(self, directory: Path) -> None:
        witness, control = OnionWitness(Clock(), keyring=Keyring(directory)), StagedControl()
        witness.follow(control)  # type: ignore[arg-type]
        (add,) = control.commands
        assert add.startswith("ONION_CLIENT_AUTH_ADD duckduckgo")
        control.send("SIGNAL NEWNYM")
        assert control.commands == [add] * 2
        (directory / "duck.auth_private").unlink()
        done: list[object] = []
        witness.reload_keys().addBoth(done.append)
        assert done == [None]
        assert control.commands[2:] == [add.replace("_ADD", "_REMOVE").rpartition(" ")[0]]
        again = StagedControl()
        (directory / "duck.auth_private").write_text(FILE)
        witness.reload_keys()
        witness.follow(again)  # type: ignore[arg-type]
        assert again.commands == [add]

    def test_reload_without_tor_and_without_keys(self, directory: Path) -> None:
        done: list[object] = []
        for witness in (OnionWitness(Clock()), OnionWitness(Clock(), keyring=Keyring(directory))):
            witness.reload_keys().addBoth(done.append)
        assert done == [None, None]

    def test_a_directory_that_is_gone(self, directory: Path) -> None:
        witness = OnionWitness(Clock(), keyring=Keyring(directory))
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        done: list[object] = []
        witness.reload_keys().addErrback(lambda failure: done.append(failure.type))
        assert done == [FileNotFoundError]
