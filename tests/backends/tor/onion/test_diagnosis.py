"""The rules of diagnosis, one by one: events and tor's plain code in, a finding out."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.support.rows import rows
from torsocks_tx.backends.tor.onion.diagnosis import (
    UNREACHABLE_AFTER,
    Diagnosis,
    Finding,
    diagnose,
    no_rendezvous,
)
from torsocks_tx.backends.tor.onion.events import Fetch, HSCircuitEvent, HSDescEvent, Step
from torsocks_tx.backends.tor.onion.tracker import (
    INTRODUCTION_DOUBT,
    INTRODUCTION_MEMORY,
    UNDECRYPTABLE_MEMORY,
    AttemptLog,
    ServiceHistory,
    note_introduction,
)

ADDRESS = "a" * 56
History = ServiceHistory
FORGOTTEN = UNDECRYPTABLE_MEMORY + 1
NOW = 10_000.0

ASKED, GOT, LACKED, BAD, ODD = Fetch
SEEN, ACK, NACK, SILENT, BROKEN, JOINED, ABANDONED, LEFT = Step
NOTHING, F0, F1, F2, F7, F3, UNDECRYPTABLE, _F4, _F5, _F6 = Finding
Seen = tuple[Fetch | Step, ...]


@dataclass(frozen=True)
class Case:
    """Events that were seen, tor's plain code, and the finding that follows."""

    name: str
    code: int
    seen: Seen
    finding: Finding
    history: ServiceHistory = field(default_factory=ServiceHistory)
    unless_joined: bool = False


def ago(seconds: float) -> float:
    return NOW - seconds


ALL_404 = (ASKED, LACKED) * 6
FETCHED = (ASKED, GOT)
MANY_BROKEN = (BROKEN,) * UNREACHABLE_AFTER

