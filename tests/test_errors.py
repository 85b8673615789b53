"""What can go wrong: one class for each meaning, and which one a reply code means."""

from __future__ import annotations

import re

import pytest

from tests.rows import rows
from tests.tables import table
from torsocks_tx import errors
from torsocks_tx.errors import ONION, PLAIN, GeneralFailure, OnionRefused, Refused, refusal

PLAIN_CODES = table(
    [
        ("general failure", 0x01, errors.GeneralFailure),
        ("not allowed", 0x02, errors.NotAllowed),
        ("network", 0x03, errors.NetworkUnreachable),
        ("host", 0x04, errors.HostUnreachable),
        ("refused", 0x05, errors.ConnectionRefused),
        ("time", 0x06, errors.TimedOut),
        ("command", 0x07, errors.CommandNotSupported),
        ("address type", 0x08, errors.AddressTypeNotSupported),
    ]
)
# The code of socks-extensions, and the one that tor sends without ExtendedErrors.
ONION_CODES = table(
    [
        ("no descriptor", 0xF0, 0x04, errors.DescriptorNotFound),
        ("bad descriptor", 0xF1, 0x04, errors.DescriptorInvalid),
        ("introduction", 0xF2, 0x04, errors.IntroductionFailed),
        ("rendezvous", 0xF3, 0x06, errors.RendezvousFailed),
        ("no key", 0xF4, 0x01, errors.MissingClientAuth),
        ("wrong key", 0xF5, 0x01, errors.WrongClientAuth),
        ("bad address", 0xF6, 0x01, errors.InvalidOnionAddress),
        ("introduction timed out", 0xF7, 0x04, errors.IntroductionTimedOut),
    ]
)


def all_refusals() -> list[type[Refused]]:
    """Every class that a client may be refused with."""
    found, waiting = [], [Refused]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind not in (Refused, OnionRefused) and kind.__module__ == errors.__name__:
            found.append(kind)
    return found


@pytest.mark.parametrize(("code", "kind"), PLAIN_CODES)
def test_plain_codes(code: int, kind: type[Refused]) -> None:
    assert kind.code == code
    assert type(refusal(code)) is kind


@rows("S-22")
@pytest.mark.parametrize(("code", "plain", "kind"), ONION_CODES)
def test_onion_codes(code: int, plain: int, kind: type[OnionRefused]) -> None:
    assert (kind.onion_code, kind.code) == (code, plain)
    assert type(refusal(code)) is kind


@rows("S-21")
@pytest.mark.parametrize("code", [0, 9, 0x0A, 0x5B, 0xDF, 0xE0, 0xE1, 0xEF, 0xF8, 0xFF])
def test_unknown_codes_are_general_failures(code: int) -> None:
    assert type(refusal(code)) is GeneralFailure


def test_the_lists_are_complete() -> None:
    assert {*PLAIN, *ONION, errors.TorDown, errors.Fault} == set(all_refusals())


@pytest.mark.parametrize("kind", all_refusals())
def test_every_refusal_is_a_sentence(kind: type[Refused]) -> None:
    reason = kind("for the log")
    assert re.fullmatch(r"[A-Z][^\n]+\.", reason.sentence)
    assert str(reason) == "for the log"


def test_a_protocol_error_may_have_no_answer() -> None:
    assert errors.ProtocolError("why").answer == b""
    assert errors.ProtocolError("why", b"\5\1").answer == b"\5\1"
