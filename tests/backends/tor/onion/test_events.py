"""Reading HS_DESC and CIRC events: lines as tor prints them, and malformed ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rows import rows
from tests.support.tables import table
from torsocks_tx.backends.tor.events import quote
from torsocks_tx.backends.tor.onion.events import (
    Fetch,
    HSCircuitEvent,
    HSDescEvent,
    Step,
    parse_circuit,
    parse_hs_desc,
)

ADDRESS = "a" * 56
RELAY = "$EF3D~exit2"
DIRECTORY = "$EF3DC1C847353C2CCC2E17E77D8956A822F4DD97~exit2 DTmtYbfAG2ga/hwysG+/fBo+YeMiBr0/lADV"

FETCHES = table(
    ("REQUESTED", f"REQUESTED {ADDRESS} NO_AUTH {DIRECTORY} HSDIR_INDEX=003C", Fetch.REQUESTED),
    ("RECEIVED", f"RECEIVED {ADDRESS} NO_AUTH {DIRECTORY}", Fetch.RECEIVED),
    ("404", f"FAILED {ADDRESS} NO_AUTH {DIRECTORY} REASON=NOT_FOUND", Fetch.NOT_FOUND),
    ("unreadable", f"FAILED {ADDRESS} NO_AUTH {DIRECTORY} REASON=BAD_DESC", Fetch.BAD_DESC),
    ("400", f"FAILED {ADDRESS} NO_AUTH {DIRECTORY} REASON=QUERY_REJECTED", Fetch.OTHER_FAILURE),
    ("500", f"FAILED {ADDRESS} NO_AUTH {DIRECTORY} REASON=UNEXPECTED", Fetch.OTHER_FAILURE),
    ("a new reason", f"FAILED {ADDRESS} NO_AUTH {DIRECTORY} REASON=NOVEL X=Y", Fetch.OTHER_FAILURE),
    ("no reason", f"FAILED {ADDRESS} NO_AUTH {DIRECTORY}", Fetch.OTHER_FAILURE),
    ("upper case", f"RECEIVED {ADDRESS.upper()} NO_AUTH {DIRECTORY}", Fetch.RECEIVED),
)  # fmt: skip
NO_FETCHES = [
    f"UPLOAD {ADDRESS} UNKNOWN {DIRECTORY}",
    f"UPLOADED {ADDRESS} UNKNOWN {DIRECTORY}",
    f"CREATED {ADDRESS} UNKNOWN UNKNOWN x",
    f"FAILED {ADDRESS} UNKNOWN {DIRECTORY} REASON=UPLOAD_REJECTED",
    f"IGNORE {ADDRESS}",
    "REQUESTED",
    "",
    'RECEIVED "unfinished',
]


@rows("S-43", "S-44")
@pytest.mark.parametrize(("text", "fetch"), FETCHES)
def test_descriptor_fetches_are_read(text: str, fetch: Fetch) -> None:
    assert parse_hs_desc(text) == HSDescEvent(ADDRESS, fetch, DIRECTORY.split()[0])


@pytest.mark.parametrize("text", NO_FETCHES)
def test_other_descriptor_events_are_ignored(text: str) -> None:
    assert parse_hs_desc(text) is None


def circuit(
    status: str = "PURPOSE_CHANGED",
    purpose: str = "HS_CLIENT_INTRO",
    state: str = "HSCI_CONNECTING",
    *,
    before: str = "",
    reason: str = "",
    token: str | None = "secret",
    more: str = "",
) -> str:
    """The text of a CIRC or CIRC_MINOR event."""
    words = [
        f"7 {status} $AB12~auth0,{RELAY} BUILD_FLAGS=IS_INTERNAL PURPOSE={purpose}",
        f"HS_STATE={state}" if state else "",
        f"REND_QUERY={ADDRESS} TIME_CREATED=2026-11-23T03:01:33.786801",
        "" if token is None else f'SOCKS_USERNAME="<torS0X>0" SOCKS_PASSWORD={quote(token)}',
        more,
        f"OLD_PURPOSE={purpose} OLD_HS_STATE={before}" if before else "",
        f"REASON={reason}" if reason else "",
    ]
    return " ".join(word for word in words if word)


REND = "HS_CLIENT_REND"
SENT = "HSCI_INTRO_SENT"
CIRCUITS = table(
    ("extended", circuit("EXTENDED"), Step.SEEN),
    ("built", circuit("BUILT"), Step.SEEN),
    ("introduction sent", circuit(state=SENT, before="HSCI_CONNECTING"), Step.SEEN),
    ("acknowledged", circuit(state="HSCI_DONE", before=SENT), Step.ACKNOWLEDGED),
    ("done after a refusal", circuit(state="HSCI_DONE", before="HSCI_CONNECTING"), Step.SEEN),
    ("refused", circuit(before=SENT), Step.NACKED),
    ("silent", circuit("CLOSED", state=SENT, reason="TIMEOUT"), Step.TIMED_OUT),
    ("slow to build", circuit("FAILED", reason="TIMEOUT"), Step.SEEN),
    ("broken", circuit("FAILED", reason="DESTROYED", more="REMOTE_REASON=X"), Step.BROKEN),
    ("channel lost", circuit("CLOSED", state=SENT, reason="CHANNEL_CLOSED"), Step.BROKEN),
    ("finished", circuit("CLOSED", reason="FINISHED"), Step.SEEN),
    ("not needed", circuit("CLOSED", state=SENT, reason="IP_NOW_REDUNDANT"), Step.SEEN),
    ("over, and done", circuit("CLOSED", state="HSCI_DONE", reason="DESTROYED"), Step.SEEN),
    ("no reason", circuit("CLOSED"), Step.SEEN),
    ("rendezvous waits", circuit(purpose=REND, state="HSCR_ESTABLISHED_WAITING"), Step.SEEN),
    ("rendezvous given up", circuit("CLOSED", REND, "HSCR_ESTABLISHED_WAITING", reason="TIMEOUT"),
     Step.ABANDONED),
    ("joined", circuit(purpose=REND, state="HSCR_JOINED", before="HSCR_ESTABLISHED_IDLE"),
     Step.JOINED),
    ("joined once", circuit("CLOSED", REND, "HSCR_JOINED", reason="FINISHED"), Step.LEFT),
    ("no state", circuit("LAUNCHED", state=""), Step.SEEN),
)  # fmt: skip


@rows("S-45", "S-46", "S-50")
@pytest.mark.parametrize(("text", "step"), CIRCUITS)
def test_circuit_events_are_read(text: str, step: Step) -> None:
    assert parse_circuit(text) == HSCircuitEvent(ADDRESS, "secret", step, relay=RELAY)


def test_proof_of_work_and_circuits_that_carry_no_stream_yet_are_read() -> None:
    event = parse_circuit(circuit("BUILT", REND, "HSCR_CONNECTING", token=None))
    assert event == HSCircuitEvent(ADDRESS, None, Step.SEEN, relay=RELAY)
    event = parse_circuit(circuit(more="HS_POW=v1,300"))
    assert event == HSCircuitEvent(ADDRESS, "secret", Step.SEEN, True, RELAY)


@pytest.mark.parametrize(
    "text",
    [
        "9 BUILT $EF3D~exit2 PURPOSE=GENERAL",
        circuit(purpose="HS_SERVICE_REND", state="HSSR_JOINED"),
        circuit(purpose="CIRCUIT_PADDING", state=""),
        circuit(purpose="HS_CLIENT_HSDIR", state=""),
        f"7 REND_QUERY={ADDRESS}",
        f"REND_QUERY={ADDRESS}",
        f'7 BUILT x PURPOSE=HS_CLIENT_INTRO REND_QUERY={ADDRESS} SOCKS_PASSWORD="',
        "",
    ],
)
def test_circuits_of_no_onion_client_are_ignored(text: str) -> None:
    assert parse_circuit(text) is None


@given(st.text(st.characters(max_codepoint=255), max_size=64))
def test_credentials_cannot_forge_anything(token: str) -> None:
    """A password that looks like the fields of an event is read as a password."""
    forged = token + f'" REND_QUERY={"b" * 56} HS_STATE=HSCR_JOINED REASON=TIMEOUT '
    event = parse_circuit(circuit(token=forged))
    assert event == HSCircuitEvent(ADDRESS, forged, Step.SEEN, relay=RELAY)


@given(st.text(max_size=300))
def test_any_text_is_read_or_ignored(text: str) -> None:
    parse_hs_desc(text)
    parse_circuit(text + " REND_QUERY=x")