CASES = [
    Case("no directory has it", 4, ALL_404, F0),
    Case("one directory lacks it, the others are silent", 4, (ASKED, LACKED, ASKED, ASKED), F0),
    Case("one directory lacks it, others fail oddly", 4, (ASKED, ODD, ASKED, LACKED), F0),
    Case("all directories fail oddly", 4, (ASKED, ODD) * 6, NOTHING),
    Case("all directories are silent", 4, (ASKED,) * 6, NOTHING),
    Case("nobody was asked", 4, (), NOTHING),
    Case("all have a bad one", 4, (ASKED, BAD) * 6, F1),
    Case("some lack it, the last has a bad one", 4, (ASKED, LACKED, ASKED, BAD), F1),
    Case("the first has a bad one, the others lack it", 4, (ASKED, BAD, ASKED, LACKED), F1),
    Case("some lacked it, then it was received", 4, (*ALL_404, *FETCHED, SEEN, NACK), F2),
    Case("a bad one, then a good one", 4, (ASKED, BAD, *FETCHED, SEEN, NACK), F2),
    Case("all introductions refused", 4, (*FETCHED, SEEN, NACK, NACK, *FETCHED), F2),
    Case("the descriptor was cached", 4, (SEEN, NACK, *FETCHED), F2),
    Case("refused, and no directory is left to ask", 4, (SEEN, NACK), F2),
    Case("refused, and meanwhile the descriptor is gone", 4, (*FETCHED, NACK, ASKED, LACKED), F0),
    Case("one refused, one silent", 4, (*FETCHED, SILENT, NACK, *FETCHED), F2),
    Case("all silent", 4, (*FETCHED, SEEN, SILENT, SILENT, *FETCHED), F7),
    Case("silent, and a circuit broke", 4, (*FETCHED, BROKEN, SILENT, *FETCHED), F7),
    Case("silent, and one could not be reached", 4, (*FETCHED, *MANY_BROKEN, SILENT, *FETCHED), F2),
    Case("none could be reached", 4, (*FETCHED, *MANY_BROKEN, *FETCHED), F2, unless_joined=True),
    Case("told once, then refused", 4, (*FETCHED, ACK, NACK, *FETCHED), F2),
    Case("no introduction point in it", 4, FETCHED, F2, unless_joined=True),
    Case("refused a minute ago", 4, FETCHED, F2, History(nacked_at=ago(60)), True),
    Case("silent a minute ago", 4, FETCHED, F7, History(timed_out_at=ago(60)), True),
    Case("both a minute ago", 4, FETCHED, F2, History(ago(60), ago(60)), True),
    Case("silent, and tor may have forgotten it", 4, FETCHED, NOTHING,
         ServiceHistory(timed_out_at=ago(INTRODUCTION_MEMORY + 1))),
    Case("silent too long ago", 4, FETCHED, F2, History(timed_out_at=ago(INTRODUCTION_DOUBT + 1)),
         unless_joined=True),
    Case("silent now, refused when tor may have forgotten it", 4, (*FETCHED, SILENT, *FETCHED),
         NOTHING, History(nacked_at=ago(INTRODUCTION_MEMORY + 1))),
    Case("silent now, refused too long ago", 4, (*FETCHED, SILENT, *FETCHED), F7,
         ServiceHistory(nacked_at=ago(INTRODUCTION_DOUBT + 1))),
    Case("an older circuit ended meanwhile", 4, (*FETCHED, LEFT), NOTHING),
    Case("locked before, but circuits were made", 4, (SEEN, SEEN), NOTHING,
         ServiceHistory(undecryptable_at=ago(60))),
    Case("an older circuit ended, then told", 6, (LEFT, ACK), F3),
    Case("told, and the rendezvous given up", 6, (ACK, ABANDONED, SEEN), F3),
    Case("it came, and then refused by itself", 4, (*FETCHED, SEEN, ACK, JOINED), NOTHING),
    Case("undecryptable before, all directories used up", 4, (), UNDECRYPTABLE,
         History(undecryptable_at=ago(60)), True),
    Case("undecryptable too long ago", 4, (), NOTHING, History(undecryptable_at=ago(FORGOTTEN))),
    Case("undecryptable before, now gone", 4, ALL_404, F0, History(undecryptable_at=ago(60))),
    Case("cannot be decrypted", 1, FETCHED, UNDECRYPTABLE, unless_joined=True),
    Case("lacked by one, then cannot be decrypted", 1, (ASKED, LACKED, *FETCHED), UNDECRYPTABLE,
         unless_joined=True),
    Case("received, and then asked for in vain", 1, (*FETCHED, ASKED, LACKED), NOTHING),
    Case("its own server refuses", 1, (*FETCHED, SEEN, ACK, JOINED), NOTHING),
    Case("a circuit was begun", 1, (*FETCHED, SEEN), NOTHING),
    Case("an older circuit", 1, (), NOTHING),
    Case("introductions refused, then another fault", 1, (*FETCHED, SEEN, NACK, SEEN), F2,
         unless_joined=True),
    Case("refused, then its own server refuses", 1, (*FETCHED, SEEN, NACK, ACK, JOINED), NOTHING),
    Case("refused, and an older circuit ended", 1, (*FETCHED, SEEN, NACK, LEFT), NOTHING),
    Case("told, and nobody came", 6, (*FETCHED, SEEN, ACK), F3),
    Case("told again and again", 6, (*FETCHED, ACK, SEEN, ACK, NACK, ACK), F3),
    Case("came, and was silent", 6, (*FETCHED, ACK, JOINED), NOTHING),
    Case("came before the acknowledgement", 6, (*FETCHED, JOINED, ACK), NOTHING),
    Case("only silence until the end", 6, (*FETCHED, SEEN, SILENT), F7),
    Case("silence and a refusal until the end", 6, (*FETCHED, SILENT, NACK), NOTHING),
    Case("no circuit could be built", 6, (*FETCHED, SEEN, SEEN), NOTHING),
    Case("the descriptor never came", 6, (ASKED, ASKED), NOTHING),
    Case("the port is not offered", 5, (*FETCHED, ACK, JOINED), NOTHING),
    Case("not allowed", 2, (), NOTHING),
    Case("a code that tor does not have", 0x42, ALL_404, NOTHING),
]  # fmt: skip


def circuit(step: Step, relay: str = "") -> HSCircuitEvent:
    return HSCircuitEvent(ADDRESS, "token", step, relay=relay)


def note(log: AttemptLog, event: HSCircuitEvent) -> None:
    note_introduction(log.everybody, event)
    log.note_circuit(event)


def log_of(seen: Seen, others: tuple[Step, ...] = ()) -> AttemptLog:
    """The log of an attempt that saw these events, and introductions for other streams."""
    log = AttemptLog(ADDRESS, "token")
    for each in seen:
        if isinstance(each, Fetch):
            log.note_fetch(HSDescEvent(ADDRESS, each))
        else:
            note(log, circuit(each))
    for step in others:
        note_introduction(log.everybody, circuit(step))
    return log


@rows("S-43", "S-44", "S-45", "S-46", "S-47", "S-48", "S-50")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_finding_follows_from_what_was_seen(case: Case) -> None:
    log = log_of(case.seen)
    diagnosis = diagnose(case.code, log, case.history, NOW)
    assert diagnosis.finding is case.finding
    assert diagnosis.unless_joined is case.unless_joined
    log.complete = False
    assert diagnose(case.code, log, case.history, NOW).finding is NOTHING, "events may be missing"


