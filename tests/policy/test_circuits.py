"""Circuits on request: the grammar of user names, narrowing, rotation and its rate."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tables import table
from torsocks_tx.errors import InvalidArguments, NoSuchExit
from torsocks_tx.policy.circuits import (
    ANY_EXIT,
    PREFIX,
    CircuitRules,
    ExitChoice,
    ParameterKeys,
    Parameters,
    parameters,
    split_username,
)
from torsocks_tx.policy.fresh import FreshCircuits
from torsocks_tx.policy.listener import FlagError, ListenerPolicy, parse_flags
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import NO_PAIRS, Address, KeyValues, Request

ONE, TWO = "A" * 40, "0123456789abcdef" * 2 + "01234567"
GERMAN = ExitChoice(countries=frozenset({"de"}))
FRESH = FreshCircuits(1000)
REQUEST = Request(Version.SOCKS5, Command.CONNECT, Address.of("web.test", 80))


def of(**fields: Any) -> Parameters:
    return Parameters(**fields)


GOOD = table(
    ("a name alone", b"alice", b"alice", of()),
    ("no name", b"", b"", of()),
    ("a name of tor's", b"<torS0X>1-country-de", b"<torS0X>1-country-de", of()),
    ("a country", b"a-country-DE", b"a", of(exits=GERMAN)),
    ("its alias", b"a-cc-de", b"a", of(exits=GERMAN)),
    ("two countries", b"-cc-de,fr", b"", of(exits=ExitChoice(frozenset({"fr", "de"})))),
    ("an exit", f"a-exit-{TWO}".encode(), b"a",
     of(exits=ExitChoice(fingerprints=frozenset({TWO.upper()})))),
    ("all, in any order", b"a-sesstime-10-streams-2-sessid-x.Y_1-cc-de", b"a",
     of(exits=GERMAN, session=b"x.Y_1", lifetime=600.0, streams=2)),
)  # fmt: skip


@pytest.mark.parametrize(("username", "name", "meaning"), GOOD)
def test_what_a_user_name_asks_for(username: bytes, name: bytes, meaning: Parameters) -> None:
    found, pairs = split_username(username)
    assert (found, parameters(pairs)) == (name, meaning)


BAD = [b"a-", b"a-country", b"a-b-c", b"a-country-deu", b"a-country-", b"a-Country-de",
       b"a-cc-d1", b"a-country-de-cc-fr", b"a-lifetime-0", b"a-lifetime-10m", b"a-lifetime--1",
       b"a-streams-1.5", b"a-streams-\xb2", b"a-exit-" + b"A" * 39, b"a-session-", b"tor-iso",
       b"a-session-" + b"x" * 65, b"a-session-\xe9", b"a-cc-de\n", b"a-cc-de,",
       b"a-cc-de" + b",de" * 16]  # fmt: skip


@pytest.mark.parametrize("username", BAD)
def test_a_user_name_that_is_no_list_of_parameters_is_refused(username: bytes) -> None:
    with pytest.raises(ValueError, match=r"[a-z]") as raised:
        split_username(username)
    assert "deu" not in str(raised.value)


KEYS = ["country", "cc", "exit", "lifetime", "sesstime", "session", "sessid", "streams", "x", ""]
VALUES = ["de", "DE", "de,fr", "10", "0", "abc", ONE, TWO, ""]


@st.composite
def usernames(draw: st.DrawFn) -> bytes:
    """Return bytes of any kind, or of nearly the right one."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=60))
    words = draw(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=4))
    return "-".join(["name", *itertools.chain(*words)]).encode()


@given(usernames())
def test_every_user_name_is_read_or_refused(username: bytes) -> None:
    try:
        name, pairs = split_username(username)
    except ValueError:
        assert b"-" in username
        return
    parameters(pairs)  # what was read is understood
    if not username.startswith(b"<torS0X>"):
        assert username.startswith(name)
        assert len(pairs) * 2 == username.count(b"-")


PARAMETERS = st.builds(
    dict,
    country=st.sampled_from([None, "de", "fr", "de,fr"]),
    session=st.sampled_from([None, "a", "b"]),
    lifetime=st.sampled_from([None, "1", "2"]),
    streams=st.sampled_from([None, "1", "9"]),
    exit=st.sampled_from([None, ONE, TWO]),
)


