"""Which reply code a client gets for each refusal, and what each code means."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.support.names import ONION
from tests.support.rows import rows
from tests.support.tables import at, octets, table
from tests.test_errors import all_refusals
from torsocks_tx import errors
from torsocks_tx.errors import SOCKSError
from torsocks_tx.socks import replies
from torsocks_tx.socks.constants import AddressType, CodeSet, Command, Role, Version
from torsocks_tx.socks.messages import Address, KeyValues, Request
from torsocks_tx.socks.replies import (
    ReplyContext,
    code_for,
    code_set,
    extended_refusal,
    failure,
    parse_code_set,
    refusal,
    success,
)

CONNECT, RESOLVE, RESOLVE_PTR = Command.CONNECT, Command.RESOLVE, Command.RESOLVE_PTR
V4, V5 = Version.SOCKS4, Version.SOCKS5
RFC1928_FAILURES = set(range(1, 9))
RFC1928, PROP229, PROP304 = CodeSet.RFC1928, CodeSet.PROP229, CodeSet.PROP304
TOR, PT = Role.TOR, Role.PT
ONION_CODES = set(range(0xF0, 0xF8))

# The code for CONNECT; for CONNECT to an onion service by the sets of proposals 304 and 229; for
# CONNECT on a transport's port by the set of proposal 229; and for look-ups.
CODES = table(
    ("general failure", errors.GeneralFailure, 0x01, 0x01, 0x01, 0x01, 0x04),
    ("no tor", errors.TorDown, 0x01, 0x01, 0x01, 0x01, 0x01),
    ("no such port", errors.NoSuchPort, 0x01, 0x01, 0x01, 0x01, 0x01),
    ("too much to do", errors.Busy, 0x01, 0x01, 0x01, 0x01, 0x01),
    ("no fresh circuit", errors.NoFreshCircuit, 0x01, 0x01, 0x01, 0x01, 0x01),
    ("an upstream that is dead", errors.ProxyUnreachable, 0x01, 0x01, 0x01, 0x01, 0x01),
    ("an upstream that breaks off", errors.ProxyBroken, 0x01, 0x01, 0x01, 0x01, 0x04),
    ("an upstream's login", errors.LoginRefused, 0x01, 0x01, 0x01, 0x01, 0x04),
    ("an upstream that wants a login", errors.LoginRequired, 0x01, 0x01, 0x01, 0x01, 0x04),
    ("an upstream's arguments", errors.ArgumentsRefused, 0x01, 0x01, 0x01, 0x01, 0x04),
    ("an upstream that shares", errors.NotIsolated, 0x01, 0x01, 0x01, 0x01, 0x04),
    ("a fault of ours", errors.Internal, 0x01, 0x01, 0x01, 0xF2, 0x01),
    ("not allowed", errors.NotAllowed, 0x02, 0x02, 0x02, 0x02, 0x02),
    ("no such exit", errors.NoSuchExit, 0x02, 0x02, 0x02, 0x02, 0x02),
    ("network unreachable", errors.NetworkUnreachable, 0x03, 0x03, 0x03, 0x03, 0x04),
    ("host unreachable", errors.HostUnreachable, 0x04, 0x04, 0x04, 0x04, 0x04),
    ("connection refused", errors.ConnectionRefused, 0x05, 0x05, 0x05, 0x05, 0x04),
    ("timed out", errors.TimedOut, 0x06, 0x06, 0x06, 0x06, 0x04),
    ("command", errors.CommandNotSupported, 0x07, 0x07, 0x07, 0x07, 0x07),
    ("address type", errors.AddressTypeNotSupported, 0x08, 0x08, 0x08, 0x08, 0x08),
    ("no descriptor", errors.DescriptorNotFound, 0x04, 0xF0, 0xE0, 0x04, 0x04),
    ("bad descriptor", errors.DescriptorInvalid, 0x04, 0xF1, 0xE0, 0x04, 0x04),
    ("introduction", errors.IntroductionFailed, 0x04, 0xF2, 0xE1, 0x04, 0x04),
    ("rendezvous", errors.RendezvousFailed, 0x06, 0xF3, 0xE1, 0x06, 0x04),
    ("no key", errors.MissingClientAuth, 0x01, 0xF4, 0xE1, 0x01, 0x04),
    ("wrong key", errors.WrongClientAuth, 0x01, 0xF5, 0xE1, 0x01, 0x04),
    ("bad onion address", errors.InvalidOnionAddress, 0x01, 0xF6, 0xE0, 0x01, 0x04),
    ("introduction timed out", errors.IntroductionTimedOut, 0x04, 0xF7, 0xE1, 0x04, 0x04),
    ("an upstream's E0", errors.OnionNotFound, 0x04, 0xF0, 0xE0, 0x04, 0x04),
    ("an upstream's E1", errors.OnionNotReachable, 0x04, 0xF2, 0xE1, 0x04, 0x04),
    ("temporary", errors.Temporary, 0x01, 0x01, 0x01, 0xF0, 0x04),
    ("invalid bridge", errors.InvalidBridge, 0x05, 0x05, 0x05, 0xF1, 0x04),
)
Codes = tuple[int, int, int, int, int]


def expected_code(codes: Codes, context: ReplyContext) -> int:
    plain, prop304, prop229, transport, look_up = codes
    if context.version is V4:
        return 0x5B
    if context.command is not CONNECT:
        return look_up
    if context.role is PT:
        return plain if context.codes is RFC1928 else transport
    by_set = {RFC1928: plain, PROP229: prop229, PROP304: prop304}
    return by_set[context.codes] if context.onion else plain


CONTEXTS = [
    ReplyContext(*fields)
    for fields in itertools.product(
        Version, (CONNECT, RESOLVE, RESOLVE_PTR), (False, True), Role, CodeSet
    )
]


@rows("S-02", "S-21", "S-22", "S-26", "S-41", "S-42")
@rows("P-25", "P-27", "P-28", "P-29", "P-31", "P-33")
@pytest.mark.parametrize(("kind", *"abcde"), CODES)
def test_reply_code_of_each_refusal_in_each_context(
    kind: type[SOCKSError], a: int, b: int, c: int, d: int, e: int
) -> None:
    for context in CONTEXTS:
        assert code_for(kind("for the log"), context) == expected_code((a, b, c, d, e), context)


def test_the_table_of_codes_has_every_refusal() -> None:
    assert {parameter.values[0] for parameter in CODES} == set(all_refusals())


@rows("P-27", "P-28")
def test_codes_e0_and_e1_swapped() -> None:
    swapped = ReplyContext(V5, CONNECT, True, codes=PROP229, swap_e0_e1=True)
    assert code_for(errors.DescriptorNotFound(), swapped) == 0xE1
    assert code_for(errors.IntroductionFailed(), swapped) == 0xE0
    assert code_for(errors.IntroductionFailed(), replace(swapped, codes=PROP304)) == 0xF2
    assert code_for(errors.GeneralFailure(), swapped) == 0x01


def allowed(context: ReplyContext) -> set[int]:
    """Return the codes that a client may get in this context."""
    if context.version is V4:
        return {0x5B}
    extended: set[int] = set()
    if context.command is CONNECT and context.role is PT and context.codes is not RFC1928:
        extended = {0xF0, 0xF1, 0xF2}
    elif context.command is CONNECT and context.role is TOR and context.onion:
        extended = {RFC1928: set(), PROP229: {0xE0, 0xE1}, PROP304: ONION_CODES}[context.codes]
    return RFC1928_FAILURES | extended


@rows("S-21", "S-22", "S-41", "P-26")
def test_any_upstream_code_becomes_one_that_the_client_may_get() -> None:
    for number, context in itertools.product(range(1, 256), CONTEXTS):
        code = code_for(refusal(number), context)
        assert code in allowed(context)
        plain = number in RFC1928_FAILURES
        same = plain or (context.codes is PROP304 and context.role is TOR)
        if same and number in allowed(context) and context.command is CONNECT:
            assert code == number


# Role, ExtendedErrors, whether 97 was offered, REPLY_CODES; the set that is used.
SETS = table(
    ("tor", TOR, False, False, None, RFC1928),
    ("tor, the flag", TOR, True, False, None, PROP304),
    ("tor, the offer", TOR, False, True, None, PROP229),
    ("tor, the flag and the offer", TOR, True, True, None, PROP304),
    ("tor, asked for less", TOR, True, True, RFC1928, RFC1928),
    ("tor, asked for less without the flag", TOR, False, True, RFC1928, RFC1928),
    ("tor, asked for 229", TOR, True, True, PROP229, PROP229),
    ("tor, asked for 229 without the flag", TOR, False, True, PROP229, PROP229),
    ("tor, asked for 304", TOR, True, True, PROP304, PROP304),
    ("tor, asked for 304 without the flag", TOR, False, True, PROP304, PROP229),
    ("pt", PT, False, False, None, RFC1928),
    ("pt, the flag", PT, True, False, None, RFC1928),
    ("pt, the offer", PT, False, True, None, PROP229),
    ("pt, the flag and the offer", PT, True, True, None, PROP229),
    ("pt, asked for less", PT, False, True, RFC1928, RFC1928),
    ("pt, asked for less with the flag", PT, True, True, RFC1928, RFC1928),
    ("pt, asked for 229", PT, False, True, PROP229, PROP229),
    ("pt, asked for 229 with the flag", PT, True, True, PROP229, PROP229),
    ("pt, asked for 304", PT, False, True, PROP304, PROP229),
    ("pt, asked for 304 with the flag", PT, True, True, PROP304, PROP229),
)
NAMES_OF_SETS = {RFC1928: b"rfc1928", PROP229: b"prop229", PROP304: b"prop304"}


@rows("P-01", "P-02", "P-26", "S-42")
@pytest.mark.parametrize(("role", "flag", "offered", "asked", "codes"), SETS)
def test_set_of_codes_for_each_listener_and_client(
    role: Role, flag: bool, offered: bool, asked: CodeSet | None, codes: CodeSet
) -> None:
    assert code_set(role, flag, offered=offered, asked=asked) is codes
    pairs = KeyValues.of({} if asked is None else {"REPLY_CODES": NAMES_OF_SETS[asked]})
    request = Request(V5, CONNECT, at(ONION, 80), pairs=pairs, offered_extended=offered)
    context = ReplyContext.of(request, role=role, extended_errors=flag, swap_e0_e1=True)
    assert context == ReplyContext(V5, CONNECT, True, role, codes, swap_e0_e1=True)


@rows("P-26")
def test_the_table_of_sets_has_every_case() -> None:
    seen = {parameter.values[:4] for parameter in SETS}
    unasked = itertools.product(Role, (False, True), (False, True), [None])
    # A key can only be given where the method was offered.
    asked = itertools.product(Role, (False, True), [True], CodeSet)
    assert seen == {*unasked, *asked}


def test_names_of_the_sets_of_codes() -> None:
    for codes, name in NAMES_OF_SETS.items():
        assert parse_code_set(name) is codes
    assert parse_code_set(b"none") is RFC1928
    assert parse_code_set(None) is None
    for name in (b"", b"prop", b"PROP304", b"prop304 ", b"prop304,prop229"):
        with pytest.raises(ValueError, match="set of reply codes"):
            parse_code_set(name)


@rows("R-20", "S-26", "S-29")
@pytest.mark.parametrize("kind", all_refusals())
def test_failure_replies(kind: type[SOCKSError]) -> None:
    for context in CONTEXTS:
        reply = failure(kind(), context)
        if context.version is V4:
            assert reply == octets("00 5B 0000 00000000")
        else:
            code = code_for(kind(), context)
            assert reply == bytes([5, code]) + octets("00 01 00000000 0000")


def asked(version: Version, command: Command) -> Request:
    return Request(version, command, at("example.com", 80))


SUCCESSES = table(
    ("CONNECT", asked(V5, CONNECT), None, "05 00 00 01 00000000 0000"),
    ("CONNECT by SOCKS4", asked(V4, CONNECT), None, "00 5A 0000 00000000"),
    ("RESOLVE", asked(V5, RESOLVE), at("192.0.2.1"), "05 00 00 01 C0000201 0000"),
    ("RESOLVE, IPv6", asked(V5, RESOLVE), at("2001:db8::1"),
     "05 00 00 04 20010DB8000000000000000000000001 0000"),
    ("RESOLVE by SOCKS4", asked(V4, RESOLVE), at("192.0.2.1"), "00 5A 0000 C0000201"),
    ("RESOLVE_PTR", asked(V5, RESOLVE_PTR), at("dns.google"), '05 00 00 03 0A "dns.google" 0000'),
)  # fmt: skip


@rows("S-27", "S-28", "S-30", "R-20", "R-25")
@pytest.mark.parametrize(("request_", "answer", "text"), SUCCESSES)
def test_success_replies(request_: Request, answer: Address | None, text: str) -> None:
    assert success(request_, answer) == octets(text)


MISFITS = table(
    ("IPv6 by SOCKS4", asked(V4, RESOLVE), at("2001:db8::1"), "IPv4"),
    ("a name by SOCKS4", asked(V4, RESOLVE), at("dns.google"), "IPv4"),
    ("a long name", asked(V5, RESOLVE_PTR), Address(AddressType.HOSTNAME, "a" * 256), "255"),
)


@rows("S-27", "R-04")
@pytest.mark.parametrize(("request_", "answer", "complaint"), MISFITS)
def test_answers_that_do_not_fit_a_reply(
    request_: Request, answer: Address, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        success(request_, answer)


@rows("S-22")
def test_each_code_stands_for_its_refusal() -> None:
    assert [type(refusal(code)) for code in range(1, 9)] == list(replies.PLAIN)
    assert [kind.code for kind in replies.PLAIN] == list(range(1, 9))
    assert [type(refusal(code)) for code in range(0xF0, 0xF8)] == list(replies.ONION)


@rows("S-21")
@pytest.mark.parametrize("code", [0, 9, 0x0A, 0x5B, 0xDF, 0xE0, 0xE1, 0xEF, 0xF8, 0xFF])
def test_unknown_codes_are_general_failures(code: int) -> None:
    assert type(refusal(code)) is errors.GeneralFailure


# One code from ports of each role, and with each set announced.
HEARD = table(
    ("F0 of tor", 0xF0, TOR, PROP229, errors.DescriptorNotFound),
    ("F0 of a transport", 0xF0, PT, PROP229, errors.Temporary),
    ("F0 of a transport that says nothing", 0xF0, PT, None, errors.Temporary),
    ("F0 announced as 304's", 0xF0, None, PROP304, errors.DescriptorNotFound),
    ("F0 announced as 229's", 0xF0, None, PROP229, errors.Temporary),
    ("F0 of an unknown role", 0xF0, None, None, errors.DescriptorNotFound),
    ("F1 of a transport", 0xF1, PT, None, errors.InvalidBridge),
    ("F3 of a transport", 0xF3, PT, None, errors.GeneralFailure),
    ("F3 of tor", 0xF3, TOR, None, errors.RendezvousFailed),
    ("E0", 0xE0, None, PROP229, errors.OnionNotFound),
    ("E1 of tor", 0xE1, TOR, None, errors.OnionNotReachable),
    ("E1 of a transport", 0xE1, PT, None, errors.GeneralFailure),
    ("05 of a transport", 0x05, PT, None, errors.ConnectionRefused),
    ("09", 0x09, None, None, errors.GeneralFailure),
)


@rows("P-26", "P-34")
@pytest.mark.parametrize(("code", "role", "codes", "kind"), HEARD)
def test_what_a_code_means_on_a_port_of_each_role(
    code: int, role: Role | None, codes: CodeSet | None, kind: type[SOCKSError]
) -> None:
    assert type(extended_refusal(code, role, codes)) is kind