def test_breaking_circuits_count_for_each_introduction_point() -> None:
    log = log_of((*FETCHED, SILENT))
    for number in range(3 * (UNREACHABLE_AFTER - 1)):
        note(log, circuit(BROKEN, f"r{number % 3}"))
    assert diagnose(4, log, History(), NOW).finding is F7
    note(log, circuit(BROKEN, "r0"))
    assert diagnose(4, log, History(), NOW).finding is F2


@rows("S-45", "S-50")
@pytest.mark.parametrize(
    ("code", "seen", "others", "finding"),
    [
        pytest.param(4, (*FETCHED, SEEN, *FETCHED), (SILENT,), F7, id="silent"),
        pytest.param(4, (*FETCHED, SEEN, *FETCHED), (NACK,), F2, id="refused"),
        pytest.param(4, (*FETCHED, SEEN, *FETCHED), (SILENT, NACK), F2, id="both"),
        pytest.param(4, (*FETCHED, SEEN, *FETCHED), MANY_BROKEN, F2, id="unreached"),
        pytest.param(4, (*FETCHED, LEFT), (SILENT,), NOTHING, id="our own circuit ended"),
        pytest.param(4, (*FETCHED, JOINED), (NACK,), NOTHING, id="it came to us"),
        pytest.param(4, (ASKED, LACKED), (NACK,), F0, id="gone since"),
        pytest.param(6, (*FETCHED, SEEN), (SILENT,), F7, id="silent until the end"),
        pytest.param(6, (*FETCHED, SEEN), (SILENT, ACK), NOTHING, id="others were heard"),
        pytest.param(1, (*FETCHED, SEEN), (NACK,), NOTHING, id="another answer"),
    ],
)
def test_introductions_for_other_streams(
    code: int, seen: Seen, others: tuple[Step, ...], finding: Finding
) -> None:
    """Tor remembers by service which introduction points failed, and tries none of them for us."""
    diagnosis = diagnose(code, log_of(seen, others), History(), NOW, followed=1.0)
    assert diagnosis.finding is finding
    assert diagnosis.unless_joined is (finding in (F2, F7))


def test_introductions_before_an_attempt_are_not_its_own() -> None:
    before = log_of(FETCHED, (SILENT, *MANY_BROKEN))
    log = AttemptLog(ADDRESS, "other", everybody=before.everybody)
    log.note_fetch(HSDescEvent(ADDRESS, GOT))
    assert diagnose(4, log, History(), NOW, followed=1.0).finding is NOTHING
    note_introduction(before.everybody, circuit(SILENT))
    assert diagnose(4, log, History(), NOW, followed=1.0).words == "introductions: 1 TIMED_OUT"


def test_what_tor_remembers_from_before_cannot_be_known() -> None:
    for followed, finding in ((INTRODUCTION_DOUBT - 1, NOTHING), (INTRODUCTION_DOUBT, F2)):
        assert diagnose(4, log_of(FETCHED), History(), NOW, followed).finding is finding
        seen = log_of((*FETCHED, NACK))
        assert diagnose(4, seen, History(), NOW, followed).finding is F2
        before = History(timed_out_at=ago(60))
        expected = NOTHING if finding is NOTHING else F7
        assert diagnose(4, log_of(FETCHED), before, NOW, followed).finding is expected
    for history, finding in ((History(nacked_at=ago(60)), F2), (History(silent_at=ago(60)), F7)):
        assert diagnose(4, log_of(FETCHED), history, NOW, 1.0).finding is finding


@rows("S-41")
def test_every_code_has_a_finding() -> None:
    refusals = [Diagnosis(finding, "some words").refused for finding in Finding]
    codes = {refused.onion_code for refused in refusals if refused is not None}
    assert codes == set(range(0xF0, 0xF8))
    assert {refused.detail for refused in refusals if refused} == {"some words"}
    assert Diagnosis(UNDECRYPTABLE, "some words").refused is None


def test_a_diagnosis_says_in_words_what_it_rests_on() -> None:
    diagnosis = diagnose(4, log_of((*ALL_404[:-2], ASKED, ODD)), History(), NOW)
    assert diagnosis.words == "6 directories answered: 5 NOT_FOUND, 1 OTHER_FAILURE"
    assert diagnose(4, log_of((ASKED, BAD)), History(), NOW).words == (
        "1 directory answered: 1 BAD_DESC"
    )
    diagnosis = diagnose(4, log_of((GOT, NACK, NACK, SILENT)), History(), NOW)
    assert diagnosis.words == "introductions: 2 NACKED, 1 TIMED_OUT"
    assert no_rendezvous(log_of((ACK, ACK))).words == ("introductions: 2 ACKNOWLEDGED; nobody came")
