"""The circuits that an application sees: followed by events while it asks, and always right."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from tests.backends.tor.exits.scripted import Play, choice_of
from torsocks_tx.backends.tor.control import ControlError, ControlLost
from torsocks_tx.backends.tor.exits.circuits import (
    FOLLOW_SECONDS,
    MOST_AGE,
    Circuit,
    onion_place,
    parse_circuit_line,
)
from torsocks_tx.errors import TorDown

QUESTION = "GETINFO circuit-status"


def line(number: int, status: str = "BUILT", *, token: str | None = "other") -> str:
    login = "" if token is None else f' SOCKS_USERNAME="<torS0X>0" SOCKS_PASSWORD="{token}"'
    return f"{number} {status} ${'A' * 40}~guard PURPOSE=GENERAL{login}"


class Watched(Play):
    """A play whose circuits somebody watches."""

    def circuits(self) -> dict[int, Circuit]:
        """Ask, and return what is shown at once."""
        shown: list[Circuit] = []
        self.backend.circuits().addCallback(shown.extend)
        self.turn()
        return {each.number: each for each in shown}

    @property
    def questions(self) -> int:
        return self.control.commands.count(QUESTION)

    @property
    def listeners(self) -> int:
        return sum(map(len, self.control.listeners.values()))


def test_circuits_are_followed_by_events_and_asked_for_once(log_lines: list[str]) -> None:
    play = Watched()
    play.control.circuits = [line(1), line(2, "EXTENDED"), line(3, token="key")]
    assert sorted(play.circuits()) == [1, 3]
    log_lines.clear()
    play.control.send(
        "CIRC " + line(2),
        "CIRC " + line(3, "CLOSED"),
        "CIRC " + line(4, "LAUNCHED"),
        "CIRC " + line(5),
        "CIRC " + line(5, "EXTENDED"),
        "CIRC_MINOR " + line(1, "PURPOSE_CHANGED").replace("GENERAL", "HS_CLIENT_REND"),
        "CIRC_MINOR " + line(6, "PURPOSE_CHANGED"),
        "CIRC nothing known",
        "CIRC_MINOR nothing known",
    )
    shown = play.circuits()
    assert [(each, shown[each].purpose) for each in sorted(shown)] == [
        (1, "HS_CLIENT_REND"), (2, "GENERAL"),
    ]  # fmt: skip
    assert (play.questions, log_lines) == (1, [])


def test_circuits_are_followed_no_longer_than_somebody_asks() -> None:
    play = Watched()
    for _ in range(4):
        play.circuits()
        assert play.listeners == 2
        play.clock.advance(FOLLOW_SECONDS - 1)
    assert (play.listeners, play.questions) == (2, 1)
    play.clock.advance(1)
    assert play.listeners == 0
    assert play.clock.getDelayedCalls() == []
    play.control.circuits = [line(9)]
    assert sorted(play.circuits()) == [9]
    play.backend.stop()
    assert play.listeners == 0
    assert play.clock.getDelayedCalls() == []


def test_circuits_are_asked_for_again_where_a_filter_suppresses_events() -> None:
    play = Watched()
    play.circuits()
    play.control.circuits = [line(9)]
    for _ in range(int(MOST_AGE / FOLLOW_SECONDS) + 1):
        play.clock.advance(FOLLOW_SECONDS - 1)
        shown = play.circuits()
    assert (sorted(shown), play.questions) == ([9], 2)


def test_a_circuit_that_was_built_ahead_is_counted_from_its_first_stream_on() -> None:
    play = Watched()
    play.takes_others = True
    play.control.circuits = [line(1, token=None), line(2)]
    assert play.circuits()[1].streams == 0
    play.open(key=b"key")
    # No event tells that the circuit has a token now.
    play.control.circuits = [line(1, token="key"), line(2), line(3, token=None)]
    play.control.send("CIRC " + line(3, token=None))
    play.control.circuits[0] = line(1, token="key").replace("A" * 40, play.asked[0][1])
    before = play.questions
    assert sorted(play.circuits()) == [1, 2, 3]
    assert play.questions == before + 1
    for _ in range(3):
        play.circuits()
    assert play.questions == before + 1, "asked again only after another stream was opened"
    play.open(choice_of("bb"), key=b"two")
    play.circuits()
    assert play.questions == before + 2


def test_where_no_circuit_was_built_ahead_events_tell_all() -> None:
    play = Watched()
    play.control.circuits = [line(1)]
    play.circuits()
    for number in range(2, 9):
        play.open(key=b"%d" % number)
        play.control.send("CIRC " + line(number, token=str(number)))
        assert len(play.circuits()) == number
    assert play.questions == 1


@pytest.mark.parametrize("error", [None, ControlLost(), ControlError(510, "filtered")])
def test_a_list_that_cannot_be_followed_is_asked_for(error: ControlError | None) -> None:
    play = Watched()
    play.control.circuits = [line(1)]
    play.control.listening = Deferred() if error is None else error
    asked, reasons = play.backend.circuits(), list[type]()
    asked.addErrback(lambda failure: reasons.append(failure.type))
    if error is None:
        asked.cancel()
    play.turn()
    is_refused = error is not None and error.code == 510
    assert reasons == ([] if is_refused else [CancelledError if error is None else TorDown])
    assert (play.listeners, play.clock.getDelayedCalls()) == (0, [])
    if not is_refused:
        play.control.listening = None
    for number in (2, 3):
        play.control.circuits.append(line(number))
        play.control.send("CIRC " + line(number))
        assert len(play.circuits()) == number
    assert play.questions == (3 if is_refused else 1)


ONION = "p53lf57qovyuvwsc6xnrppyply3vtqm7l6pcobkmyqsiofyeznfu5uqd"
EXIT = "E" * 40


@pytest.mark.parametrize(
    ("purpose", "more", "place", "streams"),
    [
        ("GENERAL", "", "", 1),
        ("CONFLUX_LINKED", "", "", 1),
        ("GENERAL", "", EXIT, 1),
        ("GENERAL", "", "A" * 40, 0),
        ("GENERAL", "", onion_place(ONION), 0),
        ("HS_CLIENT_REND", f" REND_QUERY={ONION}", onion_place(ONION.upper()), 1),
        ("HS_CLIENT_REND", f" REND_QUERY={ONION}", onion_place("b" * 56), 0),
        ("HS_CLIENT_REND", f" REND_QUERY={ONION}", "", 0),
        ("HS_CLIENT_REND", "", "", 0),
        ("HS_CLIENT_INTRO", f" REND_QUERY={ONION}", onion_place(ONION), 0),
        ("HS_CLIENT_HSDIR", f" REND_QUERY={ONION}", onion_place(ONION), 0),
        *((each, "", "", 0) for each in ("CIRCUIT_PADDING", "CONFLUX_UNLINKED", "TESTING", "")),
    ],
)
def test_a_circuit_shows_the_streams_of_its_key_that_it_can_carry(
    purpose: str, more: str, place: str, streams: int
) -> None:
    text = f'7 BUILT ${"A" * 40}~guard,${EXIT}~exit PURPOSE={purpose}{more} SOCKS_PASSWORD="key"'
    circuit = parse_circuit_line(text)
    assert circuit is not None
    used = {("key", place): 1, ("other", place): 9}
    assert circuit.as_circuit({}, used, 0.0).streams == streams


def test_streams_to_an_onion_service_are_not_shown_at_circuits_to_exits() -> None:
    play = Watched()
    play.takes_others = True
    end = line(3, token="key") + f" REND_QUERY={ONION}"
    play.control.circuits = [
        line(1, token="key"),
        end.replace("GENERAL", "HS_CLIENT_INTRO"),
        end.replace("3 ", "4 ", 1).replace("GENERAL", "HS_CLIENT_REND"),
    ]
    for number in range(2):
        _, receiver = play.open(host=f"www.{ONION}.onion", key=b"key")
        assert receiver.heard == ["opened"]
        shown = play.circuits()
        assert {each: shown[each].streams for each in shown} == {1: 0, 3: 0, 4: number + 1}
