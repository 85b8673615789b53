"""SocksPorts as tor tells them: where they are, their flags, and the choice between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor

from tests.backends.tor.real_tor import UNREACHABLE, RealTor
from torsocks_tx.backends.tor.authentication import connect
from torsocks_tx.backends.tor.events import EventError
from torsocks_tx.backends.tor.ports import (
    Place,
    SocksListener,
    best_first,
    complaints,
    parse_config,
    parse_flags,
    parse_listeners,
    seen_from_here,
    with_flags,
)

NONE: frozenset[str] = frozenset()

FLAGS = [
    ("", set()),
    ("ExtendedErrors", {"ExtendedErrors"}),
    ("extendederrors NOIPV6TRAFFIC", {"ExtendedErrors", "NoIPv6Traffic"}),
    ("IsolateSOCKSAuth IPv4Traffic IPv6Traffic", set()),
    ("NoIsolateSOCKSAuth", {"NoIsolateSOCKSAuth"}),
    ("NoIsolateSOCKSAuth IsolateSOCKSAuth", set()),
    ("IsolateDestAddrs NoIsolateClientAddrs", {"IsolateDestAddr", "NoIsolateClientAddr"}),
    ("OnionTrafficOnly", {"NoDNSRequest", "NoIPv4Traffic", "NoIPv6Traffic"}),
    ("OnionTrafficOnly IPv4Traffic", {"NoDNSRequest", "NoIPv6Traffic"}),
    ("NoOnionTrafficOnly", set()),
    ("SessionGroup=3 CacheDNS Unheard", set()),
    ("PreferIPv6", {"PreferIPv6"}),
]

LISTENERS = [
    ("", ()),
    ('"127.0.0.1:9050"', (("127.0.0.1", 9050),)),
    (
        '"unix:/run/tor/s p\\"q" "127.0.0.1:9050" "[::1]:9051"',
        ('/run/tor/s p"q', ("127.0.0.1", 9050), ("::1", 9051)),
    ),
    ('"something else" "127.0.0.1:9050"', (("127.0.0.1", 9050),)),
]

CONFIGS: list[tuple[str, list[tuple[Place, set[str]]]]] = [
    ("SocksPort\n__SocksPort", [(("127.0.0.1", 9050), set())]),
    ("SocksPort=0\n__SocksPort", []),
    ("SocksPort=9150", [(("127.0.0.1", 9150), set())]),
    ("SocksPort=auto ExtendedErrors", [(("127.0.0.1", 0), {"ExtendedErrors"})]),
    ("SocksPort=localhost:9150", [(("127.0.0.1", 9150), set())]),
    ("SocksPort=[::1]:auto", [(("::1", 0), set())]),
    ("SocksPort=unix:/run/tor/socks WorldWritable", [("/run/tor/socks", set())]),
    (
        'SocksPort=unix:"/run/tor/s p\\"q" NoIPv6Traffic\n__SocksPort=127.0.0.1:9',
        [('/run/tor/s p"q', {"NoIPv6Traffic"}), (("127.0.0.1", 9), set())],
    ),
    ('SocksPort=unix:"/broken\\777" X\nSocksPort=name.example:1\nSocksPort=', []),
]

SEEN: list[tuple[Place, str | None, Place | None]] = [
    ("/run/tor/socks", None, "/run/tor/socks"),
    ("/run/tor/socks", "127.0.0.1", "/run/tor/socks"),
    ("/run/tor/socks", "192.0.2.7", None),
    (("127.0.0.1", 9050), None, ("127.0.0.1", 9050)),
    (("127.0.0.3", 9050), "::1", ("127.0.0.3", 9050)),
    (("::1", 9050), None, ("::1", 9050)),
    (("127.0.0.1", 9050), "192.0.2.7", None),
    (("0.0.0.0", 9050), None, ("127.0.0.1", 9050)),
    (("::", 9050), "127.0.0.1", ("::1", 9050)),
    (("0.0.0.0", 9050), "192.0.2.7", ("192.0.2.7", 9050)),
    (("192.0.2.7", 9050), "192.0.2.7", ("192.0.2.7", 9050)),
    (("192.0.2.7", 9050), None, None),
    (("192.0.2.8", 9050), "192.0.2.7", None),
]


@pytest.mark.parametrize(("words", "expected"), FLAGS)
def test_flags_are_read_as_tor_reads_them(words: str, expected: set[str]) -> None:
    assert parse_flags(words.split()) == expected


def test_flags_that_tor_does_not_know_are_errors_if_strict() -> None:
    assert parse_flags(["NoIPv6Traffic"], strict=True) == {"NoIPv6Traffic"}
    for word in ("NoIPv7Traffic", "NoOnionTrafficOnly", "", "No"):
        with pytest.raises(ValueError, match="has no flag"):
            parse_flags([word], strict=True)


@pytest.mark.parametrize(("value", "places"), LISTENERS)
def test_listeners_are_read(value: str, places: tuple[Place, ...]) -> None:
    assert parse_listeners(value) == places


@pytest.mark.parametrize(("answer", "expected"), CONFIGS)
def test_configuration_lines_are_read(answer: str, expected: list[tuple[Place, set[str]]]) -> None:
    found = [(listener.place, set(listener.flags or ())) for listener in parse_config(answer)]
    assert found == expected


@given(st.text(st.sampled_from('unix:"/ap =\\019\n[]No,SocksPort')))
def test_nothing_but_an_event_error_escapes(text: str) -> None:
    parse_config(f"SocksPort={text}")
    try:
        parse_listeners(text)
    except EventError:
        return


@pytest.mark.parametrize(("place", "control_host", "seen"), SEEN)
def test_a_port_is_used_only_where_it_can_be_reached(
    place: Place, control_host: str | None, seen: Place | None
) -> None:
    assert seen_from_here(place, control_host) == seen


def test_ports_get_the_flags_of_their_lines() -> None:
    configured = parse_config(
        "SocksPort=unix:/a ExtendedErrors\nSocksPort=9050 PreferIPv6\n"
        "SocksPort=auto IsolateDestAddr"
    )
    places: list[Place] = ["/a", ("127.0.0.1", 9050), ("127.0.0.1", 40001), ("::1", 9), "/other"]
    assert [listener.flags for listener in with_flags(places, configured)] == [
        {"ExtendedErrors"},
        {"PreferIPv6"},
        {"IsolateDestAddr"},
        None,
        None,
    ]
    assert [listener.flags for listener in with_flags(places[:1], None)] == [None]


def test_two_automatic_ports_that_differ_cannot_be_told_apart() -> None:
    configured = parse_config("SocksPort=auto ExtendedErrors\nSocksPort=auto")
    assert with_flags([("127.0.0.1", 40001)], configured)[0].flags is None
    alike = parse_config("SocksPort=auto ExtendedErrors\nSocksPort=auto extendederrors")
    assert with_flags([("127.0.0.1", 40001)], alike)[0].flags == {"ExtendedErrors"}


def listener(place: Place, *flags: str) -> SocksListener:
    return SocksListener(place, parse_flags(flags))


TCP: Place = ("127.0.0.1", 9050)
WORSE_AND_BETTER = [
    (listener("/s"), listener(TCP)),
    (listener("/s", "ExtendedErrors"), listener(TCP)),
    (listener("/s", "NoIsolateSOCKSAuth"), listener(TCP, "ExtendedErrors")),
    (listener("/s", "KeepAliveIsolateSOCKSAuth"), listener(TCP)),
    (listener("/s", "NoIPv6Traffic"), listener(TCP, "NoIsolateSOCKSAuth", "ExtendedErrors")),
    (listener("/s", "OnionTrafficOnly"), listener(TCP, "PreferIPv6")),
    (SocksListener("/s", None), listener(TCP)),
    (SocksListener("/s", None), SocksListener(TCP, None)),
]


@pytest.mark.parametrize(("worse", "better"), WORSE_AND_BETTER)
def test_the_better_port_comes_first(worse: SocksListener, better: SocksListener) -> None:
    assert best_first([worse, better]) == best_first([better, worse]) == [better, worse]


def test_of_equals_the_first_stays_first() -> None:
    equals = [listener("/1"), listener("/2")]
    assert best_first(equals) == equals


def test_complaints_are_sentences_about_flags() -> None:
    assert complaints(frozenset({"ExtendedErrors"})) == []
    (isolation,) = complaints(frozenset({"NoIsolateSOCKSAuth"}))
    assert "no stream can be isolated" in isolation
    (keep,) = complaints(frozenset({"KeepAliveIsolateSOCKSAuth"}))
    assert "circuits are never renewed" in keep
    (both,) = complaints(frozenset({"NoIPv6Traffic", "PreferIPv6"}))
    assert "has NoIPv6Traffic PreferIPv6: this holds" in both


@pytest.mark.network
async def test_the_ports_of_a_real_tor(real_tor: RealTor) -> None:
    directory = real_tor.directory
    await real_tor.start(
        [
            f'SocksPort unix:"{directory}/a b" NoIPv6Traffic ExtendedErrors',
            f"SocksPort unix:{directory}/plain OnionTrafficOnly",
            "SocksPort 127.0.0.1:auto IsolateDestAddr NoIsolateSOCKSAuth",
            *UNREACHABLE,
        ]
    )
    control = await connect(reactor, real_tor.endpoint)
    places = parse_listeners(await control.get_info("net/listeners/socks"))
    configured = parse_config(await control.command("GETCONF SocksPort __SocksPort"))
    quoted, plain, tcp = with_flags(places, configured)
    assert quoted == listener(f"{directory}/a b", "NoIPv6Traffic", "ExtendedErrors")
    assert plain == listener(f"{directory}/plain", "OnionTrafficOnly")
    assert tcp.place[0] == "127.0.0.1"
    assert tcp.flags == parse_flags(["IsolateDestAddr", "NoIsolateSOCKSAuth"])
    await control.command("SETCONF DisableNetwork=1")
    assert parse_listeners(await control.get_info("net/listeners/socks")) == ()
    await control.command("SETCONF DisableNetwork=0 __SocksPort=auto")
    (port,) = parse_listeners(await control.get_info("net/listeners/socks"))
    configured = parse_config(await control.command("GETCONF SocksPort __SocksPort"))
    assert with_flags([port], configured)[0].flags == NONE
    control.close()
