"""The words behind ``--listen``, as torrc writes them."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.support.rows import rows
from torsocks_tx.policy.flags import FLAGS, FlagError, parse_flags
from torsocks_tx.policy.isolation import IsolationFlags
from torsocks_tx.policy.listener import ListenerPolicy


def policy_of(text: str) -> ListenerPolicy:
    return parse_flags(text.split())[0]


def test_no_words_give_the_defaults() -> None:
    assert parse_flags([]) == (ListenerPolicy(), [])


def test_every_field_has_a_flag() -> None:
    known = {flag.field for flag in FLAGS if not flag.isolation} | {"isolation", "role"}
    assert known == {field.name for field in fields(ListenerPolicy)}
    isolating = {flag.field for flag in FLAGS if flag.isolation} | {"session_group"}
    assert isolating == {field.name for field in fields(IsolationFlags)}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper], ids=["same", "lower", "upper"])
def test_each_flag_turns_on_and_off(flag: object, spell: object) -> None:
    for word, expected in ((flag.name, True), ("No" + flag.name, False)):
        try:
            policy = policy_of(spell(word))
        except FlagError:
            # Off alone, these leave names nowhere to go.
            assert word in ("NoIPv4Traffic", "NoIPv6Traffic")
            continue
        place = policy.isolation if flag.isolation else policy
        assert getattr(place, flag.field) is expected


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("IsolateDestAddrs", "dest_addr", True),
        ("isolateclientaddr NoIsolateClientAddr", "client_addr", False),
        ("NoIsolateClientAddr IsolateClientAddr", "client_addr", True),
        ("SessionGroup=0", "session_group", 0),
        ("sessiongroup=12", "session_group", 12),
    ],
)
def test_isolation_flags(words: str, field: str, value: object) -> None:
    assert getattr(policy_of(words).isolation, field) == value


@rows("S-42")
def test_onion_traffic_only() -> None:
    policy = policy_of("OnionTrafficOnly ExtendedErrors")
    assert (policy.dns_request, policy.ipv4_traffic, policy.ipv6_traffic) == (False, False, False)
    assert policy.onion_traffic
    assert policy.extended_errors


@pytest.mark.parametrize(
    "word", ["CacheDNS", "UseDNSCache", "NoPreferIPv6Automap", "NoOnionTrafficOnly"]
)
def test_flags_of_tor_alone_are_taken_with_a_note(word: str) -> None:
    policy, notes = parse_flags([word])
    assert policy == ListenerPolicy()
    (note,) = notes
    assert "means nothing here" in note or "holds anyway" in note


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("ExtendedError", "did you mean ExtendedErrors?"),
        ("IsolateDestinationAddr", "did you mean IsolateDestAddr?"),
        ("NoIPv4Trafic", "did you mean NoIPv4Traffic?"),
        ("SessionGroup=x", "whole number"),
        ("SessionGroup=", "whole number"),
        ("SessionGroup=-1", "whole number"),
        ("qqqqqqqq", "see --help-flags"),
        ("NoIPv4Traffic NoIPv6Traffic", "OnionTrafficOnly"),
        ("OnionTrafficOnly NoOnionTraffic", "nothing to do"),
    ],
)
def test_mistakes_are_named_with_their_mend(words: str, complaint: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse_flags(words.split())
    assert complaint in str(caught.value)
