"""Which code a client hears: every reason to refuse, for every kind of client."""

from __future__ import annotations

import itertools

import pytest

from tests.names import ONION
from tests.rows import rows
from tests.tables import at, octets, table
from tests.test_errors import all_refusals
from torsocks_tx import errors
from torsocks_tx.codes import AddressType, Command, OnionReply, Version
from torsocks_tx.errors import Refused
from torsocks_tx.messages import Address, Request
from torsocks_tx.replies import Audience, code_for, failure, success

CONNECT, RESOLVE, RESOLVE_PTR = Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR
V4, V5 = Version.SOCKS4, Version.SOCKS5
RFC1928_FAILURES = set(range(1, 9))

# What is said to CONNECT, to CONNECT of an onion service with ExtendedErrors, and to look-ups.
CODES = table(
    [
        ("general failure", errors.GeneralFailure, 0x01, 0x01, 0x04),
        ("no tor", errors.TorDown, 0x01, 0x01, 0x01),
        ("a fault of ours", errors.Fault, 0x01, 0x01, 0x01),
        ("not allowed", errors.NotAllowed, 0x02, 0x02, 0x02),
        ("network unreachable", errors.NetworkUnreachable, 0x03, 0x03, 0x04),
        ("host unreachable", errors.HostUnreachable, 0x04, 0x04, 0x04),
        ("connection refused", errors.ConnectionRefused, 0x05, 0x05, 0x04),
        ("timed out", errors.TimedOut, 0x06, 0x06, 0x04),
        ("command", errors.CommandNotSupported, 0x07, 0x07, 0x04),
        ("address type", errors.AddressTypeNotSupported, 0x08, 0x08, 0x08),
        ("no descriptor", errors.DescriptorNotFound, 0x04, 0xF0, 0x04),
        ("bad descriptor", errors.DescriptorInvalid, 0x04, 0xF1, 0x04),
        ("introduction", errors.IntroductionFailed, 0x04, 0xF2, 0x04),
        ("rendezvous", errors.RendezvousFailed, 0x06, 0xF3, 0x04),
        ("no key", errors.MissingClientAuth, 0x01, 0xF4, 0x04),
        ("wrong key", errors.WrongClientAuth, 0x01, 0xF5, 0x04),
        ("bad onion address", errors.InvalidOnionAddress, 0x01, 0xF6, 0x04),
        ("introduction timed out", errors.IntroductionTimedOut, 0x04, 0xF7, 0x04),
    ]
)


@rows("S-02", "S-21", "S-22", "S-26", "S-41", "S-42")
@pytest.mark.parametrize(("kind", "plain", "extended", "look_up"), CODES)
def test_codes(kind: type[Refused], plain: int, extended: int, look_up: int) -> None:
    reason = kind("for the log")
    for onion, flag in itertools.product((False, True), repeat=2):
        expected = extended if onion and flag else plain
        assert code_for(reason, Audience(V5, CONNECT, onion, flag)) == expected
        for command in (RESOLVE, RESOLVE_PTR):
            assert code_for(reason, Audience(V5, command, onion, flag)) == look_up
        for command in (CONNECT, RESOLVE):
            assert code_for(reason, Audience(V4, command, onion, flag)) == 0x5B


def test_the_table_is_complete() -> None:
    assert {parameter.values[0] for parameter in CODES} == set(all_refusals())


AUDIENCES = [
    Audience(version, command, onion, flag)
    for version in Version
    for command in (CONNECT, RESOLVE, RESOLVE_PTR)
    for onion in (False, True)
    for flag in (False, True)
]


@rows("S-21", "S-22", "S-41")
@pytest.mark.parametrize("kind", all_refusals())
def test_every_code_is_one_that_the_audience_may_hear(kind: type[Refused]) -> None:
    for audience in AUDIENCES:
        code = code_for(kind(), audience)
        if audience.version is V4:
            assert code == 0x5B
        elif audience.onion and audience.extended_errors and audience.command is CONNECT:
            assert code in RFC1928_FAILURES | set(OnionReply)
        else:
            assert code in RFC1928_FAILURES