def key_of(rules: CircuitRules, asked: dict[str, str | None], name: bytes = b"name") -> Any:
    said = "-".join(["", *itertools.chain(*((k, v) for k, v in asked.items() if v))])
    _, pairs = split_username(said.encode())
    key, exits, _ = rules.apply(replace(REQUEST, pairs=pairs), (name,), 0.0)
    # What numbers circuits is for rotation, not for telling keys apart.
    return key[:6], exits


@given(PARAMETERS, PARAMETERS)
def test_two_clients_share_a_key_exactly_if_all_that_they_ask_for_is_equal(
    one: dict[str, str | None], two: dict[str, str | None]
) -> None:
    rules = CircuitRules(ANY_EXIT, None, None, FRESH, True)
    assert (key_of(rules, one) == key_of(rules, two)) is (one == two)
    assert key_of(rules, one, b"other") != key_of(rules, one)


def test_a_client_narrows_what_its_listener_says() -> None:
    rules = CircuitRules(ExitChoice(frozenset({"de", "fr"})), 120.0, 5, FRESH, True)
    key, exits = key_of(rules, {"country": "fr,us", "lifetime": "9", "streams": "2"})
    assert exits == ExitChoice(frozenset({"fr"}))
    assert key[5] == b"(120.0, 2)"
    with pytest.raises(NoSuchExit):
        key_of(rules, {"country": "us"})


def test_nothing_of_a_login_is_remembered() -> None:
    rules = CircuitRules(ANY_EXIT, None, None, FRESH, True)
    parameters.cache_clear()
    for secret in (b"one", b"two"):
        pairs = KeyValues.of({"PASSWD": secret, PREFIX + "country": b"de"})
        rules.apply(replace(REQUEST, pairs=pairs), (b"key",), 0.0)
    assert parameters.cache_info().currsize == 1


def test_parameters_mean_nothing_where_the_listener_does_not_read_them() -> None:
    rules = CircuitRules(GERMAN, None, None, FRESH, False)
    assert key_of(rules, {"country": "fr"}) == key_of(rules, {})


WRONG: list[Any] = [{"countries": ["deu"]}, {"fingerprints": ["x"]}]


@pytest.mark.parametrize("wrong", [*WRONG, {"fingerprints": [f"{ONE},{ONE}"]}])
def test_a_choice_of_exits_is_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"is (two letters|40 hexadecimal digits)"):
        ExitChoice(**wrong)


def test_keys_of_extended_authentication() -> None:
    allowed, refused = ParameterKeys(allowed=True), ParameterKeys(allowed=False)
    good = KeyValues.of({PREFIX + "country": b"de", PREFIX + "streams": b"1"})
    assert allowed(good) == NO_PAIRS
    assert allowed.knows(PREFIX + "lifetime")
    assert not allowed.knows(PREFIX + "session"), "that is the key ISOLATION"
    assert not refused.knows(PREFIX + "country")
    with pytest.raises(InvalidArguments) as raised:
        refused(good)
    assert raised.value.pairs.get("UNSUPPORTED") == b"X-torsocks.country,X-torsocks.streams"
    with pytest.raises(InvalidArguments) as raised:
        allowed(KeyValues.of({PREFIX + "counrty": b"de"}))
    assert raised.value.pairs.get("UNSUPPORTED") == b"X-torsocks.counrty"
    for pairs in (good.pairs + good.pairs, ((PREFIX + "country", b"deu"),)):
        with pytest.raises(InvalidArguments):
            allowed(KeyValues(pairs))


def test_flags_of_a_listener() -> None:
    words = f"exitcountry=DE,us ExitNode=${ONE} RotateEvery=600 RotateAfter=9 FreshRate=7".split()
    policy, _ = parse_flags([*words, "ClientParameters"])
    assert policy == ListenerPolicy(
        exits=ExitChoice(frozenset({"de", "us"}), frozenset({ONE})),
        rotate_every=600,
        rotate_after=9,
        fresh_rate=7,
        client_parameters=True,
    )
    assert policy.circuit_rules() is not None
    assert ListenerPolicy(fresh_rate=7).circuit_rules() is None


@pytest.mark.parametrize("rate", [1_000_001, 10**10, 10**20])
def test_a_rate_for_which_there_is_no_memory_is_refused(rate: int) -> None:
    with pytest.raises(FlagError, match="FreshRate is at most 1000000"):
        parse_flags([f"FreshRate={rate}"])
    assert parse_flags(["FreshRate=1000000"])[0].fresh_rate == 1_000_000
