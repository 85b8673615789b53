"""Questions to tor: one command for all who ask the same at one time."""

from __future__ import annotations

from time import process_time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.backends.tor.onion.staged import ADDRESS, built, joined, staged
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.onion.queries import SharedCommands, TorQueries


class Play:
    """A tor that answers when the test does."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Deferred[str]]] = []
        self.heard: list[Any] = []
        self.questions = SharedCommands(self._ask, Clock())

    def _ask(self, command: str) -> Deferred[str]:
        answer: Deferred[str] = Deferred()
        self.sent.append((command, answer))
        return answer

    def ask(self, command: str = "Q") -> Deferred[str]:
        return self.questions.answer_to(command).addBoth(self.heard.append)  # type: ignore[arg-type]

    @property
    def commands(self) -> list[str]:
        return [command for command, _ in self.sent]


def test_a_thousand_questions_at_once_cost_two_commands() -> None:
    play = Play()
    for _ in range(1000):
        play.ask()
    assert play.commands == ["Q"]
    play.ask("another").cancel()
    assert play.commands == ["Q", "another"], "sent at once"
    play.sent.pop()[1].callback("")
    play.heard.clear()
    play.sent[0][1].callback("one")
    assert play.heard == ["one"]
    assert play.commands == ["Q", "Q"]
    play.sent[1][1].callback("two")
    assert play.heard == ["one"] + ["two"] * 999
    assert play.questions._next == {}
    play.ask()
    assert len(play.sent) == 3


def test_a_failure_reaches_all_who_wait() -> None:
    play = Play()
    play.ask()
    play.ask()
    play.ask()
    play.sent[0][1].errback(ControlError(551, "no"))
    play.sent[1][1].errback(ControlError(551, "no"))
    assert [failure.type for failure in play.heard] == [ControlError] * 3
    assert play.questions._next == {}


def test_cancelling_ends_only_ones_own_waiting() -> None:
    play = Play()
    first, second = play.ask(), play.ask()
    first.cancel()
    second.cancel()
    third = play.ask()
    play.sent[0][1].callback("one")
    play.sent[1][1].callback("two")
    assert play.heard[2:] == ["two"]
    assert third.called


def test_a_thousand_refusals_read_a_thousand_circuits_twice() -> None:
    control, heard = staged(), list[tuple[int, bool]]()
    control.answers["GETINFO circuit-status"] = asked = Deferred()
    queries = TorQueries(control, Clock())
    for number in range(1000):
        answer = Deferred.fromCoroutine(queries.has_joined_circuit(ADDRESS, f"{number}"))
        answer.addCallback(lambda found, number=number: heard.append((number, found)))
    lines = [joined(f"{2 * number}").partition(" ")[2] for number in range(1000)]
    text = "\n".join(["circuit-status=", *lines, built("7").partition(" ")[2]])
    began = process_time()
    control.answers["GETINFO circuit-status"] = text
    asked.callback(text)  # who asked later gets a later answer
    assert process_time() - began < 5
    assert control.commands == ["GETINFO circuit-status"] * 2
    assert sorted(heard) == [(number, number % 2 == 0) for number in range(1000)]
