"""What a reply code means, on ports of either role."""

from __future__ import annotations

import pytest

from tests.support.rows import rows
from tests.support.tables import table
from torsocks_tx import errors
from torsocks_tx.errors import GeneralFailure, OnionRefused, Refused
from torsocks_tx.socks.constants import CodeSet, Role
from torsocks_tx.socks.refusals import extended_refusal, refusal

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


# The same byte from ports of other roles, and with other sets announced.
MEANINGS = table(
    [
        ("F0 of tor", 0xF0, Role.TOR, CodeSet.PROP229, errors.DescriptorNotFound),
        ("F0 of a transport", 0xF0, Role.PT, CodeSet.PROP229, errors.Temporary),
        ("F0 of a transport that says nothing", 0xF0, Role.PT, None, errors.Temporary),
        ("F0 announced as 304's", 0xF0, None, CodeSet.PROP304, errors.DescriptorNotFound),
        ("F0 announced as 229's", 0xF0, None, CodeSet.PROP229, errors.Temporary),
        ("F0 of nobody knows who", 0xF0, None, None, errors.DescriptorNotFound),
        ("F1 of a transport", 0xF1, Role.PT, None, errors.InvalidBridge),
        ("F2 of a transport", 0xF2, Role.PT, None, errors.Internal),
        ("F3 of a transport", 0xF3, Role.PT, None, GeneralFailure),
        ("F3 of tor", 0xF3, Role.TOR, None, errors.RendezvousFailed),
        ("E0", 0xE0, None, CodeSet.PROP229, errors.OnionNotFound),
        ("E0 of tor", 0xE0, Role.TOR, None, errors.OnionNotFound),
        ("E1 of tor", 0xE1, Role.TOR, None, errors.OnionNotReachable),
        ("E1 of a transport", 0xE1, Role.PT, None, GeneralFailure),
        ("05 of a transport", 0x05, Role.PT, None, errors.ConnectionRefused),
        ("05 of tor", 0x05, Role.TOR, CodeSet.PROP304, errors.ConnectionRefused),
        ("09", 0x09, None, None, GeneralFailure),
    ]
)


@rows("P-26", "P-34")
@pytest.mark.parametrize(("code", "role", "codes", "kind"), MEANINGS)
def test_meanings(code: int, role: Role | None, codes: CodeSet | None, kind: type[Refused]) -> None:
    assert type(extended_refusal(code, role, codes)) is kind