@rows("S-21", "S-22", "S-41")
def test_whatever_an_upstream_says_becomes_a_code_of_ours() -> None:
    for number, audience in itertools.product(range(1, 256), AUDIENCES):
        code = code_for(errors.refusal(number), audience)
        onion = audience.onion and audience.extended_errors and audience.command is CONNECT
        allowed = RFC1928_FAILURES | (set(OnionReply) if onion else set())
        assert code in (allowed if audience.version is V5 else {0x5B})
        if number in allowed and audience.version is V5 and audience.command is CONNECT:
            assert code == number


@rows("S-42")
def test_extended_errors_are_off_unless_asked_for() -> None:
    assert Audience(V5, CONNECT, onion=True) == Audience(V5, CONNECT, True, False)


@rows("S-22")
def test_an_upstream_bad_descriptor_without_the_flag_is_04() -> None:
    assert code_for(errors.refusal(0xF1), Audience(V5, CONNECT, True, False)) == 0x04


@rows("R-20", "S-26", "S-29")
@pytest.mark.parametrize("kind", all_refusals())
def test_failures_are_whole_replies(kind: type[Refused]) -> None:
    for audience in AUDIENCES:
        reply = failure(kind(), audience)
        if audience.version is V4:
            assert reply == octets("00 5B 0000 00000000")
        else:
            code = code_for(kind(), audience)
            assert reply == bytes([5, code]) + octets("00 01 00000000 0000")


WHO = table(
    [
        ("clearnet", at("example.com", 80), False),
        ("IPv4", at("192.0.2.1", 80), False),
        ("IPv6", at("2001:db8::1", 80), False),
        ("onion service", at(ONION, 80), True),
        ("in capitals", at(ONION.upper(), 80), True),
        ("subdomain", at("www." + ONION, 80), True),
        ("onion in the middle", at("x.onion.example", 80), False),
        ("the word", at("onion", 80), False),
    ]
)


@rows("S-41", "S-42")
@pytest.mark.parametrize(("address", "onion"), WHO)
def test_audiences(address: Address, onion: bool) -> None:
    for version, command, flag in itertools.product(Version, (CONNECT, RESOLVE), (False, True)):
        request = Request(version, command, address)
        expected = Audience(version, command, onion, flag)
        assert Audience.of(request, extended_errors=flag) == expected


def asked(version: Version, command: Command) -> Request:
    return Request(version, command, at("example.com", 80))


SUCCESSES = table(
    [
        ("CONNECT", asked(V5, CONNECT), None, "05 00 00 01 00000000 0000"),
        ("CONNECT by SOCKS4", asked(V4, CONNECT), None, "00 5A 0000 00000000"),
        ("RESOLVE", asked(V5, RESOLVE), at("192.0.2.1"), "05 00 00 01 C0000201 0000"),
        (
            "RESOLVE, IPv6",
            asked(V5, RESOLVE),
            at("2001:db8::1"),
            "05 00 00 04 20010DB8000000000000000000000001 0000",
        ),
        ("RESOLVE by SOCKS4", asked(V4, RESOLVE), at("192.0.2.1"), "00 5A 0000 C0000201"),
        (
            "RESOLVE_PTR",
            asked(V5, RESOLVE_PTR),
            at("dns.google"),
            "05 00 00 03 0A 646E732E676F6F676C65 0000",
        ),
    ]
)


@rows("S-27", "S-28", "S-30", "R-20", "R-25")
@pytest.mark.parametrize(("request_", "answer", "text"), SUCCESSES)
def test_successes(request_: Request, answer: Address | None, text: str) -> None:
    assert success(request_, answer) == octets(text)


@rows("S-27", "R-04")
@pytest.mark.parametrize("answer", [at("2001:db8::1"), at("dns.google")])
def test_socks4_has_no_room_for_other_answers(answer: Address) -> None:
    with pytest.raises(ValueError, match="IPv4"):
        success(asked(V4, RESOLVE), answer)


def test_a_name_too_long_for_a_reply() -> None:
    with pytest.raises(ValueError, match="255"):
        success(asked(V5, RESOLVE_PTR), Address(AddressType.HOSTNAME, "a" * 256))
