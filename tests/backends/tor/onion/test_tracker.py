"""Who gets which event, what is remembered, and that it never grows."""

from __future__ import annotations

from math import inf

from torsocks_tx.backends.tor.onion.events import (
    Fetch,
    HSCircuitEvent,
    HSDescEvent,
    Step,
)
from torsocks_tx.backends.tor.onion.history import MOST_ACKNOWLEDGED
from torsocks_tx.backends.tor.onion.tracker import AttemptTracker

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


def test_a_circuit_is_seen_by_its_own_streams() -> None:
    book = tracker()
    mine, other, elsewhere = book.begin(HERE, "m"), book.begin(HERE, "o"), book.begin(THERE, "m")
    book.note_circuit(nack(token="m"))
    assert [each.circuits for each in (mine, other, elsewhere)] == [True, False, False]


def test_an_introduction_is_seen_by_every_attempt_on_its_address() -> None:
    """Tor remembers by service, not by stream, which introduction points failed."""
    book = tracker()
    book.begin(HERE, "n")
    book.note_circuit(nack(token="n"))
    mine, other, elsewhere = book.begin(HERE, "m"), book.begin(HERE, "o"), book.begin(THERE, "m")
    book.note_circuit(nack(token="m"))
    seen = [each.introductions.ends[Step.NACKED] for each in (mine, other, elsewhere)]
    assert seen == [1, 1, 0]


def test_a_circuit_without_streams_may_be_anybodys() -> None:
    book = tracker()
    mine, other = book.begin(HERE, "m"), book.begin(HERE, "o")
    book.note_circuit(nack(token=None))
    assert mine.circuits
    assert other.circuits


def test_where_tor_does_not_isolate_every_circuit_may_be_ours() -> None:
    book = tracker()
    mine = book.begin(HERE, None)
    book.note_circuit(nack(token="anybody's"))
    assert mine.circuits


def test_what_is_no_event_changes_nothing() -> None:
    book = tracker()
    mine = book.begin(HERE, "m")
    book.note_fetch(None)
    book.note_circuit(None)
    assert (mine.fetches, mine.circuits) == (0, False)


def test_an_attempt_that_is_over_sees_no_more() -> None:
    book = tracker()
    mine = book.begin(HERE, "m")
    book.end(mine)
    book.end(mine)
    book.note_fetch(HSDescEvent(HERE, Fetch.REQUESTED))
    assert mine.fetches == 0


def test_a_second_stream_of_one_token_shares_what_was_acknowledged() -> None:
    book = tracker()
    book.begin(HERE, "m")
    book.note_circuit(HSCircuitEvent(HERE, "m", Step.ACKNOWLEDGED))
    assert book.begin(HERE, "m").awaits_service
    assert not book.begin(HERE, "o").awaits_service
    book.note_circuit(HSCircuitEvent(HERE, "m", Step.JOINED))
    assert not book.begin(HERE, "m").awaits_service


def test_introductions_are_remembered_whoever_made_them() -> None:
    book = tracker(now=1000.0)
    book.end(book.begin(HERE, "m"))
    book.note_circuit(nack(token="somebody else's"))
    book.note_circuit(HSCircuitEvent(HERE, "m", Step.TIMED_OUT))
    assert book.history(HERE).is_nacked(1100.0)
    assert book.history(HERE).is_timed_out(1100.0)
    assert not book.history(HERE).is_nacked(1121.0)


def test_what_other_users_of_tor_find_out_counts() -> None:
    """Tor will not try these introduction points for us either."""
    book = tracker()
    book.note_circuit(nack(THERE))
    book.begin(THERE, "m")
    assert book.history(THERE).is_nacked(1000.0)


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


def test_what_is_pushed_out_of_memory_is_not_taken_for_nothing() -> None:
    """Else whoever visits a thousand addresses could have F2 said where F7 is true."""
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


def test_newnym_forgets() -> None:
    book = tracker()
    mine = book.begin(HERE, "m")
    book.note_circuit(nack())
    book.history(HERE).undecryptable_at = 1000.0
    book.forget()
    assert not book.history(HERE).is_nacked(1000.0)
    assert not book.history(HERE).is_undecryptable(1000.0)
    assert mine.complete


def test_a_loss_makes_attempts_incomplete() -> None:
    book = tracker()
    mine = book.begin(HERE, "m")
    book.note_circuit(nack())
    book.lose()
    assert not mine.complete
    assert not book.history(HERE).is_nacked(1000.0)
    assert book.begin(HERE, "m").complete


def names(count: int) -> list[str]:
    return [f"{number:056}" for number in range(count)]


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    book = tracker(remembered=4)
    for name in names(10):
        book.end(book.begin(name, "m"))
        book.note_circuit(nack(name))
    remembered = [name for name in names(10) if book.history(name).is_nacked(1000.0)]
    assert remembered == names(10)[6:]


def test_an_address_with_an_attempt_is_never_forgotten() -> None:
    book = tracker(remembered=2)
    book.begin(HERE, "m")
    book.note_circuit(nack())
    for name in names(10):
        book.end(book.begin(name, "m"))
    assert book.history(HERE).is_nacked(1000.0)
