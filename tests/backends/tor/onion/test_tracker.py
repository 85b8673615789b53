"""Which attempts get an event, what is remembered of a service, and that it is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

import pytest

from torsocks_tx.backends.tor.onion.events import Fetch, HSCircuitEvent, HSDescEvent, Step
from torsocks_tx.backends.tor.onion.tracker import MOST_ACKNOWLEDGED, AttemptLog, AttemptTracker

HERE, THERE = "a" * 56, "b" * 56


def tracker(now: float = 1000.0, remembered: int = 4) -> AttemptTracker:
    return AttemptTracker(lambda: now, remembered)


def nack(address: str = HERE, token: str | None = "mine") -> HSCircuitEvent:
    return HSCircuitEvent(address, token, Step.NACKED)


def test_a_fetch_is_seen_by_every_attempt_on_its_address() -> None:
    book = tracker()
    mine, other, elsewhere = book.begin(HERE, "m"), book.begin(HERE, "o"), book.begin(THERE, "m")
    book.note_fetch(HSDescEvent(HERE, Fetch.REQUESTED))
    assert (mine.fetches, other.fetches, elsewhere.fetches) == (1, 1, 0)


@pytest.mark.parametrize(
    ("token", "attempts", "seen"),
    [("m", "mo", [True, False]), (None, "mo", [True, True]), ("m", [None], [True])],
    ids=["by its own streams", "by all, without a stream", "by all where tor does not isolate"],
)
def test_a_circuit_is_seen(
    token: str | None, attempts: Iterable[str | None], seen: list[bool]
) -> None:
    book = tracker()
    logs = [book.begin(HERE, attempt) for attempt in attempts]
    elsewhere = book.begin(THERE, "m")
    book.note_circuit(nack(token=token))
    assert [bool(log.steps) for log in logs] == seen
    assert not elsewhere.steps


def test_an_introduction_is_seen_by_every_attempt_on_its_address() -> None:
    """Tor remembers by service, not by stream, which introduction points failed."""
    book = tracker()
    book.begin(HERE, "n")
    book.note_circuit(nack(token="n"))
    logs = book.begin(HERE, "m"), book.begin(HERE, "o"), book.begin(THERE, "m")
    book.note_circuit(nack(token="m"))
    assert [log.introductions[Step.NACKED] for log in logs] == [1, 1, 0]


def test_an_attempt_sees_no_more_once_it_is_over() -> None:
    book = tracker()
    mine = book.begin(HERE, "m")
    book.note_fetch(None)  # an event that could not be read
    book.note_circuit(None)
    book.end(mine)
    book.end(mine)
    book.note_fetch(HSDescEvent(HERE, Fetch.REQUESTED))
    assert (mine.fetches, bool(mine.steps)) == (0, False)


@pytest.mark.parametrize(
    ("happen", "is_shared"),
    [
        (lambda book, log: None, True),
        (lambda book, log: book.note_circuit(nack(THERE)), True),
        (lambda book, log: book.note_fetch(HSDescEvent(HERE, Fetch.REQUESTED)), False),
        (lambda book, log: book.note_circuit(nack(token="another's")), False),
        (lambda book, log: book.refused(log), False),
        (lambda book, log: book.forget(), False),
        (lambda book, log: book.lose(), False),
        (lambda book, log: book.follow(), False),
        (lambda book, log: book.end(log), False),
    ],
    ids=["nothing", "elsewhere", "fetch", "circuit", "refusal", "newnym", "loss", "follow", "end"],
)
def test_attempts_that_nothing_happens_between_share_a_log(
    happen: Callable[[AttemptTracker, AttemptLog], None], is_shared: bool
) -> None:
    """An event costs as much for thousands of them as for one."""
    book = tracker()
    book.begin(THERE, "m")
    book.begin(HERE, "another's")
    log = book.begin(HERE, "m")
    happen(book, log)
    assert (book.begin(HERE, "m") is log) is is_shared
    assert book.begin(HERE, "o") is not log


def test_a_second_stream_of_one_token_shares_what_was_acknowledged() -> None:
    book = tracker()
    book.begin(HERE, "m")
    book.note_circuit(HSCircuitEvent(HERE, "m", Step.ACKNOWLEDGED))
    assert book.begin(HERE, "m").awaits_service
    assert not book.begin(HERE, "o").awaits_service
    book.note_circuit(HSCircuitEvent(HERE, "m", Step.JOINED))
    assert not book.begin(HERE, "m").awaits_service


@pytest.mark.parametrize("tried_before", [False, True])
def test_introductions_are_remembered_whoever_made_them(tried_before: bool) -> None:
    """Tor will not try these introduction points for us either."""
    book = tracker(now=1000.0)
    if tried_before:
        book.end(book.begin(HERE, "m"))
    book.note_circuit(nack(token="somebody else's"))
    book.note_circuit(HSCircuitEvent(HERE, "m", Step.TIMED_OUT))
    book.begin(HERE, "m")
    assert book.history(HERE).is_nacked(1100.0)
    assert book.history(HERE).is_timed_out(1100.0)
    assert not book.history(HERE).is_nacked(1121.0)


def test_circuits_that_say_nothing_are_not_remembered() -> None:
    book = tracker(remembered=1)
    book.note_circuit(nack(HERE))
    book.note_circuit(HSCircuitEvent(THERE, "m", Step.SEEN))
    assert book.history(HERE).is_nacked(1000.0)


def test_how_long_events_were_followed() -> None:
    now = [1000.0]
    book = AttemptTracker(lambda: now[0])
    assert book.followed == 0
    book.follow()
    now[0] += 5
    assert book.followed == 5
    book.forget()
    assert book.followed == inf
    book.lose()
    assert book.followed == 0
    book.forget()
    assert book.followed == 0


def test_what_is_pushed_out_of_memory_makes_what_was_followed_short() -> None:
    """Otherwise a client that tries a thousand addresses could turn an F7 into an F2."""
    now = [1000.0]
    book = AttemptTracker(lambda: now[0], 2)
    book.follow()
    now[0] += 1000
    book.note_circuit(HSCircuitEvent(HERE, "m", Step.TIMED_OUT))
    for name in names(2):
        book.end(book.begin(name, "m"))
    assert book.followed == 0
    now[0] += 151
    for name in names(6)[2:]:
        book.end(book.begin(name, "m"))
    assert book.followed == 151


def test_tokens_that_wait_for_a_rendezvous_are_bounded() -> None:
    book = tracker()
    for number in range(MOST_ACKNOWLEDGED + 10):
        book.note_circuit(HSCircuitEvent(HERE, str(number), Step.ACKNOWLEDGED))
    assert len(book.history(HERE).acknowledged) == MOST_ACKNOWLEDGED
    assert not book.begin(HERE, "9").awaits_service
    assert book.begin(HERE, "10").awaits_service
    assert book.begin(HERE, None).awaits_service


@pytest.mark.parametrize("lost", [False, True], ids=["newnym", "lost events"])
def test_newnym_and_a_loss_forget_what_is_remembered(lost: bool) -> None:
    book = tracker()
    mine = book.begin(HERE, "m")
    book.note_circuit(nack())
    book.history(HERE).undecryptable_at = 1000.0
    if lost:
        book.lose()
    else:
        book.forget()
    assert mine.complete is not lost
    assert not book.history(HERE).is_nacked(1000.0)
    assert not book.history(HERE).is_undecryptable(1000.0)
    assert book.begin(HERE, "m").complete


def names(count: int) -> list[str]:
    return [f"{number:056}" for number in range(count)]


def test_memory_is_bounded_and_the_oldest_without_an_attempt_goes_first() -> None:
    book = tracker(remembered=4)
    book.begin(HERE, "m")
    book.note_circuit(nack())
    for name in names(10):
        book.end(book.begin(name, "m"))
        book.note_circuit(nack(name))
    remembered = [name for name in [HERE, *names(10)] if book.history(name).is_nacked(1000.0)]
    assert remembered == [HERE, *names(10)[6:]]
